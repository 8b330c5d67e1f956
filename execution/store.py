"""What an execution node keeps on disk: history of events and diffs, and state snapshots.

All of it can be made again from the ordered log; it is kept so that subscribers resume and start-up
is quick. ``history`` is an append-only log, record number = height - 1; so is ``liquidations``, of
the entries of the liquidation feed. A snapshot is written only after both are durable up to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import structlog

from execution.market_data_liquidations import LiquidationFeed, receipts_in
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected
from protocol.events import decode_block_events
from store.files import write_atomic
from store.newest import Newest
from store.segments import SegmentLog

CACHED_BYTES = 8 << 20
"""Memory for the newest blocks of the history: whoever follows it reads those."""

RECORD_BYTES = 512
"""What a record takes there beside its events and its diff."""

SNAPSHOTS_KEPT = 2
DIGEST_BYTES = 32
"""A snapshot file begins with the SHA-256 of what follows: a flipped bit may still decode."""

_log = structlog.get_logger()


class BlockRecord(Wire, frozen=True):
    """One executed block: encoded `BlockEvents` and `BlockDiff`."""

    height: int
    block_id: bytes
    first_seq: int
    next_seq: int
    events: bytes
    diff: bytes


class Snapshot(Wire, frozen=True):
    """The whole state after a block, as leaves, and where the streams stand. `derived`: what
    `execution.derived.Derived.freeze` gave."""

    chain_id: bytes
    height: int
    block_id: bytes
    time_ms: int
    inbox_height: int
    inbox_cursor: int
    next_seq: int
    leaves: list[tuple[bytes, bytes]]
    derived: list[bytes]


_decode_record: Decoder[BlockRecord] = Decoder(BlockRecord, canonical=False)
_decode_snapshot: Decoder[Snapshot] = Decoder(Snapshot, canonical=False)


class ExecutionStore:
    """History and snapshots; synchronous, used by the shell alone."""

    def __init__(self, directory: Path) -> None:
        self._history = SegmentLog(directory / "history")
        self.liquidations = SegmentLog(directory / "liquidations")
        self._snapshots = directory / "snapshots"
        self._snapshots.mkdir(exist_ok=True)
        self._newest: Newest[BlockRecord] = Newest(CACHED_BYTES)

    @property
    def height(self) -> int:
        """Height of the newest block in the history."""
        return self._history.next_index

    @property
    def first_height(self) -> int:
        """Lowest height in the history."""
        return self._history.first_index + 1

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk."""
        logs = self._history.stored_bytes + self.liquidations.stored_bytes
        return logs + sum(path.stat().st_size for path in self._snapshots.glob("*.snapshot"))

    def append(self, record: BlockRecord) -> None:
        """Add the next block."""
        self._history.append(encode(record))
        size_bytes = RECORD_BYTES + len(record.events) + len(record.diff)
        self._newest.put(record.height, record, size_bytes)

    def feed(self, snapshot: Snapshot | None) -> LiquidationFeed:
        """The liquidation feed. What its log lacks up to the snapshot comes from the history."""
        feed = LiquidationFeed(self.liquidations)
        if snapshot is not None and feed.receipts < receipts_in(snapshot.leaves):
            heights = range(self.first_height, snapshot.height + 1)
            feed.catch_up(decode_block_events(self.record(height).events) for height in heights)
        return feed

    def flush(self) -> None:
        """Hand what was appended to the operating system."""
        for log in self.logs:
            log.flush()

    @property
    def logs(self) -> tuple[SegmentLog, ...]:
        """Liquidations and history; both must be durable before a snapshot is written."""
        return self.liquidations, self._history

    def sync(self) -> None:
        """Make both logs durable."""
        for log in self.logs:
            log.sync()

    def record(self, height: int) -> BlockRecord:
        """A block of the history; raises `IndexError` when it is not retained."""
        newest = self._newest.get(height)
        return newest if newest is not None else _decode_record(self._history.read(height - 1))

    def height_of(self, seq: int) -> int:
        """Height of the block in which event `seq` is, or the height to come."""
        low, high = self.first_height, self.height + 1
        while low < high:
            middle = (low + high) // 2
            if self.record(middle).next_seq <= seq:
                low = middle + 1
            else:
                high = middle
        return low

    # --- snapshots

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write a snapshot and drop old ones; may run in a thread."""
        path = self._snapshots / f"{snapshot.height:012d}.snapshot"
        body = encode(snapshot)
        write_atomic(path, sha256(body).digest() + body)
        for old in sorted(self._snapshots.glob("*.snapshot"))[:-SNAPSHOTS_KEPT]:
            old.unlink()

    def snapshots(self) -> Iterator[Snapshot]:
        """Usable snapshots, newest first; a damaged one is skipped, and said so."""
        for path in sorted(self._snapshots.glob("*.snapshot"), reverse=True):
            try:
                raw = memoryview(path.read_bytes())
                if sha256(raw[DIGEST_BYTES:]).digest() != raw[:DIGEST_BYTES]:
                    raise Rejected(Code.MALFORMED, "the content is not what was written")
                snapshot = _decode_snapshot(raw[DIGEST_BYTES:])
            except (OSError, Rejected) as error:
                _log.warning("snapshot unusable", path=str(path), error=str(error))
                continue
            if snapshot.height <= self.height:
                yield snapshot

    def close(self) -> None:
        """Sync and close."""
        for log in self.logs:
            log.close()
