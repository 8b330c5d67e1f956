"""Commands that look at the market: book, candles, stats, trades, liquidations, order-status; and
the vote of a guardian."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from client.cli_submit import (
    FIRST_TRADER,
    NUMBER_MAX,
    Market,
    Sending,
    Signed,
    Sub,
    Timeout,
    Wait,
    trader_of,
)
from client.console import As, Json, emit, exchange_of, note, run

Limit = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")]
GUARDIAN = "guardian"
MODE_MS = 2_000
"""How long a market's mode is asked for after a vote."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (book, candles, stats, trades, liquidations, vote):
        app.command()(command)
    app.command("order-status", cls=Signed)(order_status)


def book(
    context: typer.Context,
    market: Market,
    depth: Annotated[int, typer.Option(min=1, max=1000, help="Levels per side.")] = 10,
    as_json: Json = False,
) -> None:
    """Show the best levels of a market's book."""
    from client.units import lots_to_size, ticks_to_price

    exchange = exchange_of(context)
    config = exchange.market(market)

    async def work() -> Any:
        async with exchange:
            return await exchange.book(config.market, depth)

    view = run(work())

    def level(price: int, lots: int, orders: int) -> dict[str, Any]:
        return {
            "price": ticks_to_price(config, price),
            "size": lots_to_size(config, lots),
            "orders": orders,
        }

    data = {
        "market": config.symbol,
        "height": view.height,
        "next_seq": view.next_seq,
        "mark": ticks_to_price(config, view.mark_ticks),
        "bids": [level(*one) for one in view.bids],
        "asks": [level(*one) for one in view.asks],
        "checksum": view.checksum,
    }
    emit(data, _book_text(data), as_json=as_json)


def _book_text(data: dict[str, Any]) -> str:
    """A book for people: the best levels next to each other in the middle."""
    head = f"{data['market']}  mark {data['mark']}"
    rows = [("ask", one) for one in reversed(data["asks"])] + [("bid", one) for one in data["bids"]]
    if not rows:
        return f"{head}\n  no order rests"
    lines = [head, f"  side{'price':>14}  {'size':>14}  orders"]
    lines += [
        f"  {side} {one['price']:>14}  {one['size']:>14}  {one['orders']:>6}" for side, one in rows
    ]
    return "\n".join(lines)


