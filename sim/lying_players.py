"""How somebody defends a batch that lies: right up to the step where the lie shows.

The roots that it tells inside of a block are those of a right execution up to there, and then the
one that its lie ends in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from execution.batches import VerifySignature
from execution.steps import Stage
from protocol.dispute import STEPS_PER_BLOCK
from protocol.genesis import Chain
from protocol.keys import verify
from prover.game import BatchSteps, Player, Trace
from prover.step_input import StepInput
from prover.steps import Walk
from prover.tree import StateTree
from prover.window import Change
from sim.lying_engines import Lie


class LyingWalk(Walk):
    """The steps of a block, of which the first one of a stage leads to where the block ends."""

    def __init__(
        self,
        chain: Chain,
        tree: StateTree,
        block: StepInput,
        verify_signature: VerifySignature,
        stage: Stage,
        said: list[Change],
    ) -> None:
        super().__init__(chain, tree, block, verify_signature)
        plan = self._steps.plan
        self._said = dict(said)
        self._lies_at = next(
            (place for place, step in enumerate(plan) if step.stage >= stage), len(plan) - 1
        )

    def pass_idle(self, upto: int) -> None:
        """As it ought to be up to the lie."""
        if self.number <= self._lies_at:
            super().pass_idle(min(upto, self._lies_at))

    def step(self, height: int) -> dict[bytes, bytes | None]:
        """As it ought to be up to the lie, from which on nothing changes any more."""
        if self.number < self._lies_at:
            return super().step(height)
        if self.number > self._lies_at:
            return {}
        back = {key: value for key, value in self.undo.items() if key not in self._said}
        return {**back, **self._said}


class LyingPlayer(Player):
    """Defends what an engine with a lie said."""

    def __init__(
        self,
        chain: Chain,
        trace: Trace,
        lie: Lie,
        verify_signature: VerifySignature = verify,
    ) -> None:
        super().__init__(lie.chain(chain), trace, verify_signature)
        self._lie = lie

    @contextmanager
    def walk(self, steps: BatchSteps, index: int) -> Iterator[Walk]:
        """Where other rules make the lie its steps show it; everything else is told."""
        height = steps.header.first_block + index
        if self._lie.own_rules or self._true(steps, index, height):
            with super().walk(steps, index) as walked:
                yield walked
            return
        (said,) = self.trace.changes(height - 1, height)
        with self.trace.at(height - 1) as tree:
            step = steps.step(index)
            walked = LyingWalk(self.chain, tree, step, self._verify, self._lie.stage, said)
            try:
                yield walked
            finally:
                tree.update(walked.undo)

    def _true(self, steps: BatchSteps, index: int, height: int) -> bool:
        """Whether what was said of a block is what it does."""
        with super().walk(steps, index) as walked:
            root = walked.to(STEPS_PER_BLOCK)
        return root == self.trace.roots([height])[0]
