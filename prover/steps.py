"""The states between the steps of a block, on one tree that comes back from there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from execution.batches import VerifySignature
from execution.engine import Engine
from protocol.dispute import STEPS_PER_BLOCK
from protocol.errors import SafetyViolation
from protocol.genesis import Chain
from protocol.keys import verify
from prover.step_input import StepInput
from prover.tree import StateTree
from prover.witness_maker import FIRST_ROOM, Room, make


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
        if len(self._steps.plan) >= STEPS_PER_BLOCK:
            raise SafetyViolation(f"an ordered block has {len(self._steps.plan)} steps")
        self.undo: dict[bytes, bytes | None] = {}
        """The leaves before the block, of those that changed."""
        self.number = 0
        """The step that comes next."""

    def to(self, number: int) -> bytes:
        """Go on to the state before step `number`, or behind the block; its root (32 bytes)."""
        height, upto = self._block.block.header.height, min(number, len(self._steps.plan))
        while self.number < upto:
            self._take_over(self.step(height))
            self.number += 1
            self.pass_idle(upto)
        return self._tree.root

    def pass_idle(self, upto: int) -> None:
        """Pass by the steps up to there for which nothing is due."""
        changes = self._steps.pass_idle(upto)
        if changes:
            self._take_over(changes)
            self.number = self._steps.done

    def _take_over(self, changes: dict[bytes, bytes | None]) -> None:
        for key in changes:
            self.undo.setdefault(key, self._tree.get(key))
        self._tree.update(changes)

    def step(self, height: int) -> dict[bytes, bytes | None]:
        """Execute the next step; the leaves that it changed."""
        return self._steps.run(height)

    def witness(self, number: int, beside: bytes = b"", room: Room = FIRST_ROOM) -> bytes:
        """A witness for step `number`, of the state before it; see `witness_maker.make`."""
        self.to(number)
        step = self._block._replace(number=number)
        return make(self._chain, self._tree, step, beside, self._verify, room)


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
