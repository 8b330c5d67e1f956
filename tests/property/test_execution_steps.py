"""A block in steps does what the block does, also where every step starts from leaves alone.

`TRILEMMA_FLOW_SEEDS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from witness_world import Block, blocks, verify

from execution import leaves as lv
from execution.engine import Engine
from execution.steps import Stage
from protocol.errors import SafetyViolation
from prover.steps import walk
from prover.tree import StateTree

SEEDS = 3 * int(os.environ.get("TRILEMMA_FLOW_SEEDS", "1"))
BLOCKS = 110


def net(leaves: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    """The leaves after changes."""
    after = {**leaves, **changes}
    return {key: value for key, value in after.items() if value is not None}


def in_steps(block: Block, *, restarts: random.Random | None, seen: Counter[str]) -> bytes:
    """The root after a block that is executed step by step; with `restarts`, now and then by an
    engine that is made from the leaves at that step."""
    leaves = dict(block.tree.iterate())
    height = block.step.block.header.height
    steps = block.step.steps(Engine.restore(block.chain, leaves.items(), verify))
    for number, step in enumerate(steps.plan):
        assert steps.done == number
        if restarts is not None and restarts.random() < 0.2:
            shuffled = list(leaves.items())
            restarts.shuffle(shuffled)
            engine = Engine.restore(block.chain, shuffled, verify)
            assert engine.leaves() == leaves
            steps = block.step.steps(engine)
        changes = steps.run(height)
        leaves = net(leaves, changes)
        seen[step.stage.name] += bool(changes.keys() - {lv.PROGRESS_KEY})
        between = step.stage != Stage.END
        assert (lv.PROGRESS_KEY in leaves) == between
    return StateTree(leaves.items()).root


def test_a_block_in_steps_ends_as_the_block() -> None:
    seen = Counter[str]()
    for seed in range(SEEDS):
        rng = random.Random(seed)
        for block in blocks(seed, BLOCKS):
            assert in_steps(block, restarts=None, seen=seen) == block.result
            assert in_steps(block, restarts=rng, seen=seen) == block.result
    print(seen)
    assert all(seen[stage.name] for stage in Stage)


def test_steps_that_find_nothing_due_are_passed_by_as_if_they_were_executed() -> None:
    rng, passed = random.Random(5), 0
    for block in blocks(1, BLOCKS // 2):
        leaves = dict(block.tree.iterate())
        steps = block.step.steps(block.engine())
        roots = [block.tree.root]
        for _ in steps.plan:
            leaves = net(leaves, steps.run(block.step.block.header.height))
            roots.append(StateTree(leaves.items()).root)
        with walk(block.chain, block.tree, block.step._replace(number=0), verify) as walked:
            for number in sorted(rng.choices(range(1, len(roots)), k=4)):
                if number < walked.number:
                    continue
                assert walked.to(number) == roots[number]
                if number + 1 < len(roots):
                    walked.pass_idle(len(roots) - 1)
                assert walked._tree.root == roots[walked.number]
                passed += walked.number - number
    assert passed > 100


def test_the_steps_of_another_block_are_refused() -> None:
    first, second = list(blocks(3, 3))[-2:]
    engine = Engine.restore(first.chain, first.tree.iterate(), verify)
    leaves = net(dict(first.tree.iterate()), first.step.steps(engine).run(1_000))
    with pytest.raises(SafetyViolation, match="another block"):
        second.step.steps(Engine.restore(first.chain, leaves.items(), verify))
