"""What waits in the naive exchange: triggers, their links, TWAPs, switches, expiries."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from naive_backing import margin_code, nothing_to_reduce
from naive_links import drop_linked, drop_trigger, remove, trigger_changed
from naive_margin import up
from naive_requests import (
    cancel_everything,
    items_of,
    limit_order,
    market_code,
    market_order,
    mode_code,
    order_code,
    price_limit,
    size_code,
)
from naive_state import Books, NaiveTrigger, NaiveTwap

from protocol import actions as act
from protocol import events as ev
from protocol.actions import BUY, SELL
from protocol.errors import Code
from protocol.events import Result
from protocol.markets import SIZE_LIMIT
from protocol.settlement import isolated_market, master_of

DAY_MS = 86_400_000
MAX_SLIPPAGE_PPM = 500_000


# -- triggers


def fires(t: NaiveTrigger, mark: int) -> bool:
    """Whether a trigger fires at this mark."""
    if t.kind == act.TRAILING:
        return mark <= t.best - t.trigger if t.side == SELL else mark >= t.best + t.trigger
    falling = (t.kind == act.STOP) == (t.side == SELL)
    return mark <= t.trigger if falling else mark >= t.trigger


def trigger_code(x: Books, account: int, a: act.TriggerOrder, bracket: bool = False) -> int:
    """Whether a trigger is fine; the exits of a bracket, here with the size of the parent, may suit
    no mark yet, and the parent stands behind them."""
    if code := market_code(x, a.market):
        return code
    if a.side not in (BUY, SELL):
        return Code.WRONG_TYPE
    if a.flags & ~act.ORDER_FLAGS:
        return Code.BAD_FLAGS
    limit = price_limit(x, a.market)
    if a.kind not in (act.STOP, act.TAKE_PROFIT, act.TRAILING):
        return Code.BAD_TRIGGER
    if not 0 < a.trigger_ticks < limit or not 0 <= a.limit_ticks < limit:
        return Code.BAD_TRIGGER
    if a.slippage_ppm if a.limit_ticks else not 1 <= a.slippage_ppm <= MAX_SLIPPAGE_PPM:
        return Code.BAD_SLIPPAGE
    if isolated_market(account) not in (-1, a.market):
        return Code.ISOLATED_ACCOUNT
    price = a.limit_ticks or a.trigger_ticks
    if a.kind == act.TRAILING and not a.limit_ticks:
        price = x.markets[a.market].mark
    if code := size_code(x, account, a.market, price, price, a.size_lots, a.flags):
        return code
    if a.expires_ms and a.expires_ms < x.time:
        return Code.BAD_EXPIRY if a.expires_ms < 0 else Code.ACTION_EXPIRED
    if a.client_id and a.client_id in x.clients(account):
        return Code.DUPLICATE_CLIENT_ID
    if code := mode_code(x, a.market, True, bool(a.flags & act.REDUCE_ONLY)):
        return code
    if bracket:
        return Code.OK
    if fires(make(x, account, a), x.markets[a.market].mark):
        return Code.WOULD_FIRE
    if a.flags & act.REDUCE_ONLY and nothing_to_reduce(x, account, a.market):
        return Code.NOT_REDUCING
    return Code.OK


def room_code(x: Books, account: int, market: int, more: int) -> int:
    mine = [t for t in x.triggers if master_of(t.account) == master_of(account)]
    there = [t for t in x.triggers if t.market == market]
    if len(mine) + more > x.limits.triggers_per_account:
        return Code.TOO_MANY_TRIGGERS
    if len(there) + more > x.limits.triggers_per_market:
        return Code.TOO_MANY_TRIGGERS
    return Code.OK


def make(x: Books, account: int, a: act.TriggerOrder) -> NaiveTrigger:
    return NaiveTrigger(
        0, a.market, account, a.client_id, a.side, a.kind, a.trigger_ticks, a.limit_ticks,
        a.slippage_ppm, a.size_lots, a.flags, a.expires_ms, best=x.markets[a.market].mark,
    )  # fmt: skip


def wait(x: Books, t: NaiveTrigger) -> None:
    """Put a trigger in the list."""
    x.triggers.append(t)
    x.events.append(
        ev.TriggerOpened(
            t.market, t.id, t.account, t.client, t.side, t.kind, t.trigger, t.limit, t.slippage,
            t.lots, t.flags, t.expires, t.link,
        )
    )  # fmt: skip


def trigger_order(x: Books, account: int, a: act.TriggerOrder) -> Result:
    code = trigger_code(x, account, a) or room_code(x, account, a.market, 1)
    if code := code or margin_code(x, account, [a]):
        return Result(code)
    t = make(x, account, a)
    t.id = x.new_id()
    wait(x, t)
    return Result(0, ev.WAITING, t.id, 0, t.lots)


def wait_as_pair(x: Books, first: NaiveTrigger, second: NaiveTrigger) -> None:
    """Two triggers of which one takes the other out."""
    first.link, second.link = second.id, first.id
    wait(x, first)
    wait(x, second)


def oco(x: Books, account: int, a: act.Oco) -> Result:
    first, second = a.first, a.second
    if (first.market, first.side) != (second.market, second.side):
        return Result(Code.BAD_LINK)
    limit = isinstance(first, act.Order)
    if isinstance(first, act.Order) and first.tif not in (act.GTC, act.POST_ONLY):
        return Result(Code.BAD_LINK)
    if first.client_id and first.client_id == second.client_id:
        return Result(Code.DUPLICATE_CLIENT_ID)
    if code := trigger_code(x, account, second):
        return Result(code)
    if isinstance(first, act.TriggerOrder) and (code := trigger_code(x, account, first)):
        return Result(code)
    if isinstance(first, act.Order) and (code := order_code(x, account, first)):
        return Result(code)
    if code := room_code(x, account, first.market, 1 if limit else 2):
        return Result(code)
    if code := margin_code(x, account, [first, second]):
        return Result(code)
    if isinstance(first, act.TriggerOrder):
        pair = make(x, account, first), make(x, account, second)
        pair[0].id, pair[1].id = x.new_id(), x.new_id()
        wait_as_pair(x, *pair)
        return Result(0, ev.WAITING, pair[0].id, 0, first.size_lots)
    result = limit_order(x, account, first)
    if result.code:
        return result
    t = make(x, account, second)
    t.id = x.new_id()
    order = x.order(account, result.order_id)
    if order is not None and not result.filled_lots:
        order.link, t.link = t.id, order.id
        wait(x, t)
    return result


def bracket(x: Books, account: int, a: act.Bracket) -> Result:
    parent, exits = a.parent, (a.take_profit, a.stop)
    for child in exits:
        if child.market != parent.market or child.side != 1 - parent.side or child.size_lots:
            return Result(Code.BAD_LINK)
    if a.take_profit.kind != act.TAKE_PROFIT or a.stop.kind == act.TAKE_PROFIT:
        return Result(Code.BAD_LINK)
    named = [item.client_id for item in (parent, *exits) if item.client_id]
    if len(named) != len(set(named)):
        return Result(Code.DUPLICATE_CLIENT_ID)
    for child in exits:
        sized = replace(child, size_lots=parent.size_lots, flags=child.flags | act.REDUCE_ONLY)
        if code := trigger_code(x, account, sized, True):
            return Result(code)
    if code := room_code(x, account, parent.market, 2):
        return Result(code)
    result = limit_order(x, account, parent)
    if result.code:
        return result
    pair = make(x, account, a.take_profit), make(x, account, a.stop)
    pair[0].id, pair[1].id = x.new_id(), x.new_id()
    order = x.order(account, result.order_id)
    if order is None and not result.filled_lots:
        return result
    for t in pair:
        t.lots, t.flags = result.filled_lots, t.flags | act.REDUCE_ONLY
        t.parent = order.id if order else 0
    wait_as_pair(x, *pair)
    return result


def follow(x: Books, t: NaiveTrigger) -> None:
    """A trailing stop remembers the best mark."""
    mark = x.markets[t.market].mark
    if t.kind == act.TRAILING:
        t.best = max(t.best, mark) if t.side == SELL else min(t.best, mark)


def firing(x: Books, market: int) -> bool:
    """Whether triggers of a market are due and fire now; what is due waits otherwise."""
    found = x.markets[market]
    return found.mode in (act.OPEN, act.REDUCE_ONLY_MODE) and not found.stale


def run_triggers(x: Books) -> None:
    """Fire what is due, by market and then placement, as many as a block may."""
    for t in x.triggers:
        if t.lots:
            follow(x, t)
            if firing(x, t.market) and fires(t, x.markets[t.market].mark):
                t.due = True
    left = x.limits.triggers_per_block
    for t in sorted(x.triggers, key=lambda t: (t.market, t.id)):
        if not t.due or t not in x.triggers or not firing(x, t.market):
            continue
        if not left or x.fills_left <= x.limits.fills_per_block // 2:
            return
        left -= 1
        fire(x, t)


def fire(x: Books, t: NaiveTrigger) -> None:
    """Take a trigger out, what goes with it, and enter its order."""
    if t.expires and t.expires < x.time:
        drop_trigger(x, t, ev.REASON_EXPIRED)
        return
    lots, mark = t.lots, x.markets[t.market].mark
    t.lots = 0
    x.triggers.remove(t)
    trigger_changed(x, t, ev.REASON_FIRED)
    drop_linked(x, t.id)
    parent = x.order(t.account, t.parent)
    if parent is not None:
        remove(x, parent, ev.REASON_LINKED)
    flags = t.flags
    if x.markets[t.market].mode == act.REDUCE_ONLY_MODE:
        flags |= act.REDUCE_ONLY
    if t.limit:
        order = act.Order(t.market, t.side, t.limit, lots, act.GTC, t.client, flags, t.expires)
        result = limit_order(x, t.account, order)
    else:
        taker = act.MarketOrder(t.market, t.side, lots, t.slippage, t.client, flags)
        result = market_order(x, t.account, taker, least=False)
    x.events.append(ev.TriggerFired(t.market, t.id, t.account, mark, result))


# -- TWAPs


def twap_changed(x: Books, t: NaiveTwap, reason: int) -> None:
    x.events.append(ev.TwapChanged(t.market, t.id, t.account, t.side, t.lots, t.done, reason))


def slices(t: NaiveTwap) -> int:
    return -(-t.duration // act.TWAP_SLICE_MS)


def twap(x: Books, account: int, a: act.Twap) -> Result:
    if code := market_code(x, a.market):
        return Result(code)
    if a.side not in (BUY, SELL):
        return Result(Code.WRONG_TYPE)
    if a.flags & ~act.ORDER_FLAGS:
        return Result(Code.BAD_FLAGS)
    if not act.TWAP_SLICE_MS <= a.duration_ms <= act.TWAP_LONGEST_MS:
        return Result(Code.BAD_DURATION)
    if isolated_market(account) not in (-1, a.market):
        return Result(Code.ISOLATED_ACCOUNT)
    config, plain = x.configs[a.market], up(a.size_lots, up(a.duration_ms, act.TWAP_SLICE_MS))
    if not 0 < a.size_lots < SIZE_LIMIT or plain > config.max_order_lots:
        return Result(Code.BAD_SIZE)
    small = plain * x.markets[a.market].mark * config.value_uusd < config.min_notional_uusd
    if small and not a.flags & act.REDUCE_ONLY:
        return Result(Code.BELOW_MIN_NOTIONAL)
    if a.client_id and a.client_id in x.clients(account):
        return Result(Code.DUPLICATE_CLIENT_ID)
    if code := mode_code(x, a.market, False, bool(a.flags & act.REDUCE_ONLY)):
        return Result(code)
    if len([t for t in x.twaps if t.account == account]) >= x.limits.twaps_per_account:
        return Result(Code.TOO_MANY_TWAPS)
    t = NaiveTwap(
        x.new_id(), account, a.client_id, a.market, a.side, a.size_lots, a.flags, x.time,
        a.duration_ms, x.time,
    )  # fmt: skip
    x.twaps.append(t)
    twap_changed(x, t, 0)
    return Result(0, ev.WAITING, t.id, 0, t.lots)


def run_slice(x: Books, t: NaiveTwap) -> None:
    """The slice of now: up to where the order should be, and not too much at once."""
    count = slices(t)
    number = min((x.time - t.began) // act.TWAP_SLICE_MS, count - 1)
    aim = -(-t.lots * (number + 1) // count) - t.done
    lots = min(aim, act.TWAP_CATCH_UP * up(t.lots, count), x.configs[t.market].max_order_lots)
    t.next = t.began + (number + 1) * act.TWAP_SLICE_MS
    if lots > 0:
        order = act.MarketOrder(t.market, t.side, lots, act.TWAP_SLIPPAGE_PPM, 0, t.flags)
        filled = market_order(x, t.account, order, least=False).filled_lots
        t.done += filled
        if filled and t.done < t.lots and number < count - 1:
            twap_changed(x, t, 0)
    if t.done >= t.lots or number >= count - 1:
        x.twaps.remove(t)
        twap_changed(x, t, ev.REASON_DONE)


# -- time


def schedule_cancel(x: Books, account: int, a: act.ScheduleCancel) -> Result:
    owner = x.accounts[account]
    today = x.time // DAY_MS
    if a.time_ms and a.time_ms < x.time + act.DEAD_MAN_LEAST_MS:
        return Result(Code.DEAD_MAN_TOO_SOON)
    if a.time_ms and owner.dead_man_day == today and owner.dead_man_fired >= act.DEAD_MAN_DAILY:
        return Result(Code.DEAD_MAN_USED_UP)
    if owner.dead_man_day != today:
        owner.dead_man_day, owner.dead_man_fired = today, 0
    owner.dead_man = a.time_ms
    x.events.append(ev.DeadManSet(account, a.time_ms, False))
    return Result(0)


def run_expiries(x: Books) -> None:
    """What lives no longer goes before prices are fixed."""
    left = x.limits.expiries_per_block
    waiting: list[Any] = [*x.orders, *x.triggers]
    for item in sorted(waiting, key=lambda item: (item.expires, item.id)):
        if not item.expires or item.expires >= x.time or not left:
            continue
        if item in x.orders:
            remove(x, item, ev.REASON_EXPIRED)
            left -= 1
        elif item in x.triggers:
            drop_trigger(x, item, ev.REASON_EXPIRED)
            left -= 1


def run_schedules(x: Books) -> None:
    """Dead-man's switches, slices."""
    run_dead_men(x)
    left = x.limits.triggers_per_block
    for w in sorted(x.twaps, key=lambda t: (t.next, t.id)):
        if w not in x.twaps or w.next > x.time:
            continue
        if not left or x.fills_left <= x.limits.fills_per_block // 2:
            return
        left -= 1
        run_slice(x, w)


