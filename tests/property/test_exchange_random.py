"""Long random trading: the engine and a naive exchange agree on every event, leaf and total.

`TRILEMMA_EXCHANGE_RUNS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest
from naive_chains import CHAINS
from naive_duel import Duel
from naive_moves import Moves

from protocol.errors import Code
from protocol.events import BatchExecuted, OrderChanged, TriggerChanged, TriggerFired

SEEDS = 8 * int(os.environ.get("TRILEMMA_EXCHANGE_RUNS", "1"))
BLOCKS = 220


def note(seen: Counter[str], event: Any) -> None:
    """Count what an event says: its kind, its reason, the codes of its results."""
    seen[type(event).__name__] += 1
    if isinstance(event, OrderChanged | TriggerChanged):
        seen[f"{type(event).__name__}_{event.reason}"] += 1
    results = event.results if isinstance(event, BatchExecuted) else []
    results = [event.result] if isinstance(event, TriggerFired) else results
    for result in results:
        seen[Code(result.code).label] += 1


def run(name: str, seed: int, seen: Counter[str]) -> None:
    """Random blocks on a chain, with restarts of the engine between them."""
    print("chain", name, "seed", seed)
    make, dollars = CHAINS[name]
    rng = random.Random(seed)
    duel = Duel(make(), dollars=dollars)
    moves = Moves(duel, rng)
    for _ in range(BLOCKS):
        for event in moves.block(rng.randint(1, 2), rng.randint(1, 4)):
            note(seen, event)
        if rng.randrange(8) == 0:
            duel.restart()


EVERYWHERE = """
Fill OrderOpened MarkChanged MarketChanged WithdrawalQueued Transferred SettingChanged DeadManSet
TriggerOpened TriggerFired TwapChanged
OrderChanged_1 OrderChanged_2 OrderChanged_3 OrderChanged_4 OrderChanged_5 OrderChanged_6
OrderChanged_7 OrderChanged_8 OrderChanged_9 OrderChanged_12
TriggerChanged_0 TriggerChanged_1 TriggerChanged_6 TriggerChanged_7 TriggerChanged_9
TriggerChanged_13
action_expired bad_amount bad_duration bad_leverage bad_link bad_price bad_quotes bad_size
dead_man_too_soon duplicate_client_id insufficient_cash insufficient_margin isolated_account
leverage_too_high market_cancel_only market_halted market_post_only market_reduce_only
no_liquidity no_position not_fillable not_reducing self_trade too_many_orders unknown_market
unknown_order would_fire would_take wrong_transfer
"""
TIERED = """
below_min_notional position_limit price_band stale_market too_many_subaccounts too_many_triggers
"""
MET = {
    "plain": "position_limit",
    "tiered": TIERED,
    "cancels-first": TIERED,
    "vast": "notional_limit",
}
"""What a run must have met at least once: kinds of events, with their reasons, and codes."""


@pytest.mark.parametrize("name", CHAINS)
def test_engine_and_naive_exchange_agree(name: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        run(name, seed, seen)
    missed = [what for what in (EVERYWHERE + MET[name]).split() if not seen[what]]
    assert not missed, f"never met: {missed}"
