"""Who takes the position of an account that is worth nothing, and who bears what it lacks.

Everything is divided exactly: whole numbers that sum up to what is divided. Entries of a division
stand in their rank, which decides who gets the odd units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

HOUR_MS = 3_600_000
HOURS_COUNTED = 24
"""Realised profit counts for this many hours beside the one that runs."""


def realised_uusd(hours: Iterable[tuple[int, int]], time_ms: int) -> int:
    """What was realised within a day: `hours` are (hour since the epoch, micro-dollars)."""
    oldest = time_ms // HOUR_MS - HOURS_COUNTED
    return sum(amount_uusd for hour, amount_uusd in hours if hour >= oldest)


def allocate(total: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """Divide `total` in proportion to `weights`, no part above its cap.

    What is beyond the caps is shared by the others in the same proportion. Parts are rounded down
    and the units left over go to the largest remainders, then by rank. Parts sum up to `total`, or
    to the caps of all positive weights where these are less. Raises ValueError on numbers below 0.
    """
    if total < 0 or min(weights, default=0) < 0 or min(caps, default=0) < 0:
        raise ValueError("a division of negative numbers")
    parts = [0] * len(weights)
    active = [index for index, weight in enumerate(weights) if weight and caps[index]]
    while active and total:
        weight = sum(weights[index] for index in active)
        full = [index for index in active if total * weights[index] >= caps[index] * weight]
        if not full:
            _divide(total, weight, weights, active, parts)
            break
        for index in full:
            parts[index] = caps[index]
            total -= caps[index]
        active = [index for index in active if not parts[index]]
    return parts


def _divide(
    total: int, weight: int, weights: Sequence[int], active: Sequence[int], parts: list[int]
) -> None:
    """The last round of `allocate`: nobody reaches its cap."""
    remainders = []
    left = total
    for index in active:
        parts[index], remainder = divmod(total * weights[index], weight)
        left -= parts[index]
        remainders.append((-remainder, index))
    for _, index in sorted(remainders)[:left]:
        parts[index] += 1


class Opposite(NamedTuple):
    """An account on the other side: its profit in the market (unrealised at the mark, and realised
    within a day) and its unsigned size."""

    account: int
    profit_uusd: int
    lots: int


def rank_key(opposite: Opposite) -> tuple[int, int, int]:
    """Those with a profit come first, the largest profit first; then the others by size; then by
    account number."""
    if opposite.profit_uusd > 0:
        return 0, -opposite.profit_uusd, opposite.account
    return 1, -opposite.lots, opposite.account


class Ranking:
    """One side of a market by rank; `put` keeps it right as positions change.

    `first(count)` gives the first of all holders as they stood in the beginning, `holds` whether
    one really holds a position. More are asked for only when those do not do, so that what is taken
    decides the cost, not who holds.
    """

    __slots__ = ("_changed", "_current", "_end", "_first", "_heap", "_holds", "_read")

    def __init__(
        self, first: Callable[[int], Sequence[Opposite]], holds: Callable[[int], bool]
    ) -> None:
        self._first = first
        self._holds = holds
        self._read = 0
        """How many of the first ones were read."""
        self._end: tuple[int, int, int] | None = (-1, 0, 0)
        """Who was not read ranks beyond this; None: there is nobody left."""
        self._changed: set[int] = set()
        """Accounts that stand elsewhere than in the beginning."""
        self._current: dict[int, Opposite] = {}
        self._heap: list[tuple[int, int, int]] = []

    def put(self, opposite: Opposite) -> None:
        """An account's position or profit changed; `lots` 0: it has left this side."""
        before = self._current.get(opposite.account)
        self._changed.add(opposite.account)
        if not opposite.lots:
            self._current.pop(opposite.account, None)
            return
        self._current[opposite.account] = opposite
        if before is None or rank_key(before) != rank_key(opposite):
            heappush(self._heap, rank_key(opposite))

    def take(self, count: int) -> list[Opposite]:
        """Take the first `count` out, in their rank; they come back by `put`."""
        taken: list[Opposite] = []
        while len(taken) < count:
            if self._end is not None and (not self._heap or self._heap[0] > self._end):
                self._read_on(count)
                continue
            if not self._heap:
                break
            key = heappop(self._heap)
            opposite = self._current.get(key[2])
            if opposite is not None and rank_key(opposite) == key:
                del self._current[opposite.account]
                taken.append(opposite)
        return taken

    def _read_on(self, count: int) -> None:
        """Read at least as many again."""
        wanted = max(2 * self._read, count)
        found = self._first(wanted)
        for opposite in found[self._read :]:
            if opposite.account not in self._changed and self._holds(opposite.account):
                self._current[opposite.account] = opposite
                heappush(self._heap, rank_key(opposite))
        self._read = len(found)
        self._end = rank_key(found[-1]) if len(found) == wanted else None


def divide_lots(lots: int, opposites: Sequence[Opposite]) -> list[int]:
    """Lots that each takes over: in proportion to profit as far as sizes go, what is left to those
    without a profit, in proportion to their size. The sum is `lots`, or all there is."""
    sizes = [opposite.lots for opposite in opposites]
    parts = allocate(lots, [max(opposite.profit_uusd, 0) for opposite in opposites], sizes)
    left = lots - sum(parts)
    if left:
        others = [0 if opposite.profit_uusd > 0 else opposite.lots for opposite in opposites]
        rest = allocate(left, others, others)
        parts = [part + more for part, more in zip(parts, rest, strict=True)]
    return parts


def divide_shortfall(
    shortfall_uusd: int, lots: Sequence[int], rooms_uusd: Sequence[int]
) -> list[int]:
    """Haircuts in proportion to the lots taken, none above what its bearer can carry. They sum up
    to the shortfall, or to what all can carry together."""
    return allocate(shortfall_uusd, lots, rooms_uusd)


def haircut_room_uusd(tv_uusd: int, mm_after_uusd: int) -> int:
    """The most that a counterparty can lose without standing below maintenance afterwards."""
    return max(tv_uusd - mm_after_uusd, 0)
