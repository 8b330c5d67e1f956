"""Rebuild a market's order-by-order book from the event stream and print its best levels.

The mirror starts empty, so it is right from the exchange's first event on, and proves its copy by
the checksum that execution gives with its own book. Ctrl-C ends it, or `--seconds`.

Usage::

    python examples/watch_book.py --market BTC-PERP
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from client.book import ProvenBook
from client.console import run_script, testnet_option
from client.sdk import Exchange
from client.units import lots_to_size, ticks_to_price
from protocol.actions import BUY, SELL


async def watch(directory: str, market: str, depth: int, seconds: float) -> None:
    """Follow all events from the first one on and print the book twice a second."""
    async with Exchange.connect(directory) as exchange:
        config = exchange.market(market)
        book = ProvenBook(config.market)
        exchange.watchers.append(book.take)
        await exchange.follow(from_seq=1)
        until = asyncio.get_running_loop().time() + seconds
        while not seconds or asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.5)
            exchange.check()
            proven = "proven" if book.agrees(await exchange.book(market, 1)) else "not compared"
            mirror, event = book.mirror, exchange.stream.next_seq
            print(f"{config.symbol}: {len(mirror.orders)} orders, event {event}, {proven}")
            for name, side in (("ask", SELL), ("bid", BUY)):
                for price, lots, orders in mirror.levels(side, depth):
                    shown = ticks_to_price(config, price), lots_to_size(config, lots)
                    print(f"  {name} {shown[0]:>12} {shown[1]:>12}  {orders}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--market", default="BTC-PERP", help="symbol")
    parser.add_argument("--depth", type=int, default=5, help="levels per side")
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long; 0: never")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        run_script(watch(options.testnet, options.market, options.depth, options.seconds))


if __name__ == "__main__":
    main()
