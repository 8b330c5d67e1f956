"""Selling positions of accounts below maintenance in the book, at the zero price or better."""

from __future__ import annotations

from execution import leaves as lv
from execution.crossing import Crossing
from execution.liquidation_moves import Items, Moves, in_book
from execution.receipts import Receipts
from execution.state import State
from execution.trading import Trading
from margin.account import Account, Exposure
from margin.liquidation import (
    SAFE,
    better_than,
    fee_uusd,
    first_part_lots,
    largest,
    stage,
    zero_ticks,
)
from margin.market import Market
from protocol.actions import BUY, SELL
from protocol.events import LIQUIDATION_ORDER


class ZeroPrice:
    """Lets an order fill while its account is below maintenance and the price is no worse than the
    zero price of that fill; implements `execution.crossing.ClosePolicy`."""

    __slots__ = (
        "_account", "_crossing", "_e", "_items", "_market", "_mm", "_rank", "_receipts", "_side",
        "_state", "_steps_before", "_tv", "_zero",
    )  # fmt: skip

    def __init__(
        self,
        state: State,
        crossing: Crossing,
        receipts: Receipts,
        account: Account,
        e: Exposure,
        rank: int,
        items: Items,
    ) -> None:
        self._state = state
        self._crossing = crossing
        self._receipts = receipts
        self._account = account
        self._e = e
        self._market: Market = state.markets[e.market]
        self._side = SELL if e.size_lots > 0 else BUY
        self._rank = rank
        self._items = items
        self._steps_before = self._steps()
        self._tv = self._mm = self._zero = 0

    def _steps(self) -> int:
        return -self._state.fills_left - self._crossing.own_removed

    @property
    def spent(self) -> int:
        """Fills and removed orders so far, without those of the account's owner."""
        return self._steps() - self._steps_before

    def allowed_lots(self, price_ticks: int, lots: int) -> int:
        """The most that may fill at this price; 0: the order is done."""
        if self._items.free < self.spent:
            return 0
        tv, mm = self._state.risk.liquidation(self._account)
        if tv <= 0 or stage(tv, mm) == SAFE:
            return 0
        side = self._side

        def accepted(part: int) -> bool:
            return better_than(side, price_ticks, self._zero_of(part, tv, mm)) >= 0

        allowed = largest(lots, accepted)
        if allowed:
            self._tv, self._mm, self._zero = tv, mm, self._zero_of(allowed, tv, mm)
        return allowed

    def _zero_of(self, lots: int, tv: int, mm: int) -> int:
        """Zero price of closing a part of the position."""
        return _zero_ticks(self._state, self._e, self._market, lots, tv, mm)

    def fee_uusd(self, price_ticks: int, lots: int) -> int:
        """The improvement over the zero price, up to the market's cap."""
        product = self._market.product
        better = better_than(self._side, price_ticks, self._zero)
        return fee_uusd(
            product.notional_uusd(lots, price_ticks),
            product.notional_uusd(lots, 1) * better,
            self._market.config.liquidation_fee_ppm,
        )

    def filled(self, price_ticks: int, lots: int, fee_uusd: int) -> None:
        """Write the fill's receipt."""
        market, number = self._market, self._account.number
        sign = -1 if self._side == SELL else 1
        self._receipts.add(
            LIQUIDATION_ORDER, number, number, market.number, sign * lots, market.mark_ticks,
            self._zero, -sign * market.product.notional_uusd(lots, price_ticks), self._tv,
            self._mm, self._rank, fee_uusd, 0,
        )  # fmt: skip


def loosest_ticks(state: State, e: Exposure, market: Market, mm_uusd: int) -> int:
    """No fill of a position can be worse than this: what TV/MM = 1 would allow for the lot with the
    most margin, and a tick for its rounding."""
    zero = _zero_ticks(state, e, market, 1, mm_uusd, mm_uusd) + (-1 if e.size_lots > 0 else 1)
    return min(max(zero, 1), market.price_limit - 1)


