"""Place orders with the SDK and follow them through their states.

Usage::

    python examples/submit_orders.py --testnet .trilemma/testnet
"""

from __future__ import annotations

import argparse

from client.console import run_script, testnet_option
from client.sdk import Exchange
from client.submission import results_of
from protocol.actions import BUY, SELL, Order


async def submit(directory: str, name: str, market: str) -> None:
    """Quote both sides of a market, wait for every state, cancel."""
    async with Exchange.connect(directory) as exchange:
        trader = await exchange.trader(name)
        config = exchange.market(market)
        mark = (await exchange.book(market, 1)).mark_ticks
        spread = max(1, mark // 1_000)
        lots = max(1, 100_000_000 // (mark * config.value_uusd))
        quotes = await trader.batch(
            [
                Order(config.market, BUY, mark - spread, lots),
                Order(config.market, SELL, mark + spread, lots),
            ]
        )
        receipt = await quotes.accepted()
        print(
            f"accepted  by sequencer {receipt.sequencer} in {quotes.latency_ms('accepted'):.1f} ms"
        )
        print(f"ordered   in block {await quotes.ordered()}")
        for result in results_of(await quotes.executed()):
            print(f"executed  order {result.order_id} rests with {result.remaining_lots} lots")
        await quotes.settled()
        print(f"settled   in {quotes.latency_ms('settled'):.0f} ms")

        for result in results_of(await quotes.executed()):
            cancelled = await trader.cancel(market, result.order_id)
            results_of(await cancelled.executed())
        print("cancelled both")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--trader", default="trader-00", help="whose key signs")
    parser.add_argument("--market", default="ETH-PERP", help="symbol")
    options = parser.parse_args()
    run_script(submit(options.testnet, options.trader, options.market))


if __name__ == "__main__":
    main()
