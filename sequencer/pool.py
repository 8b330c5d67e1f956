"""The pool of accepted batches, and the application that consensus orders them for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence

from consensus.members import MemberSet
from protocol.actions import NONCE_PAST_MS, ActionBatch, SignedBatch, open_batch
from protocol.chain import EMPTY_HASH, Block, CommitCertificate
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Capacity
from protocol.ordering import OrderedPayload
from sequencer.contents import Contents, OpenedPayloads
from sequencer.filling import BATCH_OVERHEAD_BYTES, Filling, PassedOver
from sequencer.inbox_height import InboxCounts
from sequencer.lanes import OWN, Lane, Lanes, Room, Waiting, is_price, lane_of, share_of
from sequencer.peer import Passed

__all__ = ["BATCH_OVERHEAD_BYTES", "BatchPool"]

POOL_BATCHES_MAX = 20_000
POOL_BYTES_MAX = 32 * 1024 * 1024
RECENT_MAX = 100_000
"""Batches whose place is remembered after they committed, to answer repeated submissions."""

REPEAT_BLOCKS = 256
"""No batch may stand in a block that is also in one of so many blocks before it. All sequencers
remember at least those, so that they judge alike; what is repeated later execution finds."""

BLOCK_BATCHES_MAX = 4_000

BLOCK_PRICES_MAX = 256
"""Most batches of the committee in a block: they are no work, but somebody may repeat old ones."""

PAYLOAD_MARGIN_BYTES = 64
ENDLESS = 1 << 62

CLOCKS_MS = 1_000
"""A client's clock may be ahead of a block's time by so much."""

DATED_BLOCKS = 16
"""Of so many blocks one time is remembered, the last one's: as exact as need be."""

CURSORS_KEPT = 8_192
"""Heights whose inbox cursor is remembered until they are on disk: more than one turn commits."""


