"""The states inside open batches, led back and forth on one tree, against states that were kept."""

from __future__ import annotations

import random

import pytest

from protocol.errors import SafetyViolation
from prover.game import Trace
from prover.tree import StateTree

KEYS = [bytes((kind,)) + number.to_bytes(3, "big") for kind in (1, 2) for number in range(40)]


@pytest.mark.parametrize("seed", range(30))
def test_every_root_leaf_and_proof_is_that_of_its_block(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    state = {key: rng.randbytes(3) for key in rng.sample(KEYS, 30)}
    tree = StateTree(state.items())
    start = rng.randint(0, 5)
    trace = Trace(tree, start)
    states = {start: dict(state)}
    for _ in range(rng.randint(1, 6)):
        changes: list[dict[bytes, bytes | None]] = []
        for _ in range(rng.randint(1, 5)):
            block: dict[bytes, bytes | None] = {}
            for key in rng.sample(KEYS, rng.randint(0, 12)):
                block[key] = None if rng.random() < 0.4 else rng.randbytes(2)
                if block[key] is None:
                    state.pop(key, None)
                else:
                    state[key] = block[key] or b""
            changes.append(block)
            states[start + len(states)] = dict(state)
        segment = trace.extend(changes)
        assert segment.last_block == trace.last == start + len(states) - 1
        _compare(rng, trace, tree, states)
        if rng.random() < 0.3:
            trace.forget(rng.randint(trace.first, trace.last))
            _compare(rng, trace, tree, states)


def _compare(
    rng: random.Random, trace: Trace, tree: StateTree, states: dict[int, dict[bytes, bytes]]
) -> None:
    known = range(trace.first, trace.last + 1)
    asked = sorted(rng.choices(known, k=rng.randint(1, 6)))
    assert trace.roots(asked) == [StateTree(states[one].items()).root for one in asked]
    one = rng.choice(known)
    assert trace.leaves(one) == sorted(states[one].items())
    keys = rng.sample(KEYS, 3)
    assert trace.prove(one, keys) == StateTree(states[one].items()).prove(keys)
    assert trace.roots([]) == []
    assert dict(tree.iterate()) == states[trace.last]
    for beyond in (trace.first - 1, trace.last + 1):
        with pytest.raises(SafetyViolation, match="not known"):
            trace.roots([beyond])
