"""What marks and funding indices may be, as far as oracle prices and time say.

The books that both also depend on are not known here: a mark may lie in its band around the
accepted oracle price, and a funding index move by its cap, once per interval. What is exactly right
is a matter of disputes.
"""

from __future__ import annotations

from typing import NamedTuple

from margin.funding import boundary_after, index_after, interval_rate_ppb
from margin.mark import band, ema_price_ticks
from margin.market import Market
from margin.oracle import Level
from protocol.codec import Decoder, Wire
from protocol.errors import Code, Rejected
from protocol.markets import OPEN_INTEREST_NOTIONAL_LIMIT
from protocol.prices import PriceChange


class PriceLeaf(Wire, frozen=True):
    """Prices of a market: posted mark and funding index, when the index last moved, the accepted
    oracle level (see `margin.oracle.Level`), and of a dated future the lowest and highest oracle
    price since its settlement window began (0: it has not)."""

    mark_ticks: int
    funding_index: int
    moved_ms: int
    oracle_ticks: int
    wild_ms: int
    wild_ticks: int
    from_ms: int
    from_ticks: int
    low_ticks: int
    high_ticks: int

    @property
    def level(self) -> Level:
        """The accepted oracle price."""
        return Level(
            self.oracle_ticks, self.wild_ms, self.wild_ticks, self.from_ms, self.from_ticks
        )


decode_price: Decoder[PriceLeaf] = Decoder(PriceLeaf)


class Oracle(NamedTuple):
    """The oracle in a block: the accepted level, and whether a mark may follow it: the committee's
    median is known and believed."""

    level: Level
    fresh: bool


def first_prices(market: Market, time_ms: int) -> PriceLeaf:
    """Prices of a market at genesis."""
    return PriceLeaf(market.config.initial_price_ticks, 0, time_ms, 0, 0, 0, 0, 0, 0, 0)


def after_block(
    market: Market, before: PriceLeaf, oracle: Oracle, change: PriceChange | None, now_ms: int
) -> PriceLeaf:
    """The prices after a block at `now_ms` that is said to have made this change (None: none).

    Raises `Rejected` (mark_out_of_band, funding_beyond_cap, stale_prices_moved).
    """
    low, high = _averaged(market, before, now_ms)
    mark, index = before.mark_ticks, before.funding_index
    if change is not None:
        mark, index = change.mark_ticks, change.funding_index
    _check_mark(market, before, oracle, mark, (low, high), now_ms)
    _check_funding(market, before, oracle, index, now_ms)
    moved_ms = before.moved_ms if index == before.funding_index else now_ms
    return PriceLeaf(mark, index, moved_ms, *oracle.level, low, high)


def _averaged(market: Market, before: PriceLeaf, now_ms: int) -> tuple[int, int]:
    """Lowest and highest price that the settlement average has seen by now."""
    config = market.config
    if not 0 < config.expires_ms < now_ms + config.settle_window_ms:
        return 0, 0
    ticks = before.oracle_ticks or config.initial_price_ticks
    return min(before.low_ticks or ticks, ticks), max(before.high_ticks, ticks)


def _check_mark(
    market: Market,
    before: PriceLeaf,
    oracle: Oracle,
    mark: int,
    averaged: tuple[int, int],
    now_ms: int,
) -> None:
    config, ticks = market.config, oracle.level.price_ticks
    over = 0 < config.expires_ms <= now_ms
    if mark == before.mark_ticks and (over or not oracle.fresh or _may_be_too_open(market, ticks)):
        return
    if not (oracle.fresh or over):
        raise Rejected(
            Code.STALE_PRICES_MOVED,
            f"the mark of market {market.number} moved to {mark} without a fresh oracle price",
        )
    low, high = averaged
    if oracle.fresh:
        bound = 0
        if config.impact_notional_uusd:
            bound = band(ticks, config.maintenance_ppm, config.expires_ms - now_ms)
        ends = (ema_price_ticks(ticks, -bound), ema_price_ticks(ticks, bound))
        low, high = min(low or ends[0], ends[0]), max(high, ends[1])
    if not low <= mark <= high:
        raise Rejected(
            Code.MARK_OUT_OF_BAND,
            f"the mark of market {market.number} is {mark}, and may be {low} to {high}",
        )


def _may_be_too_open(market: Market, ticks: int) -> bool:
    """Whether the mark may have to stay where it is, since open interest may be more at the new
    price than a number holds."""
    most_uusd = market.product.notional_uusd(market.max_open_interest_lots, ticks)
    return most_uusd >= OPEN_INTEREST_NOTIONAL_LIMIT


def _check_funding(
    market: Market, before: PriceLeaf, oracle: Oracle, index: int, now_ms: int
) -> None:
    """Whether the index may be so: it moves once per interval, by at most the cap."""
    old = before.funding_index
    if index == old:
        return
    config = market.config
    if not oracle.fresh:
        raise Rejected(
            Code.STALE_PRICES_MOVED,
            f"market {market.number} paid funding without a fresh oracle price",
        )
    interval_ms = config.funding_interval_ms
    if not interval_ms or now_ms < boundary_after(before.moved_ms, interval_ms):
        raise Rejected(
            Code.FUNDING_BEYOND_CAP, f"no funding of market {market.number} is due at {now_ms}"
        )
    rate_ppb = interval_rate_ppb(config.funding_cap_ppb, interval_ms)
    lot_uusd = market.product.notional_uusd(1, oracle.level.price_ticks)
    low, high = (index_after(old, lot_uusd, rate) for rate in (-rate_ppb, rate_ppb))
    if not low <= index <= high:
        raise Rejected(
            Code.FUNDING_BEYOND_CAP,
            f"the funding index of market {market.number} is {index}, and may be {low} to {high}",
        )
