"""Rows of a LOBSTER recording become actions that leave the recorded levels in the book."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from client.lobster import (
    EMPTY_PRICE,
    SEED,
    Intent,
    Levels,
    Mapper,
    Quotes,
    ReduceClient,
    Step,
    parse_message,
)
from matching import Book, Resting
from protocol.actions import BUY, GTC, IOC, SELL, CancelClient, Order
from protocol.errors import ConfigError
from protocol.genesis import MarketConfig

GOOG = MarketConfig(
    market=2, symbol="GOOG-PERP", tick_uusd=10_000, lot_micro=1_000_000, initial_ppm=100_000,
    maintenance_ppm=60_000, taker_fee_ppm=450, maker_fee_ppm=150, min_notional_uusd=1_000_000,
    max_order_lots=1_000, max_position_lots=1_000_000, initial_price_ticks=57_700,
)  # fmt: skip
EMPTY = "9999999999,0,-9999999999,0"
SEED_ROW = "1010000,50,1000000,40,1020000,60,990000,30"
"""Two levels: asks 101.00 x 50, 102.00 x 60; bids 100.00 x 40, 99.00 x 30."""


def steps(mapper: Mapper, messages: list[str], book: list[str] | None) -> list[Step]:
    return list(mapper.steps(messages, book))


def message(kind: int, order_id: int, size: int, price: str, direction: int) -> str:
    return f"34200.5,{kind},{order_id},{size},{price},{direction}\n"


def seeded(*rows: tuple[str, str]) -> tuple[Mapper, list[Step]]:
    mapper = Mapper(GOOG, 8)
    messages = [message(1, 1, 1, "1000000", 1)] + [row[0] for row in rows]
    return mapper, steps(mapper, messages, [SEED_ROW] + [row[1] for row in rows])


def actions(intents: list[Intent]) -> list[object]:
    return [intent.action for intent in intents]


def test_the_first_row_seeds_every_level_and_is_not_compared() -> None:
    mapper, [first] = seeded()
    assert first.intents == [] and first.expected is None
    assert mapper.book.top(BUY, 5) == [(10_000, 40), (9_900, 30)]
    assert mapper.book.top(SELL, 5) == [(10_100, 50), (10_200, 60)]
    assert {intent.account for intent in first.adopt} == {0}
    assert all(isinstance(a, Order) and a.tif == GTC for a in actions(first.adopt))


def test_a_new_order_rests_with_a_maker_and_its_row_is_expected() -> None:
    row = "1010000,50,1000000,47,1020000,60,990000,30"
    mapper, [_, step] = seeded((message(1, 7, 7, "1000000", 1), row))
    [intent] = step.intents
    assert intent.account in mapper.makers
    assert intent.action == Order(2, BUY, 10_000, 7, GTC, intent.action.client_id)
    assert step.expected == Quotes(10_000, 47, 10_100, 50)
    assert step.adopt == []


def test_an_execution_is_an_order_of_a_taker_on_the_other_side() -> None:
    row = "1010000,50,1000000,15,1020000,60,990000,30"
    mapper, [_, step] = seeded((message(4, 999, 25, "1000000", 1), row))
    assert step.intents == [Intent(1, Order(2, SELL, 10_000, 25, IOC))]
    assert 1 in mapper.takers and step.adopt == []


def test_cancels_and_partial_cancels_name_the_order_that_was_placed() -> None:
    add = "1010000,50,1000000,47,1020000,60,990000,30"
    cut = "1010000,50,1000000,44,1020000,60,990000,30"
    _, [_, placed, reduced, deleted] = seeded(
        (message(1, 7, 7, "1000000", 1), add),
        (message(2, 7, 3, "1000000", 1), cut),
        (message(3, 7, 4, "1000000", 1), SEED_ROW),
    )
    maker, order = placed.intents[0]
    assert isinstance(order, Order)
    assert reduced.intents == [Intent(maker, ReduceClient(order.client_id, 3))]
    assert deleted.intents == [Intent(maker, CancelClient(2, order.client_id))]


def test_an_order_used_up_by_our_own_priority_is_made_good_from_its_level() -> None:
    # Order 8 queues behind 7, but the recording executes 8: our taker meets the seed order first.
    behind = "1010000,50,1000000,52,1020000,60,990000,30"
    mapper, all_steps = seeded(
        (message(1, 7, 5, "1000000", 1), "1010000,50,1000000,45,1020000,60,990000,30"),
        (message(1, 8, 7, "1000000", 1), behind),
        (message(4, 8, 45, "1000000", 1), "1010000,50,1000000,7,1020000,60,990000,30"),
        (message(3, 7, 5, "1000000", 1), "1010000,50,1000000,2,1020000,60,990000,30"),
    )
    assert all(step.adopt == [] for step in all_steps[1:])
    [last] = all_steps[-1].intents
    second_order = all_steps[2].intents[0].action
    assert isinstance(second_order, Order)
    assert last.action == ReduceClient(second_order.client_id, 5)
    assert mapper.book.best(BUY) == (10_000, 2)


def test_hidden_executions_and_halts_change_nothing() -> None:
    mapper, all_steps = seeded(
        (message(5, 0, 9, "1000150", 1), SEED_ROW), (message(7, 0, 0, "-1", -1), SEED_ROW)
    )
    assert [step.intents for step in all_steps[1:]] == [[], []]
    assert mapper.counts.ignored == 2


def test_a_level_revealed_at_the_edge_is_adopted_after_its_row_is_compared() -> None:
    row = "1010000,50,990000,30,1020000,60,980000,12"
    mapper, [_, step] = seeded((message(3, 999, 40, "1000000", 1), row))
    assert step.expected == Quotes(9_900, 30, 10_100, 50)
    assert [type(action) for action in actions(step.intents)] == [CancelClient]
    [adopted] = actions(step.adopt)
    assert isinstance(adopted, Order)
    assert (adopted.price_ticks, adopted.size_lots) == (9_800, 12)
    assert mapper.counts.uncovered_rows == 0


def test_a_row_whose_best_level_was_itself_revealed_is_compared_once_it_is_adopted() -> None:
    mapper = Mapper(GOOG, 8)
    rows = ["1010000,50,1000000,40", "1010000,50,990000,30"]
    _, step = steps(mapper, [message(1, 1, 1, "1000000", 1), message(3, 5, 40, "1000000", 1)], rows)
    assert step.expected == Quotes(9_900, 30, 10_100, 50) and step.adopt == []
    [cancelled, adopted] = step.intents
    assert isinstance(cancelled.action, CancelClient) and adopted.account == 0
    assert isinstance(adopted.action, Order) and adopted.action.price_ticks == 9_900
    assert (mapper.counts.revealed_rows, mapper.counts.uncovered_rows) == (1, 0)
    assert mapper.book.best(BUY) == (9_900, 30)


@pytest.mark.parametrize(
    ("event", "row"),
    [
        ((3, 5, 40), "1010000,50,1000000,7"),  # the level came back in the row that emptied it
        ((3, 5, 40), "1010000,50,1000100,7"),  # a better one came
        ((3, 5, 39), "1010000,50,990000,30"),  # one lot is left of it
        ((3, 5, 40), "1010000,51,990000,30"),  # the other side changed
        ((1, 5, 40), "1010000,50,1000000,81"),
        ((5, 5, 40), "1010000,50,990000,30"),  # nothing was said of it
    ],
)
def test_a_row_that_does_not_follow_is_compared_before_anything_is_adopted(
    event: tuple[int, int, int], row: str
) -> None:
    mapper = Mapper(GOOG, 8)
    messages = [message(1, 1, 1, "1000000", 1), message(*event, "1000000", 1)]
    _, step = steps(mapper, messages, ["1010000,50,1000000,40", row])
    assert (mapper.counts.revealed_rows, mapper.counts.uncovered_rows) == (0, 1)
    assert step.expected is not None and step.adopt != []
    assert all(intent.account != 0 for intent in step.intents if isinstance(intent.action, Order))


def test_a_stale_level_below_the_edge_is_corrected_when_it_comes_back() -> None:
    # 99.00 leaves the two recorded levels, changes unseen, and comes back with 5 instead of 30.
    _, all_steps = seeded(
        (message(1, 7, 3, "1000100", 1), "1010000,50,1000100,3,1020000,60,1000000,40"),
        (message(3, 7, 3, "1000100", 1), "1010000,50,1000000,40,1020000,60,990000,5"),
    )
    [correction] = actions(all_steps[2].adopt)
    assert isinstance(correction, ReduceClient) and correction.by_lots == 25


def test_a_level_above_the_order_limit_is_split() -> None:
    mapper = Mapper(GOOG, 8)
    [step] = steps(mapper, [message(1, 1, 1, "1000000", 1)], [f"{EMPTY}"])
    assert step.adopt == []
    [_, big] = steps(
        Mapper(GOOG, 8),
        [message(1, 1, 1, "1000000", 1)] * 2,
        [SEED_ROW, SEED_ROW.replace("60", "2500")],
    )
    assert sum(a.size_lots for a in actions(big.adopt) if isinstance(a, Order)) == 2_440
    assert max(a.size_lots for a in actions(big.adopt) if isinstance(a, Order)) == 1_000


def test_without_a_book_unknown_orders_are_skipped_and_stale_ones_cancelled() -> None:
    mapper = Mapper(GOOG, 8)
    all_steps = steps(
        mapper,
        [
            message(3, 999, 40, "1000000", 1),
            message(4, 998, 40, "1000000", 1),
            message(1, 1, 5, "1000000", 1),
            message(1, 2, 6, "1000000", -1),
        ],
        None,
    )
    assert mapper.counts.unknown == 2 and mapper.counts.stale_orders == 1
    assert all_steps[1].intents == []
    assert [type(a) for a in actions(all_steps[3].intents)] == [CancelClient, Order]
    assert all_steps[3].expected == Quotes(0, 0, 10_000, 6)


def test_makers_take_turns_so_that_no_account_holds_everything() -> None:
    mapper = Mapper(GOOG, 8)
    messages = [message(1, n, 1, str(1_000_000 - 100 * n), 1) for n in range(1, 2_000)]
    used = {step.intents[0].account for step in steps(mapper, messages, None)}
    assert used == set(mapper.makers)


@pytest.mark.parametrize(
    "line", ["", "1,2,3", "a,1,1,1,1,1", "1.0,9,1,1,1,1", "1.0,1,1,1,1,0", "1.0,1,1,-5,1,1"]
)
def test_a_row_that_is_no_message_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(ConfigError, match="row 17"):
        parse_message(line, 17)


def test_times_are_read_to_the_nanosecond() -> None:
    assert parse_message("34200.015105074,4,1,4,5794000,1", 0).time_ns == 34_200_015_105_074
    assert parse_message("34200,4,1,4,5794000,1", 0).time_ns == 34_200_000_000_000


def test_a_price_between_ticks_is_refused() -> None:
    with pytest.raises(ConfigError, match="finer tick"):
        steps(Mapper(GOOG, 8), [message(1, 1, 1, "1000050", 1)], None)


def test_a_book_file_that_ends_too_early_is_refused() -> None:
    add = message(1, 7, 7, "1000000", 1)
    with pytest.raises(ConfigError, match="ends before row 1"):
        steps(Mapper(GOOG, 8), [add, add], [SEED_ROW])


# --- recordings of whole days, where they are at hand

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "l3"
ROWS = 20_000
"""Of a day that a test reads; all of GOOG's and AAPL's rows pass, in a minute."""


class Venue:
    """The project's matching book without money."""

    def __init__(self) -> None:
        self.book = Book(GOOG.market)
        self.orders: dict[int, Resting] = {}
        self.next_id = 1

    def execute(self, intents: Iterable[Intent]) -> None:
        for account, action in intents:
            if isinstance(action, CancelClient):
                self.book.cancel(self.orders.pop(action.client_id))
            elif isinstance(action, ReduceClient):
                self.book.reduce(self.orders[action.client_id], action.by_lots)
            else:
                self._order(account, action)

    def _order(self, account: int, action: Order) -> None:
        side, price = action.side, action.price_ticks
        left = self.book.take(side, price, action.size_lots, self, 500)
        assert not left if action.tif == IOC else left == action.size_lots
        if left:
            order = Resting(2, self.next_id, account, action.client_id, side, price, left)
            self.orders[action.client_id] = order
            self.book.add(order)
        self.next_id += 1

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        return lots

    def filled(self, maker: Resting, lots: int) -> None:
        if not maker.remaining_lots:
            del self.orders[maker.client_id]

    def removed(self, maker: Resting, lots: int) -> None:
        raise AssertionError("nobody is short of margin here")

    def levels(self, side: int, count: int) -> Levels:
        return [(price, lots) for price, lots, _ in self.book.depth(side, count)]


