"""Which events a subscriber gets, and under which numbers."""

from __future__ import annotations

import pytest

from execution.stream import concerns, select
from protocol.events import (
    AgentChanged,
    BadDebt,
    BatchExecuted,
    BlockEvents,
    DeadManSet,
    Deposited,
    Event,
    Expired,
    Fill,
    FundingPaid,
    FundingRate,
    LiquidationBegun,
    LiquidationEnded,
    MarkChanged,
    MarketChanged,
    OrderChanged,
    OrderOpened,
    PositionSettled,
    Receipt,
    Result,
    SettingChanged,
    Transferred,
    TriggerChanged,
    TriggerFired,
    TriggerOpened,
    TwapChanged,
    WithdrawalQueued,
    decode_block_events,
)

EVENTS: list[Event] = [
    MarkChanged(0, 600_000),
    Deposited(0, 20, b"\x01" * 20, 5),
    BatchExecuted(20, b"\x02" * 32, 1, 0, []),
    Fill(0, 600_000, 1, 21, 7, 20, 8, 0, 1, 2),
    OrderOpened(0, 9, 21, 0, 0, 600_000, 1),
    OrderChanged(0, 9, 21, 0, 600_000, 0, 1),
    WithdrawalQueued(0, 22, b"\x01" * 20, 5),
    AgentChanged(22, b"\x03" * 32, 0),
    BatchExecuted(0, b"", 0, 200, []),
]
BLOCK = BlockEvents(4, 1_000, 100, 100 + len(EVENTS), [], EVENTS)


RESULT = Result(0)
OF_20: list[Event] = [
    TriggerOpened(0, 1, 20, 0, 0, 0, 5, 0, 1, 1, 0, 0, 0),
    TriggerChanged(0, 1, 20, 0, 1),
    TriggerFired(0, 1, 20, 5, RESULT),
    TwapChanged(0, 1, 20, 0, 5, 0, 0),
    FundingPaid(20, 0, 5, 1),
    PositionSettled(20, 0, 5, 1),
    Transferred(20, 22, 5, 0, 0),
    Transferred(22, 20, 5, 0, 0),
    SettingChanged(20, 0, 5, 0, 0),
    DeadManSet(20, 5, False),
    LiquidationBegun(20, 1, 2, 1),
    LiquidationEnded(20, 3, 2),
    Receipt(0, 0, 1, 20, 20, *[0] * 10),
    Receipt(0, 2, 1, 22, 20, *[0] * 10),
    Receipt(0, 2, 1, 20, 22, *[0] * 10),
]
OF_ALL: list[Event] = [
    MarkChanged(0, 5),
    MarketChanged(0, 2, False),
    FundingRate(0, 5, 5),
    Expired(0, 5),
    BadDebt(20, 5, 5),
]


def test_what_concerns_one_account_and_what_concerns_everybody() -> None:
    for event in OF_20:
        assert concerns(event, {20}) and not concerns(event, {21}), event
    for event in OF_ALL:
        assert concerns(event, {20}) and concerns(event, {99}), event


def test_no_kind_of_event_is_missing_here() -> None:
    tested = {type(event) for event in (*EVENTS, *OF_20, *OF_ALL)}
    assert tested == set(Event.__args__)  # type: ignore[attr-defined]


def selected(from_seq: int, *accounts: int) -> BlockEvents | None:
    raw = select(BLOCK, from_seq, frozenset(accounts))
    return None if raw is None else decode_block_events(raw)


def test_every_kind_of_event_belongs_to_those_it_concerns() -> None:
    of_account = {
        account: [concerns(event, {account}) for event in EVENTS] for account in (20, 21, 22, 99)
    }
    assert [index for index, one in enumerate(of_account[20]) if one] == [0, 1, 2, 3]
    assert [index for index, one in enumerate(of_account[21]) if one] == [0, 3, 4, 5]
    assert [index for index, one in enumerate(of_account[22]) if one] == [0, 6, 7]
    assert [index for index, one in enumerate(of_account[99]) if one] == [0], "marks are for all"


def test_numbers_stay_those_of_the_whole_stream() -> None:
    block = selected(1, 21)
    assert block is not None
    assert block.seqs == [100, 103, 104, 105] and block.first_seq == 100
    assert block.events == [EVENTS[n] for n in (0, 3, 4, 5)]
    assert (block.next_seq, block.height, block.time_ms) == (109, 4, 1_000)


def test_two_accounts_of_one_fill_get_it_once() -> None:
    block = selected(103, 20, 21)
    assert block is not None and block.seqs == [103, 104, 105]


@pytest.mark.parametrize("from_seq", [100, 104, 108])
def test_from_a_number_on(from_seq: int) -> None:
    block = selected(from_seq)
    assert block is not None
    assert block.seqs == list(range(from_seq, 109)) and block.first_seq == from_seq
    assert block.events == EVENTS[from_seq - 100 :]


def test_nothing_is_no_block() -> None:
    assert selected(109) is None
    assert selected(101, 99) is None
