"""Print the market's figures, its last minutes as candles, and its newest trades.

Usage::

    python examples/market_data.py --market BTC-PERP
"""

from __future__ import annotations

import argparse

from client.console import run_script, testnet_option
from client.market_reports import (
    candles_data,
    candles_text,
    stats_data,
    stats_text,
    trades_data,
    trades_text,
)
from client.sdk import Exchange


async def show(directory: str, market: str) -> None:
    """Ask three questions."""
    async with Exchange.connect(directory) as exchange:
        config, ask = exchange.market(market), exchange.questions
        for one in await ask.stats(market):
            print(stats_text(stats_data(config, one)))
        print(candles_text(candles_data(config, await ask.candles(market, "1m", limit=10))))
        print(trades_text(trades_data(config, await ask.trades(market, 10))))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--market", default="BTC-PERP", help="symbol")
    options = parser.parse_args()
    run_script(show(options.testnet, options.market))


if __name__ == "__main__":
    main()
