"""Orders, cancels and fills: the gate between matching and margin."""

from __future__ import annotations

from execution.state import State
from margin.account import Account, Exposure
from margin.market import Market
from margin.risk import Outcome
from matching.book import Resting
from protocol.actions import (
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    SELL,
    Cancel,
    CancelClient,
    MarketOrder,
    Order,
    Reduce,
)
from protocol.errors import Code, SafetyViolation
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_CANCELLED,
    REASON_MARGIN,
    REASON_REDUCED,
    RESTING,
    Fill,
    OrderChanged,
    OrderOpened,
    Result,
)
from protocol.genesis import CASH_MOVE_LIMIT, NOTIONAL_LIMIT, PPM

MAX_SLIPPAGE_PPM = 500_000
"""Widest slippage bound of a market order."""

REFUSED = {code: Result(code) for code in Code}
"""The result of an action that was refused and did nothing, by code."""


class Trading:
    """Executes order actions, and answers the book's questions about money (`matching.Gate`).

    Results: `filled_lots` is what this action filled, `remaining_lots` what rests after it.
    """

    __slots__ = (
        "_account", "_closing", "_exposure", "_maker", "_maker_exposure", "_maker_out", "_market",
        "_order_id", "_reason", "_side", "_state", "_taker_out",
    )  # fmt: skip

    def __init__(self, state: State) -> None:
        self._state = state
        self._account: Account = state.fees
        self._exposure = Exposure(0, 0)
        self._market: Market = state.markets[0]
        self._side = BUY
        self._order_id = 0
        self._closing = False
        self._reason = REASON_MARGIN
        self._maker: Account = state.fees
        self._maker_exposure = self._exposure
        self._maker_out: Outcome | None = None
        self._taker_out: Outcome | None = None

    # -- actions

    def order(self, account: Account, action: Order) -> Result:
        """A limit order: fills what it may, then rests (GTC, post-only) or is gone (IOC)."""
        state = self._state
        number = action.market
        if not 0 <= number < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        market = state.markets[number]
        side, price, lots, tif = action.side, action.price_ticks, action.size_lots, action.tif
        if side not in (BUY, SELL) or tif not in (GTC, IOC, POST_ONLY):
            return REFUSED[Code.WRONG_TYPE]
        if not 0 < price < market.price_limit:
            return REFUSED[Code.BAD_PRICE]
        if not 0 < lots <= market.max_order_lots or price * lots >= NOTIONAL_LIMIT:
            return REFUSED[Code.BAD_SIZE]
        if market.product.notional_uusd(lots, price) < market.min_notional_uusd:
            return REFUSED[Code.BELOW_MIN_NOTIONAL]
        client_id = action.client_id
        if client_id and client_id in account.clients:
            return REFUSED[Code.DUPLICATE_CLIENT_ID]
        rests = tif != IOC
        if rests and len(account.orders) >= state.limits.orders_per_account:
            return REFUSED[Code.TOO_MANY_ORDERS]
        if market.book.crosses(side, price):
            if tif == POST_ONLY:
                return REFUSED[Code.WOULD_TAKE]
            return self._cross(account, market, side, price, lots, client_id, rests)
        if not rests:
            order_id = state.next_order_id
            state.next_order_id = order_id + 1
            return Result(Code.NO_LIQUIDITY, CANCELLED, order_id)
        exposure = account.exposures.get(number) or account.exposure(number)
        code = state.risk.place(account, exposure, market, side, price, lots)
        if code:
            return REFUSED[code]
        order_id = state.next_order_id
        state.next_order_id = order_id + 1
        self._rest(account, market, order_id, client_id, side, price, lots)
        return Result(0, RESTING, order_id, 0, lots)

    def market_order(self, account: Account, action: MarketOrder) -> Result:
        """Take up to the slippage bound around the mark, rounded towards the mark."""
        state = self._state
        if not 0 <= action.market < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        market = state.markets[action.market]
        side, lots, slippage = action.side, action.size_lots, action.slippage_ppm
        if side not in (BUY, SELL):
            return REFUSED[Code.WRONG_TYPE]
        if not 1 <= slippage <= MAX_SLIPPAGE_PPM:
            return REFUSED[Code.BAD_SLIPPAGE]
        mark = market.mark_ticks
        if side == BUY:
            limit = min(mark * (PPM + slippage) // PPM, market.price_limit - 1)
        else:
            limit = -(-mark * (PPM - slippage) // PPM)
        if not 0 < lots <= market.max_order_lots or max(limit, mark) * lots >= NOTIONAL_LIMIT:
            return REFUSED[Code.BAD_SIZE]
        if market.product.notional_uusd(lots, mark) < market.min_notional_uusd:
            return REFUSED[Code.BELOW_MIN_NOTIONAL]
        if action.client_id and action.client_id in account.clients:
            return REFUSED[Code.DUPLICATE_CLIENT_ID]
        if not market.book.crosses(side, limit):
            order_id = state.next_order_id
            state.next_order_id = order_id + 1
            return Result(Code.NO_LIQUIDITY, CANCELLED, order_id)
        return self._cross(account, market, side, limit, lots, 0, False)

    def cancel(self, account: Account, action: Cancel) -> Result:
        """Cancel by order id."""
        if not 0 <= action.market < len(self._state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        order = account.orders.get(action.order_id)
        if order is None or order.market != action.market:
            return REFUSED[Code.UNKNOWN_ORDER]
        return self._cancel(account, order)

    def cancel_client(self, account: Account, action: CancelClient) -> Result:
        """Cancel by client id."""
        if not 0 <= action.market < len(self._state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        order = account.clients.get(action.client_id)
        if order is None or order.market != action.market:
            return REFUSED[Code.UNKNOWN_ORDER]
        return self._cancel(account, order)

    def reduce(self, account: Account, action: Reduce) -> Result:
        """Shrink a resting order, which keeps its priority; by all that is left or more: cancel."""
        state = self._state
        if not 0 <= action.market < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        if action.by_lots <= 0:
            return REFUSED[Code.BAD_SIZE]
        order = account.orders.get(action.order_id)
        if order is None or order.market != action.market:
            return REFUSED[Code.UNKNOWN_ORDER]
        if action.by_lots >= order.remaining_lots:
            return self._cancel(account, order)
        state.markets[order.market].book.reduce(order, action.by_lots)
        state.risk.release(account, order, action.by_lots)
        state.dirty_orders[order] = None
        state.events.append(
            OrderChanged(
                order.market,
                order.order_id,
                account.number,
                order.side,
                order.price_ticks,
                order.remaining_lots,
                REASON_REDUCED,
            )
        )
        return Result(0, RESTING, order.order_id, 0, order.remaining_lots)

    # -- parts of actions

    def _rest(
        self,
        account: Account,
        market: Market,
        order_id: int,
        client_id: int,
        side: int,
        price: int,
        lots: int,
    ) -> None:
        number = account.number
        order = Resting(market.number, order_id, number, client_id, side, price, lots)
        market.book.add(order)
        account.orders[order_id] = order
        if client_id:
            account.clients[client_id] = order
        state = self._state
        state.dirty_orders[order] = None
        state.events.append(
            OrderOpened(market.number, order_id, number, client_id, side, price, lots)
        )

    def _cancel(self, account: Account, order: Resting) -> Result:
        lots = self._state.markets[order.market].book.cancel(order)
        self._gone(account, order, lots, REASON_CANCELLED)
        return Result(0, CANCELLED, order.order_id)

    def _gone(self, account: Account, order: Resting, lots: int, reason: int) -> None:
        """Account for an order that left the book with `lots` unfilled."""
        state = self._state
        order_id = order.order_id
        del account.orders[order_id]
        if order.client_id:
            del account.clients[order.client_id]
        state.risk.release(account, order, lots)
        state.dirty_orders[order] = None
        state.events.append(
            OrderChanged(
                order.market, order_id, account.number, order.side, order.price_ticks, 0, reason
            )
        )

    def _cross(
        self,
        account: Account,
        market: Market,
        side: int,
        limit: int,
        lots: int,
        client_id: int,
        rests: bool,
    ) -> Result:
        """An order that meets the book. Margin is asked with the whole of it; where that fails, it
        may still close a position, fill by fill, as long as each one reduces risk. What is left
        after the fills that the action or the block may have is cancelled."""
        state = self._state
        max_fills = min(state.limits.fills_per_action, state.fills_left)
        if max_fills <= 0:
            return REFUSED[Code.BUSY]
        exposure = account.exposure(market.number)
        code = state.risk.admit(account, exposure, market, side, limit, lots, max_fills)
        closes = exposure.size_lots > 0 if side == SELL else exposure.size_lots < 0
        if code and not (code == Code.INSUFFICIENT_MARGIN and closes):
            return REFUSED[code]
        order_id = state.next_order_id
        state.next_order_id = order_id + 1
        self._account = account
        self._exposure = exposure
        self._market = market
        self._side = side
        self._order_id = order_id
        self._closing = bool(code)
        book = market.book
        remaining = book.take(side, limit, lots, self, max_fills)
        filled = lots - remaining
        if not remaining:
            return Result(0, FILLED, order_id, filled, 0)
        if (
            rests
            and not book.crosses(side, limit)
            and not state.risk.place(account, exposure, market, side, limit, remaining)
        ):
            self._rest(account, market, order_id, client_id, side, limit, remaining)
            return Result(0, RESTING, order_id, filled, remaining)
        if filled:
            return Result(0, CANCELLED, order_id, filled, 0)
        return Result(code or Code.NO_LIQUIDITY, CANCELLED, order_id)

    # -- what the book asks and tells

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        """Margin of both sides for a fill at the maker's price; see `matching.Gate`.

        An order of the taker's own account is cancelled instead of traded with.
        """
        taker = self._account
        if maker.account == taker.number:
            self._maker = taker
            self._reason = REASON_CANCELLED
            return 0
        market = self._market
        price = maker.price_ticks
        product = market.product
        if product.notional_uusd(lots, price) >= CASH_MOVE_LIMIT:
            lots = (CASH_MOVE_LIMIT - 1) // product.notional_uusd(1, price)
        size = self._exposure.size_lots
        if self._closing:
            open_lots = size if self._side == SELL else -size
            if open_lots <= 0:
                return -1
            lots = min(lots, open_lots)
        state = self._state
        risk = state.risk
        owner = state.accounts[maker.account]
        if owner.version != risk.version:
            risk.refresh(owner)
        self._maker = owner
        maker_exposure = self._maker_exposure = owner.exposures[market.number]
        maker_out = risk.outcome(
            owner, maker_exposure, market, maker.side, price, lots, market.maker_ppm, maker
        )
        if not risk.legal(owner, maker_exposure, market, maker_out):
            self._reason = REASON_MARGIN
            return 0
        taker_out = risk.outcome(
            taker, self._exposure, market, self._side, price, lots, market.taker_ppm, None
        )
        if self._closing and not risk.legal(taker, self._exposure, market, taker_out):
            return -1
        self._maker_out = maker_out
        self._taker_out = taker_out
        return lots

    def removed(self, maker: Resting, lots: int) -> None:
        """The refused maker left the book."""
        self._state.fills_left -= 1
        self._gone(self._maker, maker, lots, self._reason)

    def filled(self, maker: Resting, lots: int) -> None:
        """Book a fill: positions, cash and fees of both sides, open interest, last price."""
        maker_out, taker_out = self._maker_out, self._taker_out
        if maker_out is None or taker_out is None:
            raise SafetyViolation("a fill that was never allowed")
        self._maker_out = self._taker_out = None
        state = self._state
        state.fills_left -= 1
        market, taker, owner = self._market, self._account, self._maker
        mine, theirs = self._exposure, self._maker_exposure
        # Open interest is the sum of longs: what each side is long after, less before.
        for after, before in ((taker_out.size_lots, mine), (maker_out.size_lots, theirs)):
            if after > 0:
                market.open_interest_lots += after
            if before.size_lots > 0:
                market.open_interest_lots -= before.size_lots
        market.last_ticks = maker.price_ticks
        state.risk.commit(owner, theirs, maker_out)
        state.risk.commit(taker, mine, taker_out)
        fees_uusd = maker_out.fee_uusd + taker_out.fee_uusd
        state.fees.cash_uusd += fees_uusd
        state.fees.tv_uusd += fees_uusd
        order_id = maker.order_id
        if not maker.remaining_lots:
            del owner.orders[order_id]
            if maker.client_id:
                del owner.clients[maker.client_id]
        dirty = state.dirty_accounts
        dirty[owner] = dirty[taker] = dirty[state.fees] = None
        state.dirty_exposures[theirs] = state.dirty_exposures[mine] = None
        state.dirty_markets[market] = None
        state.dirty_orders[maker] = None
        state.events.append(
            Fill(
                market.number,
                maker.price_ticks,
                lots,
                owner.number,
                order_id,
                taker.number,
                self._order_id,
                self._side,
                maker_out.fee_uusd,
                taker_out.fee_uusd,
            )
        )
