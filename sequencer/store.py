"""What a sequencer keeps on disk: the ordered log, its consensus state, and accepted batches.

Three append-only logs. ``log`` holds committed blocks, record number = height - 1. ``consensus``
holds voting states and uncommitted blocks. ``pool`` holds accepted batches until they commit. One
`sync` makes everything durable that was written before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from consensus import RecoveredState, VotingState
from execution.log import BLOCK_OVERHEAD_BYTES, CHUNK_BYTES
from protocol.actions import batch_id
from protocol.chain import Block, CommitCertificate
from protocol.codec import Decoder, Wire, encode
from protocol.errors import SafetyViolation
from protocol.ordering import OrderedBlock, OrderedChunk, decode_payload
from sequencer.effects import PersistBatches, RecoveredSequencer
from sequencer.lanes import OWN
from store.newest import Newest
from store.segments import SegmentLog

SEGMENT_BYTES = 16 << 20
"""Of what is soon dropped again: a start reads whole segments."""

CACHED_BYTES = 16 << 20
"""Memory for the newest blocks, of up to 1 MiB each: whoever follows the log reads those, and a few
blocks behind it must not make the loop wait for the disk."""

RECORD_BYTES = 4_096
"""What a block takes there beside its payload: header, votes and certificate."""

RECENT_BLOCKS = 2_000


class CommittedRecord(Wire, frozen=True):
    """A committed block, the certificate of the commit step it was part of, and the inbox cursor
    after that step."""

    block: Block
    certificate: CommitCertificate
    inbox_cursor: int


class VotingRecord(Wire, frozen=True, tag=1):
    """The voting state, replacing earlier ones."""

    state: VotingState


class BlockRecord(Wire, frozen=True, tag=2):
    """An uncommitted block."""

    block: Block


class PoolRecord(Wire, frozen=True):
    """Batches accepted together when `height` was the newest committed block, here or by the
    sequencer `origin`."""

    height: int
    batches: list[bytes]
    origin: int = OWN


_decode_committed: Decoder[CommittedRecord] = Decoder(CommittedRecord, canonical=False)
_decode_consensus: Decoder[VotingRecord | BlockRecord] = Decoder(
    VotingRecord | BlockRecord, canonical=False
)
_decode_pool: Decoder[PoolRecord] = Decoder(PoolRecord, canonical=False)


class SequencerStore:
    """The three logs of one sequencer; synchronous, used by the shell alone."""

    def __init__(self, directory: Path) -> None:
        self._log = SegmentLog(directory / "log")
        self._consensus = SegmentLog(directory / "consensus", SEGMENT_BYTES)
        self._pool = SegmentLog(directory / "pool", SEGMENT_BYTES)
        self._dirty: dict[SegmentLog, None] = {}
        self._commits: list[bytes] = []
        self._newest: Newest[CommittedRecord] = Newest(CACHED_BYTES)
        self._block_at: deque[tuple[int, int]] = deque()
        self._voting_at = 0
        self._pool_at: deque[tuple[int, list[bytes]]] = deque()

    @property
    def height(self) -> int:
        """Height of the newest committed block."""
        return self._log.next_index + len(self._commits)

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk."""
        return self._log.stored_bytes + self._consensus.stored_bytes + self._pool.stored_bytes

    def recover(self) -> RecoveredSequencer:
        """Read everything back."""
        state: VotingState | None = None
        blocks = self._cut_torn_step()
        tip = self._read(self.height) if self.height else None
        for index, raw in self._consensus.iterate(self._consensus.first_index):
            record = _decode_consensus(raw)
            if isinstance(record, VotingRecord):
                state, self._voting_at = record.state, index
            elif record.block.header.height > self.height:
                blocks.append(record.block)
                self._block_at.append((index, record.block.header.height))
        passed_by: dict[bytes, int] = {}
        promised: set[bytes] = set()
        oldest = max(0, self.height - RECENT_BLOCKS)
        for index, raw in self._pool.iterate(self._pool.first_index):
            pooled = _decode_pool(raw)
            oldest = min(oldest, pooled.height)
            identities = [batch_id(batch) for batch in pooled.batches]
            self._pool_at.append((index, identities))
            if pooled.origin == OWN:
                promised.update(identities)
            else:
                passed_by |= dict.fromkeys(identities, pooled.origin)
        # Read as they are taken: whole segments of records that are long ordered are among them.
        accepted = (
            batch
            for _, raw in self._pool.iterate(self._pool.first_index)
            for batch in _decode_pool(raw).batches
        )
        # One more: up to its time what was ordered may be forgotten, and nothing in the pool was.
        recent = (self._read(height).block for height in range(max(oldest, 1), self.height + 1))
        consensus = RecoveredState(
            state,
            None if tip is None else tip.block,
            None if tip is None else tip.certificate,
            blocks,
        )
        cursor = 0 if tip is None else tip.inbox_cursor
        passed_by = {one: peer for one, peer in passed_by.items() if one not in promised}
        return RecoveredSequencer(
            consensus, accepted, recent, self._inbox_height(), cursor, passed_by
        )  # fmt: skip

    def _cut_torn_step(self) -> list[Block]:
        """Take back the blocks of a commit step whose end is missing: to the replica they are
        uncommitted, which it finds out again."""
        blocks: list[Block] = []
        last = self.height
        while last and (record := self._read(last)).certificate.height != last:
            blocks.append(record.block)
            last -= 1
        if blocks:
            self._log.truncate_after(last - 1)
        return blocks

    def _inbox_height(self) -> int:
        for height in range(self.height, 0, -1):
            block = self._read(height).block
            if block.payload:
                return decode_payload(block.payload).inbox_height
        return 0

    # --- writing

    def write_batches(self, effect: PersistBatches) -> None:
        """Batches that were accepted, here or by another sequencer."""
        record = PoolRecord(effect.height, effect.batches, effect.origin)
        index = self._pool.append(encode(record))
        self._pool_at.append((index, [batch_id(raw) for raw in effect.batches]))
        if effect.promised:
            self._dirty[self._pool] = None

    def write_block(self, block: Block) -> None:
        """An uncommitted block."""
        index = self._consensus.append(encode(BlockRecord(block)))
        self._block_at.append((index, block.header.height))
        self._dirty[self._consensus] = None

    def write_voting(self, state: VotingState) -> None:
        """The voting state."""
        self._voting_at = self._consensus.append(encode(VotingRecord(state)))
        self._dirty[self._consensus] = None

    def write_committed(
        self, block: Block, certificate: CommitCertificate, inbox_cursor: int
    ) -> None:
        """A committed block; heights come without gap."""
        if block.header.height != self.height + 1:
            raise SafetyViolation(f"block {block.header.height} would stand behind {self.height}")
        record = CommittedRecord(block, certificate, inbox_cursor)
        self._commits.append(encode(record))
        self._newest.put(block.header.height, record, RECORD_BYTES + len(block.payload))

    def sync(self) -> None:
        """Make everything written so far durable, committed blocks last.

        A log hands its records over early when they are many. A committed block must not be found
        without the vote and the child that committed it: of a set of one nobody else has them.
        """
        for log in self._dirty:
            log.sync()
        self._dirty.clear()
        if self._commits:
            for raw in self._commits:
                self._log.append(raw)
            self._commits.clear()
            self._log.sync()

    def prune(self, is_waiting: Callable[[bytes], bool]) -> None:
        """Drop consensus and pool records that nothing needs any more."""
        while self._block_at and self._block_at[0][1] <= self.height:
            self._block_at.popleft()
        oldest_block = self._block_at[0][0] if self._block_at else self._voting_at
        self._consensus.truncate_before(min(oldest_block, self._voting_at))
        while self._pool_at and not any(map(is_waiting, self._pool_at[0][1])):
            self._pool_at.popleft()
        self._pool.truncate_before(self._pool_at[0][0] if self._pool_at else self._pool.next_index)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        for log in (self._log, self._consensus, self._pool):
            log.close()

    # --- reading

    def stored(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        """A committed block, with its certificate where it ended a commit step."""
        if not 1 <= height <= self.height:
            return None
        record = self._read(height)
        ended = record.certificate.height == height
        return record.block, record.certificate if ended else None

    def chunk(self, from_height: int) -> OrderedChunk | None:
        """Consecutive committed blocks from a height, ending where a certificate stands.

        More than one commit step only up to `CHUNK_BYTES`: a prover settles whole chunks, and a
        chunk must fit a batch.
        """
        blocks: list[OrderedBlock] = []
        size = whole = 0
        certificate: CommitCertificate | None = None
        for height in range(from_height, self.height + 1):
            record = self._read(height)
            size += len(record.block.payload) + BLOCK_OVERHEAD_BYTES
            if size > CHUNK_BYTES and certificate is not None:
                break
            blocks.append(OrderedBlock(record.block.header, record.block.payload))
            if record.certificate.height == height:
                whole, certificate = len(blocks), record.certificate
        return None if certificate is None else OrderedChunk(blocks[:whole], certificate)

    def _read(self, height: int) -> CommittedRecord:
        newest = self._newest.get(height)
        if newest is not None:
            return newest
        waiting = height - self._log.next_index  # place among those that are not in the log yet
        raw = self._commits[waiting - 1] if waiting > 0 else self._log.read(height - 1)
        return _decode_committed(raw)
