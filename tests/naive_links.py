"""What leaves the lists of the naive exchange, and what leaves or grows because of it."""

from __future__ import annotations

from naive_state import Books, NaiveOrder, NaiveTrigger

from protocol import events as ev


def changed(x: Books, o: NaiveOrder, reason: int) -> None:
    """The event that a resting order shrank or left."""
    x.events.append(ev.OrderChanged(o.market, o.id, o.account, o.side, o.price, o.lots, reason))


def remove(x: Books, o: NaiveOrder, reason: int) -> None:
    """Take a resting order out of the list."""
    o.lots = 0
    x.orders.remove(o)
    changed(x, o, reason)
    order_changed(x, o, 0)


def trigger_changed(x: Books, t: NaiveTrigger, reason: int) -> None:
    x.events.append(ev.TriggerChanged(t.market, t.id, t.account, t.lots, reason))


def drop_trigger(x: Books, t: NaiveTrigger, reason: int) -> None:
    """Take a trigger out of the list, and what it is linked with."""
    t.lots = 0
    x.triggers.remove(t)
    trigger_changed(x, t, reason)
    drop_linked(x, t.id)


def drop_linked(x: Books, gone: int) -> None:
    """Take out what one-cancels-other links to something that is gone."""
    for t in list(x.triggers):
        if t.link == gone:
            t.link = 0
            drop_trigger(x, t, ev.REASON_LINKED)
    for o in list(x.orders):
        if o.link == gone:
            o.link = 0
            remove(x, o, ev.REASON_LINKED)


def order_changed(x: Books, o: NaiveOrder, filled: int) -> None:
    """Brackets grow with their parent's fills, and go with a parent that never filled; the other
    order of an OCO goes with the first fill and when this one leaves."""
    exits = [t for t in x.triggers if t.parent == o.id]
    for t in exits:
        if filled:
            if not t.lots:
                t.best = x.markets[t.market].mark
            t.lots += filled
            trigger_changed(x, t, 0)
        if not o.lots:
            t.parent = 0
    if not o.lots and exits and not exits[0].lots:
        drop_trigger(x, exits[0], ev.REASON_LINKED)
    if o.link and (filled or not o.lots):
        o.link = 0
        for t in list(x.triggers):
            if t.link == o.id:
                t.link = 0
                drop_trigger(x, t, ev.REASON_LINKED)