class BatchPool:
    """Accepted batches that are not committed yet.

    It is the consensus application: blocks carry batches of the pool and the base-layer height up
    to which the inbox is taken in. A batch stays in the pool until a block with it commits. Blocks
    are due, too, until they have taken in the whole inbox, `inbox_per_block` entries in each.

    A block holds no more work than `capacity` allows for the time since the block before, prices of
    the `committee` not counted; among what it may hold, prices come first, and what reduces risk
    has half of it before anything else. What is more work than that goes alone. As prices go before
    all others, batches in the name of the committee are only taken, and voted for, where
    `require_signature` finds them signed.

    Beside `peers` other sequencers half of the pool is for what was submitted here, and each of
    them has an equal share of the rest, so that none fills the pools of others.
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
        peers: int = 0,
        require_signature: Callable[[SignedBatch], None] | None = None,
    ) -> None:
        self.contents = OpenedPayloads()
        self.inbox_height = inbox_height
        self.inbox_cursor = inbox_cursor
        self.ledger_height = self.verified_height = inbox_height
        self.accepted_batches = self.accepted_actions = 0
        self.ordered_batches = self.ordered_actions = 0
        self._height = height
        self._max_payload_bytes = max_payload_bytes
        self._counts = InboxCounts(inbox_per_block)
        self._cursors = {height: inbox_cursor}
        self._time_ms = time_ms
        self._capacity = capacity or Capacity()
        self._committee = committee
        self._require_signature = require_signature
        self._peers = peers
        self._waiting = Lanes()
        self._passed_over = PassedOver(self._capacity)
        self._recent: OrderedDict[bytes, int] = OrderedDict()
        """Heights of committed batches, in ascending order."""
        self._dates: dict[int, int] = {}
        """Times of their blocks, by height // `DATED_BLOCKS`, ascending."""
        self._old_ms = 0
        """A batch with a nonce up to this may have been ordered, and forgotten."""

    # --- admission

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._waiting

    def knows(self, identity: bytes) -> bool:
        """Whether a batch waits, or is remembered as committed."""
        return identity in self._waiting or identity in self._recent

    def lane(self, identity: bytes) -> Lane:
        """The lane in which a batch waits; raises `KeyError`."""
        return self._waiting.lane(identity)

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
        origin: int = OWN,
        bounded: bool = True,
    ) -> None:
        """Take a batch that the sequencer `origin` passed on.

        Raises `Rejected`: `busy` where its lane is full and `bounded`, `bad_signature` for a false
        price, `nonce_expired` or `action_expired` for what another one passed on too late.
        """
        if origin != OWN:
            self._require_alive(batch)
        lane = self._lane(signed, batch)
        actions = len(batch.actions)
        work_us = self._work_of(lane, actions)
        # Nonces are times: what is older than all that is remembered may have been ordered before.
        holds = origin == OWN or batch.nonce_ms > self._old_ms
        speaker = batch.account, signed.signer
        if lane == Lane.REDUCING:
            follows = self._waiting.is_held_back(speaker, self._is_signed)
            if not follows and self._waiting.is_behind_old(speaker, origin):
                # Whoever repeats old orders holds back only what it passes on itself.
                lane, holds = Lane.OTHER, False
        else:
            follows = lane == Lane.OTHER and self._waiting.waits_elsewhere(speaker, origin)
        waiting = Waiting(
            raw, batch.account, actions, work_us, origin, signed.signer, holds, follows
        )  # fmt: skip
        bounds = self._bounds(origin) if bounded else (ENDLESS, ENDLESS)
        lane = Lane.OTHER if follows else lane
        if origin == OWN and lane == Lane.OTHER:
            self._waiting.check_newest(speaker, self._is_signed)
        self._waiting.add(identity, lane, waiting, *bounds)
        self.accepted_batches += 1
        self.accepted_actions += actions

    def promise(self, identity: bytes) -> None:
        """Note that what another sequencer passed on was submitted here, too."""
        self._waiting.promise(identity)

    def is_price(self, signed: SignedBatch, batch: ActionBatch) -> bool:
        """Whether a batch is in the name of the committee, so that its signature is checked."""
        return is_price(batch, signed.signer, self._committee)

    def _lane(self, signed: SignedBatch, batch: ActionBatch) -> Lane:
        """The lane of a batch; raises `Rejected(bad_signature)` for a false price."""
        lane = lane_of(batch, signed.signer, self._committee)
        if lane == Lane.ORACLE and self._require_signature is not None:
            self._require_signature(signed)
        return lane

    def _require_alive(self, batch: ActionBatch) -> None:
        """Raise `Rejected` for what execution refuses in every block that can still come, as their
        times are above the newest one's. Whoever promised such a batch orders it itself."""
        if batch.nonce_ms <= self._time_ms - NONCE_PAST_MS:
            raise Rejected(Code.NONCE_EXPIRED, "the nonce is too old for any block to come")
        if 0 < batch.expires_ms <= self._time_ms:
            raise Rejected(Code.ACTION_EXPIRED, "the batch has expired for any block to come")

    def _is_signed(self, waiting: Waiting) -> bool:
        """Whether the signer of a waiting batch signed it."""
        if self._require_signature is not None:
            try:
                self._require_signature(open_batch(waiting.raw)[0])
            except Rejected:
                return False
        return True

    def _bounds(self, origin: int) -> tuple[int, int]:
        """Most batches and bytes that may wait of an origin."""
        parts = 1 if not self._peers else 2 if origin == OWN else 2 * self._peers
        return POOL_BATCHES_MAX // parts, POOL_BYTES_MAX // parts

    def of_signer(self, signer: bytes) -> int:
        """How many batches of a signer wait that were submitted here."""
        return self._waiting.of_signer(signer)

    def room_at_others(self, lane: Lane) -> tuple[int, int]:
        """Most batches and bytes of a lane that another sequencer lets wait of what this one passes
        on."""
        return share_of(lane, *self._bounds(0))

    def to_pass(self, identity: bytes) -> Passed | None:
        """What to pass on of a waiting batch."""
        waiting = self._waiting.get(identity)
        return None if waiting is None else (waiting.raw, self._waiting.behind(identity))

    def note_ledger(self, height: int, count: int, grown_at: int | None = None) -> None:
        """The base layer is certified up to `height`, where the inbox holds `count` entries, the
        last one since `grown_at` (None: `height`).

        That one is named in blocks, and only when the inbox has grown: a higher one would make
        execution, and other sequencers that have to verify it, wait for nothing.
        """
        self.verified_height = max(self.verified_height, height)
        named = max(height if grown_at is None else grown_at, self.ledger_height)
        known = self._counts.at(self.ledger_height)
        if named <= height and (known is None or count > known):
            self.ledger_height = named
            self._counts.note(named, count)

    def cursor_after(self, height: int) -> int:
        """Inbox cursor after a block that committed lately."""
        return self._cursors[height]

    # --- consensus application

    def has_work(self) -> bool:
        """Whether there is something to order; some of it may be in uncommitted blocks."""
        count = self._counts.at(self.ledger_height)
        return bool(self._waiting) or self.inbox_cursor < (count or 0)

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
                contents = self.contents(block.payload)
                taken.update(contents.identities)
                inbox_height = max(inbox_height, contents.inbox_height)
            cursor = self._counts.advance(cursor, inbox_height)
        if room < 0:
            return b""  # not even an inbox height: with its ancestors it would get no votes
        # Empty blocks take entries in, too, but only above a payload consensus goes on to commit.
        left_empty = cursor > self.inbox_cursor and not any(one.payload for one in ancestors)
        # After a restart an uncommitted ancestor may name more than we have heard of again.
        named = max(inbox_height, self.ledger_height)
        whole = Room(BLOCK_BATCHES_MAX, room, self._allowed_us(ancestors, time_ms))
        turn = self._height + len(ancestors)
        filling = Filling(self._waiting, taken, whole, self._peers, turn, self._is_signed)
        batches = filling.fill(BLOCK_PRICES_MAX, self._passed_over.due(time_ms))
        nothing = self._counts.advance(cursor, named) == cursor and not left_empty
        payload = b"" if nothing and not batches else encode(OrderedPayload(named, batches))
        self._passed_over.asked(time_ms, payload, filling)
        return payload

    def _allowed_us(self, ancestors: Sequence[Block], time_ms: int) -> int:
        """Work that a block of this time may hold."""
        parent_ms = ancestors[-1].header.time_ms if ancestors else self._time_ms
        return self._capacity.allowed_us(time_ms - parent_ms)

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        """Raise `Rejected` unless payload, batches and inbox height are in order."""
        if not block.payload:
            return
        contents = self.contents(block.payload)
        named, size_bytes = self.inbox_height, len(block.payload)
        seen: set[bytes] = set()
        for ancestor in ancestors:
            if ancestor.payload:
                above = self.contents(ancestor.payload)
                named = max(named, above.inbox_height)
                size_bytes += len(ancestor.payload)
                seen.update(above.identities)
        # What certified ancestors name a quorum has verified, whether we have heard of it or not.
        highest = max(named, self.verified_height)
        if not named <= contents.inbox_height <= highest:
            raise Rejected(
                Code.BAD_INBOX_CURSOR,
                f"inbox height {contents.inbox_height} is not within {named}..{highest}",
            )
        if len(contents.batches) > BLOCK_BATCHES_MAX:
            raise Rejected(Code.TOO_MANY_ACTIONS, f"{len(contents.batches)} batches in a block")
        if size_bytes > self._max_payload_bytes:
            raise Rejected(
                Code.FRAME_TOO_LARGE,
                f"with its uncommitted ancestors the block holds {size_bytes} bytes, at most "
                f"{self._max_payload_bytes} may commit together",
            )
        self._check_new(contents.identities, seen, self._height + len(ancestors) + 1)
        self._check_work(block.payload, self._allowed_us(ancestors, block.header.time_ms))

    def _check_new(self, identities: Sequence[bytes], seen: set[bytes], height: int) -> None:
        """Raise `Rejected` for a batch that stands in the block twice, in an ancestor (`seen`), or
        in one of the last blocks before `height`."""
        for identity in identities:
            known = self._recent.get(identity)
            if identity in seen or (known is not None and known >= height - REPEAT_BLOCKS):
                raise Rejected(Code.NONCE_USED, "the block repeats a batch that has its place")
            seen.add(identity)

    def _check_work(self, payload: bytes, allowed_us: int) -> None:
        """Raise `Rejected` where `_works` does, and for more work than the block's time allows;
        what is one batch always fits."""
        works = self._works(self.contents(payload))
        if len(works) > 1 and sum(works) > allowed_us:
            raise Rejected(
                Code.TOO_MANY_ACTIONS,
                f"the block holds {sum(works)} us of work, its time allows {allowed_us} us",
            )

    def _works(self, contents: Contents) -> list[int]:
        """What each batch of a block costs execution, prices left out; raises `Rejected` for a
        malformed batch, a false price, and too many prices."""
        works: list[int] = []
        prices = 0
        for identity, raw in zip(contents.identities, contents.batches, strict=True):
            lane, work_us = self._lane_and_work(identity, raw)
            if lane != Lane.ORACLE:
                works.append(work_us)
                continue
            prices += 1
            if prices > BLOCK_PRICES_MAX:
                raise Rejected(
                    Code.TOO_MANY_ACTIONS, f"more than {BLOCK_PRICES_MAX} batches of prices"
                )
        return works

    def _lane_and_work(self, identity: bytes, raw: bytes) -> tuple[Lane, int]:
        """The lane of a batch of a block, and what it costs execution; raises `Rejected` where it
        is malformed, or a false price."""
        waiting = self._waiting.get(identity)
        if waiting is not None:  # what was admitted here is well-formed
            return self._waiting.lane(identity), waiting.work_us
        signed, batch = open_batch(raw)
        lane = self._lane(signed, batch)
        return lane, self._work_of(lane, len(batch.actions))

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
            contents = self.contents(block.payload)
            self.inbox_height = max(self.inbox_height, contents.inbox_height)
            self._remember_all(block, contents.identities)
            self.ordered_batches += len(contents.batches)
        self._passed_over.committed(self._time_ms, block.payload, self._waiting)
        self.inbox_cursor = self._counts.advance(self.inbox_cursor, self.inbox_height)
        self._cursors[height] = self.inbox_cursor
        self._cursors.pop(height - CURSORS_KEPT, None)
        self._counts.forget_below(self.inbox_height)

    def recall(self, blocks: Iterable[Block]) -> set[bytes]:
        """Blocks that committed before the start, oldest first; what stood in earlier ones is
        forgotten. Returns the ids of their batches."""
        ordered: set[bytes] = set()
        for number, block in enumerate(blocks):
            if not number and block.header.height > 1:
                self._old_ms = block.header.time_ms + CLOCKS_MS
            if block.payload:
                identities = self.contents(block.payload).identities
                self._remember_all(block, identities)
                ordered.update(identities)
        return ordered

    def _remember_all(self, block: Block, identities: Sequence[bytes]) -> None:
        height = block.header.height
        if identities:
            self._dates[height // DATED_BLOCKS] = block.header.time_ms
        for identity in identities:
            self.remember(identity, height)
        oldest = next(iter(self._recent.values()), height) // DATED_BLOCKS
        while self._dates and (first := next(iter(self._dates))) < oldest:
            del self._dates[first]

    def remember(self, identity: bytes, height: int) -> None:
        """Note that a batch is committed at `height`, and drop it from the pool."""
        waiting = self._waiting.pop(identity)
        if waiting is not None:
            self.ordered_actions += waiting.actions
            self._passed_over.ordered(identity, self._time_ms)
        self._recent[identity] = height
        # In its old place, one that is ordered again would keep all behind it from being forgotten.
        self._recent.move_to_end(identity)
        while len(self._recent) > RECENT_MAX:
            oldest = next(iter(self._recent))
            ordered_at = self._recent[oldest]
            if ordered_at > height - REPEAT_BLOCKS:
                break
            del self._recent[oldest]
            dated_ms = self._dates.get(ordered_at // DATED_BLOCKS)
            if dated_ms is not None:
                self._old_ms = max(self._old_ms, dated_ms + CLOCKS_MS)

    def epoch(self) -> MemberSet | None:
        """Sequencers are fixed by genesis."""
        return None

    def root(self) -> tuple[int, bytes]:
        """The log has no state of its own: height of the newest committed block, empty root."""
        return self._height, EMPTY_HASH
