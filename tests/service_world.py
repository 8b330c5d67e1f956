"""Public ports that answer one kind of request as a test says, and waiting for what comes of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from net.service import ClientSession, PublicService
from protocol.genesis import Chain

Serve = Callable[[ClientSession, Any], None]


@asynccontextmanager
async def serving_ports(
    chain: Chain, role: str, request: type, handlers: tuple[Serve | None, ...]
) -> AsyncIterator[list[tuple[str, int]]]:
    """Ports that serve `request` so; with None one that accepts connections and never greets."""
    services, sockets, addresses = [], [], []
    for handler in handlers:
        found = socket.socket()
        found.bind(("127.0.0.1", 0))
        addresses.append(("127.0.0.1", int(found.getsockname()[1])))
        if handler is None:
            found.listen()
            sockets.append(found)
            continue
        found.close()
        service = PublicService(chain, role, "fake", dict)
        service.on(request, handler)
        await service.start(*addresses[-1])
        services.append(service)
    try:
        yield addresses
    finally:
        for service in services:
            await service.stop()
        for one in sockets:
            one.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; raises `TimeoutError` where it never does."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
