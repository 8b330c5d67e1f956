"""What a testnet has unless told otherwise: markets, money and pace."""

from __future__ import annotations

from protocol.genesis import Fees, MarketConfig, Pace, Staking

USD = 1_000_000
"""Micro-dollars of a dollar."""

TRADER_BALANCE_UUSD = 1_000_000 * USD
TRADER_DEPOSIT_UUSD = 100_000_000 * USD
FAUCET_BALANCE_UUSD = 1_000_000_000 * USD
PROVER_BALANCE_UUSD = 1_000_000 * USD
"""For the fees of batches: a mebibyte of them costs about a cent."""
VALIDATOR_BALANCE_UUSD = 1_000 * USD
VALIDATOR_STAKE_UUSD = 1_000 * USD

FEES = Fees(base_uusd=100, per_kib_uusd=10)
STAKING = Staking(epoch_ms=3_600_000, min_stake_uusd=100 * USD)

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
    )


MARKETS = (
    _crypto(0, "BTC-PERP", 100_000, 1_000, 600_000),
    _crypto(1, "ETH-PERP", 10_000, 10_000, 300_000),
    _equity(2, "GOOG-PERP", 57_700),
    _equity(3, "AAPL-PERP", 58_500),
)
"""Prices at genesis are about $60,000, $3,000, $577 and $585."""