def parsed(row: str) -> tuple[Levels, Levels]:
    """Bids and asks of a row of a book file, best first, in ticks."""
    numbers = [int(field) for field in row.split(",")]
    pairs = [(numbers[at] // 100, numbers[at + 1]) for at in range(0, len(numbers), 2)]
    bids, asks = pairs[1::2], pairs[::2]
    empty = EMPTY_PRICE // 100
    return [p for p in bids if -p[0] <= empty and p[0] > 0], [p for p in asks if p[0] < empty]


def moved(levels: Levels, line: str, side: int, depth: int) -> Levels:
    """What a row and a message leave of one side of the row, by arithmetic alone."""
    event = parse_message(line, 0)
    left = dict(levels)
    if event.kind <= 4 and side == (BUY if event.direction == 1 else SELL):
        price = event.price // 100
        left[price] = left.get(price, 0) + (event.size if event.kind == 1 else -event.size)
        assert left[price] >= 0
        if not left[price]:
            del left[price]
    ordered = sorted(left.items(), reverse=side == BUY)
    if len(levels) == depth and len(ordered) > depth:
        return ordered[:depth]
    return ordered


@pytest.mark.parametrize(("name", "depth"), [("GOOG", 10), ("AAPL", 1)])
def test_every_row_of_a_recording_is_in_the_matching_book_on_all_levels(
    name: str, depth: int
) -> None:
    stem = f"lobster_{name}_20120621"
    files = DATA / f"{stem}_message_{depth}.csv.xz", DATA / f"{stem}_orderbook_{depth}.csv.xz"
    if not all(path.exists() for path in files):
        pytest.skip("the recorded order flow is not at ../shared/data/l3")
    with lzma.open(files[0], "rt") as lines, lzma.open(files[1], "rt") as rows:
        messages, book = list(islice(lines, ROWS)), list(islice(rows, ROWS))
    mapper, venue = Mapper(GOOG, 16), Venue()
    before: tuple[Levels, Levels] = ([], [])
    revealed = 0
    for step in mapper.steps(messages, book):
        published = parsed(book[step.row])
        venue.execute(step.intents)
        if step.row:
            told = [moved(before[s], messages[step.row], s, depth) for s in (BUY, SELL)]
            for side in (BUY, SELL):
                assert published[side][: len(told[side])] == told[side], f"row {step.row}"
                assert venue.levels(side, len(told[side])) == told[side], f"row {step.row}"
                revealed += len(published[side]) > len(told[side])
            # Adopted before the comparison is only a best level, where nothing is left of the last.
            adopted = any(i.account == SEED and isinstance(i.action, Order) for i in step.intents)
            assert not adopted or [] in told, f"row {step.row}"
        venue.execute(step.adopt)
        for side in (BUY, SELL):
            assert venue.levels(side, len(published[side])) == published[side], f"row {step.row}"
            if len(published[side]) < depth:
                assert venue.levels(side, depth) == published[side], f"row {step.row}"
        assert (step.expected is None) == (step.row == 0)
        before = published
    assert mapper.counts.rows == len(book) and mapper.counts.uncovered_rows == 0
    assert mapper.counts.short_lots == mapper.counts.unknown == 0
    assert revealed > ROWS // 10
    assert mapper.counts.revealed_rows == (revealed if depth == 1 else 0)
