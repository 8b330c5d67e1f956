"""Buy with the exits in place: a bracket order, followed until one exit has closed the position.

The exits wait for the size that the order has filled, and the first to fire takes the other out.
`trilemma oracle --price ETH-PERP=3100` moves the mark.

Usage::

    python examples/bracket.py --market ETH-PERP
"""

from __future__ import annotations

import argparse
import asyncio

from client.console import run_script, testnet_option
from client.reports import status_data, status_text
from client.sdk import Exchange
from client.submission import results_of
from client.units import ticks_to_price
from protocol.events import WAITING


async def trade(directory: str, name: str, market: str, size: str, seconds: float) -> None:
    """Place the bracket 1 % around the best ask (or the mark) and tell what becomes of it."""
    async with Exchange.connect(directory) as exchange:
        trader = await exchange.trader(name)
        config, markets = exchange.market(market), exchange.chain.genesis.markets
        book = await exchange.book(market, 1)
        price = book.asks[0][0] if book.asks else book.mark_ticks
        placed = await trader.bracket(
            market,
            "buy",
            size=size,
            price=ticks_to_price(config, price),
            take_profit=ticks_to_price(config, price + price // 100),
            stop=ticks_to_price(config, price - price // 100),
        )
        parent = results_of(await placed.executed())[0].order_id
        profit, stop = parent + 1, parent + 2
        until = asyncio.get_running_loop().time() + seconds
        while True:
            shown = [await trader.status(one) for one in (parent, profit, stop)]
            for status in shown:
                print(status_text(status_data(markets, status)))
            waits = any(status.status == WAITING for status in shown[1:])
            if not waits or asyncio.get_running_loop().time() >= until:
                break
            await asyncio.sleep(1)
        results_of(await (await trader.cancel_all(market)).executed())
        print("what was left is cancelled")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--trader", default="trader-00", help="whose key signs")
    parser.add_argument("--market", default="ETH-PERP", help="symbol")
    parser.add_argument("--size", default="0.1", help="in units of the base asset")
    parser.add_argument("--seconds", type=float, default=10, help="how long to wait for an exit")
    options = parser.parse_args()
    run_script(
        trade(options.testnet, options.trader, options.market, options.size, options.seconds)
    )


if __name__ == "__main__":
    main()
