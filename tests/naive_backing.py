"""What stands behind the triggers of the naive exchange: margin for all of them, or a position."""

from __future__ import annotations

from naive_links import drop_trigger
from naive_margin import im_uusd, position, rate_uusd, reach, tv_uusd, up
from naive_state import Books, NaiveTrigger

from protocol import actions as act
from protocol import events as ev
from protocol.actions import BUY, REDUCE_ONLY, SELL
from protocol.errors import Code

Wish = tuple[int, int, int]
"""Market, side, lots that triggers ask for."""


def nothing_to_reduce(x: Books, account: int, market: int) -> bool:
    """Whether there is no position, and no order that may open one."""
    return not position(x, account, market) and not x.orders_of(account, market)


def lots_of(x: Books, market: int, flags: int, lots: int) -> int:
    """What a trigger counts for: its size; one that reduces for the least order."""
    if flags & REDUCE_ONLY:
        config = x.configs[market]
        return up(config.min_notional_uusd, config.value_uusd * x.markets[market].mark)
    return lots


def wishes(x: Books, account: int) -> list[tuple[NaiveTrigger, Wish]]:
    """What each trigger asks for, a pair with its first one."""
    found = []
    mine = {t.id: t for t in x.triggers if t.account == account}
    for t in mine.values():
        lots = lots_of(x, t.market, t.flags, t.lots)
        order = x.order(account, t.link)
        if t.link in mine:
            if t.link < t.id:
                continue
            other = mine[t.link]
            lots = max(lots, lots_of(x, t.market, other.flags, other.lots))
        elif order is not None and not order.flags & REDUCE_ONLY:
            lots = max(0, lots - order.lots)
        found.append((t, (t.market, t.side, lots)))
    return found


def side_uusd(x: Books, account: int, market: int, side: int, asked: list[Wish]) -> int:
    """Margin for what the triggers of a side may add to the worst position."""
    longest, shortest = reach(x, account, market)
    more = sum(lots for number, where, lots in asked if (number, where) == (market, side))
    worst = max(longest + (more if side == BUY else 0), shortest + (more if side == SELL else 0))
    before = rate_uusd(x, account, market, max(longest, shortest))
    return rate_uusd(x, account, market, worst) - before


def market_uusd(x: Books, account: int, market: int, asked: list[Wish]) -> int:
    return max(side_uusd(x, account, market, side, asked) for side in (BUY, SELL))


def asked_uusd(x: Books, account: int, asked: list[Wish]) -> int:
    return sum(market_uusd(x, account, market.number, asked) for market in x.markets)


def margin_code(x: Books, account: int, legs: list[act.Order | act.TriggerOrder]) -> int:
    """Whether margin takes another trigger or pair: all together, unless it adds nothing here."""
    lots = 0
    for leg in legs:
        if not (isinstance(leg, act.Order) and leg.flags & REDUCE_ONLY):
            lots = max(lots, lots_of(x, leg.market, leg.flags, leg.size_lots))
    market, side = legs[0].market, legs[0].side
    before = [wish for _, wish in wishes(x, account)]
    after = [*before, (market, side, lots)]
    if market_uusd(x, account, market, after) == market_uusd(x, account, market, before):
        return Code.OK
    free = tv_uusd(x, account) - im_uusd(x, account)
    return Code.OK if asked_uusd(x, account, after) <= free else Code.INSUFFICIENT_MARGIN


def drop_unbacked(x: Books) -> None:
    """At the end of a block: of those that something left, what has nothing to reduce, and the
    newest ones without margin; of as many others as a block may, what has nothing to reduce."""
    for account in sorted(x.left):
        drop_idle(x, account)
        while newest := without_margin(x, account):
            drop_trigger(x, newest, ev.REASON_UNBACKED)
    others = 0
    for owner in x.traders():
        if others < x.limits.triggers_per_block:
            others += drop_idle(x, owner.number)


def drop_idle(x: Books, account: int) -> bool:
    """Drop an account's triggers that have nothing to reduce; whether there are any."""
    mine = [t for t in x.triggers if t.account == account and t.flags & REDUCE_ONLY]
    idle = [t for t in mine if nothing_to_reduce(x, account, t.market)]
    for t in sorted(idle, key=lambda t: (t.market, t.id)):
        if t in x.triggers:
            drop_trigger(x, t, ev.REASON_UNBACKED)
    return bool(idle)


def without_margin(x: Books, account: int) -> NaiveTrigger | None:
    """The newest trigger that asks for margin, if there is too little for all."""
    found = wishes(x, account)
    asked = [wish for _, wish in found]
    free = max(0, tv_uusd(x, account) - im_uusd(x, account))
    if asked_uusd(x, account, asked) <= free:
        return None
    asking = []
    for t, (market, side, lots) in found:
        most = market_uusd(x, account, market, asked)
        if lots and most and side_uusd(x, account, market, side, asked) == most:
            asking.append(t)
    return max(asking, key=lambda t: t.id)
