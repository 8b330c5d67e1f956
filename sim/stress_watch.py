"""Who is below maintenance, at the true price and at the mark, and for how long.

Every account has one price at which it falls below maintenance, so two sorted lists and two prices
tell it for all of them. An *episode* of an account lasts from the moment it is below at either
price until it is below at neither:

    true price below -> price that moves the mark below is sent -> first liquidation order -> safe
               oracle delay                                  queue                    liquidity

The queue is admission, ordering, execution, and the budget of the liquidation phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sortedcontainers import SortedList

from margin.linear import Product
from sim.stress_population import liquidation_ticks

_LAST = 1 << 62


class Holding(NamedTuple):
    """A position, and the first price at which it is below maintenance (0: none)."""

    size_lots: int
    trigger_ticks: int

    def below(self, ticks: int) -> bool:
        """Whether it is below maintenance at a price."""
        if not self.trigger_ticks:
            return False
        return ticks <= self.trigger_ticks if self.size_lots > 0 else ticks >= self.trigger_ticks


class Holdings:
    """All open positions, by the price at which they fall below maintenance."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.open: dict[int, Holding] = {}
        self._longs: SortedList[tuple[int, int]] = SortedList()
        self._shorts: SortedList[tuple[int, int]] = SortedList()

    def put(self, account: int, size_lots: int, cash_uusd: int) -> None:
        """An account's position or cash changed."""
        before = self.open.pop(account, None)
        if before is not None and before.trigger_ticks:
            self._side(before).remove((before.trigger_ticks, account))
        if not size_lots:
            return
        trigger = liquidation_ticks(self._product, size_lots, cash_uusd)
        if not trigger and self._product.value_uusd(size_lots, 1) + cash_uusd < 0:
            # No price covers it: far below zero. It is below at all of them.
            trigger = _LAST if size_lots > 0 else 1
        after = self.open[account] = Holding(size_lots, trigger)
        if trigger:
            self._side(after).add((trigger, account))

    def _side(self, holding: Holding) -> SortedList[tuple[int, int]]:
        return self._longs if holding.size_lots > 0 else self._shorts

    def crossed(self, before: int, after: int) -> Iterator[int]:
        """Accounts whose state differs between the two prices."""
        low, high = min(before, after), max(before, after)
        # A long is below at its trigger and under it, a short at its trigger and over it.
        yield from (a for _, a in list(self._longs.irange((low, -1), (high, -1))))
        yield from (a for _, a in list(self._shorts.irange((low, _LAST), (high, _LAST))))


class Episode:
    """An account that is or was below maintenance. Times are milliseconds; 0: has not happened."""

    __slots__ = ("account", "first_ms", "mark_ms", "safe_ms", "sent_ms", "true_ms", "wrongful")

    def __init__(self, account: int) -> None:
        self.account = account
        self.true_ms = 0
        """When the true price went below."""
        self.sent_ms = 0
        """When the price that moved the mark below was sent."""
        self.mark_ms = 0
        """When the block with that mark was executed."""
        self.first_ms = 0
        """When the block with the first liquidation order was executed."""
        self.wrongful = False
        """Whether the true price was not below at that time."""
        self.safe_ms = 0


class Watch:
    """Follows both prices and all positions; keeps the open episodes."""

    def __init__(self, holdings: Holdings, ticks: int) -> None:
        self.holdings = holdings
        self.true_ticks = self.mark_ticks = ticks
        self.below_true: dict[int, None] = {}
        self.below_mark: dict[int, None] = {}
        self.episodes: dict[int, Episode] = {}
        self.ever_true: dict[int, None] = {}
        """Accounts that were below at the true price at any time."""
        self.closed: list[Episode] = []
        for account in holdings.open:
            self._look(account, 0, 0)

    # -- news

    def move_true(self, ticks: int, now_ms: int) -> None:
        """The true price is this."""
        before, self.true_ticks = self.true_ticks, ticks
        for account in self.holdings.crossed(before, ticks):
            self._look(account, now_ms, 0)

    def move_mark(self, ticks: int, now_ms: int, sent_ms: int) -> None:
        """A block executed now has this mark, of a price that was sent then."""
        before, self.mark_ticks = self.mark_ticks, ticks
        for account in self.holdings.crossed(before, ticks):
            self._look(account, now_ms, sent_ms)

    def put(self, account: int, size_lots: int, cash_uusd: int, now_ms: int, sent_ms: int) -> None:
        """An account's position or cash is this."""
        self.holdings.put(account, size_lots, cash_uusd)
        self._look(account, now_ms, sent_ms)

    def order(self, account: int, now_ms: int) -> bool:
        """A liquidation order for an account was executed; returns whether it is the first of an
        episode."""
        episode = self.episodes.get(account)
        if episode is None:
            # It went below in the block that closed it: nobody saw it there.
            return False
        if episode.first_ms:
            return False
        episode.first_ms = now_ms
        episode.wrongful = account not in self.below_true
        return True

    # -- episodes

    def _look(self, account: int, now_ms: int, sent_ms: int) -> None:
        holding = self.holdings.open.get(account)
        below_true = holding is not None and holding.below(self.true_ticks)
        below_mark = holding is not None and holding.below(self.mark_ticks)
        if below_true:
            self.below_true[account] = self.ever_true[account] = None
        else:
            self.below_true.pop(account, None)
        if below_mark:
            self.below_mark[account] = None
        else:
            self.below_mark.pop(account, None)
        episode = self.episodes.get(account)
        if not (below_true or below_mark):
            if episode is not None:
                del self.episodes[account]
                episode.safe_ms = now_ms
                self.closed.append(episode)
            return
        if episode is None:
            episode = self.episodes[account] = Episode(account)
        if below_true and not episode.true_ms:
            episode.true_ms = now_ms
        if below_mark and not episode.mark_ms:
            episode.mark_ms, episode.sent_ms = now_ms, sent_ms or now_ms

    def backlog_lots(self) -> tuple[int, int, int]:
        """Lots of accounts with an open episode, of those below at the true price, and of those
        below at the mark."""
        held = self.holdings.open
        waiting, below_true, below_mark = (
            sum(abs(held[account].size_lots) for account in accounts)
            for accounts in (self.episodes, self.below_true, self.below_mark)
        )
        return waiting, below_true, below_mark
