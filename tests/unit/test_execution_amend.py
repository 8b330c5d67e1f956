"""Cancels, modifications, mass quotes, settings and transfers."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import DOLLAR, START_MS, World, market, signer

from protocol.actions import (
    ALL_MARKETS,
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    REDUCE_ONLY,
    SELL,
    ApproveAgent,
    CancelAll,
    CancelClient,
    MassQuote,
    Modify,
    Order,
    SetLeverage,
    SetProtection,
    Transfer,
    TransferPosition,
    Withdraw,
)
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    FILLED,
    REASON_CANCELLED,
    REASON_MARGIN,
    REASON_PROTECTION,
    REASON_REDUCED,
    REASON_REPLACED,
    RESTING,
    BatchExecuted,
    Fill,
    OrderChanged,
    OrderOpened,
    Result,
)
from protocol.genesis import Limits
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT, account_number

A, B, C = 16, 17, 18


def changes(world: World) -> list[tuple[int, int, int]]:
    """(order, remaining, reason) of the block's changes."""
    return [(e.order_id, e.remaining_lots, e.reason) for e in world.of(OrderChanged)]


def book(world: World, side: int, number: int = 0) -> list[tuple[int, int]]:
    """(price, lots) of a side, best first."""
    view = world.engine.book_view(0, number, 100)
    return [(price, lots) for price, lots, _ in (view.bids if side == BUY else view.asks)]


# -- cancel


def test_cancel_all_takes_a_market_or_everything_oldest_first() -> None:
    world = World()
    world.act(A, Order(0, BUY, 900, 1), Order(1, BUY, 900, 1), Order(0, SELL, 1_100, 1))
    world.act(B, Order(0, BUY, 901, 1))
    assert world.one(A, CancelAll(0)) == Result(0, CANCELLED)
    assert changes(world) == [(1, 0, REASON_CANCELLED), (3, 0, REASON_CANCELLED)]
    world.act(A, Order(0, BUY, 900, 1))
    assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
    assert changes(world) == [(2, 0, REASON_CANCELLED), (5, 0, REASON_CANCELLED)]
    assert world.one(A, CancelAll(ALL_MARKETS)).code == 0
    assert [world.one(A, CancelAll(m)).code for m in (2, -2)] == [Code.UNKNOWN_MARKET] * 2
    assert len(world.engine.orders_of(B)) == 1


# -- modify


def test_a_smaller_size_keeps_the_place_in_the_queue() -> None:
    world = World()
    world.act(A, Order(0, SELL, 1_000, 5, GTC, 7))
    world.act(B, Order(0, SELL, 1_000, 5))
    assert world.one(A, Modify(0, 1, 1_000, 3)) == Result(0, RESTING, 1, 0, 3)
    assert changes(world) == [(1, 3, REASON_REDUCED)]
    assert world.one(A, Modify(0, 1, 1_000, 3)) == Result(0, RESTING, 1, 0, 3)
    assert changes(world) == []
    world.act(C, Order(0, BUY, 1_000, 4))
    assert [(f.maker_account, f.size_lots) for f in world.of(Fill)] == [(A, 3), (B, 1)]


def test_another_price_or_a_larger_size_goes_to_the_end_and_keeps_the_client_id() -> None:
    world = World()
    world.act(A, Order(0, SELL, 1_000, 5, GTC, 7))
    world.act(B, Order(0, SELL, 1_000, 5))
    assert world.one(A, Modify(0, 1, 1_000, 6)) == Result(0, RESTING, 3, 0, 6)
    assert changes(world) == [(1, 0, REASON_REPLACED)]
    world.act(C, Order(0, BUY, 1_000, 6))
    assert [(f.maker_account, f.size_lots) for f in world.of(Fill)] == [(B, 5), (A, 1)]
    assert world.one(A, CancelClient(0, 7)).code == 0


