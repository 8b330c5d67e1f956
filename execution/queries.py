"""Answers to questions about a shard's present and past. Nothing here changes the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from execution import leaves as lv
from execution.preview import preview
from execution.replay import Replay
from execution.report import DeleverageRanks, MarginReport, PositionReport, margin_report
from execution.report import liquidation_ticks as last_safe_ticks
from margin.account import Account
from margin.market import Market
from protocol.actions import ALL_MARKETS
from protocol.codec import Wire, encode
from protocol.errors import Code, Rejected
from protocol.messages_market_data import (
    CANDLE_INTERVALS_MS,
    CANDLES_MAX,
    DAY_MS,
    DEPTH_MAX,
    LIQUIDATIONS_MAX,
    TRADES_MAX,
    BookRequest,
    BookView,
    CandlesRequest,
    CandlesView,
    LiquidationsRequest,
    LiquidationsView,
    MarketStats,
    ReceiptRequest,
    ReceiptView,
    StatsRequest,
    StatsView,
    TradesRequest,
    TradesView,
    big_sum,
)
from protocol.messages_trading import (
    AccountRequest,
    AccountView,
    MarginFigures,
    MarginPosition,
    MarginRequest,
    MarginView,
    OrdersRequest,
    OrderStatusRequest,
    OrderStatusView,
    OrdersView,
    PreviewRequest,
    PreviewView,
    ResultRequest,
    ResultView,
    StandingRequest,
    StandingView,
    TriggerView,
    TwapView,
)
from protocol.settlement import account_number

Answer = Callable[[Any], Wire]


class Queries:
    """Answers from the state behind the newest block of a `Replay`, and from what is derived."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._engine = replay.engine
        self._derived = replay.derived
        self._ranks = DeleverageRanks(replay.engine.state)
        self.answers: dict[type, Answer] = {
            AccountRequest: self.account,
            BookRequest: self.book,
            OrdersRequest: self.orders,
            ResultRequest: self.result,
            CandlesRequest: self.candles,
            StatsRequest: self.stats,
            TradesRequest: self.trades,
            OrderStatusRequest: self.order_status,
            MarginRequest: self.margin,
            PreviewRequest: self.preview,
            LiquidationsRequest: self.liquidations,
            ReceiptRequest: self.receipt,
            StandingRequest: self.standing,
        }
        """By type of request; each raises `Rejected` where there is no answer."""

    # --- accounts and orders

    def account(self, request: AccountRequest) -> AccountView:
        """An account, by number or by address."""
        number = request.account
        if number == 0 and request.address:
            number = self._engine.account_of(request.address)
        view = self._engine.account_view(request.request_id, number)
        account, risk = self._account(number), self._engine.state.risk
        positions = [
            replace(held, liquidation_ticks=last_safe_ticks(risk, account, held.market) or 0)
            for held in view.positions
        ]
        return replace(view, positions=positions)

    def orders(self, request: OrdersRequest) -> OrdersView:
        """Resting orders of an account."""
        return OrdersView(request.request_id, self._engine.orders_of(request.account))

    def result(self, request: ResultRequest) -> ResultView:
        """The kept result of a signed batch."""
        event = self._engine.kept_result(request.signer, request.nonce_ms)
        if event is None:
            raise Rejected(Code.NOT_FOUND, "no result of this signer and nonce is kept")
        return ResultView(request.request_id, encode(event))

    def order_status(self, request: OrderStatusRequest) -> OrderStatusView:
        """What became of an order, a trigger or a TWAP."""
        return self._derived.orders.view(
            request.request_id, request.order_id, request.account, request.client_id
        )

    def standing(self, request: StandingRequest) -> StandingView:
        """Triggers, TWAPs, settings and dead-man's switch of an account."""
        state, account = self._engine.state, self._account(request.account)
        settings = []
        for market in range(len(state.markets)):
            row = state.settings.get(lv.settings_key(account.number, market))
            if row is not None and (row.leverage or row.fills):
                settings.append((market, row.leverage, row.fills, row.window_ms))
        switch = state.dead_men.get(lv.dead_man_key(account.number))
        fired = 0
        if switch is not None and switch.day == state.time_ms // DAY_MS:
            fired = switch.fired
        return StandingView(
            request.request_id, account.number, state.height,
            [self._trigger(key) for _, key in sorted(account.triggers.items())],
            [self._twap(number, key) for number, key in sorted(account.twaps.items())],
            settings, 0 if switch is None else switch.time_ms, fired, self._family(account.master),
        )  # fmt: skip

    def _family(self, master: int) -> list[int]:
        """All accounts of a master; few enough to try them all."""
        state = self._engine.state
        numbers = (
            account_number(master, index, market)
            for index in range(state.limits.subaccounts + 1)
            for market in range(-1, len(state.markets))
        )
        return [number for number in numbers if number in state.accounts]

    def _trigger(self, key: bytes) -> TriggerView:
        market, trigger_id = lv.parse_trigger_key(key)
        book = self._engine.triggers.book
        row = book.row(market, trigger_id)
        return TriggerView(
            market, trigger_id, row.client_id, row.side, row.kind, row.trigger_ticks,
            row.limit_ticks, row.slippage_ppm, row.size_lots, row.flags, row.expires_ms, row.link,
            row.parent, book.best_ticks(market, trigger_id),
        )  # fmt: skip

    def _twap(self, twap_id: int, key: bytes) -> TwapView:
        row = self._engine.state.twaps.rows[key]
        return TwapView(
            row.market, twap_id, row.client_id, row.side, row.size_lots, row.done_lots, row.flags,
            row.began_ms, row.duration_ms,
        )  # fmt: skip

    # --- margin

    def margin(self, request: MarginRequest) -> MarginView:
        """Margin report of an account."""
        state, account = self._engine.state, self._account(request.account)
        distress = state.distressed.get(lv.distress_key(account.number))
        report = margin_report(state.risk, account)
        return MarginView(
            request.request_id, account.number, state.height,
            0 if distress is None else distress.since_ms,
            self._figures(report, account.number if request.ranks else 0),
        )  # fmt: skip

    def preview(self, request: PreviewRequest) -> PreviewView:
        """What an order would do if it came next."""
        state = self._engine.state
        found = preview(state, request.account, request.action, self._engine.fees.tier)
        result = found.result
        return PreviewView(
            request.request_id, request.account, state.height, result.code, result.status,
            result.filled_lots, found.filled_ticks_lots, result.remaining_lots, found.fees_uusd,
            self._figures(found.before), self._figures(found.after),
        )  # fmt: skip

    def _figures(self, report: MarginReport, ranked: int = 0) -> MarginFigures:
        state = self._engine.state
        wild = state.holds_wild(state.accounts[report.account])
        return MarginFigures(
            report.cash_uusd, report.equity_uusd, report.initial_uusd, report.maintenance_uusd,
            report.liquidation_equity_uusd, report.free_uusd,
            0 if wild else report.withdrawable_uusd,
            [self._position(held, ranked) for held in report.positions],
        )  # fmt: skip

    def _position(self, held: PositionReport, ranked: int) -> MarginPosition:
        place = self._ranks.place(held.market, ranked) if ranked else None
        rank, count = place or (0, 0)
        return MarginPosition(
            held.market, held.size_lots, held.cost_uusd, held.entry_ticks, held.mark_ticks,
            held.notional_uusd, held.unrealised_uusd, held.funding_uusd, held.initial_uusd,
            held.maintenance_uusd, held.leverage, held.liquidation_ticks or 0, held.stale, rank,
            count,
        )  # fmt: skip

    # --- market data

    def book(self, request: BookRequest) -> BookView:
        """The best levels of a market's book."""
        depth = max(1, min(request.depth, DEPTH_MAX))
        return self._engine.book_view(
            request.request_id, request.market, depth, self._replay.next_seq
        )

    def candles(self, request: CandlesRequest) -> CandlesView:
        """Candles of a market."""
        market = self._market(request.market).number
        if request.interval_ms not in CANDLE_INTERVALS_MS.values():
            there = ", ".join(CANDLE_INTERVALS_MS)
            raise Rejected(Code.NOT_FOUND, f"candles have one of the intervals {there}")
        candles = self._derived.market_data.candles(
            market, request.interval_ms, max(request.from_ms, 0), _limit(request.limit, CANDLES_MAX)
        )
        return CandlesView(
            request.request_id, market, request.interval_ms, self._engine.height, candles
        )

    def trades(self, request: TradesRequest) -> TradesView:
        """The newest trades of a market."""
        market = self._market(request.market).number
        trades = self._derived.market_data.trades(market, _limit(request.limit, TRADES_MAX))
        return TradesView(request.request_id, market, self._engine.height, trades)

    def stats(self, request: StatsRequest) -> StatsView:
        """Prices and 24 h figures of one market, or of all."""
        state = self._engine.state
        markets = state.markets if request.market == ALL_MARKETS else [self._market(request.market)]
        return StatsView(
            request.request_id, state.height, state.time_ms,
            [self._stats(market) for market in markets],
        )  # fmt: skip

    def _stats(self, market: Market) -> MarketStats:
        state, data = self._engine.state, self._derived.market_data
        day = data.day(market.number, state.time_ms)
        pricing = state.pricing.get(lv.pricing_key(market.number)) or lv.PricingLeaf()
        return MarketStats(
            market.number, market.mode, market.stale, market.mark_ticks, market.oracle_ticks,
            market.last_ticks, data.last_trade_ms(market.number), day.open_ticks, day.high_ticks,
            day.low_ticks, big_sum(day.lots), big_sum(day.notional_uusd), day.trades,
            market.open_interest_lots, pricing.rate_ppb, self._engine.funding.predicted_ppb(market),
            pricing.next_payment_ms,
        )  # fmt: skip

    # --- liquidations

    def liquidations(self, request: LiquidationsRequest) -> LiquidationsView:
        """A part of the liquidation feed."""
        feed = self._derived.feed
        entries, next_seq = feed.read(
            max(request.from_seq, 0), max(request.from_number, 0),
            _limit(request.limit, LIQUIDATIONS_MAX),
        )  # fmt: skip
        return LiquidationsView(request.request_id, next_seq, feed.receipts, entries)

    def receipt(self, request: ReceiptRequest) -> ReceiptView:
        """A receipt and its audit path."""
        receipt, count, path = self._derived.feed.receipt(request.number, max(request.count, 0))
        return ReceiptView(request.request_id, count, receipt, path)

    # --- what a request names

    def _account(self, number: int) -> Account:
        account = self._engine.state.accounts.get(number)
        if account is None:
            raise Rejected(Code.UNKNOWN_ACCOUNT, f"there is no account {number}")
        return account

    def _market(self, number: int) -> Market:
        markets = self._engine.state.markets
        if not 0 <= number < len(markets):
            raise Rejected(Code.UNKNOWN_MARKET, f"there is no market {number}")
        return markets[number]


def _limit(asked: int, most: int) -> int:
    return max(1, min(asked, most))
