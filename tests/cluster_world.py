"""A whole testnet of real processes for tests, and a client that trades while they do harm."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from client.audit_command import audit
from client.sdk import Exchange
from client.submission import Submission
from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from node.audit import AuditReport
from protocol.errors import RemoteFault
from protocol.genesis import Chain
from protocol.messages import Status, StatusRequest
from store.config import Role, parse_address
from store.testnet import Testnet

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0
"""How long anything may take before a test gives up on it; far more than it needs."""

ROLES: tuple[Role, ...] = ("node", "sequencer", "execution", "prover")


class Cluster:
    """A running testnet."""

    def __init__(self, testnet: Testnet, supervisor: Supervisor) -> None:
        self.testnet = testnet
        self.supervisor = supervisor
        self.chain: Chain = testnet.chain()
        self.names = [entry.name for entry in testnet.processes]
        self.news: list[str] = []

    def address(self, name: str) -> tuple[str, int]:
        """Host and port of a process's public port."""
        return parse_address(self.testnet.process(name).public)

    def pids(self) -> dict[str, int | None]:
        """The pid of each process, None where it is down."""
        return {name: self.supervisor.pid(name) for name in self.names}

    def log(self, name: str) -> str:
        """What a process printed."""
        return self.testnet.log_path(name).read_text(errors="replace")

    def exchange(self, patience_ms: int = 60_000) -> Exchange:
        """A new client."""
        return Exchange.connect(self.testnet.directory, patience_ms=patience_ms)

    async def status(self, name: str) -> dict[str, int | str]:
        """Status of one process, waiting until it answers."""
        entry = self.testnet.process(name)
        exchange = Exchange(self.chain, {entry.role: [entry.public]})
        async with exchange:
            return (await exchange.channel(entry.role).ask(Status, StatusRequest)).values

    async def number(self, name: str, field: str) -> int:
        """A number of a process's status."""
        return int((await self.status(name))[field])


@asynccontextmanager
async def running_cluster(
    directory: Path, options: TestnetOptions | None = None
) -> AsyncIterator[Cluster]:
    """Create a testnet, run its processes, and stop them at the end."""
    options = options or TestnetOptions(free_ports=True, traders=32)
    testnet = create_testnet(directory / "testnet", options)
    news: list[str] = []
    supervisor = Supervisor(testnet, report=news.append, backoff_first_s=0.2)
    cluster = Cluster(testnet, supervisor)
    cluster.news = news
    async with supervisor:
        await supervisor.wait_ready(DEADLINE_S)
        yield cluster


async def eventually(
    what: str, holds: Callable[[], Awaitable[bool]], timeout_s: float = DEADLINE_S
) -> None:
    """Wait until `holds()`; fails with `what` after a generous deadline."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            if await holds():
                return
        except (ConnectionError, TimeoutError, RemoteFault) as error:
            what = f"{what} ({error})" if "(" not in what else what
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"this never came: {what}")
        await asyncio.sleep(0.05)


class SteadyTrader:
    """A well-behaved client: rests an order and cancels it, again and again, until told to stop."""

    def __init__(self, exchange: Exchange, name: str, market: int = 0) -> None:
        self._exchange = exchange
        self._name = name
        self._market = market
        self._stop = False
        self._running: asyncio.Task[None] | None = None
        self.done = 0
        self.reconnects = 0

    def start(self) -> None:
        """Begin to trade."""
        self._running = asyncio.ensure_future(self._run())

    def check(self) -> None:
        """Raise where any order did not get exactly the result that it must."""
        if self._running is not None and self._running.done():
            self._running.result()

    async def _run(self) -> None:
        trader = await self._exchange.trader(self._name)
        while not self._stop:
            placed = await trader.place(self._market, "buy", size="0.01", price="10000")
            result = await _only_result(placed)
            assert (result.code, result.remaining_lots > 0) == (0, True), result
            cancelled = await _only_result(await trader.cancel(self._market, result.order_id))
            assert cancelled.code == 0, cancelled
            self.done += 2
            self.reconnects = self._exchange.reconnects
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish the round and end; raises as `check`."""
        self._stop = True
        if self._running is not None:
            await self._running


async def _only_result(submission: Submission):  # type: ignore[no-untyped-def]
    event = await submission.executed()
    assert event.code == 0 and len(event.results) == 1 and not event.duplicate, event
    return event.results[0]


async def audited(cluster: Cluster) -> AuditReport:
    """Re-execute everything from base-layer data alone; fails at the first difference."""
    async with cluster.exchange() as exchange:
        return await audit(exchange)


# --- the command line


async def call(cluster: Cluster, *arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command."""
    environment = {**os.environ, "TRILEMMA_TESTNET": str(cluster.testnet.directory)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", *arguments, cwd=ROOT, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def data(cluster: Cluster, *arguments: str) -> Any:
    """What a command prints with --json."""
    status, out, err = await call(cluster, *arguments, "--json")
    assert status == 0, (arguments, err)
    return json.loads(out)
