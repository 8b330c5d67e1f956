"""Chains for the duel of engine and naive exchange, with limits that are met all the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from engine_world import DOLLAR, make_chain, market

from protocol.genesis import Chain, FeeTier, Limits, MarginTier, MarketConfig, parse_genesis

GUARDIANS = [bytes((0xA0 + number,)) * 32 for number in range(3)]


def chain_of(markets: list[MarketConfig], limits: Limits, **changes: Any) -> Chain:
    """A chain of these markets with three oracles and three guardians."""
    genesis = make_chain(markets, limits).genesis
    keys = [key.hex() for key in GUARDIANS]
    genesis = msgspec.structs.replace(genesis, guardians=keys, **changes)
    return parse_genesis(msgspec.json.encode(genesis))


def plain_chain() -> Chain:
    """Two simple markets; small limits, so that they are met."""
    markets = [market(0), market(1, maker_fee_ppm=-300, lot_micro=7_000, max_position_lots=60)]
    limits = Limits(orders_per_account=6, fills_per_action=4, refusals_per_action=2)
    return chain_of(markets, limits)


def tiered_chain(**changes: Any) -> Chain:
    """Margin and fee tiers, margin that follows open interest, caps, a price band."""
    tiers = [MarginTier(30 * DOLLAR, 150_000, 70_000), MarginTier(90 * DOLLAR, 333_333, 111_111)]
    fees = [FeeTier(40 * DOLLAR, 400, 50), FeeTier(200 * DOLLAR, 301, -77)]
    markets = [
        market(
            0, margin_tiers=tiers, fee_tiers=fees, scale_from_uusd=50 * DOLLAR,
            scale_to_uusd=400 * DOLLAR, max_open_interest_lots=50, price_band_ppm=60_000,
            min_notional_uusd=2 * DOLLAR, maker_fee_ppm=-1,
        ),
        market(1, lot_micro=3_000, fee_tiers=fees, oracle_age_ms=60, max_position_lots=80),
    ]  # fmt: skip
    limits = Limits(
        orders_per_account=5, fills_per_action=3, fills_per_block=5, subaccounts=2,
        triggers_per_account=3, triggers_per_market=7, twaps_per_account=1, triggers_per_block=2,
        expiries_per_block=1, reduce_only_orders=2,
    )  # fmt: skip
    return chain_of(markets, limits, **changes)


def vast_chain() -> Chain:
    """Lots so large that fills are split, and positions meet the bound of their notional."""
    markets = [
        market(
            0, tick_uusd=30_000, lot_micro=1_000_000, initial_price_ticks=1_000_000,
            max_order_lots=1 << 24, max_position_lots=1 << 25, initial_ppm=20_000,
            maintenance_ppm=10_000,
        ),
        market(1, tick_uusd=32_767, lot_micro=1_000_000, max_order_lots=1 << 30,
            max_position_lots=(1 << 31) - 1, max_open_interest_lots=1 << 26),
    ]  # fmt: skip
    limits = Limits(
        orders_per_account=5, fills_per_action=20, fills_per_block=25, refusals_per_action=3
    )
    return chain_of(markets, limits)


CHAINS: dict[str, tuple[Callable[[], Chain], int]] = {
    "plain": (plain_chain, 15),
    "tiered": (tiered_chain, 25),
    "cancels-first": (lambda: tiered_chain(cancels_first=True), 60),
    "vast": (vast_chain, 100_000_000),
}
"""Chains by name, and the dollars that each account starts with."""
