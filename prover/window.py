"""What the blocks of batches that are not final changed, however long their window is open.

Pure. A window of an hour may hold gigabytes, of which hardly anything is ever looked at again: the
newest blocks stay in memory, older ones go as bytes to a log where there is one, and come back when
somebody asks for their states.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Protocol

from protocol.codec import Decoder, Wire, encode

Change = tuple[bytes, bytes | None]
"""A state key and its value after (in undo: before) something; None: absent."""

HELD_BYTES = 16 * 1024 * 1024
"""About what the segments in memory may take there, beside the newest one."""

CHANGE_BYTES = 160
"""What a change takes in memory beside the bytes of its key and value."""


class Segment(Wire, frozen=True):
    """What consecutive blocks from `first_block` on changed, each by itself, and the values before
    the first of them. `notes`: what is to be remembered of each block beside, or nothing at all."""

    first_block: int
    changes: list[list[Change]]
    undo: list[Change]
    notes: list[bytes]

    @property
    def last_block(self) -> int:
        """Height of its last block."""
        return self.first_block + len(self.changes) - 1


_decode: Decoder[Segment] = Decoder(Segment, canonical=False)


class Records(Protocol):
    """A log of byte records for ourselves alone, such as `store.segments.SegmentLog`: `append`
    numbers them, `read` gives one, what is below the index of `truncate_before` may go."""

    @property
    def next_index(self) -> int: ...
    def append(self, payload: bytes) -> int: ...
    def read(self, index: int) -> bytes: ...
    def truncate_before(self, index: int) -> None: ...


def coalesced(changes: Iterable[Iterable[Change]]) -> dict[bytes, bytes | None]:
    """What blocks changed together."""
    net: dict[bytes, bytes | None] = {}
    for block in changes:
        net.update(block)
    return net


def footprint(changes: Iterable[Change]) -> int:
    """About the bytes that changes take in memory."""
    return sum(CHANGE_BYTES + len(key) + len(value or b"") for key, value in changes)


class Window:
    """The segments behind block `first`, each beginning where the one before it ends.

    Without `records` all of them stay in memory. What the log raises where it cannot take or give a
    record goes through, and ends whoever needs it.
    """

    def __init__(
        self, block: int, records: Records | None = None, held_bytes: int = HELD_BYTES
    ) -> None:
        self.first = block
        """Block before the oldest segment."""
        self._records = records
        self._held_bytes = held_bytes
        self._ends: list[int] = []
        """Last block of each segment; the newest segments are those in `_held`."""
        self._held: list[Segment] = []
        self._sizes: list[int] = []
        self._size = 0
        self._read: tuple[int, Segment] | None = None
        """The record that was read last, and its number."""

    @property
    def last(self) -> int:
        """Newest block."""
        return self._ends[-1] if self._ends else self.first

    @property
    def put_away(self) -> int:
        """Segments that are in the log alone."""
        return len(self._ends) - len(self._held)

    # --- what comes and goes

    def append(self, segment: Segment) -> None:
        """Take the next segment; older ones leave the memory where that is full."""
        self._ends.append(segment.last_block)
        self._held.append(segment)
        if self._records is None:
            return
        self._sizes.append(footprint(segment.undo) + sum(map(footprint, segment.changes)))
        self._size += self._sizes[-1]
        while self._size > self._held_bytes and len(self._held) > 1:
            self._records.append(encode(self._held[0]))
            self._let_go()

    def _let_go(self) -> None:
        """The oldest segment in memory leaves it."""
        del self._held[0]
        if self._sizes:
            self._size -= self._sizes.pop(0)

    def forget(self, block: int) -> Iterator[Segment]:
        """Give the segments that end with `block` or before, oldest first; each goes with it."""
        while self._ends and self._ends[0] <= block:
            segment = self._segment(0)
            if not self.put_away:
                self._let_go()
            elif self._records is not None:
                self._records.truncate_before(self._number(0) + 1)
            self.first = self._ends.pop(0)
            yield segment

    # --- what blocks changed

    def undo(self, block: int) -> dict[bytes, bytes | None]:
        """What leads from the state after the newest block back to the one after `block`."""
        back: dict[bytes, bytes | None] = {}
        for place in range(len(self._ends) - 1, bisect_right(self._ends, block) - 1, -1):
            segment = self._segment(place)
            back.update(segment.undo)
            back.update(coalesced(segment.changes[: max(block + 1 - segment.first_block, 0)]))
        return back

    def changes(self, before: int, block: int) -> Iterator[list[Change]]:
        """What each block behind `before`, up to `block`, changed."""
        for segment, inside in self._between(before, block):
            yield from segment.changes[inside]

    def notes(self, before: int, block: int) -> Iterator[bytes]:
        """The notes of the blocks behind `before`, up to `block`."""
        for segment, inside in self._between(before, block):
            yield from segment.notes[inside]

    def _between(self, before: int, block: int) -> Iterator[tuple[Segment, slice]]:
        """The segments with blocks behind `before`, up to `block`, and where in them these are."""
        for place in range(bisect_right(self._ends, before), len(self._ends)):
            segment = self._segment(place)
            if segment.first_block > block:
                return
            low = max(before + 1 - segment.first_block, 0)
            yield segment, slice(low, block + 1 - segment.first_block)

    def _segment(self, place: int) -> Segment:
        held = place - self.put_away
        if self._records is None or held >= 0:
            return self._held[held]
        number = self._number(place)
        if self._read is None or self._read[0] != number:
            self._read = number, _decode(self._records.read(number))
        return self._read[1]

    def _number(self, place: int) -> int:
        """Number of a segment's record: those that still count are the log's newest."""
        end = 0 if self._records is None else self._records.next_index
        return end - self.put_away + place
