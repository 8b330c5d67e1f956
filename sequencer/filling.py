"""Which of the batches that wait a block carries: each sequencer's in its turn.

What another sequencer passed on may be worth nothing, which execution alone finds. So a block is
shared as the pool is: half is for what was submitted here, each other sequencer has an equal part
of the rest, and what somebody leaves is shared by the others in the same way (weighted max-min
fairness; of work, bytes and number of batches counts what a batch takes most of, as in Ghodsi et
al., "Dominant Resource Fairness", 2011). What is more work than a block leaves for it is passed
over, with all that is behind it, until it has waited long enough to come first.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from protocol.genesis import NO_BOUND_US, PPM, Capacity
from sequencer.lanes import (
    OWN,
    REDUCING_PPM,
    IsSigned,
    Lane,
    Lanes,
    Room,
    Speaker,
    Waiting,
)

BATCH_OVERHEAD_BYTES = 5

HEAVY_TIMES = 4
"""A batch that was passed over comes first once the log has had time for so many times its work: so
batches of more work than a block's time allows add a quarter to what this sequencer has ordered."""

ASKED_MAX = 8
"""Fillings that are kept until their blocks are final: of each view at most two, and a block is
final a few views later."""


class _Asked(NamedTuple):
    """A payload that was filled, what it passed over and put off as in `Filling`."""

    time_ms: int
    payload: bytes
    passed_over: list[tuple[bytes, int]]
    put_off: bytes | None


class PassedOver:
    """Heavy batches at the head of their queues that blocks had no room for, while others had their
    place. One after the other they come first, each after its time. Only what became a block
    counts: consensus asks for payloads early, too, which hold next to nothing."""

    def __init__(self, capacity: Capacity) -> None:
        self._busy_ppm = capacity.busy_ppm
        self._since: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        """The time of the first block that passed a batch over, and the batch's work."""
        self._served_ms = 0
        self._asked: deque[_Asked] = deque(maxlen=ASKED_MAX)
        """What may become blocks, the newest last."""

    def asked(self, time_ms: int, payload: bytes, filling: Filling) -> None:
        """A payload of this time was filled, and may be proposed."""
        passed_over, put_off = filling.passed_over, filling.put_off
        if passed_over or put_off is not None:
            self._asked.append(_Asked(time_ms, payload, passed_over, put_off))

    def committed(self, time_ms: int, payload: bytes, waiting: Lanes) -> None:
        """A block of this time is final, and what is not among `waiting` has its place."""
        for asked in self._asked:
            if asked.time_ms != time_ms or asked.payload != payload:
                continue
            if asked.put_off is not None:
                self._since.pop(asked.put_off, None)
            for identity, work_us in asked.passed_over:
                if identity in waiting:
                    self.note(identity, work_us, time_ms)
        # The blocks above this one are of later times.
        later = [asked for asked in self._asked if asked.time_ms > time_ms]
        self._asked = deque(later, ASKED_MAX)

    def note(self, identity: bytes, work_us: int, time_ms: int) -> None:
        """A block of this time passed a batch over that waits."""
        self._since.setdefault(identity, (time_ms, work_us))

    def ordered(self, identity: bytes, time_ms: int) -> None:
        """A batch that waited has its place, in a block of this time."""
        if identity in self._since:
            if identity == next(iter(self._since)):
                self._served_ms = time_ms
            del self._since[identity]

    def due(self, time_ms: int) -> bytes | None:
        """The batch that was passed over first, where it comes first in a block of this time."""
        oldest = next(iter(self._since), None)
        if oldest is None:
            return None
        since_ms, work_us = self._since[oldest]
        waited_ms = time_ms - max(since_ms, self._served_ms)
        return oldest if waited_ms * self._busy_ppm // 1_000 >= HEAVY_TIMES * work_us else None


