"""Accounts full of triggers whose money and positions leave: the engine and the naive exchange drop
the same ones, in the same order.

`TRILEMMA_EXCHANGE_RUNS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter

from engine_world import market
from naive_backing import nothing_to_reduce
from naive_chains import chain_of
from naive_duel import Duel
from naive_moves import Moves

from protocol.actions import REDUCE_ONLY
from protocol.events import REASON_UNBACKED, TriggerChanged, TriggerOpened
from protocol.genesis import Limits

SEEDS = 8 * int(os.environ.get("TRILEMMA_EXCHANGE_RUNS", "1"))
BLOCKS = 200
KINDS = (
    *("trigger",) * 4, *("oco",) * 2, *("bracket",) * 2, *("market",) * 2, *("limit",) * 2,
    "cancel", "modify", "withdraw", "transfer", "transfer", "position", "position", "leverage",
)  # fmt: skip


def run(seed: int, seen: Counter[str]) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    least = rng.choice((0, 1_500_000, 4_000_000))
    markets = [market(0, min_notional_uusd=least), market(1, maker_fee_ppm=-300)]
    limits = Limits(orders_per_account=6, fills_per_action=4, triggers_per_account=12)
    duel = Duel(chain_of(markets, limits), dollars=15)
    moves = Moves(duel, rng)
    flags: dict[int, int] = {}
    for _ in range(BLOCKS):
        for event in moves.block(rng.randint(1, 3), rng.randint(1, 4), KINDS):
            if isinstance(event, TriggerOpened):
                flags[event.trigger_id] = event.flags
            elif isinstance(event, TriggerChanged) and event.reason == REASON_UNBACKED:
                seen["reducing" if flags[event.trigger_id] & REDUCE_ONLY else "opening"] += 1
        for t in duel.x.triggers:
            assert not (t.flags & REDUCE_ONLY and nothing_to_reduce(duel.x, t.account, t.market))
        if rng.randrange(8) == 0:
            duel.restart()


def test_engine_and_naive_exchange_drop_the_same_triggers() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        run(seed, seen)
    print(seen)
    assert min(seen["reducing"], seen["opening"]) >= SEEDS, f"too few were dropped: {seen}"
