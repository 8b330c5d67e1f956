"""The triggers of one market, found by the mark at which they fire."""

from __future__ import annotations

from sortedcontainers import SortedList, SortedSet

from execution.leaves import TriggerLeaf
from execution.trailing import Heir, Trail
from protocol.actions import BUY, SELL, STOP, TRAILING
from protocol.errors import SafetyViolation


class MarketTriggers:
    """Which triggers of a market are due, and which wait for which mark.

    `ids` are all triggers of the market, oldest first. Exits of a bracket that has no fill stand
    nowhere else; what the mark has touched is in `due` and fires whatever the mark does then.
    """

    __slots__ = (
        "_falling", "_rising", "_trails", "due", "followed_ticks", "ids", "touched_ticks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ids: dict[int, None] = {}
        self.due: SortedSet[int] = SortedSet()
        self.followed_ticks = 0
        """The mark that all trailing stops have seen; 0: look again."""
        self.touched_ticks = 0
        """The mark at which everything that fires has been made due; 0: look again."""
        # (trigger price, id): fires at marks at or below it, and at or above it.
        self._falling: SortedList[tuple[int, int]] = SortedList()
        self._rising: SortedList[tuple[int, int]] = SortedList()
        self._trails = (Trail(), Trail())

    def next_place(self, side: int) -> int:
        """Place of the next trailing stop of a side in the order of arming."""
        return self._trails[side].next_place()

    def add(self, trigger_id: int, row: TriggerLeaf) -> None:
        """Let an armed trigger wait, or stand among those that are due."""
        self.followed_ticks = self.touched_ticks = 0
        if row.due:
            self.due.add(trigger_id)
        elif row.kind == TRAILING:
            best = level(row.side, row.best_ticks)
            self._trails[row.side].arm(row.armed, trigger_id, row.trigger_ticks, best)
        else:
            self._prices(row).add((row.trigger_ticks, trigger_id))

    def remove(self, trigger_id: int, row: TriggerLeaf) -> list[Heir]:
        """Forget an armed trigger; returns the heir to a trailing one's record, in ticks, if it
        needs one."""
        if trigger_id in self.due:
            self.due.remove(trigger_id)
        elif row.kind == TRAILING:
            return _in_ticks(self._trails[row.side].remove(row.armed))
        else:
            self._prices(row).remove((row.trigger_ticks, trigger_id))
        return []

    def follow(self, mark_ticks: int) -> list[Heir]:
        """Show the trailing stops a mark; returns those whose record becomes it."""
        self.followed_ticks = mark_ticks
        found = []
        for side in (BUY, SELL):
            newest = self._trails[side].follow(level(side, mark_ticks))
            if newest:
                found.append((newest, mark_ticks))
        if found:
            # A better best fires at marks that touched nothing before, also while none may fire.
            self.touched_ticks = 0
        return found

    def touch(self, mark_ticks: int) -> tuple[list[int], list[Heir]]:
        """Make due what fires at a mark: their ids, and the heirs to trailing ones' records."""
        self.touched_ticks = mark_ticks
        falling, rising = self._falling, self._rising
        first = falling.bisect_left((mark_ticks, 0))
        count = rising.bisect_left((mark_ticks + 1, 0))
        found = [trigger_id for _, trigger_id in falling[first:]]
        found += [trigger_id for _, trigger_id in rising[:count]]
        del falling[first:]
        del rising[:count]
        heirs: list[Heir] = []
        for side in (BUY, SELL):
            ids, left = self._trails[side].due(level(side, mark_ticks))
            found += ids
            heirs += _in_ticks(left)
        self.due.update(found)
        return found, heirs

    def best_ticks(self, row: TriggerLeaf) -> int:
        """The best mark that a waiting trailing stop has seen."""
        return abs(self._trails[row.side].best(row.armed))

    def check(self, rows: dict[int, TriggerLeaf]) -> None:
        """Raise `SafetyViolation` unless exactly these triggers of the market are known, each in
        its place."""
        armed = {trigger_id: row for trigger_id, row in rows.items() if row.size_lots}
        places = len(self._falling) + len(self._rising) + len(self.due)
        if list(self.ids) != sorted(rows) or places + sum(map(len, self._trails)) != len(armed):
            raise SafetyViolation("the triggers of a market are not those of the state")
        for trigger_id, row in armed.items():
            if row.due != (trigger_id in self.due):
                raise SafetyViolation(f"trigger {trigger_id} is due in one place only")
            if row.due:
                continue
            if row.kind == TRAILING:
                later = [
                    level(row.side, other.best_ticks)
                    for other in armed.values()
                    if other.kind == TRAILING and other.side == row.side and not other.due
                    if other.armed >= row.armed
                ]
                if max(later) != level(row.side, self.best_ticks(row)):
                    raise SafetyViolation(f"the best mark of trigger {trigger_id} is not on record")
            elif (row.trigger_ticks, trigger_id) not in self._prices(row):
                raise SafetyViolation(f"trigger {trigger_id} does not wait for its price")

    def _prices(self, row: TriggerLeaf) -> SortedList[tuple[int, int]]:
        return self._falling if falls(row.side, row.kind) else self._rising


def falls(side: int, kind: int) -> bool:
    """Whether a trigger with a price of its own fires at or below it (else at or above it)."""
    return (kind == STOP) == (side == SELL)


def _in_ticks(heirs: list[Heir]) -> list[Heir]:
    return [(trigger_id, abs(best)) for trigger_id, best in heirs]


def level(side: int, ticks: int) -> int:
    """A mark as trailing stops of a side see it: higher is better."""
    return ticks if side == SELL else -ticks
