"""How a prover defends its own batches: the states inside a batch are made again when somebody
disputes it, and never before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from protocol.codec import encode
from protocol.dispute import Cut, DisputeLeaf, Prove
from protocol.errors import Code, Rejected
from protocol.events import BlockDiff
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader
from prover.game import BatchSteps, Defender, Trace, coalesced
from prover.tree import StateTree

Undo = dict[bytes, bytes | None]


class Removable(Protocol):
    """What is kept of batches that are not final; `prover.store.ProverStore` says more."""

    def header(self, number: int) -> BatchHeader | None:
        """Header of a batch as it was built here."""

    def undo_to(self, number: int) -> Undo:
        """What leads the leaves back to the state after batch `number`."""


class Defence:
    """The moves of the prover whose state tree and store these are."""

    def __init__(self, tree: StateTree, store: Removable, sections: int) -> None:
        self._tree = tree
        self._store = store
        self._sections = sections

    def owns(self, header: BatchHeader) -> bool:
        """Whether a settled batch is what we built, so that we can defend it."""
        return self._store.header(header.number) == header

    def reply(
        self,
        header: BatchHeader,
        blocks: Sequence[OrderedBlock],
        diffs: Sequence[BlockDiff],
        challenger: bytes,
        game: DisputeLeaf,
    ) -> Cut | Prove | None:
        """The next move in a game on a batch that we own; None while it is not our turn.

        `blocks`, `diffs`: of the batch. The tree is as it was when this returns; nothing else may
        use it meanwhile. Raises `Rejected` where blocks or diffs are not those of the batch, or the
        state is too large to be shown.
        """
        if list_root([encode(block) for block in blocks]) != header.data_root:
            raise Rejected(Code.BAD_PROOF, f"the data is not that of batch {header.number}")
        heights = [diff.height for diff in diffs]
        if heights != list(range(header.first_block, header.last_block + 1)):
            raise Rejected(Code.BAD_PROOF, f"the diffs are not those of batch {header.number}")
        steps = BatchSteps(header, list(blocks), [diff.inbox_cursor for diff in diffs])
        with self._before(header) as trace:
            trace.extend([dict(diff.changes) for diff in diffs])
            if trace.roots([header.last_block]) != [header.post_state_root]:
                raise Rejected(
                    Code.BAD_PROOF, f"the diffs do not lead to the root of batch {header.number}"
                )
            return Defender(trace, self._sections).reply(steps, challenger, game)

    @contextmanager
    def _before(self, header: BatchHeader) -> Iterator[Trace]:
        """A trace from the state before a batch on."""
        tree, undo = self._tree, self._store.undo_to(header.number - 1)
        ends = {key: tree.get(key) for key in undo}
        tree.update(undo)
        trace = Trace(tree, header.first_block - 1)
        try:
            yield trace
        finally:
            # Whatever was told of the batch's blocks, the tree ends as it stood.
            back = coalesced(segment.undo for segment in reversed(trace.segments))
            tree.update({**back, **ends})
