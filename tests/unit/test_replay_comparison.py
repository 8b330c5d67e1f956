"""A replay through a real matching book agrees with the recording, and notices when it does not."""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from client.lobster import SEED, Mapper, Quotes, ReduceClient
from client.replay import BATCH_ACTIONS, Check, RowComparer
from client.submission import Submission
from matching.book import Book, Resting
from protocol.actions import IOC, CancelClient, Order
from protocol.errors import SafetyViolation
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_CANCELLED,
    REASON_REDUCED,
    RESTING,
    BatchExecuted,
    BlockEvents,
    Event,
    Fill,
    OrderChanged,
    OrderOpened,
    Result,
)
from protocol.genesis import MarketConfig

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "l3"
ROWS = 20_000
GOOG = MarketConfig(
    market=2, symbol="GOOG-PERP", tick_uusd=10_000, lot_micro=1_000_000, initial_ppm=100_000,
    maintenance_ppm=60_000, taker_fee_ppm=450, maker_fee_ppm=150, min_notional_uusd=1_000_000,
    max_order_lots=1_000_000, max_position_lots=100_000_000, initial_price_ticks=57_700,
)  # fmt: skip


class Venue:
    """The project's matching book without money, speaking in events."""

    def __init__(self) -> None:
        self.book = Book(GOOG.market)
        self.events: list[Event] = []
        self.by_client: dict[int, Resting] = {}
        self.next_id = 1
        self.taker = (0, 0, 0)

    def execute(self, account: int, action: Order | CancelClient | ReduceClient) -> Result:
        if isinstance(action, Order):
            return self._order(account, action)
        order = self.by_client[action.client_id]
        if isinstance(action, CancelClient):
            self.book.cancel(order)
            self._changed(order, 0, REASON_CANCELLED)
            return Result(0, CANCELLED, order.order_id)
        self.book.reduce(order, action.by_lots)
        self._changed(order, order.remaining_lots, REASON_REDUCED)
        return Result(0, RESTING, order.order_id, 0, order.remaining_lots)

    def _order(self, account: int, action: Order) -> Result:
        order_id, self.next_id = self.next_id, self.next_id + 1
        self.taker = (account, order_id, action.side)
        left = self.book.take(action.side, action.price_ticks, action.size_lots, self, 500)
        filled = action.size_lots - left
        if action.tif == IOC or not left:
            return Result(0, FILLED if not left else CANCELLED, order_id, filled, 0)
        order = Resting(
            action.market, order_id, account, action.client_id, action.side, action.price_ticks,
            left,
        )  # fmt: skip
        self.book.add(order)
        self.by_client[action.client_id] = order
        self.events.append(
            OrderOpened(
                action.market,
                order_id,
                account,
                action.client_id,
                action.side,
                action.price_ticks,
                left,
            )
        )
        return Result(0, RESTING, order_id, filled, left)

    def _changed(self, order: Resting, remaining: int, reason: int) -> None:
        self.events.append(
            OrderChanged(
                order.market,
                order.order_id,
                order.account,
                order.side,
                order.price_ticks,
                remaining,
                reason,
            )
        )

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        return lots

    def filled(self, maker: Resting, lots: int) -> None:
        account, order_id, side = self.taker
        self.events.append(
            Fill(
                maker.market,
                maker.price_ticks,
                lots,
                maker.account,
                maker.order_id,
                account,
                order_id,
                side,
                0,
                0,
            )
        )

    def removed(self, maker: Resting, lots: int) -> None:
        raise AssertionError("nobody is short of margin here")


class Driver:
    """Sends batches to a venue as a replay does, and gives its events to a comparer."""

    def __init__(self) -> None:
        self.venue = Venue()
        self.comparer = RowComparer(GOOG.market)
        self.actions = 0
        self._nonce = self._seq = 1
        self._batch: list[Order | CancelClient | ReduceClient] = []
        self._account = -1

    def run(self, mapper: Mapper, messages: Iterable[str], book: Iterable[str] | None) -> None:
        for step in mapper.steps(messages, book):
            for intent in step.intents:
                self._add(intent.account, intent.action)
            if step.expected is not None:
                self.comparer.expect_quotes(Check(self.actions, step.row, step.expected))
            for intent in step.adopt:
                self._add(intent.account, intent.action)
        self.flush()

    def _add(self, account: int, action: Order | CancelClient | ReduceClient) -> None:
        if account != self._account or len(self._batch) == BATCH_ACTIONS:
            self.flush()
            self._account = account
        self._batch.append(action)
        self.actions += 1

    def flush(self) -> None:
        if not self._batch:
            return
        signer = bytes([self._account]) * 32
        batch, self._batch = self._batch, []
        submission = Submission(b"", signer, self._nonce, self._account, len(batch))
        self.comparer.expect_batch(submission, batch)
        results = [self.venue.execute(self._account, action) for action in batch]
        events, self.venue.events = self.venue.events, []
        events.append(BatchExecuted(self._account, signer, self._nonce, 0, results))
        first, self._seq = self._seq, self._seq + len(events)
        self._nonce += 1
        self.comparer.take(BlockEvents(self._nonce, 0, first, self._seq, [], events))