def test_a_modified_order_may_take_unless_it_came_in_post_only() -> None:
    world = World()
    world.act(B, Order(0, SELL, 1_000, 5))
    world.act(A, Order(0, BUY, 990, 3), Order(0, BUY, 991, 3, POST_ONLY))
    before = world.engine.orders_of(A)
    assert world.one(A, Modify(0, 3, 1_000, 3)).code == Code.WOULD_TAKE
    assert world.engine.orders_of(A) == before
    assert world.one(A, Modify(0, 2, 1_000, 7)) == Result(0, RESTING, 4, 5, 2)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (Modify(0, 1, 900, 99_000_000), Code.BAD_SIZE),
        (Modify(0, 1, 900, 0), Code.BAD_SIZE),
        (Modify(0, 1, 0, 5), Code.BAD_PRICE),
        (Modify(0, 1, 900, 999_999), Code.INSUFFICIENT_MARGIN),
        (Modify(0, 2, 900, 1), Code.UNKNOWN_ORDER),
        (Modify(1, 1, 900, 1), Code.UNKNOWN_ORDER),
        (Modify(2, 1, 900, 1), Code.UNKNOWN_MARKET),
    ],
)
def test_what_cannot_replace_it_leaves_the_order_as_it_was(action: Any, code: int) -> None:
    world = World(dollars=50)
    world.act(A, Order(0, BUY, 900, 400, GTC, 3))
    before = world.engine.orders_of(A)
    assert world.one(A, action) == Result(code)
    assert (world.engine.orders_of(A), changes(world)) == (before, [])


def test_a_replaced_order_makes_room_for_its_successor() -> None:
    world = World(dollars=50, limits=Limits(orders_per_account=1))
    world.act(A, Order(0, BUY, 900, 400))
    # Neither margin nor the number of orders would carry both.
    assert world.one(A, Modify(0, 1, 901, 410)).status == RESTING


def test_a_modified_reduce_only_order_stays_reduce_only() -> None:
    world = World()
    world.act(B, Order(0, SELL, 1_000, 10))
    world.act(A, Order(0, BUY, 1_000, 10), Order(0, SELL, 1_100, 4, GTC, 0, REDUCE_ONLY))
    assert world.one(A, Modify(0, 3, 1_090, 25)) == Result(0, RESTING, 4, 0, 10)


def test_a_reduce_only_order_is_not_lost_where_its_successor_would_be_refused() -> None:
    world = World(limits=Limits(fills_per_block=2))
    world.act(B, Order(0, SELL, 1_000, 10), Order(0, BUY, 990, 5))
    world.act(A, Order(0, BUY, 1_000, 10), Order(0, SELL, 1_100, 4, GTC, 0, REDUCE_ONLY))
    world.act(C, Order(1, SELL, 1_000, 10))
    world.block(
        [
            world.batch(B, Order(1, BUY, 1_000, 1), Order(1, BUY, 1_000, 1)),
            world.batch(A, Modify(0, 4, 990, 4)),
        ]
    )
    assert [r.code for r in world.of(BatchExecuted)[-1].results] == [Code.BUSY]
    assert [o[1] for o in world.engine.orders_of(A)] == [4]


# -- mass quotes


def test_quotes_replace_all_quotes_of_the_market_at_once() -> None:
    world = World()
    world.act(A, Order(0, BUY, 950, 1))
    result = world.one(A, MassQuote(0, [(990, 5), (980, 6)], [(1_010, 7)]))
    assert result == Result(0, RESTING, 2, 0, 18)
    assert book(world, BUY) == [(990, 5), (980, 6), (950, 1)]
    # The new bid stands where the old ask was.
    assert world.one(A, MassQuote(0, [(1_010, 5)], [(1_020, 7)])) == Result(0, RESTING, 5, 0, 12)
    assert changes(world) == [(n, 0, REASON_REPLACED) for n in (2, 3, 4)]
    assert [e.order_id for e in world.of(OrderOpened)] == [5, 6]
    assert (book(world, BUY), book(world, SELL)) == ([(1_010, 5), (950, 1)], [(1_020, 7)])
    assert world.one(A, MassQuote(0, [], [])) == Result(0, CANCELLED)
    assert (book(world, BUY), book(world, SELL)) == ([(950, 1)], [])


