"""The format of one segment file: header, records, sync markers, and how a torn tail is told.

Header (40 bytes): magic, first index (u64), flags (u32), salt (16 random bytes), crc32. The file
gets its name only after the header is synced, so a named segment always has one.

Record: length (u32, at least 1), crc32 over length and payload, payload.

Sync marker: length 0, crc32, the segment's salt, the offset before which every byte of the file was
synced, the number of the next record. It is written *after* a sync has returned and without a sync
of its own; the next sync carries it to the disk. So a valid marker proves that the bytes before its
offset were durable once: a bad record before that offset is damage, never a torn tail. The salt
keeps a payload that contains bytes of a log from passing as a marker when the tail is searched.

What this cannot tell: when the last synced record of the log is damaged and no marker after it has
reached the disk (power lost within moments of the sync), it looks like a torn tail.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from zlib import crc32

from protocol.errors import TrilemmaError
from store.files import create_file, sync_directory, sync_file, write_all

SUFFIX = ".seg"
TEMPORARY_SUFFIX = ".seg.tmp"
MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Largest payload of one record in bytes."""

FLAG_RESTART = 1
"""Header flag: the log was restarted here, older segments are void."""

_MAGIC = b"TRISEG01"
_HEADER = Struct(">8sQI16s")
HEADER_BYTES = _HEADER.size + 4
PREFIX = Struct(">II")
_MARKER = Struct(">16sQQ")
MARKER_BODY_BYTES = _MARKER.size
_INDEX_RECORDS = 64
_INDEX_BYTES = 256 * 1024


