"""Admission, ordering and execution of a stress run, in virtual time, under a counted load.

What matters for risk is carried as real signed batches. The rest of the load is *filler*: batches
of `FILLER_ACTIONS` actions that take their place, bytes and time in each stage and are counted, not
executed. Load is open loop: nobody sends less because the exchange is slow.

The stages and their bounds are those of the deployed processes. Admission: one core; what waits for
it is bounded, and beyond that refused. Pool: the bounds of `sequencer.pool.BatchPool`, first come
first served. Blocks: one each `BLOCK_MS`, of at most so many bytes and batches. Execution: one
core, block after block. A step of the simulation stands for several blocks.

`Policy.RESERVED` is the pool as it stands: oracle prices and what reduces risk (cancels, top-ups,
reduce-only orders; of the filler its cancels) have a share of admission, pool and blocks that
nothing else can take, and blocks hold no more than execution does in their time. There the deployed
pool goes by the genesis figures of `Capacity`; the model knows how late execution is. `Policy.FIFO`
is one queue for all: blocks hold whatever fits, whether or not execution keeps up, and the ordered
log grows.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import NamedTuple

from protocol.genesis import PPM
from sequencer.lanes import REDUCING_PPM, SHARES_PPM, Lane
from sequencer.pool import BATCH_OVERHEAD_BYTES, BLOCK_BATCHES_MAX, POOL_BATCHES_MAX, POOL_BYTES_MAX

NS_PER_MS = 1_000_000
BLOCK_MS = 20
SLOT_MS = 50
"""Filler comes in lumps of so many milliseconds."""
FILLER_ACTIONS = 20
FILLER_BYTES = 680
"""An encoded signed batch of 20 orders and cancels."""
FILLER_REDUCING_PPM = 400_000
"""Share of cancels in the load, as in the measured mix (docs/benchmarks.md)."""
UTILISATION_PPM = 900_000
"""Under `Policy.RESERVED`: part of execution's time that a block is filled to."""
LEAD_MS = 100
"""Under `Policy.RESERVED`: how far execution may be behind before blocks get emptier."""
ENDLESS = 1 << 62


class Costs(NamedTuple):
    """Nanoseconds of one core. Batches and actions: fits of the measured 89.5, 11.3 and 6.5 us per
    action in batches of 1, 20 and 100 (sequencer: 25.9, 3.0 and 1.6; docs/benchmarks.md)."""

    admit_batch_ns: int = 24_000
    admit_action_ns: int = 1_800
    batch_ns: int = 82_000
    action_ns: int = 7_200
    mark_ns: int = 800_000
    """A new mark: the sweep over all accounts."""
    visit_ns: int = 5_000
    """An account's turn in the liquidation phase; while it waits, in every block."""
    move_ns: int = 22_000
    """A cancel, fill or move of that phase."""
    ordering_ms: int = 12
    """From the pool into a committed block."""


class Bounds(NamedTuple):
    """What the stages hold: work that waits for admission in sockets and read buffers, the pool, a
    block."""

    admission_ms: int = 1_000
    pool_batches: int = POOL_BATCHES_MAX
    pool_bytes: int = POOL_BYTES_MAX
    block_batches: int = BLOCK_BATCHES_MAX
    block_bytes: int = 1 << 20


NO_COSTS = Costs(*(0,) * len(Costs._fields))
NO_BOUNDS = Bounds(ENDLESS, ENDLESS, ENDLESS, ENDLESS, ENDLESS)


class Policy(IntEnum):
    """How the pool is kept and blocks are filled."""

    FIFO = 0
    RESERVED = 1


class Sent(NamedTuple):
    """A real batch on its way: its signer and nonce, what it is, and when it arrives."""

    signer: int
    nonce_ms: int
    lane: Lane
    raw: bytes
    actions: int
    sent_ms: int
    arrival_ms: int


class Ordered(NamedTuple):
    """The blocks of a step: when it began, time of the last, real batches in order, batches of
    filler."""

    from_ms: int
    time_ms: int
    sent: list[Sent]
    filler: int


class _Entry(NamedTuple):
    """Batches that came together and are alike; `sent` where they are a real one."""

    ready_ms: int
    batches: int
    size: int
    cost_ns: int
    sent: Sent | None


