"""The pool of accepted batches, and the application that consensus orders them for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from consensus.members import MemberSet
from protocol.actions import ActionBatch, SignedBatch, batch_id, open_batch
from protocol.chain import EMPTY_HASH, Block, CommitCertificate
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import NO_BOUND_US, PPM, Capacity
from protocol.inbox import next_cursor
from protocol.ordering import OrderedPayload, decode_payload
from sequencer.lanes import REDUCING_PPM, Lane, Lanes, Room, Waiting, lane_of

POOL_BATCHES_MAX = 20_000
POOL_BYTES_MAX = 32 * 1024 * 1024
RECENT_MAX = 100_000
"""Batches whose place is remembered after they committed, to answer repeated submissions."""

BLOCK_BATCHES_MAX = 4_000
PAYLOAD_MARGIN_BYTES = 64
BATCH_OVERHEAD_BYTES = 5
ENDLESS = 1 << 62


class BatchPool:
    """Accepted batches that are not committed yet.

    It is the consensus application: blocks carry batches of the pool and the base-layer height up
    to which the inbox is taken in. A batch stays in the pool until a block with it commits. Blocks
    are due, too, until they have taken in the whole inbox, `inbox_per_block` entries in each.

    A block holds no more work than `capacity` allows for the time since the block before, prices of
    the `committee` not counted; among what it may hold, prices come first, and what reduces risk
    has half of it before anything else.
    """

    def __init__(
        self,
        max_payload_bytes: int,
        inbox_per_block: int,
        height: int,
        inbox_height: int,
        inbox_cursor: int,
        time_ms: int = 0,
        capacity: Capacity | None = None,
        committee: Collection[bytes] = (),
    ) -> None:
        self.inbox_height = inbox_height
        self.inbox_cursor = inbox_cursor
        self.ledger_height = inbox_height
        self.accepted_batches = self.accepted_actions = 0
        self.ordered_batches = self.ordered_actions = 0
        self._height = height
        self._max_payload_bytes = max_payload_bytes
        self._inbox_per_block = inbox_per_block
        self._counts: dict[int, int] = {}
        self._time_ms = time_ms
        self._capacity = capacity or Capacity()
        self._committee = committee
        self._waiting = Lanes()
        self._recent: OrderedDict[bytes, int] = OrderedDict()

    # --- admission

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._waiting

    def committed_at(self, identity: bytes) -> int | None:
        """Height at which a batch committed, where it is still remembered."""
        return self._recent.get(identity)

    @property
    def size_bytes(self) -> int:
        """Size of what waits."""
        return self._waiting.size_bytes

    def add(
        self,
        identity: bytes,
        raw: bytes,
        signed: SignedBatch,
        batch: ActionBatch,
        *,
        bounded: bool = True,
    ) -> None:
        """Take a batch; raises `Rejected(busy)` where its lane is full and `bounded`."""
        lane = lane_of(batch, signed.signer, self._committee)
        actions = len(batch.actions)
        waiting = Waiting(raw, batch.account, actions, self._work_of(lane, actions))
        bounds = (POOL_BATCHES_MAX, POOL_BYTES_MAX) if bounded else (ENDLESS, ENDLESS)
        self._waiting.add(identity, lane, waiting, *bounds)
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
        """Payload of the oldest waiting batches of each lane that no ancestor carries.

        With the uncommitted ancestors' it stays within one payload: what commits in one step must
        fit one batch of settlement, also after views that failed.
        """
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
        batches = self._select(taken, room, self._allowed_us(ancestors, time_ms))
        if not batches and self._advance(cursor, named) == cursor:
            return b""
        return encode(OrderedPayload(named, batches))

    def _allowed_us(self, ancestors: Sequence[Block], time_ms: int) -> int:
        """Work that a block of this time may hold."""
        parent_ms = ancestors[-1].header.time_ms if ancestors else self._time_ms
        return self._capacity.allowed_us(time_ms - parent_ms)

    def _select(self, taken: set[bytes], size_bytes: int, work_us: int) -> list[bytes]:
        """Prices; what reduces risk, up to its share; the others; what then still fits."""
        room = Room(BLOCK_BATCHES_MAX, size_bytes, work_us)
        chosen: dict[bytes, bytes] = {}
        self._fill(Lane.ORACLE, room, taken, chosen)
        prices = len(chosen)
        spare = room.split(PPM - REDUCING_PPM)
        self._fill(Lane.REDUCING, room, taken, chosen)
        room.add(spare)
        self._fill(Lane.OTHER, room, taken, chosen)
        self._fill(Lane.REDUCING, room, taken, chosen)
        if len(chosen) == prices:
            # One batch may be more work than its time allows; then it goes alone.
            room.work_us = NO_BOUND_US
            self._fill(Lane.REDUCING, room, taken, chosen, 1)
            self._fill(Lane.OTHER, room, taken, chosen, 1 - (len(chosen) - prices))
        return list(chosen.values())

    def _fill(
        self,
        lane: Lane,
        room: Room,
        taken: set[bytes],
        chosen: dict[bytes, bytes],
        most: int = BLOCK_BATCHES_MAX,
    ) -> None:
        """Choose from a lane, in its order, what fits the room, at most so many batches."""
        for identity, one in self._waiting.queue(lane):
            if not most:
                break
            if identity in taken or identity in chosen:
                continue
            if not room.take(len(one.raw) + BATCH_OVERHEAD_BYTES, one.work_us):
                break
            chosen[identity] = one.raw
            most -= 1

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
        works = [work_us for raw in payload.batches if (work_us := self._work_us(raw))]
        allowed_us = self._allowed_us(ancestors, block.header.time_ms)
        if len(works) > 1 and sum(works) > allowed_us:
            raise Rejected(
                Code.TOO_MANY_ACTIONS,
                f"the block holds {sum(works)} us of work, its time allows {allowed_us} us",
            )

    def _work_us(self, raw: bytes) -> int:
        """What a batch of a block costs execution (prices: nothing); raises `Rejected` where it is
        malformed."""
        waiting = self._waiting.get(batch_id(raw))
        if waiting is not None:  # what we admitted ourselves is well-formed
            return waiting.work_us
        signed, batch = open_batch(raw)
        return self._work_of(lane_of(batch, signed.signer, self._committee), len(batch.actions))

    def _work_of(self, lane: Lane, actions: int) -> int:
        return 0 if lane == Lane.ORACLE else self._capacity.work_us(actions)

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        """A block is final: its batches leave the pool."""
        del certificate
        height = block.header.height
        if height != self._height + 1:
            raise SafetyViolation(f"block {height} committed after {self._height}")
        self._height, self._time_ms = height, block.header.time_ms
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
        waiting = self._waiting.pop(identity)
        if waiting is not None:
            self.ordered_actions += waiting.actions
        self._recent[identity] = height
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    def epoch(self) -> MemberSet | None:
        """Sequencers are fixed by genesis."""
        return None

    def root(self) -> tuple[int, bytes]:
        """The log has no state of its own: height of the newest committed block, empty root."""
        return self._height, EMPTY_HASH
