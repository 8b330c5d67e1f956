"""All waiting triggers: their rows in the state, and the indexes that find them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sortedcontainers import SortedList

from execution.leaves import TriggerLeaf, parse_trigger_key, trigger_key
from execution.state import State
from execution.trailing import Heir
from execution.trigger_index import MarketTriggers
from margin.account import Account
from margin.market import Market
from protocol.actions import (
    OPEN,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    STOP,
    TAKE_PROFIT,
    TRAILING,
    TriggerOrder,
)
from protocol.errors import Code, SafetyViolation
from protocol.events import TriggerChanged, TriggerOpened

KINDS = (STOP, TAKE_PROFIT, TRAILING)


class TriggerBook:
    """Keeps `state.triggers`, the accounts' lists of triggers and client ids, and the indexes
    together. Who is linked with whom is `Triggers`' business."""

    __slots__ = ("_expiring", "_families", "_markets", "_state", "reducing")

    def __init__(self, state: State) -> None:
        self._state = state
        self._markets: dict[int, MarketTriggers] = {}
        self._expiring: SortedList[tuple[int, int, int]] = SortedList()
        """(expires_ms, id, market)."""
        self._families: dict[int, int] = {}
        """Number of triggers of all accounts of a master, where there are some."""
        self.reducing: dict[int, dict[int, int]] = {}
        """Number of reduce-only triggers by account and market, where there are some."""
        rows = [(*parse_trigger_key(key), row) for key, row in sorted(state.triggers.rows.items())]
        for market, trigger_id, row in rows:
            account = state.accounts[row.account]
            self._list(account, market, trigger_id, row)
        # Trailing stops come in the order in which they were armed.
        for market, trigger_id, row in sorted(rows, key=_armed):
            if row.size_lots:
                self._markets[market].add(trigger_id, row)

    def _list(self, account: Account, market: int, trigger_id: int, row: TriggerLeaf) -> None:
        found = self._markets.get(market)
        if found is None:
            found = self._markets[market] = MarketTriggers()
        found.ids[trigger_id] = None
        account.triggers[trigger_id] = trigger_key(market, trigger_id)
        _count(self._families, account.master, 1)
        if row.flags & REDUCE_ONLY:
            _count(self.reducing.setdefault(account.number, {}), market, 1)
        if row.client_id:
            account.clients[row.client_id] = trigger_id
        if row.expires_ms:
            self._expiring.add((row.expires_ms, trigger_id, market))

    # -- one trigger

    def row(self, market: int, trigger_id: int) -> TriggerLeaf:
        """The row of a trigger that must be there."""
        found = self._state.triggers.get(trigger_key(market, trigger_id))
        if found is None:
            raise SafetyViolation(f"there is no trigger {trigger_id} in market {market}")
        return found

    def has(self, market: int, trigger_id: int) -> bool:
        """Whether a trigger waits."""
        return trigger_key(market, trigger_id) in self._state.triggers.rows

    def refusal(self, account: Account, market: int, count: int) -> Code:
        """Whether so many more triggers may wait. All accounts of a master share its number: one
        for each account would let one owner fill a market."""
        limits, found = self._state.limits, self._markets.get(market)
        there = 0 if found is None else len(found.ids)
        if (
            self._families.get(account.master, 0) + count > limits.triggers_per_account
            or there + count > limits.triggers_per_market
        ):
            return Code.TOO_MANY_TRIGGERS
        return Code.OK

    def open(
        self,
        account: Account,
        trigger_id: int,
        action: TriggerOrder,
        link: int = 0,
        parent: int = 0,
    ) -> None:
        """Let a trigger wait; with size 0 it is not armed yet."""
        row = TriggerLeaf(
            account.number, action.client_id, action.side, action.kind, action.trigger_ticks,
            action.limit_ticks, action.slippage_ppm, 0, action.flags, action.expires_ms, link,
            parent, 0, 0, False,
        )  # fmt: skip
        self._list(account, action.market, trigger_id, row)
        self._size(action.market, trigger_id, row, action.size_lots)
        self._state.events.append(
            TriggerOpened(
                action.market, trigger_id, account.number, action.client_id, action.side,
                action.kind, action.trigger_ticks, action.limit_ticks, action.slippage_ppm,
                action.size_lots, action.flags, action.expires_ms, link,
            )
        )  # fmt: skip

    def grow(self, market: int, trigger_id: int, lots: int) -> None:
        """Make a trigger larger; the first lots arm it."""
        row = self.row(market, trigger_id)
        self._size(market, trigger_id, row, row.size_lots + lots)
        self._state.events.append(
            TriggerChanged(market, trigger_id, row.account, row.size_lots + lots, 0)
        )

    def _size(self, market: int, trigger_id: int, row: TriggerLeaf, lots: int) -> None:
        index, after = self._markets[market], msgspec.structs.replace(row, size_lots=lots)
        if lots and not row.size_lots:
            if row.kind == TRAILING:
                after = msgspec.structs.replace(
                    after,
                    armed=index.next_place(row.side),
                    best_ticks=self._state.markets[market].mark_ticks,
                )
            index.add(trigger_id, after)
        self._put(market, trigger_id, after)

    def orphan(self, market: int, trigger_id: int) -> None:
        """The trigger's parent is gone."""
        row = self.row(market, trigger_id)
        self._put(market, trigger_id, msgspec.structs.replace(row, parent=0))

    def drop(self, account: Account, market: int, trigger_id: int, reason: int) -> TriggerLeaf:
        """Take a trigger out with its event; returns what it was."""
        row = self.row(market, trigger_id)
        index = self._markets[market]
        self._state.triggers.drop(trigger_key(market, trigger_id))
        del index.ids[trigger_id]
        del account.triggers[trigger_id]
        _count(self._families, account.master, -1)
        if row.flags & REDUCE_ONLY:
            _count(self.reducing[account.number], market, -1)
            if not self.reducing[account.number]:
                del self.reducing[account.number]
        if row.client_id:
            del account.clients[row.client_id]
        if row.expires_ms:
            self._expiring.remove((row.expires_ms, trigger_id, market))
        if row.size_lots:
            self._record(market, index.remove(trigger_id, row))
        self._state.events.append(TriggerChanged(market, trigger_id, account.number, 0, reason))
        return row

    def _put(self, market: int, trigger_id: int, row: TriggerLeaf) -> None:
        self._state.triggers.put(trigger_key(market, trigger_id), row)

    def _record(self, market: int, heirs: Iterable[Heir]) -> None:
        """Write the best marks that these trailing stops stand for from now on."""
        for trigger_id, best_ticks in heirs:
            row = self.row(market, trigger_id)
            self._put(market, trigger_id, msgspec.structs.replace(row, best_ticks=best_ticks))

    # -- all of a market

    def ids(self, market: int) -> list[int]:
        """The triggers of a market, oldest first."""
        found = self._markets.get(market)
        return [] if found is None else list(found.ids)

    def waits(self, market: int) -> bool:
        """Whether there are triggers in a market."""
        found = self._markets.get(market)
        return found is not None and bool(found.ids)

    def first_expiry(self) -> tuple[int, int, int] | None:
        """(expires_ms, id, market) of the trigger that expires first."""
        return self._expiring[0] if self._expiring else None

    # -- the mark

    def follow_marks(self) -> None:
        """Look at every mark that moved: trailing stops follow it, and what it touches is due,
        whatever the mark does from then on."""
        for number in sorted(self._markets):
            found = self._markets[number]
            if not found.ids:
                continue
            market = self._state.markets[number]
            mark_ticks = market.mark_ticks
            if mark_ticks != found.followed_ticks:
                self._record(number, found.follow(mark_ticks))
            if fires(market) and mark_ticks != found.touched_ticks:
                ids, heirs = found.touch(mark_ticks)
                self._record(number, heirs)
                for trigger_id in ids:
                    row = self.row(number, trigger_id)
                    self._put(number, trigger_id, msgspec.structs.replace(row, due=True))

    def any_due(self) -> bool:
        """Whether a trigger is due in a market in which triggers fire now."""
        markets = self._state.markets
        return any(one.due and fires(markets[number]) for number, one in self._markets.items())

    def first_due(self) -> tuple[int, int]:
        """(market, id) of the first trigger that is due and may fire, by market and placement;
        there is one."""
        markets = self._state.markets
        return min(
            (number, one.due[0])
            for number, one in self._markets.items()
            if one.due and fires(markets[number])
        )

    def best_ticks(self, market: int, trigger_id: int) -> int:
        """The best mark since a trailing stop was armed; 0: it is not armed, or due."""
        row = self.row(market, trigger_id)
        if row.kind != TRAILING or not row.size_lots or row.due:
            return 0
        return self._markets[market].best_ticks(row)

    def check(self) -> None:
        """Raise `SafetyViolation` unless rows, accounts and indexes agree."""
        rows: dict[int, dict[int, TriggerLeaf]] = {market: {} for market in self._markets}
        listed = expiring = 0
        for key, row in sorted(self._state.triggers.rows.items()):
            market, trigger_id = parse_trigger_key(key)
            rows[market][trigger_id] = row
            account = self._state.accounts[row.account]
            if account.triggers.get(trigger_id) != key:
                raise SafetyViolation(f"account {row.account} does not know trigger {trigger_id}")
            if row.client_id and account.clients.get(row.client_id) != trigger_id:
                raise SafetyViolation(f"trigger {trigger_id} lost its client id")
            if row.expires_ms:
                expiring += (row.expires_ms, trigger_id, market) in self._expiring
                listed += 1
        if listed != expiring or listed != len(self._expiring):
            raise SafetyViolation("the triggers that expire are not those of the state")
        families: dict[int, int] = {}
        reducing: dict[int, dict[int, int]] = {}
        for account in self._state.accounts.values():
            for key in account.triggers.values():
                _count(families, account.master, 1)
                if self._state.triggers.rows[key].flags & REDUCE_ONLY:
                    markets = reducing.setdefault(account.number, {})
                    _count(markets, parse_trigger_key(key)[0], 1)
        if sum(families.values()) != len(self._state.triggers.rows):
            raise SafetyViolation("an account has a trigger that the state does not hold")
        if (families, reducing) != (self._families, self.reducing):
            raise SafetyViolation("the triggers of an account were not counted")
        for market, found in self._markets.items():
            found.check(rows[market])


def fires(market: Market) -> bool:
    """Whether triggers of a market fire now: its prices are fresh, and it takes their orders."""
    return not market.stale and market.mode in (OPEN, REDUCE_ONLY_MODE)


def _count(numbers: dict[int, int], key: int, more: int) -> None:
    """Count up or down; what is 0 is not there."""
    number = numbers.get(key, 0) + more
    if number:
        numbers[key] = number
    else:
        del numbers[key]


def _armed(item: tuple[int, int, TriggerLeaf]) -> tuple[int, int, int]:
    market, trigger_id, row = item
    return market, row.armed, trigger_id
