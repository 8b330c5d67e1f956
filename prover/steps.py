"""The states between the steps of a block, on one tree that comes back from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from execution.batches import VerifySignature
from execution.engine import Engine
from protocol.genesis import Chain
from protocol.keys import verify
from prover.step_input import StepInput
from prover.tree import StateTree
from prover.witness_maker import make

STEPS_PER_BLOCK = 1 << 19
"""Places of each block among the positions of a dispute. A block has fewer steps (4,000 batches of
100 actions, and a few); behind its last one nothing changes."""


class Walk:
    """Leads a tree from the state before a block over its steps."""

    def __init__(
        self, chain: Chain, tree: StateTree, block: StepInput, verify_signature: VerifySignature
    ) -> None:
        self._chain = chain
        self._tree = tree
        self._block = block
        self._verify = verify_signature
        self._steps = block.steps(Engine.restore(chain, tree.iterate(), verify_signature))
        self.undo: dict[bytes, bytes | None] = {}
        """The leaves before the block, of those that changed."""
        self.number = 0
        """The step that comes next."""

    def to(self, number: int) -> bytes:
        """Go on to the state before step `number`, or behind the block; its root (32 bytes)."""
        height = self._block.block.header.height
        while self.number < min(number, len(self._steps.plan)):
            changes = self._steps.run(height)
            for key in changes:
                self.undo.setdefault(key, self._tree.get(key))
            self._tree.update(changes)
            self.number += 1
        return self._tree.root

    def witness(self, number: int, beside: bytes = b"") -> bytes:
        """A witness for step `number`, of the state before it; see `witness_maker.make`."""
        self.to(number)
        step = self._block._replace(number=number)
        return make(self._chain, self._tree, step, beside, self._verify)


@contextmanager
def walk(
    chain: Chain,
    tree: StateTree,
    block: StepInput,
    verify_signature: VerifySignature = verify,
) -> Iterator[Walk]:
    """Lead the tree, which stands before the block, over its steps while this is open."""
    walked = Walk(chain, tree, block, verify_signature)
    try:
        yield walked
    finally:
        tree.update(walked.undo)


def roots(
    chain: Chain,
    tree: StateTree,
    block: StepInput,
    numbers: Sequence[int],
    verify_signature: VerifySignature = verify,
) -> list[bytes]:
    """Roots before these steps of a block, which come in rising order."""
    with walk(chain, tree, block, verify_signature) as walked:
        return [walked.to(number) for number in numbers]
