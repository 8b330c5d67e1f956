"""Where there is no room for all orders of the accounts shown, those that count are enough.

`TRILEMMA_FLOW_SEEDS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from witness_world import Block, blocks, verify

from protocol.codec import encode
from protocol.errors import Code, Rejected
from prover.step_input import StepInput
from prover.steps import Walk, walk
from prover.witness import decode_witness, execute, leaf_count
from prover.witness_maker import Gathered, Room

SEEDS = 4 * int(os.environ.get("TRILEMMA_FLOW_SEEDS", "1"))
BYTES = 1 << 30


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_left_out_for_want_of_room_turns_nothing(seed: int) -> None:
    rng, seen = random.Random(seed), Counter[str]()
    for block in blocks(seed, 90):
        with walk(block.chain, block.tree, block.step, verify) as walked:
            count = len(block.step.steps(block.engine()).plan)
            number = rng.randrange(count)
            root, full = walked.to(number), walked.witness(number)
            try:
                small = walked.witness(number, b"", Room(BYTES, leaf_count(full) - 1))
            except Rejected as error:
                assert error.code == Code.BAD_WITNESS
                seen["all is needed"] += 1
                continue
            assert leaf_count(small) < leaf_count(full)
            seen["smaller"] += 1
            seen["leaves left out"] += leaf_count(full) - leaf_count(small)
            step = block.step._replace(number=number)
            after = execute(block.chain, root, small, step, verify)
            assert after == execute(block.chain, root, full, step, verify)
            for larger in _larger(rng, walked, block, step, small):
                assert execute(block.chain, root, larger, step, verify) == after
    print(dict(seen))
    assert seen["smaller"] > 10


def _larger(
    rng: random.Random, walked: Walk, block: Block, step: StepInput, witness: bytes
) -> Iterator[bytes]:
    """Witnesses that show some of what was left out as well, leaf by leaf, and all accounts."""
    tree = walked._tree
    shown = decode_witness(witness)
    before = {key for key, _ in shown.proof.leaves}
    hidden = [key for kind in (b"o", b"t", b"w") for key, _ in tree.iterate(kind)]
    hidden = [key for key in hidden if key not in before]
    for share in (0.1, 0.5, 1.0):
        found = Gathered(tree, step.scope(block.chain))
        found.add(shown)
        found.lean = True
        found.keys.update(key for key in hidden if rng.random() < share)
        if rng.random() < 0.5:
            found.note(int.from_bytes(key[1:], "big") for key, _ in tree.iterate(b"a"))
        yield encode(found.witness(0))