def candles(
    context: typer.Context,
    market: Market,
    interval: Annotated[str, typer.Option(help="1s, 1m, 5m, 15m, 1h, 4h or 1d.")] = "1m",
    begin: Annotated[
        str, typer.Option("--from", help="How long ago to begin, such as 2h, or ms since 1970.")
    ] = "",
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show candles: the newest, or those from a time on. Without trades there is none."""
    from client.market_reports import candles_data, candles_text

    exchange = exchange_of(context)
    config = exchange.market(market)
    from_ms = _past_ms(begin)

    async def work() -> Any:
        async with exchange:
            return await exchange.questions.candles(
                config.market, interval, from_ms=from_ms, limit=limit
            )

    data = candles_data(config, run(work()))
    emit(data, candles_text(data), as_json=as_json)


def _past_ms(text: str) -> int:
    from client.nonces import wall_clock_ms
    from client.orders import parse_time_ms

    now_ms = wall_clock_ms()
    time_ms = parse_time_ms(text, now_ms)
    return 2 * now_ms - time_ms if time_ms and not text.strip().isdigit() else time_ms


def stats(
    context: typer.Context,
    market: Annotated[
        str | None, typer.Argument(help="Symbol; all markets if none.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show prices, funding, open interest and 24 h figures."""
    from client.market_reports import stats_data, stats_text

    exchange = exchange_of(context)
    if market is not None:
        exchange.market(market)

    async def work() -> Any:
        async with exchange:
            return await exchange.questions.stats(market)

    markets = exchange.chain.genesis.markets
    data = [stats_data(markets[one.market], one) for one in run(work())]
    emit({"markets": data}, "\n".join(stats_text(one) for one in data), as_json=as_json)


def trades(
    context: typer.Context,
    market: Market,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show the newest trades, newest first."""
    from client.market_reports import trades_data, trades_text

    exchange = exchange_of(context)
    config = exchange.market(market)

    async def work() -> Any:
        async with exchange:
            return await exchange.questions.trades(config.market, limit)

    data = trades_data(config, run(work()))
    emit(data, trades_text(data), as_json=as_json)


def liquidations(
    context: typer.Context,
    begin: Annotated[
        int, typer.Option("--from", min=0, max=NUMBER_MAX, help="First receipt's number.")
    ] = 0,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show liquidations: who fell below maintenance, every receipt, bad debt.

    With --follow and --json, a line of JSON for each.
    """
    from client.market_reports import liquidation_data, liquidation_text

    exchange = exchange_of(context)
    markets = exchange.chain.genesis.markets

    async def tail() -> None:
        async with exchange:
            note("what comes is shown as it comes; Ctrl-C ends it")
            async for entry in exchange.questions.follow_liquidations(begin):
                row = liquidation_data(markets, entry)
                emit(row, liquidation_text(markets, row), as_json=as_json)

    async def once() -> Any:
        async with exchange:
            return await exchange.questions.liquidations(begin, limit=limit)

    if follow:
        run(tail())
        return
    view = run(once())
    rows = [liquidation_data(markets, entry) for entry in view.entries]
    text = "\n".join(liquidation_text(markets, row) for row in rows) or "no liquidations"
    data = {"receipts": view.receipts, "next_seq": view.next_seq, "entries": rows}
    emit(data, text, as_json=as_json)


def order_status(
    context: typer.Context,
    order_id: Annotated[
        int, typer.Argument(min=1, max=NUMBER_MAX, help="Id of an order, trigger or TWAP.")
    ],
    by_client_id: Annotated[
        bool, typer.Option("--client-id", help="The id is the client's own.")
    ] = False,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    as_json: Json = False,
) -> None:
    """Tell what became of an order, a trigger or a TWAP, also when it is over."""
    from client.reports import status_data, status_text

    exchange = exchange_of(context)

    async def work() -> Any:
        async with exchange:
            if not by_client_id:
                return await exchange.questions.order_status(order_id)
            account = (await trader_of(exchange, trader, sub)).account
            return await exchange.questions.order_status(account=account, client_id=order_id)

    data = status_data(exchange.chain.genesis.markets, run(work()))
    emit(data, status_text(data), as_json=as_json)


def vote(
    context: typer.Context,
    market: Market,
    mode: Annotated[
        str, typer.Argument(help="open, reduce-only, post-only, cancel-only or halted.")
    ],
    guardian: Annotated[
        str, typer.Option("--as", metavar="KEY", help="Guardian's key.")
    ] = GUARDIAN,
    wait: Wait = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Vote as a guardian for a market's mode; it changes when more than half of them agree.

    Example: trilemma vote AAPL-PERP halted"""
    from client.orders import MODES, choose
    from protocol.actions import SetMode

    number = choose(MODES, mode, "a mode")
    # A guardian has a key, but no account.
    sending = Sending(context, guardian, "", wait, timeout, as_json)
    data = sending.send_one(SetMode(sending.exchange.market(market).market, number), account=0)
    executed = "filled_lots" in data
    now = _mode_after(context, market, data["height"]) if executed else ""
    data.update(market=market, mode=mode.lower(), market_mode=now)
    done = f"voted for {mode.lower()} in {market}"
    if now == mode.lower():
        done += f", which is {now} now"
    elif now:
        agree = f"more than half of {_guardians(sending)} guardians must agree"
        done += f", which is {now} still; {agree}"
    sending.tell(data, done=done)


def _guardians(sending: Sending) -> int:
    return len(sending.exchange.chain.genesis.guardians)


def _mode_after(context: typer.Context, market: str, height: int) -> str:
    """A market's mode once an ordered block is executed; empty where nobody tells in time."""
    from client.market_reports import MODE_NAMES
    from protocol.errors import TrilemmaError
    from protocol.messages_market_data import StatsRequest, StatsView

    exchange = exchange_of(context, MODE_MS)

    async def work() -> str:
        async with exchange, asyncio.timeout(MODE_MS / 1000):
            execution, number = exchange.channel("execution"), exchange.market(market).market
            while True:
                view = await execution.ask(StatsView, StatsRequest, number)
                if view.height >= height:
                    return MODE_NAMES[view.markets[0].mode]
                await asyncio.sleep(MODE_MS / 20_000)  # another node told the result

    try:
        return run(work())
    except (TrilemmaError, TimeoutError):
        return ""
