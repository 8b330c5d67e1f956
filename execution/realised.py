"""Profit that accounts realised, by market and hour, for the ranks of deleveraging.

Without it a winner could close and open again to look like somebody without profit.
"""

from __future__ import annotations

from sortedcontainers import SortedList

from execution import leaves as lv
from execution.state import State
from margin.deleveraging import HOUR_MS, HOURS_COUNTED, realised_uusd


class Realised:
    """Folds what a block realised into hours, and drops hours and rows that count no more."""

    __slots__ = ("_newest", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._newest: SortedList[tuple[int, bytes]] = SortedList(
            (row.hours[-1][0], key) for key, row in state.realised.rows.items()
        )
        """Rows by their newest hour."""

    def within_day_uusd(self, account: int, market: int) -> int:
        """What an account realised in a market within a day, this block included."""
        state = self._state
        amount_uusd = state.realised_uusd.get((account, market), 0)
        row = state.realised.get(lv.realised_key(account, market))
        if row is None:
            return amount_uusd
        return amount_uusd + realised_uusd(row.hours, state.time_ms)

    def fold(self) -> None:
        """At the end of a block: take in what it realised, and drop some of the old rows."""
        state = self._state
        hour = state.time_ms // HOUR_MS
        for (account, market), amount_uusd in state.realised_uusd.items():
            if amount_uusd:
                self._add(lv.realised_key(account, market), hour, amount_uusd)
        state.realised_uusd.clear()
        oldest = hour - HOURS_COUNTED
        for _ in range(state.limits.expiries_per_block):
            if not self._newest or self._newest[0][0] >= oldest:
                break
            state.realised.drop(self._newest.pop(0)[1])

    def _add(self, key: bytes, hour: int, amount_uusd: int) -> None:
        table = self._state.realised
        row = table.get(key)
        hours = [] if row is None else row.hours
        if hours and hours[-1][0] == hour:
            table.put(key, lv.RealisedLeaf([*hours[:-1], (hour, hours[-1][1] + amount_uusd)]))
            return
        if hours:
            self._newest.remove((hours[-1][0], key))
        self._newest.add((hour, key))
        oldest = hour - HOURS_COUNTED
        kept = [entry for entry in hours if entry[0] >= oldest]
        table.put(key, lv.RealisedLeaf([*kept, (hour, amount_uusd)]))