@pytest.mark.parametrize(
    ("quotes", "code"),
    [
        (MassQuote(0, [(990, 5)], [(990, 5)]), Code.BAD_QUOTES),
        (MassQuote(0, [(990, 5)], [(980, 5)]), Code.BAD_QUOTES),
        (MassQuote(0, [(980, 5), (990, 5)], []), Code.BAD_QUOTES),
        (MassQuote(0, [(990, 5), (990, 5)], []), Code.BAD_QUOTES),
        (MassQuote(0, [(900 - n, 1) for n in range(51)], []), Code.BAD_QUOTES),
        (MassQuote(0, [(990, 5)], [(1_001, 0)]), Code.BAD_SIZE),
        (MassQuote(0, [(0, 5)], []), Code.BAD_PRICE),
        (MassQuote(0, [(1_005, 5)], []), Code.WOULD_TAKE),
        (MassQuote(0, [(990, 900_000)], []), Code.INSUFFICIENT_MARGIN),
        (MassQuote(0, [(900 - n, 1) for n in range(40)], []), Code.TOO_MANY_ORDERS),
        (MassQuote(2, [], []), Code.UNKNOWN_MARKET),
    ],
)
def test_quotes_are_taken_as_a_whole_or_the_old_ones_stay(quotes: Any, code: int) -> None:
    world = World(limits=Limits(orders_per_account=30))
    world.act(B, Order(0, SELL, 1_005, 5))
    world.act(A, MassQuote(0, [(985, 3)], [(1_004, 3)]))
    before = world.engine.orders_of(A)
    assert world.one(A, quotes) == Result(code)
    assert (world.engine.orders_of(A), changes(world)) == (before, [])


def test_quotes_are_margined_together() -> None:
    world = World(dollars=100)
    # 990 lots each side need $99; both sides are one risk, two levels of a side are not.
    assert world.one(A, MassQuote(0, [(990, 900)], [(1_010, 900)])).code == 0
    assert world.one(A, MassQuote(0, [(990, 900), (980, 900)], [])).code == (
        Code.INSUFFICIENT_MARGIN
    )
    assert world.one(A, MassQuote(0, [(991, 950)], [(1_009, 900)])).code == 0


# -- settings


def test_protection_takes_all_orders_out_after_so_many_fills() -> None:
    world = World()
    world.act(A, SetProtection(0, 2, 1_000))
    world.act(A, *[Order(0, SELL, 1_000 + n, 5) for n in range(4)], Order(1, SELL, 1_000, 5))
    # The second fill leaves the third order at the front of the book: it is gone before its turn.
    result = world.one(B, Order(0, BUY, 1_003, 12))
    assert result == Result(0, RESTING, 6, 10, 2)
    assert [(number, reason) for number, _, reason in changes(world)] == [
        (3, REASON_PROTECTION), (4, REASON_PROTECTION),
    ]  # fmt: skip
    assert [o[0] for o in world.engine.orders_of(A)] == [1]


def test_protection_counts_within_its_window_and_survives_a_restart() -> None:
    world = World()
    world.act(A, SetProtection(0, 2, 30))
    world.act(A, Order(0, SELL, 1_000, 50))
    world.act(B, Order(0, BUY, 1_000, 1))
    world.block([])
    world.block([])
    world.act(B, Order(0, BUY, 1_000, 1))
    assert changes(world) == []
    world.engine = world.restore()
    world.act(B, Order(0, BUY, 1_000, 1))
    assert changes(world) == [(1, 0, REASON_PROTECTION)]
    world.act(A, SetProtection(0, 0, 0), Order(0, SELL, 1_000, 50))
    world.act(B, *[Order(0, BUY, 1_000, 1) for _ in range(5)])
    assert changes(world) == []


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (SetProtection(0, 0, 5), Code.BAD_PROTECTION),
        (SetProtection(0, 5, 0), Code.BAD_PROTECTION),
        (SetProtection(0, 1_001, 5), Code.BAD_PROTECTION),
        (SetProtection(0, 5, 3_600_001), Code.BAD_PROTECTION),
        (SetProtection(2, 5, 5), Code.UNKNOWN_MARKET),
        (SetLeverage(2, 1), Code.UNKNOWN_MARKET),
        (SetLeverage(0, 11), Code.BAD_LEVERAGE),
        (SetLeverage(0, -1), Code.BAD_LEVERAGE),
    ],
)
def test_settings_out_of_range_are_refused(action: Any, code: int) -> None:
    assert World().one(A, action) == Result(code)


