"""Orders that wait for the mark: stops, take-profits, trailing stops, OCO pairs and brackets.

A trigger is due from the block whose mark touches it. What is due fires by market and then
placement, at most `triggers_per_block` in a block and while half of the block's fills are left; the
others fire in the blocks after it, whatever the mark does then. Nothing is due or fires in a market
that is stale, halted, cancel-only, post-only or expired; what is due there waits for its opening.

Firing takes the trigger out, then what it is linked with, and enters its order: reduce-only where
the market only reduces. The order has the trigger's client id, flags and expiry.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from execution.leaves import TriggerLeaf, parse_trigger_key
from execution.state import State
from execution.trading import REFUSED, Trading
from execution.trigger_backing import TriggerBacking, nothing_to_reduce
from execution.trigger_book import TriggerBook
from execution.trigger_checks import TriggerChecks, bad_bracket, bad_pair
from margin.account import Account
from margin.market import Market
from matching.book import Resting
from protocol.actions import (
    ALL_MARKETS,
    GTC,
    HALTED,
    REDUCE_ONLY,
    REDUCE_ONLY_MODE,
    Bracket,
    MarketOrder,
    Oco,
    Order,
    TriggerOrder,
)
from protocol.errors import SafetyViolation
from protocol.events import (
    REASON_EXPIRED,
    REASON_FIRED,
    REASON_LINKED,
    REASON_MARKET_CLOSED,
    REASON_UNBACKED,
    WAITING,
    Result,
    TriggerFired,
)


class Triggers:
    """Executes trigger orders, OCO pairs and brackets, and fires what is due.

    Results of what waits: status `WAITING`, the id and size of the trigger, of the first leg, or of
    the bracket's parent; the ids of the others follow it.
    """

    __slots__ = ("_backing", "_checks", "_deferred", "_state", "_trading", "book", "left")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading
        self._checks = TriggerChecks(state, trading.checks)
        self._backing = TriggerBacking(state)
        self.left: dict[int, None] = {}
        """Accounts that cash or a position left in this block, other than by trading."""
        self._deferred: dict[tuple[int, int], None] | None = None
        """Accounts and markets where blocks before this one may have left reduce-only triggers
        nothing to reduce; None: not known."""
        self.book = TriggerBook(state)

    # -- actions

    def trigger_order(self, account: Account, action: TriggerOrder) -> Result:
        """A trigger of its own."""
        code = self._checks.trigger(account, action) or self.book.refusal(account, action.market, 1)
        code = code or self._backing.refusal(account, action)
        if code:
            return REFUSED[code]
        trigger_id = self._trading.next_id()
        self.book.open(account, trigger_id, action)
        return Result(0, WAITING, trigger_id, 0, action.size_lots)

    def oco(self, account: Account, action: Oco) -> Result:
        """Two orders of one market and side, of which one takes the other out.

        A first order that fills at once leaves no second one behind.
        """
        first, second = action.first, action.second
        code = bad_pair(first, second) or self._checks.trigger(account, second)
        if isinstance(first, Order):
            code = code or self._checks.order(account, first)
            code = code or self.book.refusal(account, first.market, 1)
        else:
            code = code or self._checks.trigger(account, first)
            code = code or self.book.refusal(account, first.market, 2)
        code = code or self._backing.refusal(account, first, second)
        if code:
            return REFUSED[code]
        if isinstance(first, Order):
            return self._order_and_trigger(account, first, second)
        ids = self._trading.next_id(), self._trading.next_id()
        self.book.open(account, ids[0], first, ids[1])
        self.book.open(account, ids[1], second, ids[0])
        return Result(0, WAITING, ids[0], 0, first.size_lots)

    def _order_and_trigger(self, account: Account, first: Order, second: TriggerOrder) -> Result:
        result = self._trading.order(account, first, self._state.next_order_id + 1)
        if result.code:
            return result
        trigger_id = self._trading.next_id()
        order = account.orders.get(result.order_id)
        if order is not None and result.filled_lots:
            self._unlink(order)
        elif order is not None:
            self.book.open(account, trigger_id, second, order.order_id)
        return result

    def bracket(self, account: Account, action: Bracket) -> Result:
        """An order with its exits. The exits wait with what the order has filled; they need not
        suit the mark before there is a position to close."""
        parent, exits = action.parent, (action.take_profit, action.stop)
        code = bad_bracket(action)
        for leg in exits:
            code = code or self._checks.trigger(account, _exit(leg, parent.size_lots), leaves=True)
        code = code or self.book.refusal(account, parent.market, len(exits))
        if code:
            return REFUSED[code]
        result = self._trading.order(account, parent, self._state.next_order_id + 1)
        if result.code:
            return result
        order = account.orders.get(result.order_id)
        ids = self._trading.next_id(), self._trading.next_id()
        if order is None and not result.filled_lots:
            return result
        for leg, trigger_id, link in zip(exits, ids, reversed(ids), strict=True):
            parent_id = 0 if order is None else order.order_id
            self.book.open(account, trigger_id, _exit(leg, result.filled_lots), link, parent_id)
        return result

    # -- leaving

    def cancel(self, account: Account, trigger_id: int, market: int, reason: int) -> bool:
        """Cancel a trigger, and what it is linked with, if the account has it in this market."""
        key = account.triggers.get(trigger_id)
        if key is None or parse_trigger_key(key)[0] != market:
            return False
        self._take_out(account, market, trigger_id, reason)
        return True

    def cancel_all(self, account: Account, market: int, reason: int) -> None:
        """Cancel an account's triggers in a market (`ALL_MARKETS`: in all that are not halted),
        oldest first."""
        markets = self._state.markets
        for trigger_id in sorted(account.triggers):
            key = account.triggers.get(trigger_id)
            if key is None:  # it went with one that it was linked with
                continue
            number = parse_trigger_key(key)[0]
            if number == market or (market == ALL_MARKETS and markets[number].mode != HALTED):
                self._take_out(account, number, trigger_id, reason)

    def expire(self, market: int, trigger_id: int) -> None:
        """Take out a trigger whose time is over."""
        account = self._state.accounts[self.book.row(market, trigger_id).account]
        self._trading.touch(account)
        self._take_out(account, market, trigger_id, REASON_EXPIRED)

    def close(self, market: int, budget: int) -> int:
        """Take up to so many triggers of an expired market out; returns what is left of the
        budget."""
        for trigger_id in self.book.ids(market):
            if not budget:
                break
            key = (market, trigger_id)
            if not self.book.has(*key):
                continue
            budget -= 1
            account = self._state.accounts[self.book.row(*key).account]
            self._trading.touch(account)
            self._take_out(account, market, trigger_id, REASON_MARKET_CLOSED)
        return budget

    def _take_out(self, account: Account, market: int, trigger_id: int, reason: int) -> None:
        row = self.book.drop(account, market, trigger_id, reason)
        self._take_linked(account, market, row)
        if row.parent:
            self._unlink(self._parent(account, row))

    def _take_linked(self, account: Account, market: int, row: TriggerLeaf) -> None:
        """Take out what went with a trigger that is gone."""
        if not row.link:
            return
        if row.link in account.triggers:
            self.book.drop(account, market, row.link, REASON_LINKED)
            return
        order = account.orders.get(row.link)
        if order is None:
            raise SafetyViolation(f"a trigger was linked with {row.link}, which is gone")
        order.link = 0
        self._trading.take_out(account, order, REASON_LINKED)

    def _parent(self, account: Account, row: TriggerLeaf) -> Resting:
        order = account.orders.get(row.parent)
        if order is None:
            raise SafetyViolation(f"order {row.parent} of a bracket is gone")
        return order

    def _unlink(self, order: Resting) -> None:
        order.link = 0
        self._state.dirty_orders[order] = None

    # -- what happens to a linked order

    def linked(self, account: Account, order: Resting, filled_lots: int, gone: bool) -> None:
        """A resting order with a link filled so much, or left the book."""
        market, trigger_id = order.market, order.link
        row = self.book.row(market, trigger_id)
        if row.parent == order.order_id:
            self._follow_parent(account, market, (trigger_id, row.link), filled_lots, gone)
        elif filled_lots or gone:
            self._unlink(order)
            self.book.drop(account, market, trigger_id, REASON_LINKED)

    def _follow_parent(
        self, account: Account, market: int, exits: tuple[int, int], filled_lots: int, gone: bool
    ) -> None:
        """Exits grow with their parent; they go with one that never filled."""
        if filled_lots:
            for trigger_id in exits:
                self.book.grow(market, trigger_id, filled_lots)
        if not gone:
            return
        filled = self.book.row(market, exits[0]).size_lots
        for trigger_id in exits:
            if filled:
                self.book.orphan(market, trigger_id)
            else:
                self.book.drop(account, market, trigger_id, REASON_LINKED)

    # -- firing

    def run(self) -> None:
        """Fire what is due, as much as the block allows."""
        self.book.follow_marks()
        budget = self._state.limits.triggers_per_block
        while budget and self.due():
            budget -= 1
            self.run_next()

    def due(self) -> bool:
        """Whether there is a trigger that is due and may fire."""
        limits = self._state.limits
        return self._state.fills_left > limits.fills_per_block // 2 and self.book.any_due()

    def run_next(self) -> None:
        """Fire the first trigger that is due, by market and then placement."""
        market, trigger_id = self.book.first_due()
        self._fire(self._state.markets[market], trigger_id)

    def _fire(self, market: Market, trigger_id: int) -> None:
        state, trading, number = self._state, self._trading, market.number
        row = self.book.row(number, trigger_id)
        account = state.accounts[row.account]
        if row.expires_ms and row.expires_ms < state.time_ms:
            self.expire(number, trigger_id)
            return
        trading.touch(account)
        self.book.drop(account, number, trigger_id, REASON_FIRED)
        self._take_linked(account, number, row)
        if row.parent:  # what it would still fill would have no exit any more
            parent = self._parent(account, row)
            parent.link = 0
            trading.take_out(account, parent, REASON_LINKED)
        flags = row.flags
        if market.mode == REDUCE_ONLY_MODE:
            flags |= REDUCE_ONLY
        if row.limit_ticks:
            limited = Order(
                number, row.side, row.limit_ticks, row.size_lots, GTC, row.client_id, flags,
                row.expires_ms,
            )  # fmt: skip
            result = trading.order(account, limited)
        else:
            taker = MarketOrder(
                number, row.side, row.size_lots, row.slippage_ppm, row.client_id, flags
            )
            result = trading.market_order(account, taker, False)
        state.events.append(
            TriggerFired(number, trigger_id, account.number, market.mark_ticks, result)
        )

    # -- what stands behind them

    def note_left(self, account: Account) -> None:
        """Cash or a position left an account other than by trading."""
        self.left[account.number] = None

    def drop_unbacked(self) -> None:
        """At the end of a block, take out what nothing stands behind any more: of the accounts that
        something left, what their margin does not cover, the newest first; and reduce-only triggers
        where nothing is left that they could reduce, by account and market, the oldest first. Of
        the latter a block looks at `triggers_per_block` accounts, the next one at the others."""
        for number in sorted(self.left):
            self.drop_left(number)
        idle = self._touched_idle()
        accounts = sorted(idle)
        most = self._state.limits.triggers_per_block
        for number in accounts[:most]:
            self._drop_idle(number, idle[number])
        self._deferred = {(one, market): None for one in accounts[most:] for market in idle[one]}

    def drop_left(self, number: int) -> None:
        """Take out what nothing stands behind any more of an account, if something left it."""
        if number not in self.left:
            return
        del self.left[number]
        account = self._state.accounts[number]
        self._trading.touch(account)
        there = [(number, market) for market in self.book.reducing.get(number, ())]
        self._drop_idle(number, self._only_idle(there).get(number, set()))
        while first := self._backing.first_unbacked(account):
            market = parse_trigger_key(account.triggers[first])[0]
            self._take_out(account, market, first, REASON_UNBACKED)

    def idle(self) -> dict[int, set[int]]:
        """All markets by account where reduce-only triggers have nothing to reduce."""
        reducing = self.book.reducing
        return self._only_idle([(one, market) for one in reducing for market in reducing[one]])

    def drop_first_idle(self, most: int) -> None:
        """Take out what has nothing to reduce, of so many accounts."""
        idle = self.idle()
        for number in sorted(idle)[:most]:
            self._drop_idle(number, idle[number])

    def _drop_idle(self, number: int, markets: set[int]) -> None:
        account = self._state.accounts[number]
        self._trading.touch(account)
        for market in sorted(markets):
            self._drop_reducing(account, market)

    def _drop_reducing(self, account: Account, market: int) -> None:
        for trigger_id, key in sorted(account.triggers.items()):
            row = self._state.triggers.get(key)  # a linked one went with another
            if row is not None and row.flags & REDUCE_ONLY and parse_trigger_key(key)[0] == market:
                self._take_out(account, market, trigger_id, REASON_UNBACKED)

    def _touched_idle(self) -> dict[int, set[int]]:
        """`idle`, found among what this block touched and those before it deferred."""
        state, reducing = self._state, self.book.reducing
        if self._deferred is None:
            return self.idle()
        if not reducing:
            return {}
        exposures = [e for e in state.dirty_exposures if e.account in reducing]
        orders = [o for o in state.dirty_orders if o.account in reducing]
        touched = [*self._deferred, *((e.account, e.market) for e in exposures)]
        touched += [(o.account, o.market) for o in orders if not o.remaining_lots]
        return self._only_idle(touched)

    def _only_idle(self, places: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
        """Of accounts and markets those where reduce-only triggers have nothing to reduce: markets
        by account. What is in expired markets goes as `close` comes to it."""
        state, reducing = self._state, self.book.reducing
        found: dict[int, set[int]] = {}
        for number, market in places:
            if (
                market in reducing.get(number, ())
                and nothing_to_reduce(state.accounts[number], market)
                and not state.markets[market].settled_ticks
            ):
                found.setdefault(number, set()).add(market)
        return found

    def check(self) -> None:
        """Raise `SafetyViolation` unless rows, indexes and links agree."""
        self.book.check()
        for key, row in self._state.triggers.rows.items():
            market, trigger_id = parse_trigger_key(key)
            account = self._state.accounts[row.account]
            if row.link in account.triggers:
                back = self.book.row(market, row.link).link
            else:
                order = account.orders.get(row.link)
                back = trigger_id if not row.link else 0 if order is None else order.link
            if back != trigger_id:
                raise SafetyViolation(f"trigger {trigger_id} is linked one way")
            if row.parent and self._parent(account, row).link not in (trigger_id, row.link):
                raise SafetyViolation(f"order {row.parent} does not know its exits")


def _exit(leg: TriggerOrder, lots: int) -> TriggerOrder:
    """An exit of a bracket for what so many lots of the parent opened: it only reduces."""
    return msgspec.structs.replace(leg, size_lots=lots, flags=leg.flags | REDUCE_ONLY)
