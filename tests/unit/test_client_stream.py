"""Blocks of the event stream arrive once each, without gap, over repeats and overlaps."""

from __future__ import annotations

import pytest

from client.stream import EventStream
from protocol.errors import SafetyViolation
from protocol.events import BlockEvents, MarkChanged


def block(first: int, count: int, height: int = 1) -> BlockEvents:
    events = [MarkChanged(0, number) for number in range(first, first + count)]
    return BlockEvents(height, 0, first, first + count, [], list(events))


def stream(from_seq: int, accounts: list[int] | None = None) -> EventStream:
    return EventStream(None, from_seq, accounts)  # type: ignore[arg-type]


def marks(taken: BlockEvents | None) -> list[int]:
    return [] if taken is None else [e.mark_ticks for e in taken.events]  # type: ignore[union-attr]


def test_a_repeated_block_is_dropped_and_an_overlap_is_cut() -> None:
    events = stream(1)
    assert marks(events.take(block(1, 3))) == [1, 2, 3]
    assert events.take(block(1, 3)) is None
    assert marks(events.take(block(3, 3))) == [4, 5]
    assert events.next_seq == 6


def test_a_gap_is_a_safety_violation() -> None:
    events = stream(1)
    events.take(block(1, 3))
    with pytest.raises(SafetyViolation, match="from 4 to 5"):
        events.take(block(5, 1))


def test_from_now_on_takes_the_first_block_as_it_comes() -> None:
    events = stream(0)
    assert marks(events.take(block(70, 2))) == [70, 71]
    with pytest.raises(SafetyViolation):
        events.take(block(73, 1))


def test_a_filtered_stream_may_skip_numbers_and_still_repeats_nothing() -> None:
    events = stream(10, accounts=[16])
    first = BlockEvents(1, 0, 10, 20, [12, 17], [MarkChanged(0, 12), MarkChanged(0, 17)])
    assert marks(events.take(first)) == [12, 17]
    assert events.take(first) is None
    overlap = BlockEvents(2, 0, 12, 30, [17, 25], [MarkChanged(0, 17), MarkChanged(0, 25)])
    assert marks(events.take(overlap)) == [25]