def _zero_ticks(state: State, e: Exposure, market: Market, lots: int, tv: int, mm: int) -> int:
    """Zero price of closing a part of a position, of an account with this TV and MM."""
    risk, size = state.risk, e.size_lots
    side, after = (SELL, size - lots) if size > 0 else (BUY, size + lots)
    released = risk.maintenance_of_uusd(market, size) - risk.maintenance_of_uusd(market, after)
    tick_uusd = market.product.notional_uusd(lots, 1)
    return zero_ticks(side, market.mark_ticks, tv, mm, mm - released, tick_uusd)


class Seller:
    """Enters the orders of accounts below maintenance."""

    __slots__ = ("_moves", "_receipts", "_state", "_trading")

    def __init__(self, state: State, trading: Trading, receipts: Receipts, moves: Moves) -> None:
        self._state = state
        self._trading = trading
        self._receipts = receipts
        self._moves = moves

    def sell(self, account: Account, rank: int, items: Items, gently: bool) -> None:
        """Sell until the account is safe. `gently`: of a large position a part first, and the rest
        only after the wait that begins when all of that part was sold.

        Orders of the same owner that are met and taken out are charged at the end: whoever puts up
        new ones in each block must not keep the account from being sold by that.
        """
        state, crossing = self._state, self._trading.crossing
        own_removed = crossing.own_removed
        for e in self._moves.positions(account):
            if items.over or stage(*state.risk.liquidation(account)) == SAFE:
                break
            market = state.markets[e.market]
            if in_book(market):
                if gently:
                    self._sell_gently(account, e, market, rank, items)
                else:
                    self._close(account, e, market, abs(e.size_lots), rank, items)
        items.spend(crossing.own_removed - own_removed)

    def meets_orders(self, account: Account, mm_uusd: int) -> bool:
        """Whether an order opposite to one of its positions is in reach of some zero price, at this
        maintenance margin."""
        state = self._state
        for number, e in account.exposures.items():
            market = state.markets[number]
            if not e.size_lots or not in_book(market):
                continue
            side = SELL if e.size_lots > 0 else BUY
            if not market.book.best_ticks(BUY if side == SELL else SELL):
                continue
            limit = loosest_ticks(state, e, market, mm_uusd)
            if market.book.crosses(side, limit):
                return True
        return False

    def _sell_gently(
        self, account: Account, e: Exposure, market: Market, rank: int, items: Items
    ) -> None:
        """Sell a position, or what is due of a large one, and write down what is left of its first
        part."""
        state, rules = self._state, self._state.chain.genesis.liquidation
        key = lv.distress_key(account.number)
        row = state.distressed.rows[key]
        part = next((part for part in row.parts if part[0] == market.number), None)
        lots, large_uusd = abs(e.size_lots), rules.partial_notional_uusd
        if part is not None:
            # What is left of a large position once its first part is sold is large still.
            large_uusd -= first_part_lots(large_uusd, rules.partial_ppm)
        if market.product.notional_uusd(lots, market.mark_ticks) <= large_uusd:
            self._close(account, e, market, lots, rank, items)
            return
        due = first_part_lots(lots, rules.partial_ppm)
        if part is not None:
            _, due, sold_ms = part
            if not due:
                if state.time_ms >= sold_ms + rules.partial_wait_ms:
                    self._close(account, e, market, lots, rank, items)
                return
        filled = self._close(account, e, market, min(due, lots), rank, items)
        if filled:
            left = due - filled
            others = [part for part in row.parts if part[0] != market.number]
            parts = sorted([*others, (market.number, left, 0 if left else state.time_ms)])
            state.distressed.put(key, lv.DistressLeaf(row.since_ms, parts))

    def _close(
        self, account: Account, e: Exposure, market: Market, lots: int, rank: int, items: Items
    ) -> int:
        state, trading = self._state, self._trading
        side = SELL if e.size_lots > 0 else BUY
        _, mm = state.risk.liquidation(account)
        limit = loosest_ticks(state, e, market, mm)
        policy = ZeroPrice(state, trading.crossing, self._receipts, account, e, rank, items)
        filled = trading.close_out(account, market, side, limit, lots, policy)
        items.spend(policy.spent)
        return filled
