"""The order book: priority, cancels, reductions, and the gate."""

from __future__ import annotations

import importlib.util
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
