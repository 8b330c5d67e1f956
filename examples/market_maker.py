"""A small market maker: quotes around the mark with an agent key, leans against its position.

Usage::

    python examples/market_maker.py --market ETH-PERP --seconds 10
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal

from client.console import run_script, testnet_option
from client.nonces import wall_clock_ms
from client.sdk import Exchange
from client.submission import results_of
from client.trader import Trader
from client.units import uusd_to_usd
from protocol.actions import BUY, POST_ONLY, SELL, Action, CancelClient, Order
from protocol.errors import Code
from protocol.keys import Key

HOUR_MS = 3_600_000
QUOTE_UUSD = 200_000_000
"""About 200 dollars a quote."""


async def make_market(directory: str, name: str, market: str, seconds: float) -> None:
    """Requote twice a second until the time is over or Ctrl-C, then cancel everything."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    async with Exchange.connect(directory) as exchange:
        owner = await exchange.trader(name)
        agent = Key.generate()
        approved = await owner.approve_agent(agent.public, wall_clock_ms() + HOUR_MS)
        results_of(await approved.executed())
        maker = Trader(exchange, agent, owner.account)
        print(f"the agent {agent.public.hex()[:16]} quotes for account {owner.account}")

        config = exchange.market(market)
        first_id = last_id = wall_clock_ms()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        while not stop.is_set():
            mark = (await exchange.book(market, 1)).mark_ticks
            view = await maker.view()
            held = sum(p.size_lots for p in view.positions if p.market == config.market)
            lots = max(1, QUOTE_UUSD // (mark * config.value_uusd))
            lean = max(-5, min(5, held // lots)) * mark // 10_000
            half = max(1, mark // 2_000)
            actions: list[Action] = [
                CancelClient(config.market, quote) for quote in range(first_id + 1, last_id + 1)
            ]
            first_id, last_id = last_id, last_id + 2
            bid = Order(config.market, BUY, mark - half - lean, lots, POST_ONLY, first_id + 1)
            ask = Order(config.market, SELL, mark + half - lean, lots, POST_ONLY, first_id + 2)
            quotes = await maker.batch([*actions, bid, ask])
            event = await quotes.executed()
            resting = sum(1 for result in event.results[-2:] if result.code == Code.OK)
            print(
                f"mark {mark}  position {held} lots  equity {uusd_to_usd(view.equity_uusd)}  "
                f"{resting} quotes in {quotes.latency_ms('executed'):.1f} ms"
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)

        last: list[Action] = [
            CancelClient(config.market, quote) for quote in range(first_id + 1, last_id + 1)
        ]
        if last:
            await (await maker.batch(last)).executed()
        results_of(await (await owner.revoke_agent(agent.public)).executed())
        print("cancelled, and the agent is revoked")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testnet", default=testnet_option(), help="testnet directory")
    parser.add_argument("--trader", default="trader-01", help="whose account it is")
    parser.add_argument("--market", default="ETH-PERP", help="symbol")
    parser.add_argument("--seconds", type=float, default=10, help="how long to quote")
    options = parser.parse_args()
    run_script(make_market(options.testnet, options.trader, options.market, options.seconds))


if __name__ == "__main__":
    main()
