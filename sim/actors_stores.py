"""The stores of sequencer and execution on simulated disks: their own code, over simulated logs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, cast

from execution.store import CACHED_BYTES, BlockRecord, ExecutionStore, Snapshot
from protocol.errors import SafetyViolation
from sequencer.store import CACHED_BYTES as SEQUENCER_CACHED_BYTES
from sequencer.store import CommittedRecord, SequencerStore
from sim.disk import DAMAGED, Disk
from store.newest import Newest
from store.segments import SegmentLog

LOG = "records"
BUFFER_BYTES = 512
"""A log hands its records over when there are so many, as `store.segments` does."""


class SimLog:
    """What a `store.segments.SegmentLog` promises, on a simulated disk.

    Records wait in the process's memory until they are flushed, or are many; a torn tail is cut off
    at start-up, and damage before it stops the process. `sync` takes virtual time: it enters the
    log into `syncs`, which the process works off in order. `truncate_before` frees nothing, as a
    segment that is not full frees nothing.
    """

    def __init__(self, disk: Disk, syncs: list[SimLog]) -> None:
        self.disk = disk
        self._syncs = syncs
        self._buffer: list[bytes] = []
        self._buffer_bytes = 0
        records = disk.log(LOG)
        if records and records[-1] is DAMAGED:
            records.pop()
            disk.truncate(LOG, len(records))
        if any(record is DAMAGED for record in records):
            raise SafetyViolation(f"the log on {disk.name} is damaged before its end")
        self._records: list[bytes] = records
        self.first_index = 0

    @property
    def next_index(self) -> int:
        """Index of the record that comes next."""
        return len(self._records)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all records."""
        return sum(map(len, self._records))

    def append(self, payload: bytes) -> int:
        """Add a record; its index."""
        self._records.append(payload)
        self._buffer.append(payload)
        self._buffer_bytes += len(payload)
        # What comes behind a sync of this turn is written when that sync is over.
        if self._buffer_bytes >= BUFFER_BYTES and not self._syncs:
            self.flush()
        return len(self._records) - 1

    def read(self, index: int) -> bytes:
        """A record; raises `IndexError` where there is none."""
        if not self.first_index <= index < len(self._records):
            raise IndexError(f"record {index} is not retained")
        return self._records[index]

    def iterate(self, from_index: int) -> Iterator[tuple[int, bytes]]:
        """Records from an index on."""
        yield from list(enumerate(self._records))[from_index:]

    def truncate_before(self, index: int) -> None:
        """Records below `index` are not needed any more."""

    def truncate_after(self, index: int) -> None:
        """Drop every record above `index`, durably: at start-up, when nothing waits."""
        del self._records[index + 1 :]
        self.disk.truncate(LOG, index + 1)

    def flush(self) -> None:
        """Hand everything to the operating system, which may lose it only with the machine."""
        for payload in self._buffer:
            self.disk.append(LOG, payload)
        self._buffer.clear()
        self._buffer_bytes = 0

    def sync(self) -> None:
        """Have the process sync this log behind those that it has to sync already."""
        self._syncs.append(self)

    def close(self) -> None:
        """Nothing is open."""


class SimSequencerStore(SequencerStore):
    """A sequencer's store on three disks: files lose their tails one by one. `sync` leaves to the
    process in `syncs` which of them to sync, in order."""

    def __init__(self, log: Disk, consensus: Disk, pool: Disk) -> None:
        self.syncs: list[SimLog] = []
        self._log = cast(SegmentLog, SimLog(log, self.syncs))
        self._consensus = cast(SegmentLog, SimLog(consensus, self.syncs))
        self._pool = cast(SegmentLog, SimLog(pool, self.syncs))
        self._dirty: dict[SegmentLog, None] = {}
        self._commits: list[bytes] = []
        self._newest: Newest[CommittedRecord] = Newest(SEQUENCER_CACHED_BYTES)
        self._block_at: deque[tuple[int, int]] = deque()
        self._voting_at = 0
        self._pool_at: deque[tuple[int, list[bytes]]] = deque()


class SimExecutionStore(ExecutionStore):
    """An execution node's store: history and snapshots on one disk, liquidations on another."""

    def __init__(self, disk: Disk, liquidations: Disk) -> None:
        self._disk = disk
        self._history = cast(SegmentLog, SimLog(disk, []))
        self.liquidations = cast(SegmentLog, SimLog(liquidations, []))
        self._newest: Newest[BlockRecord] = Newest(CACHED_BYTES)

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write a snapshot and drop old ones; the process syncs."""
        self._disk.put(("snapshot", snapshot.height), snapshot)
        for key in self._heights()[2:]:
            self._disk.delete(("snapshot", key))

    def snapshots(self) -> Iterator[Snapshot]:
        """Usable snapshots, newest first; a damaged one is skipped."""
        for height in self._heights():
            found: Any = self._disk.get(("snapshot", height))
            if found is not DAMAGED and height <= self.height:
                yield found

    def _heights(self) -> list[int]:
        return sorted((key[1] for key in self._disk.keys()), reverse=True)  # noqa: SIM118
