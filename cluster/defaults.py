"""What a testnet has unless told otherwise: markets, money and pace."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.errors import ConfigError
from protocol.genesis import (
    Capacity,
    Fees,
    FeeTier,
    MarginTier,
    MarketConfig,
    Pace,
    Reopening,
    SettlementRules,
    Staking,
)
from protocol.markets import CASH_MOVE_LIMIT

USD = 1_000_000
"""Micro-dollars of a dollar."""

TRADER_BALANCE_UUSD = 1_000_000 * USD
TRADER_DEPOSIT_UUSD = 100_000_000 * USD
FAUCET_BALANCE_UUSD = 1_000_000_000 * USD
PROVER_BALANCE_UUSD = 1_000_000 * USD
"""For the bonds of batches that are not final, and their fees: a mebibyte costs about a cent."""
CHALLENGER_BALANCE_UUSD = 1_000_000 * USD
"""For the bonds and fees of disputes."""
VALIDATOR_BALANCE_UUSD = 1_000 * USD
VALIDATOR_STAKE_UUSD = 1_000 * USD

FEES = Fees(base_uusd=100, per_kib_uusd=10)
STAKING = Staking(epoch_ms=3_600_000, min_stake_uusd=100 * USD)

SETTLEMENT = SettlementRules(
    window_ms=3_000,
    prover_bond_uusd=1_000 * USD,
    challenger_bond_uusd=1_000 * USD,
    clock_ms=30_000,
    sections=64,
    forced_ms=3_600_000,
    outage_ms=3_600_000,
    forced_fee_uusd=1 * USD,
)
"""Short enough to watch; a chain with money on it takes a week or so for the window."""

CAPACITY = Capacity(busy_ppm=900_000)
"""At the measured cost of execution (docs/benchmarks.md), and a tenth of the time to spare."""

MAX_WINDOW_S = 365 * 86_400


def settlement_of(
    window_s: float = SETTLEMENT.window_ms / 1_000,
    prover_bond_usd: int = SETTLEMENT.prover_bond_uusd // USD,
    forced_s: float = 0,
    claim_s: float = SETTLEMENT.claim_ms / 1_000,
) -> SettlementRules:
    """A testnet's settlement with another window, in seconds (0: what settles is final), another
    bond, in dollars, and other deadlines of the way out (0: an hour, more with a long window).

    Raises `ConfigError` for what is out of range.
    """
    if not 0 <= window_s <= MAX_WINDOW_S:
        raise ConfigError(f"a window takes 0 to {MAX_WINDOW_S} seconds, not {window_s:g}")
    if not 0 <= prover_bond_usd * USD < CASH_MOVE_LIMIT:
        raise ConfigError(f"a bond is 0 to {CASH_MOVE_LIMIT // USD - 1} dollars")
    if not (0 <= forced_s <= MAX_WINDOW_S and 1 <= claim_s <= MAX_WINDOW_S):
        raise ConfigError(f"a deadline takes up to {MAX_WINDOW_S} seconds, claims 1 at least")
    window_ms = round(window_s * 1_000)
    usual_ms = max(SETTLEMENT.forced_ms, 2 * (window_ms + 2 * SETTLEMENT.clock_ms))
    forced_ms = round(forced_s * 1_000) or usual_ms
    return msgspec.structs.replace(
        SETTLEMENT, window_ms=window_ms, prover_bond_uusd=prover_bond_usd * USD,
        forced_ms=forced_ms, outage_ms=forced_ms, claim_ms=round(claim_s * 1_000),
    )  # fmt: skip


MIN_UNBONDING_S = 60
"""Half of it is how long a rest, or the time from `init` to `up`, may take."""
MAX_STAKING_S = 10 * 365 * 86_400
"""Longest time that may be chosen for staking."""


def staking_of(
    epoch_s: int = STAKING.epoch_ms // 1_000,
    unbonding_s: int = STAKING.unbonding_ms // 1_000,
    jail_s: int = STAKING.jail_ms // 1_000,
) -> Staking:
    """A testnet's staking with other times, in seconds; `epoch_s` 0 is one epoch for ever.

    Unbonding outlasts the age of evidence and of checkpoints: where it is short, so are they, half
    of it. Raises `ConfigError` for a time out of range.
    """
    for name, least, value_s in (
        ("an epoch", 0, epoch_s),
        ("unbonding", MIN_UNBONDING_S, unbonding_s),
        ("jail", 0, jail_s),
    ):
        if not least <= value_s <= MAX_STAKING_S:
            raise ConfigError(f"{name} takes {least} to {MAX_STAKING_S} seconds, not {value_s}")
    half_ms = unbonding_s * 1_000 // 2
    return msgspec.structs.replace(
        STAKING,
        epoch_ms=epoch_s * 1_000,
        unbonding_ms=unbonding_s * 1_000,
        evidence_ms=min(STAKING.evidence_ms, half_ms),
        trusting_ms=min(STAKING.trusting_ms, half_ms),
        jail_ms=jail_s * 1_000,
    )


MEBIBYTE = 1 << 20

LEDGER_PACE = Pace(
    block_interval_ms=100,
    empty_interval_ms=20,
    idle_interval_ms=5_000,
    timeout_ms=1_000,
    timeout_max_ms=10_000,
    max_payload_bytes=3 * MEBIBYTE,
)

SEQUENCER_PACE = Pace(
    block_interval_ms=20,
    empty_interval_ms=0,
    idle_interval_ms=0,
    timeout_ms=1_500,
    timeout_max_ms=10_000,
    max_payload_bytes=1 * MEBIBYTE,
)


PRICES: dict[str, Any] = {
    "price_band_ppm": 200_000,
    "impact_notional_uusd": 10_000 * USD,
    "oracle_confidence_ppm": 20_000,
    "oracle_deviation_ppm": 100_000,
    "oracle_hold_ms": 5_000,
}
"""How markets form prices. A testnet has no price source of its own, so that prices do not become
stale by age; `trilemma init --oracle-age-s` asks for it."""

INSURANCE_UUSD = 10_000_000 * USD
BACKSTOP_UUSD = 10_000_000 * USD


def _crypto(market: int, symbol: str, tick_uusd: int, lot_micro: int, price: int) -> MarketConfig:
    return MarketConfig(
        market=market,
        symbol=symbol,
        tick_uusd=tick_uusd,
        lot_micro=lot_micro,
        initial_ppm=50_000,
        maintenance_ppm=30_000,
        taker_fee_ppm=450,
        maker_fee_ppm=150,
        min_notional_uusd=1 * USD,
        max_order_lots=1_000_000,
        max_position_lots=100_000_000,
        initial_price_ticks=price,
        margin_tiers=[
            MarginTier(20_000_000 * USD, 100_000, 50_000),
            MarginTier(100_000_000 * USD, 200_000, 100_000),
        ],
        fee_tiers=[FeeTier(5_000_000 * USD, 400, 120), FeeTier(25_000_000 * USD, 350, 80)],
        scale_from_uusd=500_000_000 * USD,
        scale_to_uusd=1_000_000_000 * USD,
        funding_interval_ms=3_600_000,
        backstop_max_lots=10_000_000,
        **PRICES,
    )


def _equity(market: int, symbol: str, price_ticks: int) -> MarketConfig:
    return MarketConfig(
        market=market,
        symbol=symbol,
        tick_uusd=10_000,
        lot_micro=1_000_000,
        initial_ppm=100_000,
        maintenance_ppm=60_000,
        taker_fee_ppm=450,
        maker_fee_ppm=150,
        min_notional_uusd=1 * USD,
        max_order_lots=1_000_000,
        max_position_lots=100_000_000,
        initial_price_ticks=price_ticks,
        backstop_max_lots=1_000_000,
        **PRICES,
    )


MARKETS = (
    _crypto(0, "BTC-PERP", 100_000, 1_000, 600_000),
    _crypto(1, "ETH-PERP", 10_000, 10_000, 300_000),
    _equity(2, "GOOG-PERP", 57_700),
    _equity(3, "AAPL-PERP", 58_500),
)
"""Prices at genesis are about $60,000, $3,000, $577 and $585."""

MAX_ORACLE_AGE_S = 86_400


def markets_of(oracle_age_s: int = 0) -> tuple[MarketConfig, ...]:
    """A testnet's markets whose prices are stale after so many seconds (0: never); raises
    `ConfigError`."""
    if not 0 <= oracle_age_s <= MAX_ORACLE_AGE_S:
        raise ConfigError(f"an oracle's price counts for 0 to {MAX_ORACLE_AGE_S} s")
    age_ms = oracle_age_s * 1_000
    return tuple(msgspec.structs.replace(market, oracle_age_ms=age_ms) for market in MARKETS)


def reopening_of(oracle_age_s: int = 0) -> Reopening:
    """Stages of reopening. Without oracles that report all the time nothing tells an outage from
    silence, so that there are none then."""
    return Reopening(gap_ms=4 * oracle_age_s * 1_000)
