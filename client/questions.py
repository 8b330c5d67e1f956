"""Questions to an execution node: market data, margin, orders, liquidations and receipts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from client.stream import RESUME_WAIT_S, RESUMED
from protocol.actions import ALL_MARKETS, MarketOrder, Order
from protocol.codec import encode
from protocol.errors import ConfigError, RemoteFault
from protocol.messages import decode_answer
from protocol.messages_market_data import (
    CANDLE_INTERVALS_MS,
    CandlesRequest,
    CandlesView,
    LiquidationEntry,
    LiquidationsRequest,
    LiquidationsView,
    MarketStats,
    ReceiptRequest,
    ReceiptView,
    StatsRequest,
    StatsView,
    SubscribeLiquidations,
    TradesRequest,
    TradesView,
)
from protocol.messages_trading import (
    MarginRequest,
    MarginView,
    OrderStatusRequest,
    OrderStatusView,
    PreviewRequest,
    PreviewView,
    StandingRequest,
    StandingView,
)

if TYPE_CHECKING:
    from client.sdk import Exchange

LATEST = 100
"""Candles, trades or liquidations that are given unless told otherwise."""


class Questions:
    """Questions of an exchange; all raise `RemoteFault` where execution refuses to answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    # --- market data

    async def candles(
        self, market: str | int, interval: str, *, from_ms: int = 0, limit: int = LATEST
    ) -> CandlesView:
        """Candles of ``1s``, ``1m``, ``5m``, ``15m``, ``1h``, ``4h`` or ``1d``, oldest first: the
        newest ones, or those from `from_ms` on."""
        interval_ms = CANDLE_INTERVALS_MS.get(interval)
        if interval_ms is None:
            names = ", ".join(CANDLE_INTERVALS_MS)
            raise ConfigError(f"an interval is one of {names}, not {interval!r}")
        number = self._exchange.market(market).market
        return await self._exchange.channel("execution").ask(
            CandlesView, CandlesRequest, number, interval_ms, from_ms, limit
        )

    async def stats(self, market: str | int | None = None) -> list[MarketStats]:
        """Prices and 24 h figures of a market, or of all."""
        number = ALL_MARKETS if market is None else self._exchange.market(market).market
        channel = self._exchange.channel("execution")
        return (await channel.ask(StatsView, StatsRequest, number)).markets

    async def trades(self, market: str | int, limit: int = LATEST) -> TradesView:
        """The newest trades, newest first."""
        number = self._exchange.market(market).market
        return await self._exchange.channel("execution").ask(
            TradesView, TradesRequest, number, limit
        )

    # --- orders and accounts

    async def order_status(
        self, order_id: int = 0, *, account: int = 0, client_id: int = 0
    ) -> OrderStatusView:
        """What became of an order, trigger or TWAP, by its id or by its account's client id.

        Raises `RemoteFault`: unknown_order where there never was one, not_retained where it may be
        forgotten.
        """
        return await self._exchange.channel("execution").ask(
            OrderStatusView, OrderStatusRequest, order_id, account, client_id
        )

    async def standing(self, account: int) -> StandingView:
        """An account's triggers, TWAPs, dead-man's switch and settings."""
        return await self._exchange.channel("execution").ask(StandingView, StandingRequest, account)

    async def margin(self, account: int, *, ranks: bool = False) -> MarginView:
        """The margin report of an account; `ranks`: with its places for deleveraging."""
        return await self._exchange.channel("execution").ask(
            MarginView, MarginRequest, account, ranks
        )

    async def preview(self, account: int, action: Order | MarketOrder) -> PreviewView:
        """What an order would do if it came next."""
        return await self._exchange.channel("execution").ask(
            PreviewView, PreviewRequest, account, action
        )

    # --- liquidations

    async def liquidations(
        self, from_number: int = 0, *, from_seq: int = 0, limit: int = LATEST
    ) -> LiquidationsView:
        """The liquidation feed from a receipt on, or from an event number on."""
        return await self._exchange.channel("execution").ask(
            LiquidationsView, LiquidationsRequest, from_seq, from_number, limit
        )

    async def follow_liquidations(self, from_number: int = 0) -> AsyncIterator[LiquidationEntry]:
        """The liquidation feed from a receipt on, for ever and over lost connections; raises
        `Unreachable` as the channel does."""
        next_seq = 0
        while True:
            endpoint = await self._exchange.channel("execution").session()
            request_id = endpoint.next_request_id()
            request = SubscribeLiquidations(request_id, next_seq, from_number)
            try:
                async for frame in endpoint.subscribe(encode(request), request_id):
                    push = decode_answer(frame)
                    if isinstance(push, LiquidationsView):
                        for entry in push.entries:
                            yield entry
                        next_seq = push.next_seq
            except ConnectionError:
                await asyncio.sleep(RESUME_WAIT_S)
            except RemoteFault as fault:
                if fault.code not in RESUMED:
                    raise
                await asyncio.sleep(RESUME_WAIT_S)

    async def receipt(self, number: int, count: int = 0) -> ReceiptView:
        """A liquidation receipt and its path in the list of the first `count` (0: all)."""
        return await self._exchange.channel("execution").ask(
            ReceiptView, ReceiptRequest, number, count
        )