def test_leverage_caps_what_the_account_may_hold() -> None:
    world = World(dollars=100)
    assert world.one(A, SetLeverage(0, 2)).code == 0
    assert world.one(A, Order(0, BUY, 1_000, 201)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Order(0, BUY, 1_000, 199)).code == 0
    assert world.one(A, SetLeverage(0, 1)).code == Code.LEVERAGE_TOO_HIGH
    world.engine = world.restore()
    assert world.one(A, Order(0, BUY, 1_000, 10)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, SetLeverage(0, 0)).code == 0
    assert world.one(A, Order(0, BUY, 1_000, 700)).code == 0


# -- transfers


def test_a_sub_account_begins_with_its_first_transfer_and_pays_back() -> None:
    world = World()
    own = account_number(A, 1)
    early = world.send(world.batch(own, Order(0, BUY, 900, 1), by=signer(A)))
    assert (early.code, [r.code for r in early.results]) == (0, [Code.UNKNOWN_ACCOUNT])
    assert world.one(A, Transfer(own, 400 * DOLLAR)).code == 0
    assert world.send(world.batch(own, Order(0, BUY, 900, 1), by=signer(A))).code == 0
    assert world.send(world.batch(own, Order(0, BUY, 900, 1), by=signer(B))).code == (
        Code.NOT_AUTHORISED
    )
    stranger = world.batch(account_number(A, 9), Order(0, BUY, 900, 1), by=signer(B))
    assert world.send(stranger).code == Code.NOT_AUTHORISED
    back = world.send(world.batch(own, Transfer(A, 300 * DOLLAR), by=signer(A)))
    assert [r.code for r in back.results] == [0]
    assert world.engine.account_view(0, own).cash_uusd == 100 * DOLLAR
    out = world.send(world.batch(own, Withdraw(DOLLAR, b"t" * 20), by=signer(A)))
    assert [r.code for r in out.results] == [0]


def test_agents_of_the_master_trade_for_its_sub_accounts_and_move_no_money() -> None:
    world = World()
    agent = b"\x55" * 32
    own = account_number(A, 1)
    world.act(A, Transfer(own, 400 * DOLLAR), ApproveAgent(agent, START_MS + 10_000))
    answer = world.send(
        world.batch(own, Order(0, BUY, 900, 1), Transfer(A, 1), Modify(0, 1, 901, 1), by=agent)
    )
    assert [r.code for r in answer.results] == [0, Code.NOT_AUTHORISED, 0]


@pytest.mark.parametrize(
    ("to", "code"),
    [
        (A, Code.WRONG_TRANSFER),
        (B, Code.WRONG_TRANSFER),
        (0, Code.WRONG_TRANSFER),
        (1, Code.WRONG_TRANSFER),
        (-1, Code.WRONG_TRANSFER),
        (account_number(B, 1), Code.WRONG_TRANSFER),
        (account_number(A, 17), Code.TOO_MANY_SUBACCOUNTS),
        (account_number(A, 1, 2), Code.WRONG_TRANSFER),
        ((1 << 63) - 1, Code.WRONG_TRANSFER),
        ((1 << 64) - 1, Code.WRONG_TRANSFER),
        (account_number(A, 16, 1), 0),
        (INSURANCE_ACCOUNT, 0),
        (BACKSTOP_ACCOUNT, 0),
    ],
)
def test_transfers_stay_with_the_master_or_go_to_a_fund(to: int, code: int) -> None:
    world = World()
    assert world.one(A, Transfer(to, DOLLAR)).code == code


def test_no_transfer_takes_what_margin_or_unrealised_profit_needs() -> None:
    world = World(dollars=1_000)
    own = account_number(A, 1)
    world.act(B, Order(0, SELL, 1_000, 5_000))
    world.act(A, Order(0, BUY, 1_000, 5_000, IOC))
    world.mark(1_100)
    fee = 2_500_000
    free = 1_000 * DOLLAR - fee + 500 * DOLLAR - 550 * DOLLAR
    assert world.one(A, Transfer(own, free + 1)).code == Code.INSUFFICIENT_MARGIN
    assert world.one(A, Transfer(own, free)).code == 0


