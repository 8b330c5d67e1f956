"""Rules of a market as genesis gives them, and the ranges of all numbers that follow from them.

Limits keep every product of the engine and of proofs inside its range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from protocol.errors import ConfigError

PRICE_LIMIT: Final = 1 << 31
SIZE_LIMIT: Final = 1 << 31
VALUE_LIMIT: Final = 1 << 15
NOTIONAL_LIMIT: Final = 1 << 47
"""Bound of price_ticks x size_lots of one order."""
CASH_MOVE_LIMIT: Final = 1 << 42
"""Bound of one cash movement in micro-dollars."""
CASH_LIMIT: Final = 1 << 61
OPEN_INTEREST_NOTIONAL_LIMIT: Final = 1 << 60
"""Bound of a market's open interest at the mark in micro-dollars."""
PPM: Final = 1_000_000
DAY_MS: Final = 86_400_000
FUNDING_SAMPLE_MS: Final = 5_000
"""A premium is sampled so often."""
FUNDING_PERIOD_MS: Final = 8 * 3600 * 1000
"""The period that funding rates are quoted for."""


class MarginTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Margin rates of the part of a position's notional above `above_uusd`."""

    above_uusd: int
    initial_ppm: int
    maintenance_ppm: int


class FeeTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fees of a master account whose volume of the last 14 full UTC days is at least
    `volume_uusd`."""

    volume_uusd: int
    taker_fee_ppm: int
    maker_fee_ppm: int


class MarketConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A linear perpetual, or a dated future where `expires_ms` is not 0.

    `tick_uusd`: micro-dollars of one price tick per unit of the base asset; `lot_micro`:
    millionths of the base unit in one lot; their product in micro-dollars is the value of one
    tick x lot. Rates are parts per million of notional; `maker_fee_ppm` may be negative while
    the lowest taker plus maker fee stays at least 0. What defaults to 0 is off.

    Margin: `initial_ppm` and `maintenance_ppm` hold up to the first of `margin_tiers`. The initial
    rate rises linearly to 100 % as open interest goes from `scale_from_uusd` to `scale_to_uusd`.
    Prices: `impact_notional_uusd` is what impact prices are taken for, `wide_ppm` the spread
    (of the oracle price) from which a book says nothing. An oracle's price counts up to
    `oracle_age_ms` and `oracle_confidence_ppm`; a median that goes further than
    `oracle_deviation_ppm` within `oracle_hold_ms` is wild until it has held as long. Positions in a
    market of stale or wild prices count at the last mark +- `stale_band_ppm`. `price_band_ppm`
    bounds how far a limit may lie through the mark. Funding: paid every `funding_interval_ms`
    (which is F8h x interval / 8 h), |F8h| up to `funding_cap_ppb`. A dated future settles at the
    average oracle price of the `settle_window_ms` before it expires. `backstop_max_lots`: most
    that the backstop holds.
    """

    market: int
    symbol: str
    tick_uusd: int
    lot_micro: int
    initial_ppm: int
    maintenance_ppm: int
    taker_fee_ppm: int
    maker_fee_ppm: int
    min_notional_uusd: int
    max_order_lots: int
    max_position_lots: int
    initial_price_ticks: int
    margin_tiers: list[MarginTier] = []
    fee_tiers: list[FeeTier] = []
    scale_from_uusd: int = 0
    scale_to_uusd: int = 0
    max_open_interest_lots: int = 0
    price_band_ppm: int = 0
    impact_notional_uusd: int = 0
    wide_ppm: int = 50_000
    oracle_age_ms: int = 0
    oracle_confidence_ppm: int = 0
    oracle_deviation_ppm: int = 0
    oracle_hold_ms: int = 0
    stale_band_ppm: int = 50_000
    funding_interval_ms: int = 0
    funding_cap_ppb: int = 40_000_000
    funding_interest_ppb: int = 100_000
    expires_ms: int = 0
    settle_window_ms: int = 0
    liquidation_fee_ppm: int = 10_000
    backstop_max_lots: int = 0

    @property
    def value_uusd(self) -> int:
        """Micro-dollars per tick x lot."""
        return self.tick_uusd * self.lot_micro // PPM


