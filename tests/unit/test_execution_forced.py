"""Forced actions in execution: once by either path, at the front of the block, never an error."""

from __future__ import annotations

import pytest
from engine_world import BAD, DOLLAR, World, market, signer

from protocol.actions import (
    ALL_MARKETS,
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    REDUCE_ONLY,
    SELL,
    CancelAll,
    MarketOrder,
    Order,
    Withdraw,
)
from protocol.errors import Code, SafetyViolation
from protocol.events import BatchExecuted, Fill, WithdrawalQueued
from protocol.settlement import InboxForced

A, B, C = 16, 17, 18
TO = b"\x07" * 20


def forced(world: World, raw: bytes) -> InboxForced:
    """The next inbox entry."""
    world.cursor += 1
    return InboxForced(world.cursor - 1, raw)


def answers(world: World) -> list[BatchExecuted]:
    return world.of(BatchExecuted)


def test_a_forced_withdrawal_is_paid_like_one_that_the_owner_sent() -> None:
    world = World()
    raw = world.batch(A, Withdraw(5 * DOLLAR, TO))
    world.block([], [forced(world, raw)])
    (queued,) = world.of(WithdrawalQueued)
    assert (queued.account, queued.amount_uusd, queued.address) == (A, 5 * DOLLAR, TO)
    assert world.engine.inbox_cursor == world.cursor
    assert world.last.actions == 1


@pytest.mark.parametrize("inbox_first", [True, False])
def test_it_is_executed_once_whichever_way_it_comes_first(inbox_first: bool) -> None:
    world = World()
    raw = world.batch(A, Withdraw(5 * DOLLAR, TO))
    if inbox_first:
        world.block([], [forced(world, raw)])
        world.block([raw])
    else:
        world.block([raw])
        world.block([], [forced(world, raw)])
    (answer,) = answers(world)
    assert answer.duplicate and answer.results[0].code == Code.OK
    assert not world.of(WithdrawalQueued) and world.engine.state.next_outbox == 1


def test_in_one_block_the_forced_copy_comes_first() -> None:
    world = World()
    raw = world.batch(A, Withdraw(5 * DOLLAR, TO))
    world.block([raw], [forced(world, raw), forced(world, raw)])
    assert [answer.duplicate for answer in answers(world)] == [False, True, True]
    assert len(world.of(WithdrawalQueued)) == 1


def test_another_action_under_the_same_nonce_does_nothing() -> None:
    world = World()
    first = world.batch(A, Withdraw(5 * DOLLAR, TO), nonce=world.time_ms + 7)
    second = world.batch(A, CancelAll(ALL_MARKETS), nonce=world.time_ms + 7)
    world.block([first])
    world.block([], [forced(world, second)])
    assert [answer.code for answer in answers(world)] == [Code.NONCE_USED]


def test_what_is_not_valid_is_consumed_with_a_code() -> None:
    world = World()
    entries = [
        forced(world, raw)
        for raw in (
            b"garbage",
            world.batch(A, Withdraw(1, TO), signature=BAD),
            world.batch(A, Withdraw(1, TO), by=signer(B)),
            world.batch(99, Withdraw(1, TO)),
            world.batch(A, Withdraw(1, TO), nonce=1),
            world.batch(A, Withdraw(1, TO), expires_ms=5),
            world.batch(A, Withdraw(10**12, TO)),
        )
    ]
    world.block([], entries)
    found = [answer.code or answer.results[0].code for answer in answers(world)]
    assert found == [
        Code.WRONG_TYPE, Code.BAD_SIGNATURE, Code.NOT_AUTHORISED, Code.UNKNOWN_ACCOUNT,
        Code.NONCE_EXPIRED, Code.ACTION_EXPIRED, Code.INSUFFICIENT_CASH,
    ]  # fmt: skip
    assert not world.of(WithdrawalQueued) and world.engine.inbox_cursor == world.cursor


def test_a_deposit_and_a_forced_withdrawal_of_it_fit_one_block() -> None:
    world = World(dollars=0)
    deposit = world.deposit(A, 8 * DOLLAR)
    withdrawal = forced(world, world.batch(A, Withdraw(8 * DOLLAR, TO)))
    world.block([], [deposit, withdrawal])
    assert len(world.of(WithdrawalQueued)) == 1
    assert world.engine.account_view(0, A).cash_uusd == 0


def test_a_position_is_closed_at_the_front_of_the_block() -> None:
    world = World()
    world.one(B, Order(0, SELL, 1_000, 10, GTC))
    world.one(A, Order(0, BUY, 1_000, 10, IOC))
    world.one(C, Order(0, BUY, 995, 10, GTC))
    close = forced(world, world.batch(A, MarketOrder(0, SELL, 10, 50_000, 0, REDUCE_ONLY)))
    other = world.batch(B, Order(0, SELL, 995, 10, IOC))
    world.block([other], [close])
    fills = world.of(Fill)
    assert [(fill.taker_account, fill.size_lots) for fill in fills] == [(A, 10)]
    assert world.position(A) == (0, 0)


def test_forced_takers_do_not_pass_cancels_where_these_come_first() -> None:
    world = World([market(0)], cancels_first=True)
    world.one(B, Order(0, SELL, 1_000, 10, GTC))
    world.one(A, Order(0, BUY, 1_000, 10, IOC))
    world.one(C, Order(0, BUY, 995, 10, POST_ONLY))
    close = forced(world, world.batch(A, MarketOrder(0, SELL, 10, 50_000, 0, REDUCE_ONLY)))
    world.block([world.batch(C, CancelAll(0))], [close])
    assert [answer.account for answer in answers(world)] == [C, A]
    assert not world.of(Fill)


def test_an_entry_out_of_its_turn_stops_the_engine() -> None:
    world = World()
    raw = world.batch(A, CancelAll(ALL_MARKETS))
    with pytest.raises(SafetyViolation):
        world.engine.apply(
            world.height + 1, world.time_ms + 10, b"", [InboxForced(9, raw)], world.cursor + 1, []
        )
