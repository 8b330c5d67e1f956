"""The shard's half of an audit: settled batches executed anew, and every root compared.

A pure machine. The ordered blocks of a batch are what the sequencers certified, whatever its prover
claims of the state after them, so the re-execution goes on from its own state behind a wrong batch,
and takes up again what is posted in its place. Each ordered block is executed once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from execution import Engine
from execution.batches import VerifySignature
from node.audit_locate import Claims, Place, locate
from protocol.batch_data import unpack_blocks
from protocol.codec import encode
from protocol.errors import SafetyViolation, TrilemmaError
from protocol.events import BatchExecuted, Event, Fill
from protocol.genesis import Chain
from protocol.inbox import block_inbox_height, next_cursor
from protocol.keys import verify
from protocol.merkle import list_root
from protocol.ordering import decode_payload
from protocol.settlement import BatchHeader, InboxEntry, OutboxEntry
from prover.tree import StateTree


class AuditDifference(TrilemmaError):
    """The first place where the base layer and its re-execution do not agree; `batch` is 0 where
    that is no batch. `place` says where in it, as far as that can be known."""

    def __init__(self, text: str, batch: int = 0, place: Place | None = None) -> None:
        super().__init__(text)
        self.batch = batch
        self.place = place


class BatchTask(NamedTuple):
    """A settled batch with all that its execution takes. `inbox_height` and `cursor`: before it;
    `entries`: (ledger height, entry) of the inbox from that cursor on, those that it takes in."""

    header: BatchHeader
    data: bytes
    inbox_height: int
    cursor: int
    entries: list[tuple[int, InboxEntry]]


class ShardState(NamedTuple):
    """A claimed state of the shard: its full leaf set. `batch`: the batch whose end it is; 0 where
    the ledger has to tell that, or it stands within a batch."""

    batch: int
    leaves: Sequence[tuple[bytes, bytes]]


class ExecutedBlock(NamedTuple):
    """What the re-execution of an ordered block did; events only where somebody looks at them."""

    height: int
    block_id: bytes
    changes: Mapping[bytes, bytes | None]
    outbox: list[OutboxEntry]
    cursor: int
    events: list[Event]


class BatchFindings(NamedTuple):
    """The re-execution of a batch: `outbox` as it is right, and the first difference, if any."""

    outbox: list[OutboxEntry]
    difference: AuditDifference | None


class Counts(NamedTuple):
    """What was executed so far."""

    batches: int = 0
    ordered_blocks: int = 0
    signed_batches: int = 0
    actions: int = 0
    fills: int = 0
    data_bytes: int = 0

    def plus(self, other: Counts) -> Counts:
        """The sum of two parts."""
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


class ShardAudit:
    """Feed it `settle` with consecutive batches; `remove` and `finalise` as the ledger does.

    `state`: where to begin, instead of genesis; it is no better than where it comes from until a
    root that follows agrees. `claims`: what the poster says its blocks changed, where that is at
    hand. Raises `SafetyViolation` where the state's leaves do not belong together.
    """

    def __init__(
        self,
        chain: Chain,
        state: ShardState | None = None,
        verify_signature: VerifySignature = verify,
        claims: Claims | None = None,
    ) -> None:
        self._inbox_per_block = chain.genesis.limits.inbox_per_block
        self._claims = claims
        if state is None:
            self.engine = Engine(chain, verify_signature)
            leaves = sorted(self.engine.leaves().items())
        else:
            self.engine = Engine.restore(chain, state.leaves, verify_signature)
            leaves = sorted(state.leaves)
        self.tree = StateTree(leaves)
        self.batch = 0 if state is None else state.batch
        self.counts = Counts()
        self.begins_at = self.engine.height
        """Ordered block of the state that it began from."""
        self._blocks: deque[ExecutedBlock] = deque()
        self._undo: dict[int, tuple[int, dict[bytes, bytes | None]]] = {}

    @property
    def root(self) -> bytes:
        """Root of the state after the newest batch (32 bytes)."""
        return self.tree.root

    def settle(self, task: BatchTask) -> BatchFindings:
        """Execute the next batch and compare what its header says."""
        header = task.header
        if header.number != self.batch + 1:
            raise SafetyViolation(f"batch {header.number} came to an audit at batch {self.batch}")
        before = self.root
        self._execute(task)
        blocks = [one for one in self._blocks if one.height >= header.first_block]
        while blocks and blocks[-1].height > header.last_block:
            blocks.pop()
        changes: dict[bytes, bytes | None] = {}
        for block in blocks:
            changes.update(block.changes)
        undo = {key: self.tree.get(key) for key in changes}
        self.tree.update(changes)
        self._undo[header.number] = (header.last_block, undo)
        self.batch = header.number
        self.counts = self.counts.plus(Counts(1, data_bytes=len(task.data)))
        outbox = [entry for block in blocks for entry in block.outbox]
        # A state that stands within the batch says nothing of what was before.
        begun = header.first_block <= self.begins_at
        found = None if begun else self._compare(header, "pre-state root", before)
        found = found or self._compare(header, "post-state root", self.root)
        if found is not None and header.pre_state_root == before:
            found = self._located(header, blocks, undo, found)
        return BatchFindings(outbox, found or self._compare_outbox(header, blocks, outbox, begun))

    def remove(self, number: int) -> None:
        """Go back to the end of the batch before `number`."""
        while self.batch >= number:
            if self.batch not in self._undo:
                raise AuditDifference(f"batch {number} was removed after it was final", number)
            self.tree.update(self._undo.pop(self.batch)[1])
            self.batch -= 1

    def finalise(self, number: int) -> None:
        """Forget how to go back behind a batch."""
        last = 0
        for known in [known for known in self._undo if known <= number]:
            last = max(last, self._undo.pop(known)[0])
        while self._blocks and self._blocks[0].height <= last:
            self._blocks.popleft()

    # --- executing

    def _execute(self, task: BatchTask) -> None:
        """Execute the blocks of the batch that were not executed yet."""
        named, cursor = task.inbox_height, task.cursor
        heights = [height for height, _ in task.entries]
        for block in unpack_blocks(task.data):
            payload = decode_payload(block.payload) if block.payload else None
            named = block_inbox_height(block.payload, named)
            first = cursor
            known = task.cursor + bisect_right(heights, named)
            cursor = next_cursor(first, known, self._inbox_per_block)
            header = block.header
            if header.height <= self.engine.height:
                continue
            entries = task.entries[first - task.cursor : cursor - task.cursor]
            result = self.engine.apply(
                header.height, header.time_ms, header.block_id(),
                [entry for _, entry in entries], cursor, payload.batches if payload else [],
            )  # fmt: skip
            events = result.events
            self._blocks.append(
                ExecutedBlock(
                    header.height, header.block_id(), result.changes, result.outbox, cursor,
                    events if self._claims is not None else [],
                )
            )  # fmt: skip
            self.counts = self.counts.plus(
                Counts(
                    0, 1, sum(isinstance(event, BatchExecuted) for event in events),
                    result.actions, sum(isinstance(event, Fill) for event in events),
                )
            )  # fmt: skip
        if not self.engine.money_conserved():
            text = f"batch {task.header.number}: cash in the shard is not deposits less withdrawals"
            raise AuditDifference(text, task.header.number)

    # --- comparing

    def _compare(self, header: BatchHeader, what: str, computed: bytes) -> AuditDifference | None:
        posted: bytes = getattr(header, what.replace("-", "_").replace(" ", "_"))
        if posted == computed:
            return None
        return AuditDifference(
            f"batch {header.number}: the posted {what} is {posted.hex()[:16]}, "
            f"re-execution gives {computed.hex()[:16]}",
            header.number,
        )

    def _compare_outbox(
        self,
        header: BatchHeader,
        blocks: Sequence[ExecutedBlock],
        outbox: Sequence[OutboxEntry],
        begun: bool,
    ) -> AuditDifference | None:
        if begun:
            return None
        found = self._compare(header, "outbox root", list_root([encode(one) for one in outbox]))
        if found is not None:
            return found
        cursor = blocks[-1].cursor if blocks else header.inbox_cursor
        if header.inbox_cursor != cursor or header.outbox_count != len(outbox):
            text = f"batch {header.number}: inbox cursor or outbox count differs"
            return AuditDifference(text, header.number)
        return None

    def _located(
        self,
        header: BatchHeader,
        blocks: Sequence[ExecutedBlock],
        undo: dict[bytes, bytes | None],
        found: AuditDifference,
    ) -> AuditDifference:
        """The difference with the block, step and leaf where it begins."""
        place = None
        if self._claims is not None:
            place = locate(self.tree, header.post_state_root, blocks, undo, self._claims)
        if place is None:
            where = (
                f"the first wrong block is one of {header.first_block} to {header.last_block}; "
                "which block, step and leaf cannot be known without the poster's state changes"
            )
        else:
            where = place.text
        return AuditDifference(f"{found} ({where})", header.number, place)
