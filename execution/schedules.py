"""What happens by the clock: expiries, closed markets, dead-man's switches, TWAP slices."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import chain, islice

from execution.dead_man import DeadMen
from execution.state import State
from execution.trading import Trading
from execution.triggers import Triggers
from execution.twap import Twaps
from margin.account import Account
from matching.book import Resting
from protocol.actions import BUY, SELL, ScheduleCancel, Twap
from protocol.errors import SafetyViolation
from protocol.events import REASON_EXPIRED, REASON_MARKET_CLOSED, Result

SPARE_NOTES = 1_024
"""Notes of orders that are gone are swept out once they outnumber the others by so many."""


class Schedules:
    """Runs what is due by block time, and answers `Trading` for everything that waits.

    An order or trigger expires with the first block later than its `expires_ms`. Expiries and
    closed markets share `expiries_per_block`; what is left over goes in the next block, and never
    trades meanwhile.
    """

    __slots__ = (
        "_dated", "_expiring", "_state", "_sweep_at", "_trading", "_triggers", "left", "switches",
        "twaps",
    )  # fmt: skip

    def __init__(self, state: State, trading: Trading, triggers: Triggers) -> None:
        self._state = state
        self._trading = trading
        self._triggers = triggers
        self.twaps = Twaps(state, trading)
        self.switches = DeadMen(state, trading)
        self._dated = [market for market in state.markets if market.config.expires_ms]
        self._expiring: list[tuple[int, int, Resting]] = []
        """Heap of (expires_ms, id, order) of resting orders, some of them gone."""
        self.left = 0
        """What is left of the block's budget."""
        self._sweep_at = SPARE_NOTES
        for account in state.accounts.values():
            for order in account.orders.values():
                if order.expires_ms:
                    self.note(order)

    def note(self, order: Resting) -> None:
        """An order rests that has an expiry."""
        heappush(self._expiring, (order.expires_ms, order.order_id, order))
        if len(self._expiring) >= self._sweep_at:
            self._expiring = [item for item in self._expiring if item[2].remaining_lots]
            heapify(self._expiring)
            self._sweep_at = 2 * len(self._expiring) + SPARE_NOTES

    # -- actions

    def twap(self, account: Account, action: Twap) -> Result:
        """A new TWAP; see `Twaps`."""
        return self.twaps.twap(account, action)

    def schedule_cancel(self, account: Account, action: ScheduleCancel) -> Result:
        """A dead-man's switch; see `DeadMen`."""
        return self.switches.schedule_cancel(account, action)

    # -- everything that waits

    def cancel(self, account: Account, waiting_id: int, market: int, reason: int) -> bool:
        """Cancel a trigger or TWAP, if the account has it in this market."""
        return self._triggers.cancel(account, waiting_id, market, reason) or self.twaps.cancel(
            account, waiting_id, market, reason
        )

    def cancel_all(self, account: Account, market: int, reason: int) -> None:
        """Cancel an account's triggers and TWAPs in a market (`ALL_MARKETS`: everywhere)."""
        self._triggers.cancel_all(account, market, reason)
        self.twaps.cancel_all(account, market, reason)

    # -- the clock

    def begin(self) -> None:
        """A block begins."""
        self.left = self._state.limits.expiries_per_block

    def run(self) -> None:
        """Closed markets with what `expire` left of the budget, dead-man's switches, TWAP slices,
        in this order."""
        self.close(self.left)
        self.switches.run()
        self.twaps.run()

    def expires(self) -> bool:
        """Whether there is something whose time is over, and a budget for it."""
        return self.left > 0 and self._first_expired() is not None

    def expire(self, most: int) -> None:
        """Orders and triggers whose time is over, by expiry and id, before the block's prices are
        fixed: what nobody can take any more must not move a mark."""
        for _ in range(min(most, self.left)):
            first = self._first_expired()
            if first is None:
                return
            if isinstance(first, Resting):
                heappop(self._expiring)
                self._remove(first, REASON_EXPIRED)
            else:
                self._triggers.expire(*first)
            self.left -= 1

    def _first_expired(self) -> Resting | tuple[int, int] | None:
        """The order, or market and id of the trigger, whose time was over first, if one's is."""
        expiring, now_ms = self._expiring, self._state.time_ms
        while expiring and not expiring[0][2].remaining_lots:
            heappop(expiring)
        order = expiring[0] if expiring else None
        trigger = self._triggers.book.first_expiry()
        if trigger is not None and (order is None or trigger[:2] < order[:2]):
            expires_ms, trigger_id, market = trigger
            return (market, trigger_id) if expires_ms < now_ms else None
        return order[2] if order is not None and order[0] < now_ms else None

    def closes(self) -> bool:
        """Whether an expired market is to be emptied, and there is a budget for it."""
        return self.left > 0 and any(
            market.settled_ticks
            and (
                market.book.orders
                or self._triggers.book.waits(market.number)
                or self.twaps.waits(market.number)
            )
            for market in self._dated
        )

    def close(self, most: int) -> None:
        """Empty expired markets."""
        budget = most = min(most, self.left)
        for market in self._dated:
            if market.settled_ticks and budget:
                budget = self._close(market.number, budget)
        self.left -= most - budget

    def _close(self, market: int, budget: int) -> int:
        """Empty an expired market: orders by their priority, bids first, then what waits."""
        book = self._state.markets[market].book
        orders = list(islice(chain(book.walk(BUY), book.walk(SELL)), budget))
        for order in orders:
            self._remove(order, REASON_MARKET_CLOSED)
        budget = self._triggers.close(market, budget - len(orders))
        return self.twaps.close(market, budget)

    def _remove(self, order: Resting, reason: int) -> None:
        account = self._state.accounts[order.account]
        self._trading.touch(account)
        self._trading.take_out(account, order, reason)

    def check(self) -> None:
        """Raise `SafetyViolation` unless everything that is scheduled is known."""
        noted = {order_id for _, order_id, order in self._expiring if order.remaining_lots}
        for account in self._state.accounts.values():
            for order in account.orders.values():
                if order.expires_ms and order.order_id not in noted:
                    raise SafetyViolation(f"nobody knows that order {order.order_id} expires")
        self.twaps.check()
        self.switches.check()