class _Room:
    """What still fits."""

    __slots__ = ("batches", "size", "time_ns")

    def __init__(self, batches: int, size: int, time_ns: int) -> None:
        self.batches, self.size, self.time_ns = batches, size, time_ns

    def split(self, ppm: int) -> _Room:
        """Take this part out."""
        part = _Room(self.batches * ppm // PPM, self.size * ppm // PPM, self.time_ns * ppm // PPM)
        self.add(part, -1)
        return part

    def add(self, other: _Room, sign: int = 1) -> None:
        """Put it back (or take it out)."""
        self.batches += sign * other.batches
        self.size += sign * other.size
        self.time_ns += sign * other.time_ns

    def fits(self, entry: _Entry) -> int:
        """How many of the entry's batches fit."""
        count = min(entry.batches, self.batches, self.size // entry.size)
        if entry.cost_ns:
            count = min(count, self.time_ns // entry.cost_ns)
        return max(count, 0)

    def use(self, entry: _Entry, count: int) -> None:
        """Fill it with so many of them."""
        self.batches -= count
        self.size -= count * entry.size
        self.time_ns -= count * entry.cost_ns


class _Queue:
    """Entries of one lane that were admitted, oldest first."""

    def __init__(self) -> None:
        self.entries: deque[_Entry] = deque()
        self.batches = 0
        self.size = 0

    def put(self, entry: _Entry) -> None:
        """Append."""
        self.entries.append(entry)
        self.batches += entry.batches
        self.size += entry.batches * entry.size

    def move(self, now_ms: int, room: _Room, sent: list[Sent]) -> int:
        """Take out what is ready and fits, in order; returns the batches of filler."""
        filler = 0
        while self.entries and self.entries[0].ready_ms <= now_ms:
            entry = self.entries[0]
            count = room.fits(entry)
            if not count:
                break
            room.use(entry, count)
            self.batches -= count
            self.size -= count * entry.size
            if entry.sent is None:
                filler += count
            else:
                sent.append(entry.sent)
            if count < entry.batches:
                self.entries[0] = entry._replace(batches=entry.batches - count)
                break
            self.entries.popleft()
        return filler


class Pipeline:
    """One sequencer and one execution process."""

    def __init__(
        self, policy: Policy, costs: Costs | None = None, bounds: Bounds | None = None
    ) -> None:
        self.policy = policy
        self.costs = costs or Costs()
        self.bounds = bounds or Bounds()
        self.refused_filler = self.refused = self.ordered_filler = 0
        self._admission_ns = self._execution_ns = 0
        self._queues = {lane: _Queue() for lane in Lane}
        self._reducing = 0

    @property
    def waiting(self) -> int:
        """Batches in the pool."""
        return sum(queue.batches for queue in self._queues.values())

    def behind_ms(self, now_ms: int) -> int:
        """How far execution is behind the log."""
        return max(self._execution_ns // NS_PER_MS - now_ms, 0)

    # -- admission

    def offer(self, sent: list[Sent], filler: int, from_ms: int, to_ms: int) -> list[Sent]:
        """Offer a step's real batches, and so many of filler spread evenly over the step.

        Returns the real ones that were refused (`busy`).
        """
        slots = max((to_ms - from_ms) // SLOT_MS, 1)
        waiting = deque(sorted(sent, key=lambda one: one.arrival_ms))
        refused: list[Sent] = []
        for slot in range(1, slots + 1):
            end_ms = from_ms + (to_ms - from_ms) * slot // slots
            while waiting and (waiting[0].arrival_ms <= end_ms or slot == slots):
                one = waiting.popleft()
                if not self._admit(one):
                    refused.append(one)
            self._admit_filler(filler * slot // slots - filler * (slot - 1) // slots, end_ms)
        self.refused += len(refused)
        return refused

    def _admit(self, one: Sent) -> bool:
        costs = self.costs
        entry = _Entry(
            0, 1, len(one.raw) + BATCH_OVERHEAD_BYTES,
            costs.batch_ns + one.actions * costs.action_ns, one,
        )  # fmt: skip
        cost_ns = costs.admit_batch_ns + one.actions * costs.admit_action_ns
        return bool(self._take_in(self._lane(one.lane), entry, cost_ns, one.arrival_ms))

    def _admit_filler(self, batches: int, now_ms: int) -> None:
        costs = self.costs
        cost_ns = costs.admit_batch_ns + FILLER_ACTIONS * costs.admit_action_ns
        self._reducing += batches * FILLER_REDUCING_PPM
        reducing, self._reducing = divmod(self._reducing, PPM)
        for lane, count in ((Lane.REDUCING, reducing), (Lane.OTHER, batches - reducing)):
            if count:
                entry = _Entry(
                    0, count, FILLER_BYTES + BATCH_OVERHEAD_BYTES,
                    costs.batch_ns + FILLER_ACTIONS * costs.action_ns, None,
                )  # fmt: skip
                taken = self._take_in(self._lane(lane), entry, cost_ns, now_ms)
                self.refused_filler += count - taken

    def _lane(self, lane: Lane) -> Lane:
        return Lane.OTHER if self.policy == Policy.FIFO else lane

    def _take_in(self, lane: Lane, entry: _Entry, cost_ns: int, now_ms: int) -> int:
        """Admit as many of the entry's batches as there is room and time for."""
        bounds, queue = self.bounds, self._queues[lane]
        common = lane == Lane.OTHER
        share = PPM if self.policy == Policy.FIFO else SHARES_PPM[lane]
        count = min(
            entry.batches,
            bounds.pool_batches * share // PPM - queue.batches,
            (bounds.pool_bytes * share // PPM - queue.size) // entry.size,
        )
        busy_ns = max(self._admission_ns, now_ms * NS_PER_MS)
        if common and cost_ns:
            free_ns = (now_ms + bounds.admission_ms) * NS_PER_MS - busy_ns
            count = min(count, free_ns // cost_ns)
        if count <= 0:
            return 0
        self._admission_ns = busy_ns + count * cost_ns
        # What capacity is reserved for does not wait behind the others.
        ready_ns = self._admission_ns if common else now_ms * NS_PER_MS + cost_ns
        queue.put(entry._replace(ready_ms=ready_ns // NS_PER_MS, batches=count))
        return count

    # -- ordering and execution

    def order(self, from_ms: int, to_ms: int) -> Ordered:
        """The blocks of a step, as one."""
        length_ms = to_ms - from_ms
        blocks = max(length_ms // BLOCK_MS, 1)
        room = _Room(blocks * self.bounds.block_batches, blocks * self.bounds.block_bytes, ENDLESS)
        lanes = [Lane.OTHER]
        spare = room.split(0)
        sent: list[Sent] = []
        if self.policy == Policy.RESERVED:
            late_ms = max(self.behind_ms(to_ms) - LEAD_MS, 0)
            # Prices are few, and go in however late execution is.
            self._queues[Lane.ORACLE].move(to_ms, room, sent)
            room.time_ns = (length_ms * UTILISATION_PPM // PPM - late_ms) * NS_PER_MS
            spare = room.split(PPM - REDUCING_PPM)
            lanes = [Lane.REDUCING, Lane.OTHER, Lane.REDUCING]
        filler = 0
        for lane in lanes:
            if lane == Lane.OTHER:
                room.add(spare)
            filler += self._queues[lane].move(to_ms, room, sent)
        self.ordered_filler += filler
        return Ordered(from_ms, to_ms, sent, filler)

    def execute(self, block: Ordered, marks: int, visits: int, moves: int) -> int:
        """When the step's blocks have been executed, in milliseconds. So many `marks` changed;
        so many accounts had a turn to be liquidated (in each of the blocks), with so many moves."""
        costs = self.costs
        blocks = max((block.time_ms - block.from_ms) // BLOCK_MS, 1)
        work_ns = marks * costs.mark_ns + visits * blocks * costs.visit_ns + moves * costs.move_ns
        work_ns += block.filler * (costs.batch_ns + FILLER_ACTIONS * costs.action_ns)
        for one in block.sent:
            work_ns += costs.batch_ns + one.actions * costs.action_ns
        # The blocks of a step are executed one by one as they are ordered, the last one at its end.
        first_ns = (block.from_ms + costs.ordering_ms) * NS_PER_MS
        last_ns = (block.time_ms + costs.ordering_ms) * NS_PER_MS
        self._execution_ns = max(
            max(self._execution_ns, first_ns) + work_ns, last_ns + work_ns // blocks
        )
        return -(-self._execution_ns // NS_PER_MS)
