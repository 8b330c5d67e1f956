"""Everything at once: an engine that restarts says the same as one that never does.

`TRILEMMA_EXCHANGE_RUNS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import cast

from naive_duel import Duel
from naive_twins import Twins, WildMoves, whole_chain

SEEDS = 8 * int(os.environ.get("TRILEMMA_EXCHANGE_RUNS", "1"))
BLOCKS = 200

MIXES: tuple[tuple[str, ...], ...] = (
    (),
    ("limit", "limit", "market", "quote", "trigger", "bracket", "leverage", "transfer"),
    ("limit", "limit", "market", "kill"),
)
"""Kinds of actions of a run; none: all of them."""

MET = """
Fill FundingRate FundingPaid Expired PositionSettled LiquidationBegun LiquidationEnded Receipt
TriggerFired TwapChanged MarketChanged Transferred WithdrawalQueued DeadManSet
"""


def run(seed: int, seen: Counter[str]) -> None:
    """Random blocks; the twin restarts between some of them."""
    print("seed", seed)
    rng = random.Random(seed)
    twins = Twins(whole_chain(), dollars=rng.choice((4, 12, 30)))
    moves = WildMoves(cast(Duel, twins), rng)
    kinds = MIXES[seed % len(MIXES)]
    for _ in range(BLOCKS):
        for event in moves.block(rng.randint(1, 3), rng.randint(1, 4), kinds):
            seen[type(event).__name__] += 1
        if rng.randrange(8) == 0:
            twins.restart()


def test_an_engine_that_restarts_says_the_same() -> None:
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        run(seed, seen)
    missed = [what for what in MET.split() if not seen[what]]
    assert not missed, f"never met: {missed}"
