"""Selling positions of accounts below maintenance in the book, at the zero price or better."""

from __future__ import annotations

from execution import leaves as lv
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
        "_account", "_e", "_fills_left", "_items", "_market", "_mm", "_rank", "_receipts", "_side",
        "_state", "_tv", "_zero",
    )  # fmt: skip

    def __init__(
        self,
        state: State,
        receipts: Receipts,
        account: Account,
        e: Exposure,
        rank: int,
        items: Items,
    ) -> None:
        self._state = state
        self._receipts = receipts
        self._account = account
        self._e = e
        self._market: Market = state.markets[e.market]
        self._side = SELL if e.size_lots > 0 else BUY
        self._rank = rank
        self._items = items
        self._fills_left = state.fills_left
        self._tv = self._mm = self._zero = 0

    @property
    def spent(self) -> int:
        """Fills and removed orders so far."""
        return self._fills_left - self._state.fills_left

    def limit_ticks(self) -> int:
        """No fill of the position can be worse than this: what TV/MM = 1 would allow for the lot
        with the most margin, and a tick for its rounding."""
        _, mm = self._state.risk.liquidation(self._account)
        market = self._market
        zero = self._zero_of(1, mm, mm) + (-1 if self._side == SELL else 1)
        return min(max(zero, 1), market.price_limit - 1)

    def allowed_lots(self, price_ticks: int, lots: int) -> int:
        """The most that may fill at this price; 0: the order is done."""
        if self._items.left < self.spent:
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
        market, size = self._market, self._e.size_lots
        after = size - lots if size > 0 else size + lots
        risk = self._state.risk
        released = risk.maintenance_of_uusd(market, size) - risk.maintenance_of_uusd(market, after)
        tick_uusd = market.product.notional_uusd(lots, 1)
        return zero_ticks(self._side, market.mark_ticks, tv, mm, mm - released, tick_uusd)

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
        only after the wait that begins when some of that part was sold."""
        state, rules = self._state, self._state.chain.genesis.liquidation
        key = lv.distress_key(account.number)
        row = state.distressed.get(key)
        began_ms = 0 if row is None else row.partial_ms
        waits = began_ms and state.time_ms < began_ms + rules.partial_wait_ms
        large_uusd = rules.partial_notional_uusd
        if waits:
            # What is left of a large position once its first part is sold is large still.
            large_uusd -= first_part_lots(large_uusd, rules.partial_ppm)
        sold = False
        for e in self._moves.positions(account):
            market = state.markets[e.market]
            if items.over or stage(*state.risk.liquidation(account)) == SAFE:
                break
            if not in_book(market):
                continue
            lots = abs(e.size_lots)
            large = market.product.notional_uusd(lots, market.mark_ticks) > large_uusd
            if gently and large:
                if waits:
                    continue
                if not began_ms:
                    lots = first_part_lots(lots, rules.partial_ppm)
            filled = self._close(account, e, market, lots, rank, items)
            sold = sold or (gently and large and filled > 0)
        if sold and not began_ms and row is not None:
            state.distressed.put(key, lv.DistressLeaf(row.since_ms, state.time_ms))

    def _close(
        self, account: Account, e: Exposure, market: Market, lots: int, rank: int, items: Items
    ) -> int:
        policy = ZeroPrice(self._state, self._receipts, account, e, rank, items)
        side = SELL if e.size_lots > 0 else BUY
        filled = self._trading.close_out(account, market, side, policy.limit_ticks(), lots, policy)
        items.spend(policy.spent)
        return filled
