"""An append-only log of byte records in segment files, numbered from 0 for the log's whole life.

Only bytes after the last completed sync may be cut as a torn tail when a log is opened; earlier
damage raises `StoreDamaged`. How the two are told apart stands in `store.segment_file`. A segment
is synced before the next one is begun, so only the last one can have a torn tail.

All methods block; they belong into a shell, in one thread. Only `PendingSync.wait` may run in
another thread, so that a group commit need not stop the loop.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from protocol.errors import SafetyViolation
from store.files import cut_file, ensure_directory, sync_directory, sync_file, write_all
from store.segment_file import (
    HEADER_BYTES,
    MARKER_BODY_BYTES,
    MAX_RECORD_BYTES,
    PREFIX,
    SUFFIX,
    TEMPORARY_SUFFIX,
    PendingSync,
    Segment,
    StoreDamaged,
    checksum,
    create_segment,
    encode_record,
    read_header,
    scan,
)

__all__ = ["PendingSync", "SegmentLog", "StoreDamaged"]

DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 256 * 1024
_READ_BYTES = 16 * 1024
_OPEN_FILES = 4
"""Segments that are read lately are held open: reading is in few places at once, and opening one
takes a few microseconds."""


class SegmentLog:
    """The log in one directory.

    A segment is closed when it would grow over `segment_bytes`. `first_index` numbers the first
    record of a log that does not exist yet. Opening reads and checks everything; with
    `check_all=False` only the headers and the last segment, and older records when they are read.
    Raises `StoreDamaged`, and `ConfigError` when the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        *,
        first_index: int = 0,
        check_all: bool = True,
    ) -> None:
        self.directory = directory
        self.cut_bytes = 0
        self._segment_bytes = segment_bytes
        self._buffer = bytearray()
        self._generation = 0
        self._broken = ""
        self._readers: OrderedDict[int, int] = OrderedDict()
        ensure_directory(directory)
        self._segments = self._load(check_all) or [create_segment(directory, first_index)]
        self._current = self._segments[-1]
        self._descriptor = os.open(self._current.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._repair_tail()

    # --- opening

    def _load(self, check_all: bool) -> list[Segment]:
        for leftover in self.directory.glob(f"*{TEMPORARY_SUFFIX}"):
            leftover.unlink()
        segments = [read_header(path) for path in sorted(self.directory.glob(f"*{SUFFIX}"))]
        for place in range(len(segments) - 1, 0, -1):
            if segments[place].restart:
                self._unlink(segments[:place])
                segments = segments[place:]
                break
        for place, segment in enumerate(segments):
            last = place == len(segments) - 1
            if last:
                if scan(segment, last=True):
                    self.cut_bytes = segment.path.stat().st_size - segment.end
                continue
            following = segments[place + 1].first_index
            if check_all:
                scan(segment, last=False)
            else:
                segment.count = following - segment.first_index
                segment.end = segment.path.stat().st_size
            if segment.next_index != following:
                raise StoreDamaged(
                    segment.path,
                    segment.end,
                    f"it ends before record {segment.next_index}, the next one begins with "
                    f"{following}",
                )
        return segments

    def _repair_tail(self) -> None:
        """Cut a torn tail; make durable what a killed process left to the system."""
        if self.cut_bytes:
            cut_file(self._descriptor, self._current.end)
        self._synced = self._current.end
        self._synced_index = self._current.next_index
        if self.cut_bytes or not self._current.marked:
            sync_file(self._descriptor)
            if self._current.count and not self._current.marked:
                self._mark(self._current.end, self._current.next_index)

    # --- appending

    @property
    def first_index(self) -> int:
        """Number of the oldest record kept (equal to `next_index` when there is none)."""
        return self._segments[0].first_index

    @property
    def next_index(self) -> int:
        """Number that the next record will get."""
        return self._current.next_index

    @property
    def synced_index(self) -> int:
        """Every record below this number is durable."""
        return self._synced_index

    @property
    def stored_bytes(self) -> int:
        """Bytes of all segments, with what is still buffered."""
        return sum(segment.end for segment in self._segments)

    def append(self, payload: bytes) -> int:
        """Buffer one record (1 byte to 256 MiB) and return its number."""
        self._require_usable()
        if not 0 < len(payload) <= MAX_RECORD_BYTES:
            raise SafetyViolation(f"a log record of {len(payload)} bytes cannot be stored")
        current = self._current
        size = PREFIX.size + len(payload)
        if current.end + size > self._segment_bytes and current.count:
            self._roll()
            current = self._current
        index = current.first_index + current.count
        current.note(size)
        self._buffer += encode_record(payload)
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()
        return index

    def flush(self) -> None:
        """Hand buffered records to the operating system, without a sync."""
        self._require_usable()
        if self._buffer:
            try:
                write_all(self._descriptor, self._buffer)
            except OSError as error:
                self._broken = f"a write failed: {error}"
                raise
            self._buffer.clear()

    def sync(self) -> None:
        """Make every appended record durable; raises `OSError`, after which the log is unusable."""
        pending = self.start_sync()
        if pending is not None:
            try:
                pending.wait()
            finally:
                self.finish_sync(pending)

    def start_sync(self) -> PendingSync | None:
        """Begin a sync of what is appended so far; None when it is durable already."""
        self.flush()
        if self._synced == self._current.end:
            return None
        return PendingSync(self._descriptor, self._current, self._generation)

    def finish_sync(self, pending: PendingSync) -> None:
        """Take note of a sync whose `wait` has returned (or raised: the log becomes unusable)."""
        if not pending.done:
            # After a failed sync the kernel may have dropped the pages: a retry would lie.
            self._broken = "a sync failed"
            return
        if pending.generation != self._generation:
            return
        self._synced_index = max(self._synced_index, pending.next_index)
        if pending.segment is self._current:
            self._synced = max(self._synced, pending.offset)
            self._mark(pending.offset, pending.next_index)

    def _mark(self, offset: int, next_index: int) -> None:
        quiet = self._synced == self._current.end
        marker = self._current.marker(offset, next_index)
        self._buffer += marker
        self._current.end += len(marker)
        self.flush()
        if quiet:
            self._synced = self._current.end  # only the marker follows, and it needs no sync

    def _roll(self) -> None:
        self.flush()
        sync_file(self._descriptor)
        self._enter(create_segment(self.directory, self.next_index))

    def _enter(self, segment: Segment) -> None:
        """Make a new, durable, empty segment the current one."""
        os.close(self._descriptor)
        self._segments.append(segment)
        self._current = segment
        self._descriptor = os.open(segment.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._synced = segment.end
        self._synced_index = segment.first_index

    def _require_usable(self) -> None:
        if self._broken:
            raise OSError(errno.EIO, f"the log {self.directory} is unusable: {self._broken}")

    # --- reading

    def read(self, index: int) -> bytes:
        """One record, synced or not; raises `IndexError` when it is not kept (any more)."""
        segment = self._segment_of(index)
        if segment is self._current:
            if self._buffer:
                self.flush()
            return self._read_at(self._descriptor, segment, index)[0]
        return self._read_at(self._reader(segment), segment, index)[0]

    def iterate(self, from_index: int) -> Iterator[tuple[int, bytes]]:
        """Records from `from_index` to the last one appended when the iteration begins.

        Unsynced records are included (and flushed). Raises `IndexError` when the start is not kept,
        or a truncation removes what is still to come; `StoreDamaged` on a bad record.
        """
        end = self.next_index
        if from_index == end:
            return
        self._segment_of(from_index)
        self.flush()
        generation = self._generation
        index = from_index
        while index < end:
            segment = self._segment_of(index)
            with segment.path.open("rb", buffering=1 << 20) as file:
                number, offset = segment.locate(index)
                file.seek(offset)
                stop = min(end, segment.next_index)
                while number < stop:
                    if generation != self._generation:
                        raise IndexError("the log was truncated while it was read")
                    length, stored = PREFIX.unpack(_exactly(file.read(PREFIX.size), 8, segment))
                    body = file.read(length or MARKER_BODY_BYTES)
                    if checksum(length, body) != stored:
                        raise StoreDamaged(segment.path, file.tell(), "the record is bad")
                    if length:
                        if number >= index:
                            yield number, body
                        number += 1
            index = stop

    def _segment_of(self, index: int) -> Segment:
        if not self.first_index <= index < self.next_index:
            raise IndexError(
                f"record {index} is not kept; the log has {self.first_index} to "
                f"{self.next_index - 1}"
            )
        place = bisect_right(self._segments, index, key=lambda segment: segment.first_index) - 1
        return self._segments[place]

    def _reader(self, segment: Segment) -> int:
        key = segment.first_index
        descriptor = self._readers.get(key)
        if descriptor is None:
            descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            self._readers[key] = descriptor
            if len(self._readers) > _OPEN_FILES:
                os.close(self._readers.popitem(last=False)[1])
        else:
            self._readers.move_to_end(key)
        return descriptor

    def _read_at(self, descriptor: int, segment: Segment, index: int) -> tuple[bytes, int]:
        """A record's payload and the offset after it, walking from the nearest indexed one."""
        number, offset = segment.locate(index)
        block, base = b"", offset
        while offset < segment.end:
            place = offset - base
            if place + PREFIX.size > len(block):
                block, base, place = os.pread(descriptor, _READ_BYTES, offset), offset, 0
            length, stored = PREFIX.unpack_from(_exactly(block, PREFIX.size, segment), place)
            stop = place + PREFIX.size + (length or MARKER_BODY_BYTES)
            if length and number == index:
                body = block[place + PREFIX.size : stop]
                if len(body) < length:
                    body = os.pread(descriptor, length, offset + PREFIX.size)
                if checksum(length, body) != stored:
                    break
                return body, base + stop
            number += length > 0
            offset = base + stop
        raise StoreDamaged(segment.path, offset, f"record {index} is bad")

    # --- truncation

    def truncate_before(self, index: int) -> None:
        """Drop old segments all of whose records are below `index`; the current one stays."""
        keep = 0
        while keep < len(self._segments) - 1 and self._segments[keep + 1].first_index <= index:
            keep += 1
        dropped, self._segments = self._segments[:keep], self._segments[keep:]
        self._unlink(dropped)

    def truncate_after(self, index: int) -> None:
        """Drop every record above `index`, durably; `first_index - 1` empties the log."""
        if not self.first_index - 1 <= index < self.next_index:
            raise IndexError(f"the log cannot be cut after record {index}")
        if index == self.next_index - 1:
            return
        self.flush()
        self._generation += 1
        place = bisect_right(self._segments, index + 1, key=lambda s: s.first_index) - 1
        dropped, self._segments = self._segments[place + 1 :], self._segments[: place + 1]
        if dropped:
            os.close(self._descriptor)
            self._unlink(dropped[::-1])
            self._forget_reader(self._segments[-1])
            self._descriptor = os.open(
                self._segments[-1].path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            )
        current = self._current = self._segments[-1]
        offset = HEADER_BYTES
        if index >= current.first_index:
            offset = self._read_at(self._descriptor, current, index)[1]
        cut_file(self._descriptor, offset)
        sync_file(self._descriptor)
        current.forget_from(index + 1, offset)
        self._synced = offset
        self._synced_index = current.next_index

    def restart(self, first_index: int) -> None:
        """Void all records and continue with number `first_index`, not below `next_index`.

        For a log that follows a snapshot from elsewhere. A crash leaves the old or the new log.
        """
        if first_index < self.next_index:
            raise IndexError("a log restarts at or above its next record's number")
        self._require_usable()
        self._generation += 1
        if self._current.first_index == first_index:
            self.truncate_before(first_index)
            return
        self._buffer.clear()
        old, self._segments = self._segments, []
        self._enter(create_segment(self.directory, first_index, restart=True))
        self._unlink(old)

    def _unlink(self, segments: list[Segment]) -> None:
        """Remove files one by one in the given order, so that a crash leaves no gap."""
        for segment in segments:
            self._forget_reader(segment)
            segment.path.unlink()
            sync_directory(self.directory)

    def _forget_reader(self, segment: Segment) -> None:
        descriptor = self._readers.pop(segment.first_index, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Sync and close; closing twice is harmless."""
        if self._descriptor < 0:
            return
        try:
            if not self._broken:
                self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
            self._broken = self._broken or "it is closed"
            for descriptor in self._readers.values():
                os.close(descriptor)
            self._readers.clear()


def _exactly(raw: bytes, size: int, segment: Segment) -> bytes:
    if len(raw) < size:
        raise StoreDamaged(segment.path, segment.end, "the file is cut short")
    return raw
