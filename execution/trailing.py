"""Trailing stops of one market and side: who has seen which best mark, and who is due.

All of it is in *levels*: the mark for sells, the negated mark for buys, so that higher is better. A
stop fires when the level falls to its best level less its distance.

A stop that was armed earlier has seen at least what a later one has. So the bests fall along the
order of arming; stops with the same best form a run (a *group*), and a new best takes in the groups
at the end. Following the mark costs the same however many stops there are: only the newest one's
record is written, and the best of a stop is the highest record of those armed from it on.
"""

from __future__ import annotations

from bisect import bisect_left

from sortedcontainers import SortedDict, SortedList

from protocol.errors import SafetyViolation

Heir = tuple[int, int]
"""(trigger id, level): a stop whose record has to be this best level from now on."""


class Group:
    """Stops with the same best level; `last` is the place of the newest."""

    __slots__ = ("best", "last", "stops")

    def __init__(self, best: int, last: int) -> None:
        self.best = best
        self.last = last
        self.stops: SortedList[tuple[int, int]] = SortedList()
        """(distance, place)."""

    @property
    def highest(self) -> int:
        """The level at which the first of them fires."""
        return self.best - self.stops[0][0]


class Trail:
    """The stops by their place in the order of arming."""

    __slots__ = ("_firing", "_groups", "_lasts", "_members")

    def __init__(self) -> None:
        self._members: SortedDict[int, tuple[int, int]] = SortedDict()
        # Groups in the order of arming, their `last`, and (`highest`, `last`) of each.
        self._groups: list[Group] = []
        self._lasts: list[int] = []
        self._firing: SortedList[tuple[int, int]] = SortedList()

    def __len__(self) -> int:
        return len(self._members)

    def next_place(self) -> int:
        """Place of the next stop to be armed."""
        return self._members.peekitem(-1)[0] + 1 if self._members else 1

    def arm(self, place: int, trigger_id: int, distance: int, best: int) -> None:
        """Add a stop behind all others; what they have not seen of `best`, they see now."""
        group = self._join(best) or Group(best, place)
        group.best, group.last = best, place
        group.stops.add((distance, place))
        self._members[place] = (distance, trigger_id)
        self._append(group)

    def follow(self, level: int) -> int:
        """Show all stops a level; returns the id of the one whose record becomes it (0: none)."""
        if not self._groups or self._groups[-1].best >= level:
            return 0
        group = self._join(level)
        if group is None:
            raise SafetyViolation("a trailing stop without a group")
        group.best = level
        self._append(group)
        return self._members[group.last][1]

    def best(self, place: int) -> int:
        """The best level that a stop has seen."""
        return self._groups[bisect_left(self._lasts, place)].best

    def due(self, level: int) -> tuple[list[int], list[Heir]]:
        """Take out the stops that fire at a level: their ids, and the heirs to their records."""
        found: list[int] = []
        heirs: list[Heir] = []
        while self._firing and self._firing[-1][0] >= level:
            group = self._groups[bisect_left(self._lasts, self._firing[-1][1])]
            self._firing.pop()
            stops = group.stops
            count = stops.bisect_left((group.best - level + 1, 0))
            for _, place in stops[:count]:
                found.append(self._members.pop(place)[1])
            del stops[:count]
            heirs += self._shrunk(group)
        return found, heirs

    def remove(self, place: int) -> list[Heir]:
        """Take a stop out; returns the heir to its record, if it needs one."""
        group = self._groups[bisect_left(self._lasts, place)]
        self._firing.remove((group.highest, group.last))
        distance, _ = self._members.pop(place)
        group.stops.remove((distance, place))
        return self._shrunk(group)

    def _shrunk(self, group: Group) -> list[Heir]:
        """Put a group that lost stops, and left `_firing`, in order."""
        index = bisect_left(self._lasts, group.last)
        if not group.stops:
            del self._groups[index], self._lasts[index]
            return []
        heirs: list[Heir] = []
        if group.last not in self._members:
            # Groups are runs: the newest one before the old last is of the same group.
            before = self._members.bisect_left(group.last) - 1
            group.last, (_, trigger_id) = self._members.peekitem(before)
            self._lasts[index] = group.last
            heirs.append((trigger_id, group.best))
        self._firing.add((group.highest, group.last))
        return heirs

    def _append(self, group: Group) -> None:
        self._groups.append(group)
        self._lasts.append(group.last)
        self._firing.add((group.highest, group.last))

    def _join(self, level: int) -> Group | None:
        """Take the groups at the end off that have seen nothing above a level, as one."""
        joined: Group | None = None
        while self._groups and self._groups[-1].best <= level:
            group = self._groups.pop()
            self._lasts.pop()
            self._firing.remove((group.highest, group.last))
            if joined is None:
                joined = group
                continue
            # The smaller one moves: a stop moves at most log2(n) times.
            larger, smaller = joined.stops, group.stops
            if len(larger) < len(smaller):
                larger, smaller = smaller, larger
            larger.update(smaller)
            joined.stops = larger
        return joined
