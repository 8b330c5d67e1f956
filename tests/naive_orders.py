"""Orders of the naive exchange: matching by sorting a list, margin asked anew each time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from naive_links import changed, order_changed, remove
from naive_margin import (
    cross_ppm,
    fee_uusd,
    im_uusd,
    initial_uusd,
    maker_ppm,
    mm_uusd,
    move_position,
    position,
    reach,
    reserve_ppm,
    taker_ppm,
    tv_uusd,
)
from naive_state import Books, NaiveOrder

from protocol import events as ev
from protocol.actions import (
    BUY,
    FOK,
    GTC,
    IOC,
    POST_ONLY,
    POSTED,
    REDUCE_ONLY,
    SELL,
    STP_CANCEL_BOTH,
    STP_CANCEL_MAKER,
    STP_CANCEL_TAKER,
    STP_MASTER,
    STP_MODES,
)
from protocol.errors import Code
from protocol.events import Result
from protocol.markets import CASH_MOVE_LIMIT
from protocol.settlement import FEE_ACCOUNT, master_of

OPEN_INTEREST_LOTS = 1 << 40
OPEN_INTEREST_NOTIONAL = 1 << 60
POSITION_NOTIONAL = 1 << 50


@dataclass
class Taker:
    """An order on its way through the book. `code`: why it may not go on. `refused`: accounts of
    whose orders all counted for it."""

    account: int
    id: int
    market: int
    side: int
    limit: int
    left: int
    flags: int
    closing: bool = False
    filled: int = 0
    code: int = 0
    refused: set[int] = field(default_factory=set)


# -- what rests


def rest(x: Books, o: NaiveOrder) -> None:
    x.accounts[o.account].holding(o.market)
    x.orders.append(o)
    x.events.append(
        ev.OrderOpened(
            o.market, o.id, o.account, o.client, o.side, o.price, o.lots, o.flags, o.expires
        )
    )


def shrink_reduce_only(x: Books, account: int, market: int) -> None:
    """Reduce-only orders are never larger than the position that they reduce."""
    size = position(x, account, market)
    for o in x.orders_of(account, market):
        most = max(0, size if o.side == SELL else -size)
        if not o.flags & REDUCE_ONLY or o.lots <= most:
            continue
        if most:
            o.lots = most
            changed(x, o, ev.REASON_REDUCE_ONLY)
        else:
            remove(x, o, ev.REASON_REDUCE_ONLY)


def reached_limit(
    x: Books, account: int, market: int, side: int, price: int, lots: int, flags: int = 0
) -> Code:
    """Whether a position could be reached with this order that nobody may hold."""
    x.orders.append(NaiveOrder(-1, market, account, 0, side, price, lots, flags))
    longest, shortest = reach(x, account, market)
    x.orders.pop()
    worst = longest if side == BUY else shortest
    if worst > x.configs[market].max_position_lots:
        return Code.POSITION_LIMIT
    if worst * max(price, x.markets[market].mark) * x.value(market) >= POSITION_NOTIONAL:
        return Code.NOTIONAL_LIMIT
    return Code.OK


def may_rest(x: Books, o: NaiveOrder) -> Code:
    """Margin of a resting order, asked as if it rested already."""
    flags = o.flags & REDUCE_ONLY
    code = reached_limit(x, o.account, o.market, o.side, o.price, o.lots, flags)
    if code or flags:
        return code
    x.accounts[o.account].holding(o.market)
    x.orders.append(o)
    enough = tv_uusd(x, o.account) >= im_uusd(x, o.account)
    x.orders.pop()
    return Code.OK if enough else Code.INSUFFICIENT_MARGIN


def may_take(x: Books, t: Taker, fills: int) -> Code:
    """Margin of an order that takes, as a whole, before its first fill."""
    code = reached_limit(x, t.account, t.market, t.side, t.limit, t.left)
    if code:
        return code
    rate = cross_ppm(x.configs[t.market])
    x.accounts[t.account].holding(t.market)
    before = im_uusd(x, t.account) - initial_uusd(x, t.account, t.market)
    x.orders.append(NaiveOrder(-1, t.market, t.account, 0, t.side, t.limit, t.left))
    whole = initial_uusd(x, t.account, t.market)
    x.orders.pop()
    whole -= fee_uusd(x, t.market, t.limit, t.left, reserve_ppm(x.configs[t.market]))
    whole += fee_uusd(x, t.market, t.limit, t.left, rate) + fills
    return Code.OK if tv_uusd(x, t.account) >= before + whole else Code.INSUFFICIENT_MARGIN


# -- fills


def trade(x: Books, account: int, market: int, side: int, price: int, lots: int, rate: int) -> bool:
    """Change one side by a fill and pay its fee; whether that leaves the account legal."""
    tv, mm, size = tv_uusd(x, account), mm_uusd(x, account), position(x, account, market)
    sign = 1 if side == BUY else -1
    move_position(x, account, market, sign * lots, sign * lots * price * x.value(market))
    fee = fee_uusd(x, market, price, lots, rate)
    x.accounts[account].cash -= fee
    x.accounts[FEE_ACCOUNT].cash += fee
    if tv_uusd(x, account) >= im_uusd(x, account):
        return True
    after = position(x, account, market)
    if not (0 <= after < size or size < after <= 0):
        return False
    if mm_uusd(x, account) == 0:
        return tv_uusd(x, account) >= 0
    return tv_uusd(x, account) * mm >= tv * mm_uusd(x, account)


def remember(x: Books, account: int, market: int) -> tuple[int, int, int, int]:
    holding = x.accounts[account].holding(market)
    return x.accounts[account].cash, holding.size, holding.cost, x.accounts[FEE_ACCOUNT].cash


def put_back(x: Books, account: int, market: int, values: tuple[int, int, int, int]) -> None:
    holding = x.accounts[account].holding(market)
    x.accounts[account].cash, holding.size, holding.cost, x.accounts[FEE_ACCOUNT].cash = values


def same_owner(t: Taker, maker: NaiveOrder) -> bool:
    if t.flags & STP_MASTER:
        return master_of(t.account) == master_of(maker.account)
    return t.account == maker.account


def meet_own(x: Books, t: Taker, maker: NaiveOrder) -> None:
    """Self-trade prevention, in the mode of the incoming order."""
    mode = t.flags & STP_MODES
    if mode == STP_CANCEL_MAKER:
        remove(x, maker, ev.REASON_SELF_TRADE)
        return
    if mode in (STP_CANCEL_TAKER, STP_CANCEL_BOTH):
        t.code = Code.SELF_TRADE
        if mode == STP_CANCEL_BOTH:
            remove(x, maker, ev.REASON_SELF_TRADE)
        return
    lots = min(t.left, maker.lots)
    t.left -= lots
    if not t.left:
        t.code = Code.SELF_TRADE
    if lots == maker.lots:
        remove(x, maker, ev.REASON_SELF_TRADE)
    else:
        maker.lots -= lots
        changed(x, maker, ev.REASON_SELF_TRADE)


def meet(x: Books, t: Taker, maker: NaiveOrder) -> bool:
    """One step of matching against another's order; whether the taker may go on."""
    market, price = t.market, maker.price
    lots = min(t.left, maker.lots, (CASH_MOVE_LIMIT - 1) // (price * x.value(market)))
    size = position(x, t.account, market)
    if t.closing:
        lots = min(lots, max(0, size if t.side == SELL else -size))
        if not lots:
            return False
    before, interest = remember(x, maker.account, market), x.open_interest(market)
    maker.lots -= lots
    rate = maker_ppm(x, market, maker.account)
    fine = trade(x, maker.account, market, maker.side, price, lots, rate)
    fine = fine and not grown_too_large(x, maker.account, market, before[1], price)
    if not fine:
        put_back(x, maker.account, market, before)
        maker.lots += lots
        remove(x, maker, ev.REASON_MARGIN)
        count_refused(x, t, maker.account)
        return True
    mine = remember(x, t.account, market)
    fine = trade(x, t.account, market, t.side, price, lots, taker_ppm(x, market, t.account))
    maker_fee = before[0] - x.accounts[maker.account].cash
    if t.closing and not fine:
        t.code = Code.INSUFFICIENT_MARGIN
    elif x.open_interest(market) > interest and too_open(x, market):
        t.code = Code.OPEN_INTEREST_LIMIT
    if t.code:
        put_back(x, t.account, market, mine)
        put_back(x, maker.account, market, before)
        maker.lots += lots
        return False
    sign = 1 if maker.side == BUY else -1
    maker_fee -= sign * lots * price * x.value(market)
    taker_fee = mine[0] - x.accounts[t.account].cash + sign * lots * price * x.value(market)
    t.left -= lots
    t.filled += lots
    x.events.append(
        ev.Fill(
            market, price, lots, maker.account, maker.id, t.account, t.id, t.side,
            maker_fee, taker_fee,
        )
    )  # fmt: skip
    after_fill(x, t, maker, lots)
    return True


def count_refused(x: Books, t: Taker, account: int) -> None:
    """A maker of whose orders all count takes up a part of what the taker may do."""
    if account not in t.refused:
        t.refused.add(account)
        x.fills_left -= -(-x.limits.fills_per_action // x.limits.refusals_per_action) - 1


def too_open(x: Books, market: int) -> bool:
    """Whether open interest is beyond its cap, or its notional beyond what a number holds."""
    lots = x.open_interest(market)
    if lots > (x.configs[market].max_open_interest_lots or OPEN_INTEREST_LOTS):
        return True
    return lots * x.markets[market].mark * x.value(market) >= OPEN_INTEREST_NOTIONAL


def grown_too_large(x: Books, account: int, market: int, before: int, price: int) -> bool:
    """Whether a position grew beyond what anybody may hold, or grew or turned on stale prices."""
    after = position(x, account, market)
    size = abs(after)
    if x.markets[market].stale and (size > abs(before) or after * before < 0):
        return True
    notional = size * max(price, x.markets[market].mark) * x.value(market)
    too_large = size > x.configs[market].max_position_lots or notional >= POSITION_NOTIONAL
    return size > abs(before) and too_large


def after_fill(x: Books, t: Taker, maker: NaiveOrder, lots: int) -> None:
    """What follows from a fill: volume, last price, reduce-only, links, protection."""
    x.markets[t.market].last = maker.price
    owners = master_of(maker.account), master_of(t.account)
    if owners[0] != owners[1]:
        for owner in owners:
            notional = lots * maker.price * x.value(t.market)
            x.traded[owner] = x.traded.get(owner, 0) + notional
    if not maker.lots:
        x.orders.remove(maker)
    shrink_reduce_only(x, maker.account, t.market)
    shrink_reduce_only(x, t.account, t.market)
    order_changed(x, maker, lots)
    if protect(x, maker.account, t.market):
        count_refused(x, t, maker.account)


def protect(x: Books, account: int, market: int) -> bool:
    """Market-maker protection counts a fill; at the last one all orders of the market go. Whether
    it was the last one."""
    holding = x.accounts[account].holding(market)
    if not holding.fills:
        return False
    if not holding.counted or x.time - holding.began >= holding.window:
        holding.counted, holding.began = 0, x.time
    holding.counted += 1
    if holding.counted < holding.fills:
        return False
    holding.counted = holding.began = 0
    for o in x.orders_of(account, market):
        if o in x.orders:
            remove(x, o, ev.REASON_PROTECTION)
    return True


def step(x: Books, t: Taker, maker: NaiveOrder) -> bool:
    """One step of matching with the best order opposite; whether the taker may go on."""
    if maker.expires and maker.expires < x.time:
        remove(x, maker, ev.REASON_EXPIRED)
    elif same_owner(t, maker):
        meet_own(x, t, maker)
        if t.code:
            return False
    elif not meet(x, t, maker):
        return False
    x.fills_left -= 1
    return True


def take(x: Books, t: Taker, steps: int) -> None:
    """Match until the limit, the last lot, the last step, or until the taker may not go on."""
    last = x.fills_left - steps
    while t.left and x.fills_left > last:
        met = x.opposite(t.market, t.side, t.limit)
        if not met or not step(x, t, met[0]):
            return


def fits(x: Books, t: Taker, steps: int) -> bool:
    """Whether an order fills as a whole, found out by doing it, one order opposite after the other.

    Each that is looked at counts against the block's looks, gone by then or beyond the limit, and
    each further step with it once more.
    """
    lots, within = t.left, x.opposite(t.market, t.side, t.limit)
    for maker in x.side_of(t.market, 1 - t.side):
        x.looks_left -= 1
        if maker not in within or steps <= 0 or x.looks_left < 0:
            return False
        before, goes_on = x.fills_left, True
        while goes_on and maker in x.orders and t.left and before - x.fills_left < steps:
            goes_on = step(x, t, maker)
        used = before - x.fills_left
        x.looks_left -= max(0, used - 1)
        steps -= used
        if not goes_on:
            return False
        if not t.left:
            return t.filled == lots
    return False


# -- an order as a whole


def enter(
    x: Books, account: int, market: int, side: int, limit: int, lots: int,
    tif: int, client: int, flags: int, expires: int,
) -> Result:  # fmt: skip
    """An order whose fields are fine: takes what it may, then rests or is gone."""
    size = position(x, account, market)
    open_lots = max(0, size if side == SELL else -size)
    if flags & REDUCE_ONLY:
        if not open_lots:
            return Result(Code.NOT_REDUCING)
        lots = min(lots, open_lots)
    if not x.opposite(market, side, limit):
        if tif == FOK:
            return Result(Code.NOT_FILLABLE)
        if tif == IOC:
            return Result(Code.NO_LIQUIDITY, ev.CANCELLED, x.new_id())
        posted = POSTED if tif == POST_ONLY else 0
        o = NaiveOrder(0, market, account, client, side, limit, lots, flags | posted, expires)
        code = may_rest(x, o)
        if code:
            return Result(code)
        o.id = x.new_id()
        rest(x, o)
        return Result(0, ev.RESTING, o.id, 0, lots)
    if tif == POST_ONLY:
        return Result(Code.WOULD_TAKE)
    steps = min(x.limits.fills_per_action, x.fills_left)
    if steps <= 0 or (tif == FOK and x.looks_left <= 0):
        return Result(Code.BUSY)
    admitted = 0
    t = Taker(account, 0, market, side, limit, lots, flags, bool(flags & REDUCE_ONLY))
    if not t.closing:
        admitted = may_take(x, t, steps)
        if admitted and not (admitted == Code.INSUFFICIENT_MARGIN and open_lots):
            return Result(admitted)
        t.closing = bool(admitted)
    if tif == FOK:
        saved = x.save()
        fillable = fits(x, replace(t, refused=set()), steps)
        x.undo(saved)
        if not fillable:
            return Result(Code.NOT_FILLABLE)
    t.id = x.new_id()
    take(x, t, steps)
    if t.filled == lots:
        return Result(0, ev.FILLED, t.id, t.filled, 0)
    rests = tif in (GTC, POST_ONLY) and t.left and not t.code
    if rests and not x.opposite(market, side, limit):
        left = NaiveOrder(t.id, market, account, client, side, limit, t.left, flags, expires)
        if not may_rest(x, left):
            rest(x, left)
            return Result(0, ev.RESTING, t.id, t.filled, t.left)
    if t.filled:
        return Result(0, ev.CANCELLED, t.id, t.filled, 0)
    return Result(t.code or admitted or Code.NO_LIQUIDITY, ev.CANCELLED, t.id)
