"""The lie that a witness can tell: the best order is not there, and whoever shows the step without
it shows nothing wrong. Only a larger witness refutes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from execution.engine import Engine
from execution.steps import Stage
from protocol.dispute import STEPS_PER_BLOCK
from protocol.errors import TrilemmaError
from protocol.events import Fill
from protocol.genesis import Chain
from protocol.settlement import BatchHeader, master_of
from prover.game import BatchSteps, Player, Trace
from prover.step_input import StepInput
from prover.steps import Walk, walk
from prover.tree import StateTree
from prover.witness import outcome
from sim.lying_engines import Changes
from sim.lying_play import StepWalk, hiding


class Hidden(NamedTuple):
    """A step of a block that was executed without somebody's account: what it changes then, the
    witness that shows it, and what the whole block changes."""

    height: int
    number: int
    said: Changes
    witness: bytes
    net: Changes


def hide(chain: Chain, leaves: Mapping[bytes, bytes], block: StepInput) -> Hidden | None:
    """Hide a maker from whoever takes, in some step of a block on the state with these leaves;
    None where nobody meets an order of somebody else."""
    tree = StateTree(sorted(leaves.items()))
    scope = block.steps(Engine.restore(chain, leaves.items()))
    for number, step in enumerate(scope.plan):
        if step.stage != Stage.TAKING:
            continue
        with walk(chain, tree, block) as walked:
            walked.to(number)
            found = _without_maker(chain, tree, block._replace(number=number))
        if found is not None:
            said, witness = found
            lying = StepWalk(chain, tree, block, number, said)
            lying.to(len(scope.plan))
            net = {key: tree.get(key) for key in lying.undo}
            return Hidden(block.block.header.height, number, said, witness, net)
    return None


def effective(changes: Changes, tree: StateTree) -> Changes:
    """Changes of the state in the tree, without those that leave a leaf as it is."""
    return {key: value for key, value in changes.items() if tree.get(key) != value}


def _without_maker(chain: Chain, tree: StateTree, step: StepInput) -> tuple[Changes, bytes] | None:
    engine = Engine.restore(chain, tree.iterate())
    changes = step.run(engine)
    makers = {event.maker_account for event in engine.state.events if isinstance(event, Fill)}
    for maker in sorted(makers):
        alike = {one for one in engine.state.accounts if master_of(one) == master_of(maker)}
        try:
            witness = hiding(chain, tree, step, alike, changes)
            _, said = outcome(chain, tree.root, witness, step)
        except (TrilemmaError, LookupError):  # it cannot even be told
            continue
        if effective(said, tree) != effective(changes, tree):
            return said, witness
    return None


class HidingPlayer(Player):
    """Plays for a batch in which an order is hidden, and shows its witness again and again."""

    def __init__(self, chain: Chain, trace: Trace, header: BatchHeader, hidden: Hidden) -> None:
        super().__init__(chain, trace)
        self._index = hidden.height - header.first_block
        self._hidden = hidden

    @contextmanager
    def walk(self, steps: BatchSteps, index: int) -> Iterator[Walk]:
        """The states inside a block as they are told."""
        if index != self._index:
            with super().walk(steps, index) as walked:
                yield walked
            return
        number, said = self._hidden.number, self._hidden.said
        with self.trace.at(steps.header.first_block - 1 + index) as tree:
            lying = StepWalk(self.chain, tree, steps.step(index), number, said)
            try:
                yield lying
            finally:
                tree.update(lying.undo)

    def witness(self, *arguments: Any, **named: Any) -> bytes:
        """Its own lie at the step of the lie, whatever the other side has shown."""
        if arguments[1] == self._index * STEPS_PER_BLOCK + self._hidden.number:
            return self._hidden.witness
        return super().witness(*arguments, **named)