class Filling:
    """One block that is being filled with what waits in `lanes`.

    `taken` have their place in ancestors; `room` is what the block holds in all; beside `peers`
    other sequencers. Who comes first goes round with `turn`, so that blocks that hold next to
    nothing serve everybody, too.
    """

    def __init__(
        self,
        lanes: Lanes,
        taken: Collection[bytes],
        room: Room,
        peers: int,
        turn: int,
        is_signed: IsSigned,
    ) -> None:
        self._lanes = lanes
        self._taken = taken
        self._room = room
        self._whole = max(room.batches, 1), max(room.size_bytes, 1), max(room.work_us, 1)
        self._peers = peers
        self._turn = turn
        self._is_signed = is_signed
        self._chosen: dict[bytes, bytes] = {}
        self._served: Counter[int] = Counter()
        # What each hand sent that has no place yet, and whose batches wait for the next block.
        self._left: dict[Speaker, deque[bytes]] = {}
        self._held: set[tuple[Speaker, int]] = set()
        self._passed_over: dict[bytes, int] = {}
        self.put_off: bytes | None = None
        """What was overdue, but is not the head of its queue: it has its place in an ancestor, or
        has to wait behind another batch of its hand, or what had to wait before it may come now.
        Its time begins anew when it is the head again; else who keeps it from being one would have
        every block begin with its queue."""

    @property
    def passed_over(self) -> list[tuple[bytes, int]]:
        """Heads of queues that this block has no room for, each more work than half of it, and that
        work."""
        return [one for one in self._passed_over.items() if one[0] not in self._chosen]

    def fill(self, prices_max: int, overdue: bytes | None = None) -> list[bytes]:
        """Prices, at most so many; what is `overdue` and was passed over; what reduces risk, up to
        its share; the others; what then still fits."""
        room = self._room
        self._fill(Lane.ORACLE, prices_max)
        prices = len(self._chosen)
        if overdue is not None and self._serve(overdue):
            return list(self._chosen.values())
        spare = room.split(PPM - REDUCING_PPM)
        self._fill(Lane.REDUCING)
        room.add(spare)
        self._fill(Lane.OTHER)
        self._fill(Lane.REDUCING)
        if len(self._chosen) == prices:
            # One batch may be more work than its time allows; then it goes alone.
            room.work_us = NO_BOUND_US
            self._fill(Lane.REDUCING, 1)
            self._fill(Lane.OTHER, 1 - (len(self._chosen) - prices))
        return list(self._chosen.values())

    def _fill(self, lane: Lane, most: int | None = None) -> None:
        """Choose from a lane what fits, at most so many batches: of each origin the oldest first,
        and the next one always of whoever has got least."""
        queues = {origin: self._free(lane, origin) for origin in self._lanes.origins(lane)}
        turns = [
            (self._served[origin], (origin - self._turn) % (self._peers + 2), origin)
            for origin in queues
        ]
        heapq.heapify(turns)
        left = self._room.batches if most is None else most
        while turns and left > 0:
            served, rank, origin = turns[0]
            found = next(queues[origin], None)
            if found is None or not self._take(found[1]):
                if found is not None and self._is_heavy(found[1]):
                    self._passed_over[found[0]] = found[1].work_us
                heapq.heappop(turns)
                continue
            identity, one = found
            self._chosen[identity] = one.raw
            left -= 1
            served += self._cost(one)
            if lane != Lane.ORACLE:
                self._served[origin] = served
            heapq.heapreplace(turns, (served, rank, origin))

    def _serve(self, overdue: bytes) -> bool:
        """Choose a batch that is the head of its queue; returns whether it is more work than there
        is time for, and goes alone."""
        waiting = self._lanes.get(overdue)
        if waiting is None:
            return False
        head = next(self._free(self._lanes.lane(overdue), waiting.origin), None)
        if head is None or head[0] != overdue:
            self.put_off = overdue
            return False
        alone = waiting.work_us > self._room.work_us
        size_bytes = len(waiting.raw) + BATCH_OVERHEAD_BYTES
        if not self._room.take(size_bytes, 0 if alone else waiting.work_us):
            return False
        self._chosen[overdue] = waiting.raw
        self._served[waiting.origin] += self._cost(waiting)
        return alone

    def _take(self, one: Waiting) -> bool:
        return self._room.take(len(one.raw) + BATCH_OVERHEAD_BYTES, one.work_us)

    def _is_heavy(self, one: Waiting) -> bool:
        """Whether a batch is more work than what one lane may leave to the other."""
        return one.work_us * PPM > self._whole[2] * (PPM - REDUCING_PPM)

    def _cost(self, one: Waiting) -> int:
        """The part of the block that a batch takes, in ppm, by the weight of its origin."""
        batches, size_bytes, work_us = self._whole
        part = max(PPM // batches, len(one.raw) * PPM // size_bytes, one.work_us * PPM // work_us)
        return part if one.origin == OWN else part * self._peers

    def _free(self, lane: Lane, origin: int) -> Iterator[tuple[bytes, Waiting]]:
        """Batches of an origin that have no place yet and may have one now."""
        for identity, one in self._lanes.queue(lane, origin):
            if self._has_place(identity):
                continue
            if lane != Lane.OTHER or not self._is_behind(identity, one):
                yield identity, one

    def _has_place(self, identity: bytes) -> bool:
        return identity in self._chosen or identity in self._taken

    def _is_behind(self, identity: bytes, one: Waiting) -> bool:
        """Whether an earlier batch of the same hand, which reduces risk or came over another
        sequencer, has to have its place first. Then all that are behind this one wait with it, to
        stay in their order."""
        if self._held and (one.speaker, one.origin) in self._held:
            return True
        reducing = self._lanes.newest_reducing(one)
        if reducing and not self._has_place(reducing):
            self._held.add((one.speaker, one.origin))
            return True
        ordinary = self._lanes.ordinary(one.speaker) if one.follows else ()
        if identity not in ordinary:
            return False
        left = self._left.get(one.speaker)
        if left is None:
            left = self._left[one.speaker] = deque(ordinary)
        while left[0] != identity:
            if not self._has_place(left[0]) and self._lanes.holds_back(left[0], self._is_signed):
                self._held.add((one.speaker, one.origin))
                return True
            left.popleft()
        return False
