"""The command that feeds oracle prices, so that a testnet has a price source."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Annotated

import typer

from client.console import Json, emit, exchange_of, note, run

if TYPE_CHECKING:
    from client.sdk import Exchange

PATIENCE_MS = 30_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(oracle)


def oracle(
    context: typer.Context,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", help="SYMBOL=PRICE to start from; otherwise the present mark."),
    ] = None,
    volatility: Annotated[
        float, typer.Option(min=0.0, max=10_000.0, help="Random walk, % a day; 0: constant.")
    ] = 0.0,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between prices.")] = 1.0,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Seconds to report; 0: until Ctrl-C.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the walk.")] = 1,
    as_json: Json = False,
) -> None:
    """Report a price of every market again and again with the testnet's oracle key."""
    exchange = exchange_of(context, PATIENCE_MS)
    if volatility:
        note(f"seed {seed}")
    reported = run(_feed(exchange, price or [], volatility, every, seconds, seed))
    emit({"reported": reported, "seed": seed}, f"{reported:,} reports", as_json=as_json)


async def _feed(
    exchange: Exchange,
    wanted: list[str],
    volatility: float,
    every: float,
    seconds: float,
    seed: int,
) -> int:
    from client.units import price_to_ticks, ticks_to_price
    from protocol.errors import ConfigError

    rng = random.Random(seed)
    reported = 0
    async with exchange:
        loop = asyncio.get_running_loop()
        ticks: dict[int, float] = {}
        for config in exchange.chain.genesis.markets:
            view = await exchange.book(config.market, 1)
            ticks[config.market] = float(view.mark_ticks)
        for text in wanted:
            symbol, found, amount = text.partition("=")
            if not found:
                raise ConfigError(f"a price is given as SYMBOL=PRICE, not {text!r}")
            config = exchange.market(symbol)
            ticks[config.market] = float(price_to_ticks(config, amount))
        told = ", ".join(
            f"{one.symbol} {ticks_to_price(one, round(ticks[one.market]))}"
            for one in exchange.chain.genesis.markets
        )
        note(f"reporting {told} every {every:g} s" + ("" if seconds else "; Ctrl-C ends it"))
        step = volatility / 100 * (every / 86_400) ** 0.5
        end = loop.time() + seconds
        while not seconds or loop.time() < end:
            for number in ticks:
                ticks[number] = max(1.0, ticks[number] * (1 + rng.gauss(0, step)))
            await exchange.set_oracle({number: round(value) for number, value in ticks.items()})
            reported += 1
            await asyncio.sleep(every)
    return reported
