"""Batches that come through the inbox: the engine and a naive exchange agree on everything."""

from __future__ import annotations

import random

import pytest
from naive_chains import CHAINS
from naive_duel import Duel
from naive_moves import Moves

from protocol.actions import ActionBatch
from protocol.events import BatchExecuted, Fill
from protocol.settlement import FIRST_ACCOUNT

BLOCKS = 150


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("seed", [31, 32])
def test_forced_batches_stand_before_the_others(name: str, seed: int) -> None:
    make, dollars = CHAINS[name]
    rng = random.Random(seed)
    duel = Duel(make(), dollars=dollars)
    moves = Moves(duel, rng)
    forced: list[int] = []

    def forces(batch: ActionBatch) -> bool:
        if batch.account < FIRST_ACCOUNT or rng.random() < 0.5:
            return False
        forced.append(batch.nonce_ms)
        return True

    duel.forces = forces
    answered, fills = [], 0
    for _ in range(BLOCKS):
        for event in moves.block(rng.randint(1, 3), rng.randint(1, 4)):
            fills += isinstance(event, Fill)
            if isinstance(event, BatchExecuted):
                answered.append(event.nonce_ms)
        if rng.randrange(8) == 0:
            duel.restart()
    print("chain", name, "seed", seed, "forced", len(forced), "fills", fills)
    assert len(forced) > 20 and fills and set(forced) <= set(answered)