def check_market(number: int, market: MarketConfig) -> None:
    """Raise `ConfigError` unless the market is well formed and keeps every product in range."""

    def require(condition: bool, text: str) -> None:
        if not condition:
            raise ConfigError(f"genesis: market {market.symbol!r}: {text}")

    require(market.market == number, f"has number {market.market}, but stands at {number}")
    product = market.tick_uusd * market.lot_micro
    require(product > 0 and product % PPM == 0, "tick_uusd x lot_micro is not whole micro-dollars")
    require(market.value_uusd < VALUE_LIMIT, f"value per tick x lot must be below {VALUE_LIMIT}")
    require(0 < market.maintenance_ppm < market.initial_ppm <= PPM, "margin rates out of order")
    require(0 < market.max_order_lots < SIZE_LIMIT, "max_order_lots out of range")
    require(0 < market.max_position_lots < SIZE_LIMIT, "max_position_lots out of range")
    require(0 < market.initial_price_ticks < PRICE_LIMIT, "initial price out of range")
    require(
        market.initial_price_ticks * market.value_uusd < CASH_MOVE_LIMIT,
        "one lot at the initial price is more than one cash movement holds",
    )
    require(market.min_notional_uusd >= 0, "min_notional_uusd is negative")
    _check_margin(market, require)
    _check_prices(market, require)


def _check_margin(market: MarketConfig, require: Callable[[bool, str], None]) -> None:
    above, initial, maintenance = 0, market.initial_ppm, market.maintenance_ppm
    for tier in market.margin_tiers:
        require(tier.above_uusd > above, "margin_tiers are not in ascending order")
        require(
            initial <= tier.initial_ppm <= PPM and maintenance <= tier.maintenance_ppm,
            "margin_tiers must not need less of a larger position, nor more than all of it",
        )
        require(tier.maintenance_ppm < tier.initial_ppm, "margin rates of a tier out of order")
        above, initial, maintenance = tier.above_uusd, tier.initial_ppm, tier.maintenance_ppm
    require(len(market.margin_tiers) <= 16, "more than 16 margin_tiers")
    volume, takers, makers = 0, [market.taker_fee_ppm], [market.maker_fee_ppm]
    for fees in market.fee_tiers:
        require(fees.volume_uusd > volume, "fee_tiers are not in ascending order")
        volume = fees.volume_uusd
        takers.append(fees.taker_fee_ppm)
        makers.append(fees.maker_fee_ppm)
    require(len(market.fee_tiers) <= 16, "more than 16 fee_tiers")
    require(min(takers) >= 0 and max(takers) < PPM, "taker fee out of range")
    require(max(makers) < PPM, "maker fee out of range")
    require(min(takers) + min(makers) >= 0, "the lowest taker and maker fee sum to less than 0")
    require(
        (market.scale_from_uusd, market.scale_to_uusd) == (0, 0)
        or 0 < market.scale_from_uusd < market.scale_to_uusd,
        "scale_from_uusd and scale_to_uusd must ascend, or both be 0",
    )
    require(0 <= market.max_open_interest_lots < 1 << 40, "max_open_interest_lots out of range")
    require(0 <= market.backstop_max_lots < SIZE_LIMIT, "backstop_max_lots out of range")
    require(0 <= market.liquidation_fee_ppm <= PPM, "liquidation_fee_ppm out of range")


def _check_prices(market: MarketConfig, require: Callable[[bool, str], None]) -> None:
    for name in ("price_band_ppm", "wide_ppm", "oracle_confidence_ppm", "oracle_deviation_ppm"):
        require(0 <= getattr(market, name) <= PPM, f"{name} must be 0 to {PPM}")
    require(0 <= market.stale_band_ppm < PPM, "stale_band_ppm out of range")
    for name in ("impact_notional_uusd", "oracle_age_ms", "oracle_hold_ms", "funding_interval_ms"):
        require(getattr(market, name) >= 0, f"{name} is negative")
    require(market.impact_notional_uusd < CASH_MOVE_LIMIT, "impact_notional_uusd out of range")
    require(
        market.funding_interval_ms % FUNDING_SAMPLE_MS == 0
        and market.funding_interval_ms <= FUNDING_PERIOD_MS,
        f"funding_interval_ms must be a multiple of {FUNDING_SAMPLE_MS} up to {FUNDING_PERIOD_MS}",
    )
    require(0 <= market.funding_cap_ppb <= 1_000_000_000, "funding_cap_ppb out of range")
    require(
        abs(market.funding_interest_ppb) <= market.funding_cap_ppb,
        "funding_interest_ppb out of range",
    )
    require(0 <= market.settle_window_ms <= DAY_MS, f"settle_window_ms must be 0 to {DAY_MS}")
    require(
        market.expires_ms == 0 or market.expires_ms > market.settle_window_ms > 0,
        "a dated future needs a settle_window_ms, and expires_ms after it",
    )
    require(
        market.expires_ms == 0 or market.funding_interval_ms == 0, "a dated future has no funding"
    )
