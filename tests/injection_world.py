"""Orders to suffer, to the processes of a running testnet, and a client that trades meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from cluster_world import Cluster, SteadyTrader, eventually

TRADER = "trader-03"


async def order(cluster: Cluster, name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Put a plan of faults (an empty one clears); what the process says of its faults."""
    return await http(cluster, name, "PUT", json.dumps(plan))


async def bit(cluster: Cluster, name: str) -> dict[str, Any]:
    """What hit at a process so far."""
    state = await http(cluster, name, "GET")
    found: dict[str, Any] = state["bit"]
    return found


async def http(cluster: Cluster, name: str, method: str, body: str | None = None) -> dict[str, Any]:
    """A request to a process's ``/faults``, and its answer."""
    url = f"http://{cluster.testnet.process(name).observe}/faults"
    headers = {} if body is None else {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=body, headers=headers) as answer,
    ):
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
        return found


@asynccontextmanager
async def trading(cluster: Cluster) -> AsyncIterator[SteadyTrader]:
    """A client that trades meanwhile, and still does at the end; each order gets its one result."""
    async with cluster.exchange(120_000) as exchange:
        await exchange.account_of(exchange.key(TRADER).address, wait_ms=60_000)
        trader = SteadyTrader(exchange, TRADER)
        trader.start()
        await traded(trader)
        yield trader
        await traded(trader)
        await trader.stop()


async def traded(trader: SteadyTrader, more: int = 10) -> None:
    """Wait for more trades than there are."""
    target = trader.done + more

    async def reached() -> bool:
        trader.check()
        return trader.done >= target

    await eventually("trading goes on", reached)
