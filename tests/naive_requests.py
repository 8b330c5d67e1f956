"""What accounts ask of the naive exchange about orders: checks of the fields, cancels, quotes."""

from __future__ import annotations

from typing import Any

from naive_links import changed, drop_trigger, remove
from naive_orders import enter, may_rest, rest
from naive_state import Books, NaiveOrder

from protocol import actions as act
from protocol import events as ev
from protocol.actions import BUY, SELL
from protocol.errors import Code
from protocol.events import Result
from protocol.markets import CASH_MOVE_LIMIT, NOTIONAL_LIMIT, PPM, PRICE_LIMIT
from protocol.settlement import isolated_market

MAX_SLIPPAGE_PPM = 500_000


def price_limit(x: Books, market: int) -> int:
    """Prices are below this: one lot always fits one cash movement."""
    return min(PRICE_LIMIT, -(-CASH_MOVE_LIMIT // x.value(market)))


def market_code(x: Books, market: int) -> int:
    """Whether there is such a market."""
    return Code.OK if 0 <= market < len(x.markets) else Code.UNKNOWN_MARKET


def mode_code(x: Books, market: int, post_only: bool, reduces: bool) -> int:
    """Whether the market takes orders of this kind now."""
    found = x.markets[market]
    if found.mode == act.HALTED:
        return Code.MARKET_HALTED
    if found.mode == act.CANCEL_ONLY:
        return Code.MARKET_CANCEL_ONLY
    if found.mode == act.POST_ONLY_MODE and not post_only:
        return Code.MARKET_POST_ONLY
    if found.mode == act.REDUCE_ONLY_MODE and not reduces:
        return Code.MARKET_REDUCE_ONLY
    if found.stale and not reduces:
        return Code.STALE_MARKET
    return Code.OK


def band_broken(x: Books, market: int, side: int, price: int) -> bool:
    """Whether a limit lies further through the mark than the band allows."""
    band, mark = x.configs[market].price_band_ppm, x.markets[market].mark
    if not band:
        return False
    if side == BUY:
        return price * PPM > mark * (PPM + band)
    return price * PPM < mark * (PPM - band)


def size_code(
    x: Books, account: int, market: int, price: int, worth_at: int, lots: int, flags: int
) -> int:
    """Whether a size may be ordered: `price` bounds it above, `worth_at` says what it is worth.
    What only reduces may be worth little."""
    config = x.configs[market]
    if isolated_market(account) not in (-1, market):
        return Code.ISOLATED_ACCOUNT
    if not 0 < lots <= config.max_order_lots:
        return Code.BAD_SIZE
    if price * lots >= NOTIONAL_LIMIT:
        return Code.NOTIONAL_LIMIT
    small = worth_at * lots * x.value(market) < config.min_notional_uusd
    if small and not flags & act.REDUCE_ONLY:
        return Code.BELOW_MIN_NOTIONAL
    return Code.OK


def order_code(x: Books, account: int, a: act.Order) -> int:
    """Whether a limit order is fine, margin and the book apart."""
    if code := market_code(x, a.market):
        return code
    if a.side not in (BUY, SELL) or a.tif not in (act.GTC, act.IOC, act.POST_ONLY, act.FOK):
        return Code.WRONG_TYPE
    if a.flags & ~act.ORDER_FLAGS:
        return Code.BAD_FLAGS
    price = a.price_ticks
    if not 0 < price < price_limit(x, a.market):
        return Code.BAD_PRICE
    if code := size_code(x, account, a.market, price, price, a.size_lots, a.flags):
        return code
    if a.expires_ms and a.expires_ms < x.time:
        return Code.BAD_EXPIRY if a.expires_ms < 0 else Code.ACTION_EXPIRED
    if band_broken(x, a.market, a.side, a.price_ticks):
        return Code.PRICE_BAND
    if a.client_id and a.client_id in x.clients(account):
        return Code.DUPLICATE_CLIENT_ID
    mine = [o for o in x.orders if o.account == account]
    if a.tif in (act.GTC, act.POST_ONLY) and len(mine) >= x.limits.orders_per_account:
        return Code.TOO_MANY_ORDERS
    if a.tif in (act.GTC, act.POST_ONLY) and a.flags & act.REDUCE_ONLY:
        reducing = [o for o in x.orders_of(account, a.market) if o.flags & act.REDUCE_ONLY]
        if len(reducing) >= x.limits.reduce_only_orders:
            return Code.TOO_MANY_ORDERS
    return mode_code(x, a.market, a.tif == act.POST_ONLY, bool(a.flags & act.REDUCE_ONLY))


def limit_order(x: Books, account: int, a: act.Order, kept: int = 0) -> Result:
    """A limit order; `kept` are flags of the order it replaces that no client sets."""
    if code := order_code(x, account, a):
        return Result(code)
    return enter(
        x, account, a.market, a.side, a.price_ticks, a.size_lots,
        a.tif, a.client_id, a.flags | kept, a.expires_ms,
    )  # fmt: skip


def market_order(x: Books, account: int, a: act.MarketOrder, least: bool = True) -> Result:
    """`least`: held to the least notional."""
    if code := market_code(x, a.market):
        return Result(code)
    if a.side not in (BUY, SELL):
        return Result(Code.WRONG_TYPE)
    if a.flags & ~act.ORDER_FLAGS:
        return Result(Code.BAD_FLAGS)
    if not 1 <= a.slippage_ppm <= MAX_SLIPPAGE_PPM:
        return Result(Code.BAD_SLIPPAGE)
    mark = x.markets[a.market].mark
    limit = -(-mark * (PPM - a.slippage_ppm) // PPM)
    if a.side == BUY:
        limit = min(mark * (PPM + a.slippage_ppm) // PPM, price_limit(x, a.market) - 1)
    small = a.flags if least else act.REDUCE_ONLY
    if code := size_code(x, account, a.market, max(limit, mark), mark, a.size_lots, small):
        return Result(code)
    if a.client_id and a.client_id in x.clients(account):
        return Result(Code.DUPLICATE_CLIENT_ID)
    if code := mode_code(x, a.market, False, bool(a.flags & act.REDUCE_ONLY)):
        return Result(code)
    return enter(x, account, a.market, a.side, limit, a.size_lots, act.IOC, 0, a.flags, 0)


# -- cancels


def cancel_code(x: Books, market: int) -> int:
    if code := market_code(x, market):
        return code
    return Code.MARKET_HALTED if x.markets[market].mode == act.HALTED else Code.OK


def cancel_item(x: Books, item: Any, reason: int) -> None:
    """Take out an order, trigger or TWAP."""
    if item in x.orders:
        remove(x, item, reason)
    elif item in x.triggers:
        drop_trigger(x, item, reason)
    elif item in x.twaps:
        x.twaps.remove(item)
        x.events.append(
            ev.TwapChanged(
                item.market, item.id, item.account, item.side, item.lots, item.done, reason
            )
        )


def items_of(x: Books, account: int, market: int) -> list[Any]:
    """An account's orders, triggers and TWAPs in a market or in all, in order of their ids."""
    lists: list[list[Any]] = [x.orders, x.triggers, x.twaps]
    return [
        item
        for items in lists
        for item in sorted(items, key=lambda item: item.id)
        if item.account == account and market in (item.market, act.ALL_MARKETS)
    ]


def cancel(x: Books, account: int, a: act.Cancel) -> Result:
    if code := cancel_code(x, a.market):
        return Result(code)
    for item in items_of(x, account, a.market):
        if item.id == a.order_id:
            cancel_item(x, item, ev.REASON_CANCELLED)
            return Result(0, ev.CANCELLED, item.id)
    return Result(Code.UNKNOWN_ORDER)


def cancel_client(x: Books, account: int, a: act.CancelClient) -> Result:
    if code := cancel_code(x, a.market):
        return Result(code)
    for item in items_of(x, account, a.market):
        if a.client_id and item.client == a.client_id:
            cancel_item(x, item, ev.REASON_CANCELLED)
            return Result(0, ev.CANCELLED, item.id)
    return Result(Code.UNKNOWN_ORDER)


def cancel_everything(x: Books, account: int, market: int, reason: int) -> None:
    for item in items_of(x, account, market):
        if x.markets[item.market].mode != act.HALTED:
            cancel_item(x, item, reason)


def cancel_all(x: Books, account: int, a: act.CancelAll) -> Result:
    if a.market != act.ALL_MARKETS and (code := cancel_code(x, a.market)):
        return Result(code)
    cancel_everything(x, account, a.market, ev.REASON_CANCELLED)
    return Result(0, ev.CANCELLED)


def reduce(x: Books, account: int, a: act.Reduce) -> Result:
    if code := cancel_code(x, a.market):
        return Result(code)
    if a.by_lots <= 0:
        return Result(Code.BAD_SIZE)
    o = x.order(account, a.order_id)
    if o is None or o.market != a.market:
        return Result(Code.UNKNOWN_ORDER)
    if a.by_lots >= o.lots:
        remove(x, o, ev.REASON_CANCELLED)
        return Result(0, ev.CANCELLED, o.id)
    o.lots -= a.by_lots
    changed(x, o, ev.REASON_REDUCED)
    return Result(0, ev.RESTING, o.id, 0, o.lots)


# -- replacing


def modify(x: Books, account: int, a: act.Modify) -> Result:
    if code := cancel_code(x, a.market):
        return Result(code)
    o = x.order(account, a.order_id)
    if o is None or o.market != a.market:
        return Result(Code.UNKNOWN_ORDER)
    if a.price_ticks == o.price and 0 < a.size_lots <= o.lots:
        if a.size_lots < o.lots:
            o.lots = a.size_lots
            changed(x, o, ev.REASON_REDUCED)
        return Result(0, ev.RESTING, o.id, 0, o.lots)
    if o.link or any(t.parent == o.id for t in x.triggers):
        return Result(Code.BAD_LINK)
    saved = x.save()
    tif = act.POST_ONLY if o.flags & act.POSTED else act.GTC
    remove(x, o, ev.REASON_REPLACED)
    order = act.Order(
        a.market, o.side, a.price_ticks, a.size_lots, tif, o.client, o.flags & act.ORDER_FLAGS,
        o.expires,
    )  # fmt: skip
    result = limit_order(x, account, order, o.flags & act.QUOTE)
    if result.code and not result.order_id:
        x.undo(saved)
    return result


def quote_code(x: Books, account: int, market: int, side: int, price: int, lots: int) -> int:
    """Whether a quote is fine, margin and the book apart."""
    if not 0 < price < price_limit(x, market):
        return Code.BAD_PRICE
    if code := size_code(x, account, market, price, price, lots, 0):
        return code
    if band_broken(x, market, side, price):
        return Code.PRICE_BAND
    return mode_code(x, market, True, False)


def quotes_code(x: Books, account: int, a: act.MassQuote) -> int:
    """Whether all quotes are fine, while the old ones are out of the book."""
    bids, asks = [p for p, _ in a.bids], [p for p, _ in a.asks]
    if max(len(bids), len(asks)) > act.MAX_QUOTES:
        return Code.BAD_QUOTES
    if bids != sorted(set(bids), reverse=True) or asks != sorted(set(asks)):
        return Code.BAD_QUOTES
    if bids and asks and bids[0] >= asks[0]:
        return Code.BAD_QUOTES
    mine = [o for o in x.orders if o.account == account]
    if len(mine) + len(bids) + len(asks) > x.limits.orders_per_account:
        return Code.TOO_MANY_ORDERS
    for side, quotes in ((BUY, a.bids), (SELL, a.asks)):
        for price, lots in quotes:
            if code := quote_code(x, account, a.market, side, price, lots):
                return code
        if any(x.opposite(a.market, side, price) for price, _ in quotes):
            return Code.WOULD_TAKE
    return Code.OK


def mass_quote(x: Books, account: int, a: act.MassQuote) -> Result:
    if code := cancel_code(x, a.market):
        return Result(code)
    saved = x.save()
    for o in x.orders_of(account, a.market):
        if o.flags & act.QUOTE:
            remove(x, o, ev.REASON_REPLACED)
    code = quotes_code(x, account, a)
    first = x.next_id
    quotes = [(BUY, *quote) for quote in a.bids] + [(SELL, *quote) for quote in a.asks]
    for side, price, lots in quotes:
        flags = act.QUOTE | act.POSTED
        o = NaiveOrder(0, a.market, account, 0, side, price, lots, flags)
        code = code or may_rest(x, o)
        if not code:
            o.id = x.new_id()
            rest(x, o)
    if code:
        x.undo(saved)
        return Result(code)
    if not quotes:
        return Result(0, ev.CANCELLED)
    return Result(0, ev.RESTING, first, 0, sum(lots for _, _, lots in quotes))
