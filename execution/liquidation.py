"""Phase 4 of a block: accounts below maintenance, the most urgent and the longest waiting first."""

from __future__ import annotations

from itertools import chain, islice

from sortedcontainers import SortedList

from execution import leaves as lv
from execution.backstop import Backstop
from execution.deleveraging import Deleveraging, Opposites
from execution.liquidation_moves import Items, Moves
from execution.liquidation_orders import Seller
from execution.realised import Realised
from execution.receipts import Receipts
from execution.state import State
from execution.trading import Trading
from margin.account import Account
from margin.liquidation import BACKSTOP, DELEVERAGED, ORDERS, SAFE, stage
from margin.sweep import Below, Sweep
from protocol.actions import ALL_MARKETS, HALTED
from protocol.events import REASON_LIQUIDATION, LiquidationBegun, LiquidationEnded

LONGEST_SHARE = 4
"""One part in so many of the budget goes to those waiting longest, before all others."""

NOTED_SHARE, LEAST_NOTED = 8, 16
"""Of accounts that only rose or fell, a block writes down one part in so many of the budget, and so
many at least."""


class Liquidations:
    """Finds accounts below maintenance and brings them back above it, or closes them.

    The budget counts accounts, cancels, fills and moves. A part of it goes to those waiting
    longest, in turn: where a block ends is kept in the state, and the next one goes on behind it,
    so that everybody has a turn however large others are. The rest goes by MM - TV, then number,
    also to whoever had a turn that was cut short.

    However many accounts fall or rise at once, a block concerns no more than the budget allows: of
    those who have no turn the most urgent are written down as waiting, and of those who rose, those
    who waited longest are struck off; the others follow in the next blocks.
    """

    __slots__ = (
        "_deleveraging", "_seller", "_since", "_state", "_sweep", "_trading", "_waiting",
        "backstop", "looked_at",
    )  # fmt: skip

    def __init__(
        self, state: State, trading: Trading, realised: Realised, receipts: Receipts
    ) -> None:
        self._state = state
        self._trading = trading
        moves = Moves(state, trading)
        opposites = Opposites(state, realised, moves)
        self._deleveraging = Deleveraging(state, trading, receipts, moves, opposites)
        self.backstop = Backstop(state, trading, receipts, moves)
        self._seller = Seller(state, trading, receipts, moves)
        self._sweep = Sweep(state.risk, state.accounts)
        self._since = {
            lv.parse_account_key(key): row.since_ms for key, row in state.distressed.rows.items()
        }
        """Accounts below maintenance, and since when."""
        self._waiting: SortedList[tuple[int, int]] = SortedList(
            (since_ms, number) for number, since_ms in self._since.items()
        )
        self.looked_at: list[int] = []
        """The accounts on whose number or place the last block's choices rested."""
        state.touched.clear()

    def run(self) -> None:
        """Phase 4, at the marks of the block."""
        state = self._state
        changed = state.touched
        changed.update((account.number, None) for account in state.dirty_accounts)
        changed.update((exposure.account, None) for exposure in state.dirty_exposures)
        self._sweep.update(changed)
        self._deleveraging.opposites.begin(changed)
        changed.clear()
        below = self._sweep.below()
        items = Items(state.limits.liquidation_items_per_block)
        self.looked_at = self._first_risen(below)
        for number in self.looked_at:
            self._end(state.accounts[number])
        self._check_backstop(items)
        if below:
            self._handle_all(dict(below), items)
        elif state.turns.rows:
            state.turns.drop(lv.TURN_KEY)

    @property
    def _most_noted(self) -> int:
        share = self._state.limits.liquidation_items_per_block // NOTED_SHARE
        return max(share, LEAST_NOTED)

    def _first_risen(self, below: dict[int, Below]) -> list[int]:
        """Of those who have risen above maintenance, as many as a block strikes off, those waiting
        longest first."""
        risen = (number for _, number in self._waiting if number not in below)
        return list(islice(risen, self._most_noted))

    def _begin(self, number: int, below: Below) -> None:
        """Write down who has fallen below maintenance."""
        state = self._state
        self._since[number] = state.time_ms
        self._waiting.add((state.time_ms, number))
        state.distressed.put(lv.distress_key(number), lv.DistressLeaf(state.time_ms, []))
        state.events.append(LiquidationBegun(number, *below, len(self._waiting)))

    def _end(self, account: Account) -> None:
        number = account.number
        self._waiting.remove((self._since.pop(number), number))
        self._state.distressed.drop(lv.distress_key(number))
        tv, mm = self._state.risk.liquidation(account)
        self._state.events.append(LiquidationEnded(number, tv, mm))

    def _check_backstop(self, items: Items) -> None:
        """The backstop has no backstop: below maintenance it is deleveraged itself."""
        backstop = self._state.backstop
        if not any(e.size_lots for e in backstop.exposures.values()):
            return
        self._trading.touch(backstop)
        reached = stage(*self._state.risk.liquidation(backstop))
        if reached == DELEVERAGED:
            self._deleveraging.close(backstop, 0, items)
        elif reached != SAFE:
            self._deleveraging.reduce(backstop, items)

    def _handle_all(self, below: dict[int, Below], items: Items) -> None:
        """Spend the budget."""
        state = self._state
        order = sorted(below, key=lambda number: (below[number].excess_uusd, number))
        ranks = {number: rank for rank, number in enumerate(order)}
        lowest = self._most_noted
        handled: set[int] = set()
        fallen = list(islice((one for one in order if one not in self._since), lowest))
        for number in sorted(fallen):
            self._begin(number, below[number])
        self.looked_at += [*fallen, *order[:lowest]]
        turn = state.turns.get(lv.TURN_KEY)
        last = None
        items.kept_back = items.left - max(items.left // LONGEST_SHARE, 1)
        for since_ms, number in self._in_turn(turn, items.free):
            if items.free <= 0:
                break
            last = (since_ms, number)
            self.looked_at.append(number)
            self._handle(state.accounts[number], min(ranks.get(number, lowest), lowest), items)
            if not items.over or number not in self._since:
                handled.add(number)
        items.kept_back = 0
        for number in order:
            self.looked_at.append(number)
            if items.free <= 0:
                break
            if number not in handled:
                handled.add(number)
                if number not in self._since:
                    self._begin(number, below[number])
                self._handle(state.accounts[number], ranks[number], items)
        self._end_relieved(below)
        if handled.issuperset(order):
            state.turns.drop(lv.TURN_KEY)
        elif last is not None:
            state.turns.put(lv.TURN_KEY, lv.TurnLeaf(*last))

    def _end_relieved(self, below: dict[int, Below]) -> None:
        """What was done to others can lift an account, too: as a maker or a counterparty."""
        state = self._state
        accounts, changed = state.accounts, state.dirty_accounts
        waiting = [number for number in below if number in self._since]
        for number in sorted(number for number in waiting if accounts[number] in changed):
            if stage(*state.risk.liquidation(accounts[number])) == SAFE:
                self._end(accounts[number])

    def _in_turn(self, turn: lv.TurnLeaf | None, count: int) -> list[tuple[int, int]]:
        """The next accounts by waiting time, from behind the last one's turn and round."""
        waiting = self._waiting
        first = 0 if turn is None else waiting.bisect_right((turn.since_ms, turn.account))
        return list(islice(chain(waiting[first:], waiting[:first]), count))

    def _handle(self, account: Account, rank: int, items: Items) -> None:
        """One account's turn."""
        items.spend()
        if self._is_stuck(account):
            return
        self._trading.touch(account)
        risk = self._state.risk
        reached = stage(*risk.liquidation(account))
        if reached != SAFE and self._cancel(account, items) and not items.over:
            if reached == ORDERS:
                self._seller.sell(account, rank, items, gently=True)
            elif reached == BACKSTOP:
                self.backstop.take(account, rank, items)
                if self._seller.meets_orders(account, risk.liquidation(account)[1]):
                    self._seller.sell(account, rank, items, gently=False)
            elif reached == DELEVERAGED:
                # In two parts its counterparties would carry less: nothing is kept back from it.
                kept_back, items.kept_back = items.kept_back, min(items.kept_back, 0)
                self._deleveraging.close(account, rank, items)
                items.kept_back = kept_back
        if stage(*risk.liquidation(account)) == SAFE:
            self._end(account)

    def _is_stuck(self, account: Account) -> bool:
        """Whether nothing can be done: no order is left to cancel, none opposite is in reach, and
        the backstop is full. Many wait like this, so it is asked before any other work."""
        if account.orders or account.triggers or account.twaps:
            return False
        tv, mm = self._state.risk.liquidation(account)
        reached = stage(tv, mm)
        if reached in (SAFE, DELEVERAGED) or self._seller.meets_orders(account, mm):
            return False
        return reached == ORDERS or not self.backstop.has_room(account)

    def _cancel(self, account: Account, items: Items) -> bool:
        """Take out what rests and waits, oldest first, as far as the budget goes; orders in halted
        markets stay where they are. Returns whether all is out."""
        markets = self._state.markets
        for order_id in sorted(account.orders):
            order = account.orders.get(order_id)
            if order is None or markets[order.market].mode == HALTED:
                continue
            if items.over:
                return False
            self._trading.take_out(account, order, REASON_LIQUIDATION)
            items.spend()
        waiting = len(account.triggers) + len(account.twaps)
        if waiting and self._trading.waiting is not None:
            if items.over:
                return False
            self._trading.waiting.cancel_all(account, ALL_MARKETS, REASON_LIQUIDATION)
            items.spend(waiting - len(account.triggers) - len(account.twaps))
        return True
