"""The liquidation feed: complete, in order, provable, and found again after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from market_data_world import receipt

from execution import leaves as lv
from execution.market_data_liquidations import LiquidationFeed, MemoryLog, receipts_in
from execution.receipt_proof import verify_receipt
from execution.receipts import NO_RECEIPTS, extended
from execution.store import BlockRecord, ExecutionStore, Snapshot
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.events import (
    BadDebt,
    BlockEvents,
    LiquidationBegun,
    LiquidationEnded,
    MarkChanged,
)
from protocol.messages_market_data import LiquidationEvent

STORY: list[LiquidationEvent] = [
    LiquidationBegun(20, 5, 10, 1),
    receipt(0),
    receipt(1),
    LiquidationEnded(20, 11, 10),
    BadDebt(21, 3, 3),
    receipt(2, 21),
    LiquidationBegun(22, 1, 2, 1),
]
SEQS = [4, 5, 6, 7, 20, 21, 30]


def told(log: MemoryLog | None = None) -> LiquidationFeed:
    feed = LiquidationFeed(MemoryLog() if log is None else log)
    for seq, event in zip(SEQS, STORY, strict=True):
        feed.take(seq, seq // 10, 1_000 + seq, event)
    return feed


def numbers(feed: LiquidationFeed, from_seq: int, from_number: int, limit: int = 99) -> list[int]:
    return [entry.seq for entry in feed.read(from_seq, from_number, limit)[0]]


def test_the_feed_is_read_by_event_or_by_receipt() -> None:
    feed = told()
    assert numbers(feed, 0, 0) == SEQS and feed.receipts == 3
    assert numbers(feed, 6, 0) == [6, 7, 20, 21, 30]
    assert numbers(feed, 8, 99) == [20, 21, 30], "the event goes before the receipt"
    assert numbers(feed, 0, 1) == [6, 7, 20, 21, 30]
    assert numbers(feed, 0, 2, 1) == [21] and numbers(feed, 0, 3) == []
    entries, next_seq = feed.read(0, 0, 3)
    assert [entry.event for entry in entries] == STORY[:3] and next_seq == 7
    assert (entries[2].height, entries[2].time_ms) == (0, 1_006)
    assert feed.read(next_seq, 0, 99)[1] == 31
    assert feed.read(31, 0, 99) == ([], 31) and feed.read(50, 0, 99) == ([], 50)
    assert LiquidationFeed(MemoryLog()).read(0, 0, 5) == ([], 1)


def test_a_restart_finds_the_log_and_adds_nothing_twice() -> None:
    log = MemoryLog()
    first = told(log)
    again = LiquidationFeed(log)
    assert again.read(0, 0, 99) == first.read(0, 0, 99)
    again.take(6, 0, 1_006, receipt(1))
    assert log.next_index == len(STORY)
    again.take(31, 3, 1_031, receipt(3))
    assert again.receipts == 4 and log.next_index == len(STORY) + 1
    with pytest.raises(SafetyViolation):
        again.take(32, 3, 1_032, receipt(9))


def test_every_receipt_is_proven_in_every_list_that_has_it() -> None:
    feed, row, rows = LiquidationFeed(MemoryLog()), NO_RECEIPTS, []
    for number in range(13):
        feed.take(number + 1, 1, 1, receipt(number))
        row = extended(row, receipt(number))
        rows.append(row)
    for count, leaf in enumerate(rows, 1):
        for number in range(count):
            found, size, path = feed.receipt(number, count)
            assert found == receipt(number) and size == count
            assert verify_receipt(found, path, leaf.count, leaf.peaks)
    assert feed.receipt(12, 0)[1] == 13
    for number, count in ((13, 0), (3, 3), (0, 14), (-1, 0)):
        with pytest.raises(Rejected) as refused:
            feed.receipt(number, count)
        assert refused.value.code == Code.NOT_FOUND


def test_a_feed_that_begins_later_says_so() -> None:
    feed = LiquidationFeed(MemoryLog(), first_number=2)
    feed.take(21, 2, 1_021, receipt(2))
    assert feed.receipts == 3 and numbers(feed, 0, 2) == [21]
    for ask in (lambda: feed.read(0, 1, 5), lambda: feed.receipt(2, 0), lambda: feed.receipt(1, 0)):
        with pytest.raises(Rejected) as refused:
            ask()
        assert refused.value.code == Code.NOT_RETAINED


def record(height: int, seq: int, events: list[LiquidationEvent]) -> BlockRecord:
    block = BlockEvents(
        height, 1_000 + height, seq, seq + len(events) + 1, [], [MarkChanged(0, 5), *events]
    )
    return BlockRecord(height, bytes(32), seq, block.next_seq, encode(block), b"")


def snapshot(height: int, receipts: int) -> Snapshot:
    row = NO_RECEIPTS
    for number in range(receipts):
        row = extended(row, receipt(number))
    leaves = [(b"a", b"b"), (lv.RECEIPTS_KEY, encode(row))]
    return Snapshot(bytes(32), height, bytes(32), 0, 0, 0, 1, leaves, [])


def test_a_lost_log_is_made_again_from_the_history(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    for height, events in enumerate((STORY[:2], STORY[2:4], STORY[4:]), 1):
        store.append(record(height, 10 * height, events))
    feed = store.feed(snapshot(2, 2))
    assert [entry.event for entry in feed.read(0, 0, 99)[0]] == STORY[:4]
    assert [entry.seq for entry in feed.read(0, 0, 99)[0]] == [11, 12, 21, 22]
    assert receipts_in(snapshot(2, 2).leaves) == 2
    store.sync()
    store.close()
    store = ExecutionStore(tmp_path)
    assert store.liquidations.next_index == 4
    assert store.feed(snapshot(2, 2)).receipts == 2
    assert store.feed(None).receipts == 2, "what follows a restart from genesis is known already"
    assert store.liquidations.next_index == 4
    store.close()
