"""Rebuild a market's order-by-order book from the event stream and print its best levels.

The mirror starts empty, so it is right from the exchange's first event on. Ctrl-C ends it, or
`--seconds`.

Usage::

    python examples/watch_book.py --market BTC-PERP
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from client.book import BookMirror
from client.sdk import Exchange
from client.units import lots_to_size, ticks_to_price
from protocol.actions import BUY, SELL
from protocol.events import BlockEvents


async def watch(directory: str, market: str, depth: int, seconds: float) -> None:
    """Follow all events from the first one on and print the book twice a second."""
    async with Exchange.connect(directory) as exchange:
        config = exchange.market(market)
        mirror = BookMirror(config.market)

        def apply(block: BlockEvents) -> None:
            for event in block.events:
                mirror.apply(event)

        exchange.watchers.append(apply)
        await exchange.follow(from_seq=1)
        until = asyncio.get_running_loop().time() + seconds
        while not seconds or asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.5)
            exchange.check()
            print(f"{config.symbol}: {len(mirror.orders)} orders, event {exchange.stream.next_seq}")
            for name, side in (("ask", SELL), ("bid", BUY)):
                for price, lots, orders in mirror.levels(side, depth):
                    shown = ticks_to_price(config, price), lots_to_size(config, lots)
                    print(f"  {name} {shown[0]:>12} {shown[1]:>12}  {orders}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=".trilemma/testnet", help="testnet directory")
    parser.add_argument("--market", default="BTC-PERP", help="symbol")
    parser.add_argument("--depth", type=int, default=5, help="levels per side")
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long; 0: never")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(options.testnet, options.market, options.depth, options.seconds))


if __name__ == "__main__":
    main()
