"""The order book: priority, cancels, reductions, and the gate."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from matching import Book, Resting
from protocol.actions import BUY, SELL
from protocol.errors import SafetyViolation

M64 = (1 << 64) - 1
WORKLOAD = Path(__file__).resolve().parents[3] / "shared" / "bench" / "workload.py"


class Tape:
    """A gate that allows everything except what a test forbids, and writes down what happens."""

    def __init__(self) -> None:
        self.fills: list[tuple[int, int]] = []
        self.refused: set[int] = set()
        self.gone: list[tuple[int, int]] = []
        self.at_most = 1 << 31
        self.stop_at = 0

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        if maker.order_id in self.refused:
            return 0
        if maker.order_id == self.stop_at:
            return -1
        return min(lots, self.at_most)

    def filled(self, maker: Resting, lots: int) -> None:
        self.fills.append((maker.order_id, lots))

    def removed(self, maker: Resting, lots: int) -> None:
        self.gone.append((maker.order_id, lots))


def rest(book: Book, order_id: int, side: int, price: int, lots: int) -> Resting:
    order = Resting(book.market, order_id, 16, 0, side, price, lots)
    book.add(order)
    book.check()
    return order


def test_better_price_first_then_older_order() -> None:
    book, tape = Book(0), Tape()
    rest(book, 1, SELL, 102, 5)
    rest(book, 2, SELL, 101, 5)
    rest(book, 3, SELL, 101, 5)
    assert book.take(BUY, 102, 12, tape, 100) == 0
    assert tape.fills == [(2, 5), (3, 5), (1, 2)]
    book.check()
    tape.fills.clear()
    rest(book, 4, BUY, 99, 5)
    rest(book, 5, BUY, 100, 5)
    rest(book, 6, BUY, 100, 5)
    assert book.take(SELL, 99, 12, tape, 100) == 0
    assert tape.fills == [(5, 5), (6, 5), (4, 2)]
    book.check()


def test_the_limit_is_inclusive_and_nothing_trades_beyond_it() -> None:
    book, tape = Book(0), Tape()
    rest(book, 1, SELL, 101, 5)
    rest(book, 2, SELL, 102, 5)
    assert not book.crosses(BUY, 100)
    assert book.crosses(BUY, 101)
    assert not book.crosses(SELL, 1)
    assert book.take(BUY, 101, 8, tape, 100) == 3
    assert tape.fills == [(1, 5)]
    rest(book, 3, BUY, 90, 1)
    assert book.crosses(SELL, 90)
    assert not book.crosses(SELL, 91)


def test_the_last_order_of_a_level_and_of_a_side_leaves_nothing_behind() -> None:
    book = Book(0)
    for side in (BUY, SELL):
        first = rest(book, 1, side, 100, 5)
        second = rest(book, 2, side, 100, 5)
        third = rest(book, 3, side, 101, 5)
        for order in (first, third, second):
            assert book.cancel(order) == 5
            book.check()
        assert book.depth(side, 10) == []
        assert not book.crosses(1 - side, 1 if side == SELL else 1_000)
        assert book.sides[side].best is None
    assert not book.orders


def test_the_next_level_becomes_best_when_the_best_one_empties() -> None:
    book, tape = Book(0), Tape()
    best = rest(book, 1, BUY, 101, 5)
    rest(book, 2, BUY, 100, 5)
    book.cancel(best)
    assert not book.crosses(SELL, 101)
    assert book.crosses(SELL, 100)
    assert book.take(SELL, 100, 5, tape, 100) == 0
    assert book.bids.best is None
    book.check()


def test_a_reduced_order_keeps_its_place() -> None:
    book, tape = Book(0), Tape()
    first = rest(book, 1, BUY, 100, 9)
    rest(book, 2, BUY, 100, 5)
    book.reduce(first, 8)
    assert book.depth(BUY, 1) == [(100, 6, 2)]
    book.check()
    book.take(SELL, 100, 2, tape, 100)
    assert tape.fills == [(1, 1), (2, 1)]
    for by in (0, -1, 4, 5):
        with pytest.raises(SafetyViolation):
            book.reduce(book.orders[2], by)


def test_a_maker_without_margin_is_removed_and_matching_goes_on() -> None:
    book, tape = Book(0), Tape()
    rest(book, 1, SELL, 100, 5)
    rest(book, 2, SELL, 100, 5)
    tape.refused = {1}
    assert book.take(BUY, 100, 7, tape, 100) == 2
    assert tape.gone == [(1, 5)]
    assert tape.fills == [(2, 5)]
    assert not book.orders
    book.check()


def test_the_gate_may_stop_the_taker_and_split_fills() -> None:
    book, tape = Book(0), Tape()
    rest(book, 1, SELL, 100, 5)
    rest(book, 2, SELL, 100, 5)
    tape.at_most, tape.stop_at = 2, 2
    assert book.take(BUY, 100, 10, tape, 100) == 5
    assert tape.fills == [(1, 2), (1, 2), (1, 1)]
    book.check()


def test_fills_and_removals_stop_at_the_step_limit() -> None:
    book, tape = Book(0), Tape()
    for order_id in range(1, 6):
        rest(book, order_id, SELL, 100, 1)
    tape.refused = {1}
    assert book.take(BUY, 100, 5, tape, 3) == 3
    assert len(tape.fills) == 2
    assert sorted(book.orders) == [4, 5]


def test_a_gate_that_allows_more_than_offered_is_our_fault() -> None:
    class Greedy(Tape):
        def allowed_lots(self, maker: Resting, lots: int) -> int:
            return lots + 1

    book = Book(0)
    rest(book, 1, SELL, 100, 5)
    with pytest.raises(SafetyViolation):
        book.take(BUY, 100, 2, Greedy(), 10)


def test_cancelling_twice_is_our_fault() -> None:
    book = Book(0)
    order = rest(book, 1, SELL, 100, 5)
    book.cancel(order)
    with pytest.raises(SafetyViolation):
        book.cancel(order)


def test_depth_counts_levels_best_first() -> None:
    book = Book(0)
    rest(book, 1, BUY, 99, 1)
    rest(book, 2, BUY, 100, 2)
    rest(book, 3, BUY, 100, 3)
    rest(book, 4, SELL, 103, 4)
    rest(book, 5, SELL, 102, 5)
    assert book.depth(BUY, 5) == [(100, 5, 2), (99, 1, 1)]
    assert book.depth(SELL, 1) == [(102, 5, 1)]
    assert [order.order_id for order in book.walk(BUY)] == [2, 3, 1]
    assert [order.order_id for order in book.walk(SELL)] == [5, 4]


def test_an_order_keeps_what_matching_does_not_read() -> None:
    plain = Resting(0, 1, 16, 0, BUY, 100, 5)
    assert (plain.flags, plain.expires_ms, plain.link, plain.stored) == (0, 0, 0, False)
    order = Resting(0, 2, 16, (1 << 64) - 1, BUY, 100, 5, 3, 1_700_000_000_000, 1)
    assert (order.flags, order.expires_ms, order.link) == (3, 1_700_000_000_000, 1)
    assert order.client_id == (1 << 64) - 1


def test_orders_that_are_not_here_are_our_fault() -> None:
    book, other = Book(0), Book(1)
    rest(book, 1, SELL, 100, 5)
    foreign = rest(other, 1, SELL, 100, 5)
    for change in (lambda: book.cancel(foreign), lambda: book.reduce(foreign, 1)):
        with pytest.raises(SafetyViolation, match="not in the book of market 0"):
            change()


class Meddler(Tape):
    """A gate that changes the book when it is told of a fill or a removal of a maker."""

    def __init__(self) -> None:
        super().__init__()
        self.then: dict[int, list[Callable[[], object]]] = {}

    def filled(self, maker: Resting, lots: int) -> None:
        super().filled(maker, lots)
        for change in self.then.pop(maker.order_id, []):
            change()

    def removed(self, maker: Resting, lots: int) -> None:
        super().removed(maker, lots)
        for change in self.then.pop(maker.order_id, []):
            change()


@pytest.mark.parametrize("refused", [False, True])
def test_a_gate_may_cancel_and_reduce_other_orders(refused: bool) -> None:
    book, tape = Book(0), Meddler()
    orders = {
        n: rest(book, n, SELL, price, 5)
        for n, price in ((1, 100), (2, 100), (3, 100), (4, 101), (5, 102), (6, 102), (7, 103))
    }
    tape.refused = {1} if refused else set()
    tape.then[1] = [
        lambda: book.cancel(orders[2]),  # the next of the level
        lambda: book.cancel(orders[3]),  # its last
        lambda: book.cancel(orders[4]),  # the whole next level
        lambda: book.reduce(orders[5], 4),
    ]
    tape.then[6] = [lambda: book.cancel(orders[7])]  # the last of the side
    left = book.take(BUY, 200, 20, tape, 100)
    assert tape.fills == ([] if refused else [(1, 5)]) + [(5, 1), (6, 5)]
    assert left == (14 if refused else 9)
    assert not book.orders and book.best_ticks(SELL) == 0
    book.check()


def test_a_gate_may_cancel_the_rest_of_the_maker_and_of_its_level() -> None:
    book, tape = Book(0), Meddler()
    first, second = rest(book, 1, BUY, 100, 9), rest(book, 2, BUY, 100, 5)
    rest(book, 3, BUY, 99, 5)
    tape.at_most = 2
    tape.then[1] = [lambda: book.cancel(first), lambda: book.reduce(second, 4)]
    assert book.take(SELL, 99, 10, tape, 4) == 3
    assert tape.fills == [(1, 2), (2, 1), (3, 2), (3, 2)]
    assert book.depth(BUY, 9) == [(99, 1, 1)]
    book.check()


def test_a_gate_may_stop_and_the_taker_come_again() -> None:
    book, tape = Book(0), Meddler()
    for order_id in (1, 2, 3):
        rest(book, order_id, SELL, 100, 5)
    tape.stop_at = 2
    left = book.take(BUY, 100, 15, tape, 100)
    assert (left, tape.fills) == (10, [(1, 5)])
    book.check()
    book.cancel(book.orders[2])
    assert book.take(BUY, 100, left, tape, 100) == 5
    assert tape.fills == [(1, 5), (3, 5)]
    book.check()


def test_a_gate_that_touches_the_maker_it_is_asked_about_is_our_fault() -> None:
    class Eager(Tape):
        def allowed_lots(self, maker: Resting, lots: int) -> int:
            book.reduce(maker, 1)
            return 1

    book = Book(0)
    rest(book, 1, SELL, 100, 5)
    with pytest.raises(SafetyViolation):
        book.take(BUY, 100, 2, Eager(), 10)


def test_the_queue_of_a_level_does_not_grow_with_orders_that_left() -> None:
    book, tape = Book(0), Tape()
    rest(book, 1, BUY, 100, 3)
    rest(book, 2, BUY, 100, 1)
    book.take(SELL, 100, 3, tape, 100)
    for order_id in range(3, 2_000):
        kept = rest(book, order_id, BUY, 100, 2)
        if order_id % 500:
            book.cancel(kept)
    [(_, level)] = book.bids.levels.items()
    assert level.count == 4 and len(level.queue) < 64
    assert [order.order_id for order in book.walk(BUY)] == [2, 500, 1_000, 1_500]
    assert book.take(SELL, 100, 5, tape, 100) == 0
    assert tape.fills == [(1, 3), (2, 1), (500, 2), (1_000, 2)]
    book.check()


def test_the_best_price_of_each_side() -> None:
    book = Book(0)
    assert book.best_ticks(BUY) == book.best_ticks(SELL) == 0
    rest(book, 1, BUY, 99, 1)
    bid = rest(book, 2, BUY, 100, 1)
    rest(book, 3, SELL, 105, 1)
    assert (book.best_ticks(BUY), book.best_ticks(SELL)) == (100, 105)
    book.cancel(bid)
    assert book.best_ticks(BUY) == 99


def test_impact_prices_are_averages_rounded_against_the_taker() -> None:
    book = Book(0)
    rest(book, 1, BUY, 100, 10)
    rest(book, 2, BUY, 90, 10)
    rest(book, 3, SELL, 110, 10)
    rest(book, 4, SELL, 120, 10)
    assert book.impact_ticks(BUY, 1) == book.impact_ticks(BUY, 1_000) == 100
    # 10 lots at 100 and 5 at 90: 1,450 for 15 lots is 96.67 each.
    assert book.impact_ticks(BUY, 1_450) == 96
    assert book.impact_ticks(BUY, 1_900) == 95  # all of it
    assert book.impact_ticks(BUY, 1_901) == 0  # not deep enough
    assert book.impact_ticks(SELL, 1_100) == 110
    assert book.impact_ticks(SELL, 1_101) == 111
    assert book.impact_ticks(SELL, 2_300) == 115
    assert book.impact_ticks(SELL, 2_301) == 0
    assert Book(0).impact_ticks(BUY, 1) == 0
    for notional in (0, -1):
        with pytest.raises(SafetyViolation):
            book.impact_ticks(BUY, notional)


def test_impact_prices_are_those_of_exact_fractions() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(50):
        book = Book(0)
        scale = chance.choice([1, 1 << 8, 1 << 20])
        for order_id in range(chance.randrange(1, 40)):
            price = chance.randrange(1, 40) * scale
            rest(book, order_id, BUY, price, chance.randrange(1, 50 * scale))
            rest(book, 100 + order_id, SELL, 40 * scale + price, chance.randrange(1, 50 * scale))
        for side in (BUY, SELL):
            levels = book.depth(side, 1_000)
            deep = sum(price * lots for price, lots, _ in levels)
            for notional in (1, deep, deep + 1, *(chance.randrange(1, deep + 1) for _ in range(9))):
                left, lots_taken = Fraction(notional), Fraction(0)
                for price, lots, _ in levels:
                    part = min(Fraction(lots), left / price)
                    lots_taken += part
                    left -= part * price
                expected = notional / lots_taken
                rounded = expected.__floor__() if side == BUY else expected.__ceil__()
                assert book.impact_ticks(side, notional) == (0 if left else rounded)


def _workload() -> Any:
    if not WORKLOAD.exists():
        pytest.skip(f"the shared workload is not at {WORKLOAD}")
    spec = importlib.util.spec_from_file_location("workload", WORKLOAD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shared_workload_gives_the_expected_trades() -> None:
    class Checksum(Tape):
        taker = trades = volume = check = 0

        def filled(self, maker: Resting, lots: int) -> None:
            self.trades += 1
            self.volume += lots
            for value in (self.taker, maker.order_id, maker.price_ticks, lots):
                self.check = (self.check * 1_000_003 + value) & M64

    book, tape = Book(0), Checksum()
    meta: dict[str, Any] = {}
    for op in _workload().generate(50_000, 2_000, 7):
        if op[0] == "meta":
            meta = op[1]
        elif op[0] == "C":
            book.cancel(book.orders[op[1]])
        else:
            side = BUY if op[2] == "B" else SELL
            if op[0] == "A":
                assert not book.crosses(side, op[3])
                book.add(Resting(0, op[1], 16, 0, side, op[3], op[4]))
            else:
                tape.taker = op[1]
                assert book.take(side, op[3], op[4], tape, 1_000) == 0
    book.check()
    assert (tape.trades, tape.volume) == (meta["trades"], meta["traded_qty"])
    assert tape.check == meta["trade_checksum_u64"]
    assert len(book.orders) == meta["final_live_orders"]
    assert [len(side.levels) for side in book.sides] == meta["final_levels"]