def recorded(name: str, levels: int) -> tuple[Path, Path]:
    stem = f"lobster_{name}_20120621"
    files = DATA / f"{stem}_message_{levels}.csv.xz", DATA / f"{stem}_orderbook_{levels}.csv.xz"
    if not all(path.exists() for path in files):
        pytest.skip("the recorded order flow is not at ../shared/data/l3")
    return files


@pytest.mark.parametrize(("name", "levels"), [("GOOG", 10), ("AAPL", 1)])
def test_every_row_of_a_recording_is_shown_by_the_matching_book(name: str, levels: int) -> None:
    message_file, book_file = recorded(name, levels)
    driver, mapper = Driver(), Mapper(GOOG, 16)
    with lzma.open(message_file, "rt") as messages, lzma.open(book_file, "rt") as book:
        driver.run(mapper, islice(messages, ROWS), islice(book, ROWS))
    comparer = driver.comparer
    assert comparer.rows_compared == ROWS - 1
    assert mapper.counts.uncovered_rows == 0
    assert comparer.mismatches == []
    assert comparer.rows_equal == comparer.rows_compared
    assert comparer.fills > 100 and comparer.refused == 0
    assert mapper.counts.short_lots == mapper.counts.unknown == 0


def test_a_row_that_differs_is_counted_and_kept() -> None:
    rows = ["1010000,50,1000000,40", "1010000,50,1000000,45"]
    messages = ["1.0,1,1,40,1000000,1", "1.0,1,2,4,1000000,1"]
    driver = Driver()
    driver.run(Mapper(GOOG, 8), messages, rows)
    assert (driver.comparer.rows_compared, driver.comparer.rows_equal) == (1, 0)
    [mismatch] = driver.comparer.mismatches
    assert mismatch.expected == Quotes(10_000, 45, 10_100, 50)
    assert mismatch.shown == Quotes(10_000, 44, 10_100, 50)


def test_rows_after_a_batch_that_was_refused_as_a_whole_are_compared_too() -> None:
    comparer = RowComparer(GOOG.market)
    comparer.expect_batch(Submission(b"", bytes(32), 1, 16, 1), [Order(2, 0, 9, 1, 0, 1)])
    comparer.expect_quotes(Check(1, 0, Quotes(9, 1, 0, 0)))
    comparer.take(BlockEvents(1, 0, 1, 2, [], [BatchExecuted(16, bytes(32), 1, 310, [])]))
    assert (comparer.rows_compared, comparer.rows_equal, comparer.refused) == (1, 0, 1)
    assert comparer.mismatches[0].shown == Quotes(0, 0, 0, 0)


@pytest.mark.parametrize(("name", "levels"), [("GOOG", 10), ("AAPL", 1)])
def test_no_level_that_stays_in_sight_is_ever_corrected(name: str, levels: int) -> None:
    # What is adopted is what the recording reveals. A correction of a level that the row before
    # showed, too, would hide a row that does not follow from it.
    message_file, book_file = recorded(name, levels)
    mapper = Mapper(GOOG, 16)
    shown: list[set[int]] = [set(), set()]
    adopted = 0
    with lzma.open(message_file, "rt") as messages, lzma.open(book_file, "rt") as book:
        rows = list(islice(book, ROWS))
        for step in mapper.steps(islice(messages, ROWS), rows):
            for account, action in step.intents + step.adopt:
                if account == SEED and isinstance(action, Order):
                    assert action.price_ticks not in shown[action.side], f"row {step.row}"
                    adopted += 1
            numbers = [int(field) for field in rows[step.row].split(",")]
            shown = [{price // 100 for price in numbers[at::4]} for at in (2, 0)]
    assert adopted > 100


def test_a_stale_recording_without_a_book_agrees_with_the_model() -> None:
    messages = [
        "1.0,1,1,40,1000000,1",
        "1.0,1,2,30,1000000,1",
        "1.0,4,2,30,1000000,1",
        "1.0,3,2,30,1000000,1",
        "1.0,1,3,9,1000500,-1",
    ]
    driver = Driver()
    driver.run(Mapper(GOOG, 8), messages, None)
    assert driver.comparer.rows_equal == driver.comparer.rows_compared == 5
    assert driver.comparer.mirror.best(1) == (10_005, 9)


def test_batches_executed_out_of_order_are_a_safety_violation() -> None:
    comparer = RowComparer(GOOG.market)
    for nonce in (1, 2):
        comparer.expect_batch(Submission(b"", bytes(32), nonce, 16, 1), [CancelClient(2, 1)])
    late = BatchExecuted(16, bytes(32), 2, 0, [Result(500)])
    with pytest.raises(SafetyViolation, match="order of sending"):
        comparer.take(BlockEvents(1, 0, 1, 2, [], [late]))


def test_a_duplicate_answer_moves_nothing() -> None:
    comparer = RowComparer(GOOG.market)
    comparer.expect_batch(Submission(b"", bytes(32), 1, 16, 1), [CancelClient(2, 1)])
    first = BatchExecuted(16, bytes(32), 1, 0, [Result(500)])
    again = BatchExecuted(16, bytes(32), 1, 0, [Result(500)], True)
    comparer.take(BlockEvents(1, 0, 1, 3, [], [first, again]))
    assert comparer.done == 1
