"""Profit that accounts realised, by market and hour, for the ranks of deleveraging.

Without it a winner could close and open again to look like somebody without profit. It is kept by
master account, since a profit may also pass from one of its accounts to another.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from sortedcontainers import SortedList

from execution import leaves as lv
from execution.state import State
from margin.account import Account
from margin.deleveraging import HOUR_MS, HOURS_COUNTED, realised_uusd
from protocol.settlement import master_of


class Realised:
    """Folds what a block realised into hours, and drops hours and rows that count no more."""

    __slots__ = ("_families", "_newest", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._families: dict[int, list[int]] = {}
        """The accounts of each master that has several, by number, as the last block left them."""
        self._newest: SortedList[tuple[int, bytes]] = SortedList(
            (row.hours[-1][0], key) for key, row in state.realised.rows.items()
        )
        """Rows by their newest hour."""
        self._note_families(state.accounts.values())

    def _note_families(self, accounts: Iterable[Account]) -> None:
        for account in accounts:
            if account.number != account.master:
                family = self._families.setdefault(account.master, [account.master])
                if account.number not in family:
                    insort(family, account.number)

    def family(self, account: int) -> list[int]:
        """The accounts of the account's master, by number. What one of them realises changes what
        all of them count for."""
        return self._families.get(master_of(account), [account])

    def share_uusd(self, account: int, market: int) -> int:
        """What of its master's realised profit counts for an account with a position: a part by the
        lots of all that are on its side of the market. The parts are rounded down from account to
        account so that they sum up to the whole."""
        whole_uusd = self.within_day_uusd(master_of(account), market)
        family = self.family(account)
        if not whole_uusd or len(family) == 1:
            return whole_uusd
        long = self._lots(account, market) > 0
        before = upto = total = 0
        for number in family:
            lots = self._lots(number, market)
            if number == account:
                before, upto = total, total + abs(lots)
            if lots and (lots > 0) == long:
                total += abs(lots)
        if upto == before:
            return 0
        return whole_uusd * upto // total - whole_uusd * before // total

    def _lots(self, account: int, market: int) -> int:
        e = self._state.accounts[account].exposures.get(market)
        return 0 if e is None else e.size_lots

    def within_day_uusd(self, master: int, market: int) -> int:
        """What a master's accounts realised in a market within a day, this block included."""
        state = self._state
        amount_uusd = state.realised_uusd.get((master, market), 0)
        row = state.realised.get(lv.realised_key(master, market))
        if row is None:
            return amount_uusd
        return amount_uusd + realised_uusd(row.hours, state.time_ms)

    def fold(self) -> None:
        """At the end of a block: take in what it realised, and drop some of the old rows."""
        state = self._state
        hour = state.time_ms // HOUR_MS
        for (master, market), amount_uusd in state.realised_uusd.items():
            if amount_uusd:
                self._add(lv.realised_key(master, market), hour, amount_uusd)
        state.realised_uusd.clear()
        self._note_families(state.dirty_accounts)
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
