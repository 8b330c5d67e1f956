"""Which of the batches that wait a block carries: each sequencer's in its turn.

What another sequencer passed on may be worth nothing, which execution alone finds. So a block is
shared as the pool is: half is for what was submitted here, each other sequencer has an equal part
of the rest, and what somebody leaves is shared by the others in the same way (weighted max-min
fairness; of work, bytes and number of batches counts what a batch takes most of, as in Ghodsi et
al., "Dominant Resource Fairness", 2011).
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterator

from protocol.genesis import NO_BOUND_US, PPM
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

    def fill(self, prices_max: int) -> list[bytes]:
        """Prices, at most so many; what reduces risk, up to its share; the others; what then still
        fits."""
        room = self._room
        self._fill(Lane.ORACLE, prices_max)
        prices = len(self._chosen)
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
                heapq.heappop(turns)
                continue
            identity, one = found
            self._chosen[identity] = one.raw
            left -= 1
            served += self._cost(one)
            if lane != Lane.ORACLE:
                self._served[origin] = served
            heapq.heapreplace(turns, (served, rank, origin))

    def _take(self, one: Waiting) -> bool:
        return self._room.take(len(one.raw) + BATCH_OVERHEAD_BYTES, one.work_us)

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
        """Whether an earlier batch of the same hand, which came over another sequencer, has to have
        its place first. Then all that are behind this one wait with it, to stay in their order."""
        if self._held and (one.speaker, one.origin) in self._held:
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