class StoreDamaged(TrilemmaError):
    """Stored bytes that were durable once are wrong; the process must stop and be repaired."""

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(f"{path} is damaged at offset {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


def encode_record(payload: bytes) -> bytes:
    """A record's bytes."""
    length = len(payload).to_bytes(4, "big")
    return length + crc32(payload, crc32(length)).to_bytes(4, "big") + payload


def checksum(length: int, body: bytes | memoryview) -> int:
    """The crc32 of a record or marker with this length field and body."""
    return crc32(body, crc32(length.to_bytes(4, "big")))


@dataclass(slots=True)
class Segment:
    """One segment file: which records it holds and where (a sparse index: number, offset).

    `marked`: the file ends with a marker for all that stands before it.
    """

    path: Path
    first_index: int
    salt: bytes
    restart: bool = False
    count: int = 0
    end: int = HEADER_BYTES
    marked: bool = False
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def next_index(self) -> int:
        """Number of the record after this segment's last."""
        return self.first_index + self.count

    def note(self, size: int) -> None:
        """Account for one more record of `size` bytes (with its prefix) at the end."""
        if self.count % _INDEX_RECORDS == 0 or self.end - self.offsets[-1] >= _INDEX_BYTES:
            self.numbers.append(self.first_index + self.count)
            self.offsets.append(self.end)
        self.count += 1
        self.end += size
        self.marked = False

    def locate(self, index: int) -> tuple[int, int]:
        """The nearest indexed (record number, offset) at or before a record of this segment."""
        place = bisect_right(self.numbers, index) - 1
        if place < 0:
            return self.first_index, HEADER_BYTES
        return self.numbers[place], self.offsets[place]

    def forget_from(self, index: int, offset: int) -> None:
        """The file now ends at `offset`, before record `index`."""
        place = bisect_right(self.numbers, index - 1) if index > self.first_index else 0
        del self.numbers[place:]
        del self.offsets[place:]
        self.count = index - self.first_index
        self.end = offset
        self.marked = False

    def marker(self, synced_offset: int, next_index: int) -> bytes:
        """A sync marker's bytes."""
        body = _MARKER.pack(self.salt, synced_offset, next_index)
        return PREFIX.pack(0, checksum(0, body)) + body


class PendingSync:
    """A sync between `SegmentLog.start_sync` and `finish_sync`."""

    __slots__ = ("_descriptor", "done", "generation", "next_index", "offset", "segment")

    def __init__(self, descriptor: int, segment: Segment, generation: int) -> None:
        self._descriptor = os.dup(descriptor)
        self.segment = segment
        self.offset = segment.end
        self.next_index = segment.next_index
        self.generation = generation
        self.done = False

    def wait(self) -> None:
        """Block until the bytes are durable; raises `OSError`. May run in any thread, once."""
        try:
            sync_file(self._descriptor)
            self.done = True
        finally:
            os.close(self._descriptor)


def segment_path(directory: Path, first_index: int) -> Path:
    """Where the segment that begins with this record lies."""
    return directory / f"{first_index:020d}{SUFFIX}"


def create_segment(directory: Path, first_index: int, *, restart: bool = False) -> Segment:
    """Create an empty segment durably, under its final name only when its header is synced."""
    salt = os.urandom(16)
    header = _HEADER.pack(_MAGIC, first_index, FLAG_RESTART if restart else 0, salt)
    path = segment_path(directory, first_index)
    temporary = path.with_name(f"{first_index:020d}{TEMPORARY_SUFFIX}")
    descriptor = create_file(temporary)
    try:
        write_all(descriptor, header + crc32(header).to_bytes(4, "big"))
        sync_file(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    sync_directory(directory)
    return Segment(path, first_index, salt, restart)


def read_header(path: Path) -> Segment:
    """Check a segment's header; raises `StoreDamaged`."""
    with path.open("rb") as file:
        raw = file.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise StoreDamaged(path, 0, "the header is cut short")
    header, stored = raw[: _HEADER.size], int.from_bytes(raw[_HEADER.size :], "big")
    if crc32(header) != stored:
        raise StoreDamaged(path, 0, "the header's checksum is wrong")
    magic, first_index, flags, salt = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise StoreDamaged(path, 0, "this is no segment of a format this program knows")
    if path.name != f"{first_index:020d}{SUFFIX}":
        raise StoreDamaged(path, 0, f"the name does not match the first index {first_index}")
    return Segment(path, first_index, salt, bool(flags & FLAG_RESTART))


def scan(segment: Segment, *, last: bool) -> bool:
    """Read and check a whole file, filling in the segment's count, end and index.

    In the log's last segment bytes from `segment.end` on may be a torn tail: True says that there
    are such bytes, to be cut. Everything else that is wrong raises `StoreDamaged`.
    """
    data = segment.path.read_bytes()
    size = len(data)
    offset = HEADER_BYTES
    while size - offset >= PREFIX.size:
        length, stored = PREFIX.unpack_from(data, offset)
        stop = offset + PREFIX.size + (length or MARKER_BODY_BYTES)
        if stop > size or checksum(length, data[offset + PREFIX.size : stop]) != stored:
            break
        if length:
            segment.note(stop - offset)
        else:
            salt, synced_offset, _ = _MARKER.unpack_from(data, offset + PREFIX.size)
            if salt != segment.salt:
                break
            segment.end = stop
            segment.marked = synced_offset == offset
        offset = stop
    if offset == size:
        return False
    if not last:
        raise StoreDamaged(segment.path, offset, "a record before the log's last segment is bad")
    if _synced_beyond(segment, data, offset):
        raise StoreDamaged(
            segment.path, offset, "the record is bad, and a later sync marker covers it"
        )
    return True


def _synced_beyond(segment: Segment, data: bytes, offset: int) -> bool:
    """Whether any valid sync marker after `offset` says that the byte at `offset` was synced."""
    place = data.find(segment.salt, offset)
    while place >= 0:
        start = place - PREFIX.size
        body = data[place : place + MARKER_BODY_BYTES]
        if start >= offset and len(body) == MARKER_BODY_BYTES:
            length, stored = PREFIX.unpack_from(data, start)
            if length == 0 and checksum(0, body) == stored and _MARKER.unpack(body)[1] > offset:
                return True
        place = data.find(segment.salt, place + 1)
    return False
