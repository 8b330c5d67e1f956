"""Accepted batches on their way to the other sequencers, so that whoever leads can order them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from protocol.genesis import PPM
from sequencer.lanes import Lane, Room
from sequencer.peer import MAX_PASSED_BATCHES, PASSED_BYTES, Passed, PassedBatches

REPEAT_MS = 1_000
"""A batch that still waits is passed on again after so long, then after twice that, ..."""

STILL_MS = 10_000
"""In a log that stands still for so long, what another sequencer accepted is passed on here, too:
that one may be gone. In one that goes on it is ordered in this one's turn, and takes no room of it.
What was accepted here is passed on then whether others have room or not: what they have of it may
be nothing that they could order."""

REPEAT_MAX_MS = 60_000

WINDOW_PPM = 750_000
"""Of the room that others have for what one sequencer passes on it uses so much: they may hear a
moment later than itself of blocks that made room."""


PassedOf = Callable[[bytes], Passed | None]
"""What to pass on of a batch id; None where that batch waits no more."""


def messages(identities: Iterable[bytes], passed_of: PassedOf) -> Iterator[PassedBatches]:
    """The messages that carry these batches, in their order."""
    part: list[Passed] = []
    size_bytes = 0
    for identity in identities:
        passed = passed_of(identity)
        if passed is None:
            continue
        part.append(passed)
        size_bytes += len(passed[0])
        if len(part) >= MAX_PASSED_BATCHES or size_bytes >= PASSED_BYTES:
            yield PassedBatches.of(part)
            part, size_bytes = [], 0
    if part:
        yield PassedBatches.of(part)


class RepeatedBatches:
    """Batches that were passed on, until they are ordered, and when each is passed on again.

    Links lose what was under way when they break, and a sequencer that was away knows nothing of
    what it missed: what still waits is repeated, ever more rarely, one message at a time, so that
    a log that stands still does not fill the links with the same batches.
    """

    def __init__(self) -> None:
        self._due_at: dict[bytes, tuple[int, int]] = {}
        """When each batch is passed on again, and the wait after that."""
        self._next_ms: int | None = None

    def __len__(self) -> int:
        return len(self._due_at)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._due_at

    def add(self, identity: bytes, now_ms: int, wait_ms: int = REPEAT_MS) -> None:
        """A batch was passed on; it is again after a while."""
        self._due_at[identity] = (now_ms + wait_ms, 2 * REPEAT_MS)
        if self._next_ms is None:
            self._next_ms = now_ms + wait_ms

    def wait_until(self, moment_ms: int) -> None:
        """Nothing is due before."""
        if self._next_ms is not None:
            self._next_ms = max(self._next_ms, moment_ms)

    def forget(self, identity: bytes) -> None:
        """A batch is ordered."""
        self._due_at.pop(identity, None)

    def deadline_ms(self) -> int | None:
        """When `due` has something to say."""
        return self._next_ms if self._due_at else None

    def due(self, passed_of: PassedOf, now_ms: int) -> PassedBatches | None:
        """One message of what to pass on again now, oldest first."""
        if not self._due_at or self._next_ms is None or now_ms < self._next_ms:
            return None
        chosen: list[Passed] = []
        size_bytes = 0
        for identity, (due_ms, wait_ms) in list(self._due_at.items()):
            if len(chosen) >= MAX_PASSED_BATCHES or size_bytes >= PASSED_BYTES:
                break
            if due_ms > now_ms:
                continue
            passed = passed_of(identity)
            if passed is None:
                del self._due_at[identity]
                continue
            self._due_at[identity] = (now_ms + wait_ms, min(2 * wait_ms, REPEAT_MAX_MS))
            chosen.append(passed)
            size_bytes += len(passed[0])
        # Looking through all that waits costs something: not more often than this.
        self._next_ms = now_ms + REPEAT_MS if self._due_at else None
        return PassedBatches.of(chosen) if chosen else None


class OwnBatches:
    """Batches that were accepted here, until they are ordered: what of them is passed on, and when
    again.

    No more of a lane is under way than the others let wait of one sequencer, `room_of` it (batches
    and bytes), so that they have the oldest ones, in their order, and refuse none for lack of room.
    The next ones follow as these are ordered, and all of them once the log stands still.
    """

    def __init__(self, room_of: Callable[[Lane], tuple[int, int]]) -> None:
        self._rooms = {lane: _window(*room_of(lane)) for lane in Lane}
        self._later: dict[Lane, OrderedDict[bytes, None]] = {lane: OrderedDict() for lane in Lane}
        self._places: dict[bytes, tuple[Lane, int]] = {}
        """Lane and size of each."""
        self._repeated = RepeatedBatches()
        self._still_ms: int | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._places

    def add(self, identity: bytes, lane: Lane, size_bytes: int) -> None:
        """A batch was accepted."""
        if identity not in self._places:
            self._places[identity] = lane, size_bytes
            self._later[lane][identity] = None

    def start(self, now_ms: int, wait_ms: int = REPEAT_MS) -> list[bytes]:
        """What to pass on now for the first time, in each lane in its order; again after so long,
        and then ever more rarely."""
        started: list[bytes] = []
        for lane, later in self._later.items():
            while later:
                identity = next(iter(later))
                if not self._rooms[lane].take(self._places[identity][1], 0):
                    break
                del later[identity]
                self._repeated.add(identity, now_ms, wait_ms)
                started.append(identity)
        return started

    def forget(self, identity: bytes) -> None:
        """A batch is ordered."""
        place = self._places.pop(identity, None)
        if place is None:
            return
        lane, size_bytes = place
        if identity in self._later[lane]:
            del self._later[lane][identity]
        else:
            self._rooms[lane].add(Room(1, size_bytes, 0))
            self._repeated.forget(identity)

    def wait_until(self, moment_ms: int) -> None:
        """The log does not stand still before."""
        self._still_ms = moment_ms

    def deadline_ms(self) -> int | None:
        """When `due` has something to say."""
        return self._repeated.deadline_ms()

    def due(self, passed_of: PassedOf, now_ms: int) -> PassedBatches | None:
        """One message of what to pass on again now, oldest first."""
        if self._still_ms is None:
            self._still_ms = now_ms + STILL_MS
        elif now_ms >= self._still_ms:
            for lane, later in self._later.items():
                for identity in later:
                    self._rooms[lane].add(Room(1, self._places[identity][1], 0), -1)
                    self._repeated.add(identity, now_ms, 0)
                later.clear()
        return self._repeated.due(passed_of, now_ms)


def _window(batches: int, size_bytes: int) -> Room:
    """What may be under way where the others have room for so much; one batch always."""
    return Room(-(-batches * WINDOW_PPM // PPM), -(-size_bytes * WINDOW_PPM // PPM), 0)