def run_dead_men(x: Books) -> None:
    """Half of what a block may cancel is for the earliest switches, the rest for those with the
    least to cancel; 32 and more are alike."""
    limit = x.limits.expiries_per_block
    due = [a for a in x.accounts.values() if a.dead_man and a.dead_man <= x.time]
    due = sorted(due, key=lambda a: (a.dead_man, a.number))[: min(4 * limit, 256)]

    def cost(number: int) -> int:
        return 1 + len(items_of(x, number, act.ALL_MARKETS))

    left = limit - limit // 2
    waiting = [a.number for a in due]
    while waiting and left > 0:
        left -= cost(waiting[0])
        go_off(x, waiting.pop(0))
    left = max(left, 0) + limit // 2
    waiting = sorted(waiting, key=lambda number: min(cost(number), 32))
    while waiting and left > 0:
        left -= cost(waiting[0])
        go_off(x, waiting.pop(0))


def go_off(x: Books, account: int) -> None:
    """A dead-man's switch: everything of the account goes."""
    owner, today = x.accounts[account], x.time // DAY_MS
    if owner.dead_man_day != today:
        owner.dead_man_day, owner.dead_man_fired = today, 0
    owner.dead_man_fired += 1
    x.events.append(ev.DeadManSet(account, owner.dead_man, True))
    owner.dead_man = 0
    cancel_everything(x, account, act.ALL_MARKETS, ev.REASON_DEAD_MAN)
