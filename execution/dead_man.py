"""Dead-man's switches: everything of an account is cancelled at a time, unless it is set anew."""

from __future__ import annotations

from itertools import islice

from sortedcontainers import SortedList

from execution.leaves import DeadManLeaf, dead_man_key, parse_account_key
from execution.state import State
from execution.trading import OK, REFUSED, Trading
from margin.account import Account
from protocol.actions import ALL_MARKETS, DEAD_MAN_DAILY, DEAD_MAN_LEAST_MS, ScheduleCancel
from protocol.errors import Code, SafetyViolation
from protocol.events import REASON_DEAD_MAN, DeadManSet, Result
from protocol.genesis import DAY_MS

UNSET = DeadManLeaf(0, 0, 0)

LOOKED_AT, MOST_LOOKED_AT = 4, 256
"""Of the switches whose time has come a block looks at so many times what it may cancel, and at so
many at most."""

MUCH = 32
"""What has so much to cancel, or more, is all alike: nobody has to show how much it is."""


class DeadMen:
    """The switches of all accounts. A row stays after its switch went off, for the day's count."""

    __slots__ = ("_due", "_state", "_trading")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading
        self._due: SortedList[tuple[int, int]] = SortedList(
            (row.time_ms, parse_account_key(key))
            for key, row in state.dead_men.rows.items()
            if row.time_ms
        )
        """(time_ms, account) of the switches that are on."""

    def schedule_cancel(self, account: Account, action: ScheduleCancel) -> Result:
        """Set the switch, set it anew, or switch it off."""
        state, time_ms = self._state, action.time_ms
        before = state.dead_men.get(dead_man_key(account.number)) or UNSET
        today = state.time_ms // DAY_MS
        fired = before.fired if before.day == today else 0
        if time_ms:
            if time_ms < state.time_ms + DEAD_MAN_LEAST_MS:
                return REFUSED[Code.DEAD_MAN_TOO_SOON]
            if fired >= DEAD_MAN_DAILY:
                return REFUSED[Code.DEAD_MAN_USED_UP]
        self._write(account.number, before, DeadManLeaf(time_ms, today, fired))
        state.events.append(DeadManSet(account.number, time_ms, False))
        return OK

    def _write(self, account: int, before: DeadManLeaf, after: DeadManLeaf) -> None:
        if before.time_ms:
            self._due.remove((before.time_ms, account))
        if after.time_ms:
            self._due.add((after.time_ms, account))
        key = dead_man_key(account)
        if after.time_ms or after.fired:
            self._state.dead_men.put(key, after)
        else:
            self._state.dead_men.drop(key)

    def run(self) -> None:
        """Let the switches go off whose time has come.

        Each, and everything that it cancels, counts against `expiries_per_block`; those left go off
        in the next block. The first half is for the earliest ones; the rest is for those who have
        least to cancel, so that they do not wait for others who have much. In each part the last
        one may exceed it.
        """
        budget = self._state.limits.expiries_per_block
        due = self.looked_at()
        if not due:
            return
        rest, left = self._go_off(due, budget - budget // 2)
        rest.sort(key=lambda number: min(self._count(number), MUCH))
        self._go_off(rest, max(left, 0) + budget // 2)

    def looked_at(self) -> list[int]:
        """The accounts whose switches the block looks at, the earliest first."""
        state = self._state
        most = min(LOOKED_AT * state.limits.expiries_per_block, MOST_LOOKED_AT)
        due = islice(self._due, most)
        return [number for time_ms, number in due if time_ms <= state.time_ms]

    def _count(self, number: int) -> int:
        """What a switch costs."""
        account = self._state.accounts[number]
        return 1 + len(account.orders) + len(account.triggers) + len(account.twaps)

    def _go_off(self, due: list[int], budget: int) -> tuple[list[int], int]:
        """Let these switches go off, in this order; returns those left, and what is left of the
        budget."""
        state = self._state
        today = state.time_ms // DAY_MS
        for place, number in enumerate(due):
            if budget <= 0:
                return due[place:], budget
            budget -= self._count(number)
            account = state.accounts[number]
            before = state.dead_men.get(dead_man_key(number)) or UNSET
            fired = before.fired if before.day == today else 0
            self._write(number, before, DeadManLeaf(0, today, fired + 1))
            state.events.append(DeadManSet(number, before.time_ms, True))
            self._trading.touch(account)
            self._trading.cancel_everything(account, ALL_MARKETS, REASON_DEAD_MAN)
        return [], budget

    def check(self) -> None:
        """Raise `SafetyViolation` unless the index is that of the rows."""
        rows = self._state.dead_men.rows.items()
        due = sorted((row.time_ms, parse_account_key(key)) for key, row in rows if row.time_ms)
        if due != list(self._due):
            raise SafetyViolation("the dead-man's switches are not those of the state")
