"""Every question to an execution node: the answer, its way over the wire, and refusals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import DOLLAR, START_MS, market
from market_data_world import WatchedWorld, receipt

from execution.queries import Queries
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    IOC,
    OPEN,
    SELL,
    STOP,
    TRAILING,
    TWAP_SLICE_MS,
    MarketOrder,
    Order,
    ScheduleCancel,
    SetLeverage,
    SetProtection,
    Transfer,
    TriggerOrder,
    Twap,
)
from protocol.codec import encode
from protocol.depth import depth_checksum
from protocol.errors import Code, Rejected
from protocol.events import CANCELLED, FILLED, RESTING
from protocol.messages import Request, decode_answer, decode_request
from protocol.messages_market_data import (
    BookRequest,
    CandlesRequest,
    LiquidationsRequest,
    ReceiptRequest,
    StatsRequest,
    TradesRequest,
    read_sum,
)
from protocol.messages_trading import (
    AccountRequest,
    MarginRequest,
    OrdersRequest,
    OrderStatusRequest,
    PreviewRequest,
    ResultRequest,
    StandingRequest,
)
from protocol.settlement import account_number

A, B, C = 16, 17, 18


class Asked:
    """A world and its queries; what is asked and answered crosses the wire."""

    def __init__(self, **options: Any) -> None:
        markets = [
            market(0, funding_interval_ms=3_600_000, impact_notional_uusd=DOLLAR),
            market(1, maker_fee_ppm=-200),
        ]
        self.world = WatchedWorld(markets, accounts=3, checked=False, **options)
        self.queries = Queries(self.world)  # type: ignore[arg-type]

    def __call__(self, request: Request) -> Any:
        question = decode_request(encode(request))
        assert question == request
        answer = self.queries.answers[type(question)](question)
        assert decode_answer(encode(answer)) == answer
        assert answer.request_id == request.request_id
        return answer

    def refusal(self, request: Request) -> Code:
        before = self.world.engine.leaves()
        with pytest.raises(Rejected) as refused:
            self(request)
        assert self.world.engine.leaves() == before
        return refused.value.code


@pytest.fixture
def asked() -> Asked:
    return Asked()


def trade(asked: Asked, lots: int, price: int = 1_000) -> None:
    asked.world.one(A, Order(0, SELL, price, lots))
    asked.world.one(B, Order(0, BUY, price, lots, IOC))


def test_an_account_with_what_threatens_it(asked: Asked) -> None:
    trade(asked, 40_000)
    asked.world.one(A, SetLeverage(0, 5))
    view = asked(AccountRequest(3, A, b""))
    (held,) = view.positions
    assert (held.size_lots, held.leverage, held.stale) == (-40_000, 5, False)
    assert held.maintenance_margin_uusd == view.maintenance_margin_uusd == 2_000 * DOLLAR
    last = held.liquidation_ticks
    assert last > 1_000
    equity = view.cash_uusd - 40_000 * 1_000 * last
    assert equity >= 40_000 * 50 * last and equity - 40_000_000 < 40_000 * 50 * (last + 1)
    by_address = asked(AccountRequest(4, 0, view.address))
    assert (by_address.account, by_address.positions) == (A, view.positions)
    assert asked.refusal(AccountRequest(1, 99, b"")) == Code.UNKNOWN_ACCOUNT
    assert asked.refusal(AccountRequest(1, 0, b"x" * 20)) == Code.UNKNOWN_ACCOUNT


def test_book_and_orders(asked: Asked) -> None:
    asked.world.act(A, *(Order(0, SELL, 1_001 + n, 1 + n) for n in range(12)))
    view = asked(BookRequest(1, 0, 2))
    assert view.asks == [(1_001, 1, 1), (1_002, 2, 1)] and view.bids == []
    assert view.checksum == depth_checksum([], [(1_001 + n, 1 + n, 1) for n in range(12)])
    assert view.next_seq == asked.world.next_seq
    assert len(asked(BookRequest(1, 0, -5)).asks) == 1
    assert len(asked(OrdersRequest(1, A)).orders) == 12
    assert asked.refusal(BookRequest(1, 2, 1)) == Code.UNKNOWN_MARKET
    assert asked.refusal(BookRequest(1, -1, 1)) == Code.UNKNOWN_MARKET


def test_results_and_order_status(asked: Asked) -> None:
    world = asked.world
    sent = world.send(world.batch(A, Order(0, BUY, 990, 5, client_id=3)))
    kept = asked(ResultRequest(1, sent.signer, sent.nonce_ms))
    assert kept.event
    assert asked.refusal(ResultRequest(1, sent.signer, 7)) == Code.NOT_FOUND
    status = asked(OrderStatusRequest(1, 0, A, 3))
    assert (status.status, status.order_id) == (RESTING, sent.results[0].order_id)
    assert asked(OrderStatusRequest(2, status.order_id, 0, 0)).client_id == 3
    assert asked.refusal(OrderStatusRequest(1, 0, B, 3)) == Code.UNKNOWN_ORDER


def test_what_stands_for_an_account(asked: Asked) -> None:
    world = asked.world
    stop = TriggerOrder(0, SELL, 4, STOP, 950, slippage_ppm=10_000, client_id=2)
    trail = TriggerOrder(1, SELL, 5, TRAILING, 20, limit_ticks=900)
    ids = [r.order_id for r in world.act(A, stop, trail, Twap(0, BUY, 9, TWAP_SLICE_MS * 3))]
    world.act(A, SetProtection(1, 3, 500), SetLeverage(0, 4), ScheduleCancel(START_MS + 99_000))
    world.mark(1_007, 1)
    view = asked(StandingRequest(1, A))
    assert [one.trigger_id for one in view.triggers] == ids[:2]
    first, second = view.triggers
    assert (first.client_id, first.trigger_ticks, first.slippage_ppm) == (2, 950, 10_000)
    assert (second.market, second.limit_ticks, second.best_ticks) == (1, 900, 1_007)
    assert [(one.twap_id, one.size_lots) for one in view.twaps] == [(ids[2], 9)]
    assert view.settings == [(0, 4, 0, 0), (1, 0, 3, 500)]
    assert (view.dead_man_ms, view.dead_man_fired) == (START_MS + 99_000, 0)
    assert view.accounts == [A]
    sub, isolated = account_number(A, 3), account_number(A, 2, 1)
    world.act(A, Transfer(sub, DOLLAR), Transfer(isolated, DOLLAR))
    assert asked(StandingRequest(1, A)).accounts == [A, isolated, sub]
    assert asked(StandingRequest(1, sub)).accounts == [A, isolated, sub]
    assert asked(StandingRequest(1, B)).settings == []
    assert asked.refusal(StandingRequest(1, 99)) == Code.UNKNOWN_ACCOUNT


def test_a_margin_report_and_its_ranks(asked: Asked) -> None:
    trade(asked, 1_000)
    asked.world.one(C, Order(0, SELL, 1_000, 500))
    asked.world.one(B, Order(0, BUY, 1_000, 500, IOC))
    asked.world.mark(1_010)
    view = asked(MarginRequest(1, C, True))
    (held,) = view.figures.positions
    assert (held.size_lots, held.unrealised_uusd, view.distressed_ms) == (-500, -5 * DOLLAR, 0)
    assert (held.rank, held.ranked) == (1, 2), "where nobody gains, the larger goes first"
    assert view.figures.equity_uusd == asked(AccountRequest(1, C, b"")).equity_uusd
    assert view.figures.free_uusd == view.figures.equity_uusd - view.figures.initial_margin_uusd
    assert asked(MarginRequest(1, C)).figures.positions[0].ranked == 0
    assert asked.refusal(MarginRequest(1, 99)) == Code.UNKNOWN_ACCOUNT


def test_a_preview_is_what_then_happens(asked: Asked) -> None:
    world = asked.world
    world.act(A, Order(0, SELL, 1_000, 5), Order(0, SELL, 1_001, 5))
    before = world.engine.leaves()
    for action in (Order(0, BUY, 1_001, 20, IOC), MarketOrder(0, BUY, 8, 20_000)):
        view = asked(PreviewRequest(1, B, action))
        assert world.engine.leaves() == before
        assert (view.code, view.height) == (Code.OK, world.height)
    assert (view.status, view.filled_lots, view.filled_ticks_lots) == (FILLED, 8, 8_003)
    result = world.one(B, action)
    assert (result.status, result.filled_lots) == (view.status, view.filled_lots)
    assert asked(MarginRequest(1, B)).figures == view.after
    assert view.after.equity_uusd < view.before.equity_uusd and view.fees_uusd > 0
    refused = asked(PreviewRequest(1, B, Order(9, BUY, 1, 1)))
    assert refused.code == Code.UNKNOWN_MARKET and refused.after == refused.before
    none = asked(PreviewRequest(1, B, Order(0, BUY, 1, 1, IOC)))
    assert (none.code, none.status) == (Code.NO_LIQUIDITY, CANCELLED)
    assert asked.refusal(PreviewRequest(1, 99, Order(0, BUY, 1, 1))) == Code.UNKNOWN_ACCOUNT


@pytest.mark.parametrize("value", [-(2**63), -1, 0, 1, 2**31, 2**63 - 1, 2**64 - 1])
def test_numbers_from_anywhere_are_answered_or_refused(asked: Asked, value: int) -> None:
    trade(asked, 100)
    requests: list[Any] = [
        AccountRequest(1, value, b""),
        BookRequest(1, value, value),
        OrdersRequest(1, value),
        ResultRequest(1, b"", value),
        CandlesRequest(1, 0, value, value, value),
        CandlesRequest(1, value, 1_000, value, value),
        StatsRequest(1, value),
        TradesRequest(1, value, value),
        OrderStatusRequest(1, value, value, value),
        OrderStatusRequest(1, 0, value, value),
        MarginRequest(1, value, True),
        LiquidationsRequest(1, value, value, value),
        ReceiptRequest(1, value, value),
        StandingRequest(1, value),
        PreviewRequest(1, value, Order(0, BUY, 1_000, 1)),
    ]
    fields = ("market", "side", "price_ticks", "size_lots", "tif", "client_id", "flags")
    for name in fields:
        order = msgspec.structs.replace(Order(0, BUY, 1_000, 1), **{name: value})
        requests.append(PreviewRequest(1, A, order))
        if name not in ("price_ticks", "tif"):
            changed = msgspec.structs.replace(MarketOrder(0, BUY, 1, 10_000), **{name: value})
            requests.append(PreviewRequest(1, A, changed))
    requests.append(PreviewRequest(1, A, MarketOrder(0, BUY, 1, value)))
    for request in requests:
        try:
            asked(request)
        except Rejected as refused:
            assert refused.code
    asked.world.engine.check()


def test_trades_and_candles(asked: Asked) -> None:
    trade(asked, 3)
    trade(asked, 4, 1_002)
    world = asked.world
    newest, oldest = asked(TradesRequest(1, 0, 10)).trades
    assert newest[1:] == (world.time_ms, 1_002, 4, BUY) and oldest[2:] == (1_000, 3, BUY)
    assert asked(TradesRequest(1, 0, 1)).trades == [newest]
    (candle,) = asked(CandlesRequest(1, 0, 60_000, 0, 5)).candles
    assert (candle.open_ticks, candle.close_ticks, candle.trades) == (1_000, 1_002, 2)
    assert read_sum(candle.notional_uusd) == (3_000 + 4_008) * 1_000
    assert asked(CandlesRequest(1, 0, 1_000, world.time_ms + 9_999, 5)).candles == []
    assert asked(CandlesRequest(1, 1, 1_000, -3, -3)).candles == []
    assert asked.refusal(CandlesRequest(1, 0, 2_000, 0, 1)) == Code.NOT_FOUND
    assert asked.refusal(CandlesRequest(1, 5, 1_000, 0, 1)) == Code.UNKNOWN_MARKET
    assert asked.refusal(TradesRequest(1, -1, 1)) == Code.UNKNOWN_MARKET


def test_figures_of_markets(asked: Asked) -> None:
    trade(asked, 3)
    trade(asked, 4, 1_002)
    asked.world.mark(1_005)
    first, second = asked(StatsRequest(1, ALL_MARKETS)).markets
    assert (first.mode, first.stale, first.mark_ticks, first.oracle_ticks) == (
        OPEN, False, 1_005, 1_005,
    )  # fmt: skip
    assert (first.last_ticks, first.open_ticks, first.high_ticks) == (1_002, 1_000, 1_002)
    assert (read_sum(first.volume_lots), first.trades, first.open_interest_lots) == (7, 2, 7)
    assert first.next_funding_ms > asked.world.time_ms
    assert (second.last_ticks, second.open_ticks, second.volume_lots) == (0, 0, b"")
    assert asked(StatsRequest(1, 1)).markets == [second]
    assert asked.refusal(StatsRequest(1, 7)) == Code.UNKNOWN_MARKET


def test_liquidations_and_receipts(asked: Asked) -> None:
    feed = asked.world.derived.feed
    for number in range(3):
        feed.take(100 + number, 9, 9_000, receipt(number))
    view = asked(LiquidationsRequest(1, 0, 1, 1))
    assert (view.next_seq, view.receipts, len(view.entries)) == (102, 3, 1)
    assert asked(LiquidationsRequest(1, -7, -7, -7)).entries[0].event == receipt(0)
    proven = asked(ReceiptRequest(1, 2, 0))
    assert proven.receipt == receipt(2) and proven.count == 3 and len(proven.path) == 1
    assert asked.refusal(ReceiptRequest(1, 3, -1)) == Code.NOT_FOUND


def test_no_answer_is_too_large_for_its_numbers() -> None:
    """An account at the ends of the ranges is still told exactly."""
    asked = Asked(dollars=2**41 // DOLLAR)
    for _ in range(3):
        trade(asked, 1_000_000)
    for request in (AccountRequest(1, A, b""), MarginRequest(1, A, True), StatsRequest(1, 0)):
        asked(request)


def test_there_is_an_answer_for_every_question_of_execution() -> None:
    streams = {"SubscribeEvents", "SubscribeDiffs", "SubscribeLiquidations"}
    questions = {
        kind.__name__
        for kind in Request.__args__  # type: ignore[attr-defined]
        if kind.__module__ in ("protocol.messages_trading", "protocol.messages_market_data")
    }
    answered = {kind.__name__ for kind in Asked().queries.answers}
    assert questions == answered | streams
