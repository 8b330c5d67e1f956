"""The states inside open batches, led back and forth on one tree, against states that were kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from protocol.errors import SafetyViolation
from prover.game import Trace
from prover.tree import StateTree
from prover.window import HELD_BYTES
from store.segments import SegmentLog

KEYS = [bytes((kind,)) + number.to_bytes(3, "big") for kind in (1, 2) for number in range(40)]
FILE_BYTES = 400


@pytest.mark.parametrize("seed", range(40))
def test_every_root_leaf_and_proof_is_that_of_its_block(seed: int, tmp_path: Path) -> None:
    """In memory, or in files but for the newest segment, the newest few, or not yet."""
    print("seed", seed)
    rng = random.Random(seed)
    state = {key: rng.randbytes(3) for key in rng.sample(KEYS, 30)}
    tree = StateTree(state.items())
    start = rng.randint(0, 5)
    log = SegmentLog(tmp_path, FILE_BYTES) if seed % 4 else None
    trace = Trace(tree, start, log, (HELD_BYTES, 0, 4_000, 20_000)[seed % 4])
    states = {start: dict(state)}
    notes: dict[int, bytes] = {}
    for _ in range(rng.randint(1, 8)):
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
            notes[start + len(states) - 1] = rng.randbytes(4)
        segment = trace.extend(changes, list(notes.values())[-len(changes) :])
        assert segment.last_block == trace.last == start + len(states) - 1
        _compare(rng, trace, tree, states, notes)
        if rng.random() < 0.3:
            trace.forget(rng.randint(trace.first, trace.last))
            _compare(rng, trace, tree, states, notes)
    if log is not None:
        log.close()


def _compare(
    rng: random.Random,
    trace: Trace,
    tree: StateTree,
    states: dict[int, dict[bytes, bytes]],
    notes: dict[int, bytes],
) -> None:
    known = range(trace.first, trace.last + 1)
    asked = sorted(rng.choices(known, k=rng.randint(1, 6)))
    assert trace.roots(asked) == [StateTree(states[one].items()).root for one in asked]
    one = rng.choice(known)
    assert trace.leaves(one) == sorted(states[one].items())
    assert trace.leaves(trace.first) == sorted(states[trace.first].items())
    keys = rng.sample(KEYS, 3)
    assert trace.prove(one, keys) == StateTree(states[one].items()).prove(keys)
    assert trace.roots([]) == []
    assert dict(tree.iterate()) == states[trace.last]
    assert trace.notes(asked[0], one) == [notes[at] for at in range(asked[0] + 1, one + 1)]
    back = {key: value for key, value in trace.undo().items() if value is not None}
    gone = trace.undo().keys() - back
    ends = {key: value for key, value in states[trace.last].items() if key not in gone}
    assert {**ends, **back} == states[trace.first]
    for beyond in (trace.first - 1, trace.last + 1):
        with pytest.raises(SafetyViolation, match="not known"):
            trace.roots([beyond])
        with pytest.raises(SafetyViolation, match="not known"):
            trace.leaves(beyond)
