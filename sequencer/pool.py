"""The pool of accepted batches, and the application that consensus orders them for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from consensus.members import MemberSet
from protocol.actions import batch_id, open_batch
from protocol.chain import EMPTY_HASH, Block, CommitCertificate
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.inbox import next_cursor
from protocol.ordering import OrderedPayload, decode_payload

POOL_BATCHES_MAX = 20_000
POOL_BYTES_MAX = 32 * 1024 * 1024
RECENT_MAX = 100_000
"""Batches whose place is remembered after they committed, to answer repeated submissions."""

BLOCK_BATCHES_MAX = 4_000
PAYLOAD_MARGIN_BYTES = 64
BATCH_OVERHEAD_BYTES = 5


class BatchPool:
    """Accepted batches that are not committed yet, in the order of their acceptance.

    It is the consensus application: blocks carry batches of the pool and the base-layer height up
    to which the inbox is taken in. A batch stays in the pool until a block with it commits. Blocks
    are due, too, until they have taken in the whole inbox, `inbox_per_block` entries in each.
    """

    def __init__(
        self,
        max_payload_bytes: int,
        inbox_per_block: int,
        height: int,
        inbox_height: int,
        inbox_cursor: int,
    ) -> None:
        self.bytes = 0
        self.inbox_height = inbox_height
        self.inbox_cursor = inbox_cursor
        self.ledger_height = inbox_height
        self.accepted_batches = self.accepted_actions = 0
        self.ordered_batches = self.ordered_actions = 0
        self._height = height
        self._max_payload_bytes = max_payload_bytes
        self._inbox_per_block = inbox_per_block
        self._counts: dict[int, int] = {}
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()
        self._actions: dict[bytes, int] = {}
        self._recent: OrderedDict[bytes, int] = OrderedDict()

    # --- admission

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._waiting

    def committed_at(self, identity: bytes) -> int | None:
        """Height at which a batch committed, where it is still remembered."""
        return self._recent.get(identity)

    def add(self, identity: bytes, raw: bytes, actions: int) -> None:
        """Take a batch of so many actions; raises `Rejected(busy)` when the pool is full."""
        if len(self._waiting) >= POOL_BATCHES_MAX or self.bytes + len(raw) > POOL_BYTES_MAX:
            raise Rejected(Code.BUSY, "the sequencer's pool is full; send again in a moment")
        self._waiting[identity] = raw
        self._actions[identity] = actions
        self.bytes += len(raw)
        self.accepted_batches += 1
        self.accepted_actions += actions

    def note_ledger(self, height: int, count: int) -> None:
        """The base layer is certified up to `height`, where the inbox holds `count` entries.

        A higher height is named in blocks only when the inbox has grown: it would make execution
        wait for nothing.
        """
        known = self._counts.get(self.ledger_height)
        if height >= self.ledger_height and (known is None or count > known):
            self.ledger_height = height
            self._counts[height] = count

    def _advance(self, cursor: int, inbox_height: int) -> int:
        """Inbox cursor after a block under this inbox height, as far as its count is known."""
        count = self._counts.get(inbox_height, cursor)
        return next_cursor(cursor, count, self._inbox_per_block)

    # --- consensus application

    def has_work(self) -> bool:
        """Whether there is something to order; some of it may be in uncommitted blocks."""
        count = self._counts.get(self.ledger_height, 0)
        return bool(self._waiting) or self.inbox_cursor < count

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        """Payload of the oldest waiting batches that no ancestor carries.

        With the uncommitted ancestors' it stays within one payload: what commits in one step must
        fit one batch of settlement, also after views that failed.
        """
        del time_ms  # batches are checked against the block time in execution
        taken: set[bytes] = set()
        room = self._max_payload_bytes - PAYLOAD_MARGIN_BYTES
        inbox_height, cursor = self.inbox_height, self.inbox_cursor
        for block in ancestors:
            if block.payload:
                room -= len(block.payload)
                payload = decode_payload(block.payload)
                taken.update(map(batch_id, payload.batches))
                inbox_height = max(inbox_height, payload.inbox_height)
            cursor = self._advance(cursor, inbox_height)
        # After a restart an uncommitted ancestor may name more than we have heard of again.
        named = max(inbox_height, self.ledger_height)
        batches = self._select(taken, room)
        if not batches and self._advance(cursor, named) == cursor:
            return b""
        return encode(OrderedPayload(named, batches))

    def _select(self, taken: set[bytes], room: int) -> list[bytes]:
        batches: list[bytes] = []
        for identity, raw in self._waiting.items():
            if identity in taken:
                continue
            room -= len(raw) + BATCH_OVERHEAD_BYTES
            if room < 0 or len(batches) >= BLOCK_BATCHES_MAX:
                break
            batches.append(raw)
        return batches

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        """Raise `Rejected` unless payload, batches and inbox height are in order."""
        if not block.payload:
            return
        payload = decode_payload(block.payload)
        inbox_height = self.inbox_height
        for ancestor in ancestors:
            if ancestor.payload:
                inbox_height = max(inbox_height, decode_payload(ancestor.payload).inbox_height)
        if not inbox_height <= payload.inbox_height <= self.ledger_height:
            raise Rejected(
                Code.BAD_INBOX_CURSOR,
                f"inbox height {payload.inbox_height} is not within "
                f"{inbox_height}..{self.ledger_height}",
            )
        if len(payload.batches) > BLOCK_BATCHES_MAX:
            raise Rejected(Code.TOO_MANY_ACTIONS, f"{len(payload.batches)} batches in a block")
        for raw in payload.batches:
            if batch_id(raw) not in self._waiting:  # what we admitted ourselves is well-formed
                open_batch(raw)

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        """A block is final: its batches leave the pool."""
        del certificate
        height = block.header.height
        if height != self._height + 1:
            raise SafetyViolation(f"block {height} committed after {self._height}")
        self._height = height
        if block.payload:
            payload = decode_payload(block.payload)
            self.inbox_height = max(self.inbox_height, payload.inbox_height)
            for raw in payload.batches:
                self.remember(batch_id(raw), height)
            self.ordered_batches += len(payload.batches)
        self.inbox_cursor = self._advance(self.inbox_cursor, self.inbox_height)
        for known in [known for known in self._counts if known < self.inbox_height]:
            del self._counts[known]

    def remember(self, identity: bytes, height: int) -> None:
        """Note that a batch is committed at `height`, and drop it from the pool."""
        raw = self._waiting.pop(identity, None)
        if raw is not None:
            self.bytes -= len(raw)
            self.ordered_actions += self._actions.pop(identity)
        self._recent[identity] = height
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    def epoch(self) -> MemberSet | None:
        """Sequencers are fixed by genesis."""
        return None

    def root(self) -> tuple[int, bytes]:
        """The log has no state of its own: height of the newest committed block, empty root."""
        return self._height, EMPTY_HASH
