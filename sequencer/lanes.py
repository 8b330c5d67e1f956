"""What waits to be ordered, in lanes: capacity that is kept for what reduces risk.

Under load, oracle prices and what takes risk off the exchange (cancels, top-ups, reduce-only
orders) must not wait behind orders. Each lane has a share of the pool that nothing else can take,
and blocks are filled lane by lane. Batches of one account and signer keep their order: one that
could overtake waits with the others while an earlier one of them does, and an order waits for what
reduces risk and came before it from the same sequencer. Strangers who name an
account do not hold it back: whether they may speak for it execution finds. In each lane what came
from one sequencer waits apart from what came from another.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from enum import IntEnum
from typing import NamedTuple

from protocol.actions import (
    REDUCE_ONLY,
    ActionBatch,
    Cancel,
    CancelAll,
    CancelClient,
    MarketOrder,
    Order,
    Reduce,
    ScheduleCancel,
    Transfer,
)
from protocol.errors import Code, Rejected
from protocol.genesis import PPM

SHARES_PPM = (50_000, 450_000, 500_000)
"""Shares of the pool, by lane."""

REDUCING_PPM = 500_000
"""Share of a block that what reduces risk may take before anything else."""

_REDUCING = frozenset((Cancel, CancelAll, CancelClient, Reduce, ScheduleCancel, Transfer))


class Lane(IntEnum):
    """What a batch is."""

    ORACLE = 0
    REDUCING = 1
    OTHER = 2


def share_of(lane: Lane, batches: int, size_bytes: int) -> tuple[int, int]:
    """How many of so many batches and bytes a lane has for itself, rounded up."""
    share = SHARES_PPM[lane]
    return -(-batches * share // PPM), -(-size_bytes * share // PPM)


def is_price(batch: ActionBatch, signer: bytes, committee: Collection[bytes]) -> bool:
    """Whether a batch is in the name of the `committee`: keys of oracles and guardians."""
    return batch.account == 0 and signer in committee


def lane_of(batch: ActionBatch, signer: bytes, committee: Collection[bytes]) -> Lane:
    """The lane of a batch; `committee` as in `is_price`."""
    if is_price(batch, signer, committee):
        return Lane.ORACLE
    for action in batch.actions:
        if type(action) in _REDUCING:
            continue
        if not isinstance(action, Order | MarketOrder) or not action.flags & REDUCE_ONLY:
            return Lane.OTHER
    return Lane.REDUCING


OWN = -1
"""Origin of batches that were submitted here."""

Speaker = tuple[int, bytes]
"""An account, and the key that is said to sign for it."""


class Waiting(NamedTuple):
    """A batch that waits. `work_us`: what it costs execution; `origin`: which sequencer passed it
    on; `signer`: the key that is said to have signed it. `holds`: whether what the same hand sends
    later over any sequencer may have to wait behind it; `follows`: whether it must not overtake
    such an earlier one, which waits in another queue, or in a lane that comes later."""

    raw: bytes
    account: int
    actions: int
    work_us: int
    origin: int = OWN
    signer: bytes = b""
    holds: bool = True
    follows: bool = False

    @property
    def speaker(self) -> Speaker:
        """For which account who is said to speak."""
        return self.account, self.signer


class Room:
    """What a block, or a part of it, can still hold."""

    __slots__ = ("batches", "size_bytes", "work_us")

    def __init__(self, batches: int, size_bytes: int, work_us: int) -> None:
        self.batches = batches
        self.size_bytes = size_bytes
        self.work_us = work_us

    def split(self, ppm: int) -> Room:
        """Take a share out of this room."""
        taken = Room(
            self.batches * ppm // PPM,
            self.size_bytes * ppm // PPM,
            max(self.work_us, 0) * ppm // PPM,
        )
        self.add(taken, -1)
        return taken

    def add(self, other: Room, sign: int = 1) -> None:
        """Put what is left of another room to this one."""
        self.batches += sign * other.batches
        self.size_bytes += sign * other.size_bytes
        self.work_us += sign * other.work_us

    def take(self, size_bytes: int, work_us: int) -> bool:
        """Use room for a batch, if there is enough."""
        if self.batches < 1 or self.size_bytes < size_bytes or self.work_us < work_us:
            return False
        self.batches -= 1
        self.size_bytes -= size_bytes
        self.work_us -= work_us
        return True


Place = tuple[Lane, int]
"""A lane, and the sequencer that what waits there came from."""

IsSigned = Callable[[Waiting], bool]
"""Looks at the signature of a batch."""


class Lanes:
    """Waiting batches by identity, in each lane those of each origin in the order in which they
    came."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._queues: dict[Place, OrderedDict[bytes, Waiting]] = {}
        self._sizes: Counter[Place] = Counter()
        self._places: dict[bytes, Place] = {}
        # Batches of each account and signer that wait with the others, and whether it is known
        # that the signer sent them.
        self._ordinary: dict[Speaker, dict[bytes, bool]] = {}
        # How many of them came from where, and of older ones, which only hold what comes after
        # them from the same sequencer.
        self._origins: dict[Speaker, Counter[int]] = {}
        self._old: Counter[tuple[Speaker, int]] = Counter()
        # Those that reduce risk, of each account and signer over each sequencer.
        self._reducing: dict[tuple[Speaker, int], dict[bytes, None]] = {}
        # The number of each of all these, and the newest of its hand that waited when it came.
        self._behind: dict[bytes, tuple[int, bytes]] = {}
        self._number = 0
        # Batches of each signer that were submitted here.
        self._signers: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._places

    def get(self, identity: bytes) -> Waiting | None:
        """A waiting batch."""
        place = self._places.get(identity)
        return None if place is None else self._queues[place][identity]

    def lane(self, identity: bytes) -> Lane:
        """The lane in which a batch waits; raises `KeyError`."""
        return self._places[identity][0]

    def of_signer(self, signer: bytes) -> int:
        """How many batches of a signer wait that were submitted here."""
        return self._signers.get(signer, 0)

    def origins(self, lane: Lane) -> list[int]:
        """From where something waits in a lane, ascending."""
        return sorted(
            origin for (one, origin), queue in self._queues.items() if one == lane and queue
        )

    def queue(self, lane: Lane, origin: int) -> Iterator[tuple[bytes, Waiting]]:
        """The batches of an origin in a lane, oldest first."""
        return iter(self._queues.get((lane, origin), {}).items())

    def add(
        self, identity: bytes, lane: Lane, waiting: Waiting, batches_max: int, bytes_max: int
    ) -> None:
        """Let a batch wait; raises `Rejected(busy)` where its lane is full.

        `batches_max` and `bytes_max` bound what waits of the batch's origin, in all lanes.
        """
        size, place = len(waiting.raw), (lane, waiting.origin)
        most, most_bytes = share_of(lane, batches_max, bytes_max)
        queue = self._queues.setdefault(place, OrderedDict())
        if len(queue) >= most or self._sizes[place] + size > most_bytes:
            raise Rejected(Code.BUSY, "the sequencer's pool is full; send again in a moment")
        queue[identity] = waiting
        self._places[identity] = place
        self._sizes[place] += size
        self.size_bytes += size
        if waiting.origin == OWN:
            self._signers[waiting.signer] += 1
        speaker = waiting.speaker
        self._number += 1
        before = b"" if lane == Lane.ORACLE else self.newest_reducing(waiting)
        if lane == Lane.REDUCING:
            self._reducing.setdefault((speaker, waiting.origin), {})[identity] = None
        if lane != Lane.OTHER:
            self._behind[identity] = self._number, before
            return
        before = next(reversed(self._ordinary.get(speaker, {})), before)
        self._behind[identity] = self._number, before
        if waiting.holds:
            self._ordinary.setdefault(speaker, {})[identity] = waiting.origin == OWN
            self._origins.setdefault(speaker, Counter())[waiting.origin] += 1
        else:
            self._old[speaker, waiting.origin] += 1

    def promise(self, identity: bytes) -> None:
        """Note that a batch which another sequencer passed on was submitted here, too: its signer
        has sent it."""
        waiting = self.get(identity)
        ordinary = {} if waiting is None else self._ordinary.get(waiting.speaker, {})
        if identity in ordinary:
            ordinary[identity] = True

    # --- what must not be overtaken

    def ordinary(self, speaker: Speaker) -> Collection[bytes]:
        """Batches of an account and signer that wait with the others and may hold back what comes
        after them, oldest first."""
        return self._ordinary.get(speaker, ())

    def newest_reducing(self, waiting: Waiting) -> bytes:
        """What an order of the same hand, over the same sequencer, has to wait for in the lane of
        what reduces risk: the last of it; empty where nothing waits there."""
        return next(reversed(self._reducing.get((waiting.speaker, waiting.origin), {})), b"")

    def waits_elsewhere(self, speaker: Speaker, origin: int) -> bool:
        """Whether something of an account and signer waits that may hold back what they send now
        over this sequencer, and that came from another one."""
        origins = self._origins.get(speaker, Counter[int]())
        return len(origins) > (origin in origins)

    def is_behind_old(self, speaker: Speaker, origin: int) -> bool:
        """Whether an old batch of an account and signer waits that came from that sequencer."""
        return self._old[speaker, origin] > 0

    def is_held_back(self, speaker: Speaker, is_signed: IsSigned) -> bool:
        """Whether what an account and signer send now has to wait behind what they sent before."""
        while ordinary := self._ordinary.get(speaker):
            if self.holds_back(next(iter(ordinary)), is_signed):
                return True
        return False

    def holds_back(self, identity: bytes, is_signed: IsSigned) -> bool:
        """Whether later batches of the same hand have to wait behind this one.

        What another sequencer passed on that hand may never have signed, so that it is looked at
        once. Where it is signed falsely, either that sequencer lies or the hand itself sent it
        there: nothing that it passed on, and that is not known to be signed, holds that hand back.
        """
        waiting = self.get(identity)
        ordinary = {} if waiting is None else self._ordinary.get(waiting.speaker, {})
        known = ordinary.get(identity)
        if waiting is None or known is None:
            return False
        if known or is_signed(waiting):
            ordinary[identity] = True
            return True
        for other in [other for other, signed in ordinary.items() if not signed]:
            if self._places[other][1] == waiting.origin:
                self._release(waiting.speaker, other)
        return False

    def check_newest(self, speaker: Speaker, is_signed: IsSigned) -> None:
        """Find out whether the newest batch of an account and signer is signed, behind which the
        next one of them is going to stand."""
        ordinary = self._ordinary.get(speaker)
        if not ordinary:
            return
        newest, known = next(reversed(ordinary.items()))
        waiting = None if known else self.get(newest)
        if waiting is None:
            return
        if is_signed(waiting):
            ordinary[newest] = True
        else:
            self._release(speaker, newest)

    def behind(self, identity: bytes) -> bytes:
        """The newest batch of the same hand that came before this one, still waits, and is known to
        be signed; empty where there is none."""
        waiting = self.get(identity)
        if waiting is None:
            return b""
        ordinary = self._ordinary.get(waiting.speaker, {})
        reducing = self._reducing.get((waiting.speaker, OWN), {})
        number, before = self._behind[identity]
        while before:
            earlier = self._behind.get(before)
            if earlier is None or earlier[0] > number:
                return b""  # it has its place; the same bytes may have come again since
            if ordinary.get(before) or before in reducing:
                return before
            number, before = earlier
        return b""

    def _release(self, speaker: Speaker, identity: bytes) -> None:
        others = self._ordinary.get(speaker, {})
        if others.pop(identity, None) is None:
            return
        if not others:
            del self._ordinary[speaker], self._origins[speaker]
            return
        origins, origin = self._origins[speaker], self._places[identity][1]
        origins[origin] -= 1
        if not origins[origin]:
            del origins[origin]

    def pop(self, identity: bytes) -> Waiting | None:
        """Take a batch out, if it waits."""
        place = self._places.get(identity)
        if place is None:
            return None
        waiting = self._queues[place].pop(identity)
        self._sizes[place] -= len(waiting.raw)
        self.size_bytes -= len(waiting.raw)
        if waiting.origin == OWN:
            self._signers[waiting.signer] -= 1
            if not self._signers[waiting.signer]:
                del self._signers[waiting.signer]
        del self._behind[identity]
        if place[0] == Lane.OTHER:
            self._forget(identity, waiting)
        elif place[0] == Lane.REDUCING:
            reducing = self._reducing[waiting.speaker, waiting.origin]
            del reducing[identity]
            if not reducing:
                del self._reducing[waiting.speaker, waiting.origin]
        del self._places[identity]
        return waiting

    def _forget(self, identity: bytes, waiting: Waiting) -> None:
        if waiting.holds:
            self._release(waiting.speaker, identity)
            return
        old = waiting.speaker, waiting.origin
        self._old[old] -= 1
        if not self._old[old]:
            del self._old[old]
