"""Quote both sides of a market with mass quotes, market-maker protection and a dead-man's switch.

Every round replaces all quotes in one action. If the maker is hit too often within a second, the
exchange takes the rest out by itself; if this program dies, it takes them out a few seconds later.

Usage::

    python examples/quotes.py --market ETH-PERP --seconds 10
"""

from __future__ import annotations

import argparse
import asyncio

from client.console import run_script, testnet_option
from client.nonces import wall_clock_ms
from client.sdk import Exchange
from client.submission import results_of
from client.units import lots_to_size, ticks_to_price

LEVELS = 5
LEVEL_UUSD = 100_000_000
"""About 100 dollars a level."""
SWITCH_MS = 10_000


async def quote(directory: str, name: str, market: str, seconds: float) -> None:
    """Requote twice a second until the time is over, then take everything out."""
    async with Exchange.connect(directory) as exchange:
        maker = await exchange.trader(name)
        config = exchange.market(market)
        results_of(await (await maker.protection(market, 20, 1_000)).executed())
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            mark = (await exchange.book(market, 1)).mark_ticks
            size = lots_to_size(config, max(1, LEVEL_UUSD // (mark * config.value_uusd)))
            step = max(1, mark // 2_000)
            bids = [
                (ticks_to_price(config, mark - level * step), size)
                for level in range(1, LEVELS + 1)
            ]
            asks = [
                (ticks_to_price(config, mark + level * step), size)
                for level in range(1, LEVELS + 1)
            ]
            await maker.schedule_cancel(wall_clock_ms() + SWITCH_MS)
            quoted = await maker.quote(market, bids=bids, asks=asks)
            result = (await quoted.executed()).results[0]
            print(
                f"mark {ticks_to_price(config, mark)}: code {result.code}, "
                f"{lots_to_size(config, result.remaining_lots)} quoted in "
                f"{quoted.latency_ms('executed'):.1f} ms"
            )
            await asyncio.sleep(0.5)
        results_of(await (await maker.quote(market)).executed())
        results_of(await (await maker.schedule_cancel(0)).executed())
        results_of(await (await maker.protection(market, 0, 0)).executed())
        print("quotes, switch and protection are out")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--trader", default="trader-01", help="whose key signs")
    parser.add_argument("--market", default="ETH-PERP", help="symbol")
    parser.add_argument("--seconds", type=float, default=10, help="how long to quote")
    options = parser.parse_args()
    run_script(quote(options.testnet, options.trader, options.market, options.seconds))


if __name__ == "__main__":
    main()
