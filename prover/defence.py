"""How a prover defends its own batches: the states inside a batch are made again when somebody
disputes it, and never before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from execution import leaves as lv
from execution.batches import VerifySignature
from protocol.codec import encode
from protocol.dispute import Cut, DisputeLeaf, Prove
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.events import BlockDiff
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, InboxEntry
from prover.game import BatchSteps, Player, Trace
from prover.tree import StateTree

Undo = dict[bytes, bytes | None]


class Removable(Protocol):
    """What is kept of batches that are not final; `prover.store.ProverStore` says more."""

    def header(self, number: int) -> BatchHeader | None:
        """Header of a batch as it was built here."""

    def undo_to(self, number: int) -> Undo:
        """What leads the leaves back to the state after batch `number`."""


class Material(NamedTuple):
    """What a game on a batch needs besides the state: its blocks, their diffs, and the inbox
    entries that they take in."""

    blocks: Sequence[OrderedBlock]
    diffs: Sequence[BlockDiff]
    inbox: Sequence[InboxEntry]


class Defence:
    """The moves of the prover whose state tree and store these are."""

    def __init__(
        self,
        chain: Chain,
        tree: StateTree,
        store: Removable,
        verify_signature: VerifySignature = verify,
    ) -> None:
        self._chain = chain
        self._tree = tree
        self._store = store
        self._verify = verify_signature

    def owns(self, header: BatchHeader) -> bool:
        """Whether a settled batch is what we built, so that we can defend it."""
        return self._store.header(header.number) == header

    def cursor(self, header: BatchHeader) -> int:
        """Inbox entries that were taken in before a batch that we own."""
        with self._before(header):
            return self._cursor()

    def reply(
        self,
        header: BatchHeader,
        material: Material,
        challenger: bytes,
        game: DisputeLeaf,
        before: bytes = b"",
    ) -> Cut | Prove | None:
        """The next move in a game on a batch that we own; None while it is not our turn.

        `before`: the witness that `game.shown` names, where there is one. The tree is as it was
        when this returns; nothing else may use it meanwhile. Raises `Rejected` where the
        material is not the batch's, or what a step looks at is too large to be shown.
        """
        blocks, diffs, inbox = material
        if list_root([encode(block) for block in blocks]) != header.data_root:
            raise Rejected(Code.BAD_PROOF, f"the data is not that of batch {header.number}")
        heights = [diff.height for diff in diffs]
        if heights != list(range(header.first_block, header.last_block + 1)):
            raise Rejected(Code.BAD_PROOF, f"the diffs are not those of batch {header.number}")
        with self._before(header) as trace:
            cursors = [self._cursor(), *(diff.inbox_cursor for diff in diffs)]
            if cursors[-1] - cursors[0] != len(inbox):
                raise Rejected(
                    Code.BAD_PROOF, f"the inbox entries are not those of batch {header.number}"
                )
            trace.extend([dict(diff.changes) for diff in diffs])
            if trace.roots([header.last_block]) != [header.post_state_root]:
                raise Rejected(
                    Code.BAD_PROOF, f"the diffs do not lead to the root of batch {header.number}"
                )
            steps = BatchSteps(header, blocks, cursors, inbox)
            player = Player(self._chain, trace, self._verify)
            return player.defend(steps, challenger, game, before)

    def _cursor(self) -> int:
        """Inbox cursor of the state in the tree."""
        raw = self._tree.get(lv.COUNTERS_KEY)
        if raw is None:
            raise SafetyViolation("the state has no counters")
        return lv.decode_counters(raw).inbox_cursor

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
            tree.update({**trace.undo(), **ends})