def test_a_position_moves_at_its_cost_with_its_profit_and_no_profit_leaves() -> None:
    world = World(dollars=1_000)
    own = account_number(A, 0, 0)
    world.act(B, Order(0, SELL, 1_000, 2_000))
    world.act(A, Order(0, BUY, 1_000, 2_000), Transfer(own, 300 * DOLLAR))
    world.mark(1_050)
    before = world.engine.account_view(0, A).equity_uusd
    assert world.one(A, TransferPosition(own, 0, 1_000)).code == 0
    assert world.position(A) == (1_000, 1_000 * DOLLAR)
    assert world.position(own) == (1_000, 1_000 * DOLLAR)
    moved = world.engine.account_view(0, own).equity_uusd - 300 * DOLLAR
    assert moved == 50 * DOLLAR == before - world.engine.account_view(0, A).equity_uusd
    results = [
        world.one(A, TransferPosition(own, 0, lots)).code for lots in (1_001, -1, 0, 1 << 31)
    ]
    assert results == [Code.NO_POSITION, Code.NO_POSITION, Code.BAD_SIZE, Code.BAD_SIZE]
    assert world.one(A, TransferPosition(own, 1, 1)).code == Code.ISOLATED_ACCOUNT
    assert world.one(A, TransferPosition(B, 0, 1)).code == Code.WRONG_TRANSFER
    back = world.send(world.batch(own, TransferPosition(A, 0, 1_000), by=signer(A)))
    assert [r.code for r in back.results] == [0]
    assert world.position(A) == (2_000, 2_000 * DOLLAR)


def test_a_position_does_not_move_where_its_margin_is_missing_or_into_the_other_direction() -> None:
    world = World(dollars=1_000)
    own = account_number(A, 1)
    world.act(B, Order(0, SELL, 1_000, 2_000))
    world.act(A, Order(0, BUY, 1_000, 1_000), Transfer(own, 50 * DOLLAR))
    assert world.one(A, TransferPosition(own, 0, 600)).code == Code.INSUFFICIENT_MARGIN
    world.act(C, Order(0, BUY, 990, 100))
    world.send(world.batch(own, Order(0, SELL, 990, 100), by=signer(A)))
    assert world.position(own)[0] == -100
    assert world.one(A, TransferPosition(own, 0, 10)).code == Code.WRONG_TRANSFER
    assert world.one(A, Order(0, SELL, 1_000, 1, IOC)).status != FILLED


def wild_world() -> World:
    """B long 900 against C at 1,000; then the oracles jump to 500, which is not believed yet."""
    world = World([market(0, oracle_deviation_ppm=100_000, oracle_hold_ms=1_000)], dollars=500)
    world.mark(1_000)
    world.act(C, Order(0, SELL, 1_000, 900))
    world.act(B, Order(0, BUY, 1_000, 900), Transfer(account_number(B, 1), DOLLAR))
    world.act(A, Order(0, BUY, 950, 400, POST_ONLY))
    world.mark(500)
    return world


def test_nothing_leaves_an_account_whose_position_has_a_wild_price() -> None:
    world = wild_world()
    wild = [Withdraw(DOLLAR, b"t" * 20), Transfer(account_number(B, 1), DOLLAR)]
    wild.append(TransferPosition(account_number(B, 1), 0, 1))
    assert [r.code for r in world.act(B, *wild)] == [Code.STALE_MARKET] * 3
    assert world.one(A, Withdraw(DOLLAR, b"t" * 20)).code == 0


def test_a_stale_market_opens_nothing_not_even_by_orders_from_before() -> None:
    world = wild_world()
    result = world.one(B, Order(0, SELL, 950, 400, IOC, 0, REDUCE_ONLY))
    assert (result.filled_lots, changes(world)) == (0, [(3, 0, REASON_MARGIN)])
