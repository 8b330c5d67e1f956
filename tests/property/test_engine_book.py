"""The book against a naive one: a plain list, sorted anew for every match."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from matching import Book, Resting
from protocol.actions import BUY, SELL

Event = tuple[str, int, int]


class Naive:
    """[order_id, side, price, lots] in a list; priority by sorting."""

    def __init__(self) -> None:
        self.orders: list[list[int]] = []

    def opposite(self, side: int, limit: int) -> list[list[int]]:
        if side == BUY:
            found = [o for o in self.orders if o[1] == SELL and o[2] <= limit]
            return sorted(found, key=lambda o: (o[2], o[0]))
        found = [o for o in self.orders if o[1] == BUY and o[2] >= limit]
        return sorted(found, key=lambda o: (-o[2], o[0]))

    def take(
        self, side: int, limit: int, lots: int, refused: set[int], at_most: int, steps: int
    ) -> tuple[int, list[Event]]:
        events: list[Event] = []
        while lots and steps:
            found = self.opposite(side, limit)
            if not found:
                break
            maker = found[0]
            steps -= 1
            if maker[0] in refused:
                self.orders.remove(maker)
                events.append(("removed", maker[0], maker[3]))
                continue
            fill = min(lots, maker[3], at_most)
            lots -= fill
            maker[3] -= fill
            if not maker[3]:
                self.orders.remove(maker)
            events.append(("filled", maker[0], fill))
        return lots, events

    def depth(self, side: int) -> list[tuple[int, int, int]]:
        prices = sorted({o[2] for o in self.orders if o[1] == side}, reverse=side == BUY)
        levels = [[o[3] for o in self.orders if o[1] == side and o[2] == p] for p in prices]
        return [(p, sum(lots), len(lots)) for p, lots in zip(prices, levels, strict=True)]


class Tape:
    """The gate of the real book, with the naive one's rules."""

    def __init__(self, refused: set[int], at_most: int) -> None:
        self.refused = refused
        self.at_most = at_most
        self.events: list[Event] = []

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        return 0 if maker.order_id in self.refused else min(lots, self.at_most)

    def filled(self, maker: Resting, lots: int) -> None:
        self.events.append(("filled", maker.order_id, lots))

    def removed(self, maker: Resting, lots: int) -> None:
        self.events.append(("removed", maker.order_id, lots))


OPERATION = st.tuples(
    st.sampled_from(["limit", "limit", "limit", "ioc", "cancel", "reduce"]),
    st.integers(0, 1),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(0, 1_000),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(OPERATION, max_size=60),
    st.sets(st.integers(1, 40), max_size=4),
    st.sampled_from([2, 1_000]),
    st.sampled_from([1, 3, 1_000]),
)
def test_every_event_is_the_naive_books(
    operations: list[tuple[str, int, int, int, int]],
    refused: set[int],
    at_most: int,
    steps: int,
) -> None:
    book, naive = Book(0), Naive()
    next_id = 1
    for kind, side, price, lots, pick in operations:
        if kind in ("limit", "ioc"):
            assert book.crosses(side, price) == bool(naive.opposite(side, price))
            tape = Tape(refused, at_most)
            left = book.take(side, price, lots, tape, steps)
            assert (left, tape.events) == naive.take(side, price, lots, refused, at_most, steps)
            if left and kind == "limit" and not book.crosses(side, price):
                book.add(Resting(0, next_id, 16, 0, side, price, left))
                naive.orders.append([next_id, side, price, left])
            next_id += 1
        elif naive.orders:
            chosen = naive.orders[pick % len(naive.orders)]
            order = book.orders[chosen[0]]
            if kind == "reduce" and lots < chosen[3]:
                book.reduce(order, lots)
                chosen[3] -= lots
            else:
                assert book.cancel(order) == chosen[3]
                naive.orders.remove(chosen)
        book.check()
        for half in (BUY, SELL):
            assert book.depth(half, 100) == naive.depth(half)
            walked = [(o.order_id, o.remaining_lots) for o in book.walk(half)]
            limit = 0 if half == BUY else 1_000
            assert walked == [(o[0], o[3]) for o in naive.opposite(1 - half, limit)]
