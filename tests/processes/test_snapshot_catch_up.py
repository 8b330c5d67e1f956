"""A validator that was away for too long takes a snapshot from the others, and validates again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.channel import Unreachable
from client.sdk import Exchange
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import Code, RemoteFault
from protocol.genesis import Pace, Staking
from protocol.messages import (
    BlocksFrom,
    BlocksView,
    HeaderRequest,
    HeaderView,
    Status,
    StatusRequest,
)
from store.testnet import Testnet

ROOT = Path(__file__).parents[2]
PACE = Pace(20, 5, 10, 500, 2_000, 1 << 20)
"""Empty blocks come quickly, so that there soon are more than are kept."""
STAKING = Staking(epoch_ms=8_000)
PATIENCE_S = 120.0


class Validators:
    """The validators of a testnet that keep few blocks, as child processes."""

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet
        self.chain = testnet.chain()
        self.entries = testnet.of_role("node")
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for entry in self.entries:
            path = testnet.config_path(entry.name)
            path.write_text(f"retain_blocks = 50\nsnapshot_interval = 50\n{path.read_text()}")

    def start(self, *indexes: int) -> None:
        for index in indexes:
            name = self.entries[index].name
            with self.testnet.log_path(name).open("ab") as log:
                self.processes[index] = subprocess.Popen(
                    [sys.executable, "-m", "node.process", str(self.testnet.config_path(name))],
                    stdout=log, stderr=log, cwd=ROOT,
                )  # fmt: skip

    def exchange(self, index: int) -> Exchange:
        """Asks this validator alone."""
        return Exchange(self.chain, {"node": [self.entries[index].public]}, patience_ms=10_000)

    def log(self, index: int) -> str:
        return self.testnet.log_path(self.entries[index].name).read_text()


@pytest.fixture
def validators(tmp_path: Path) -> Iterator[Validators]:
    options = TestnetOptions(free_ports=True, traders=2, ledger_pace=PACE, staking=STAKING)
    running = Validators(create_testnet(tmp_path / "testnet", options))
    yield running
    for process in running.processes.values():
        process.kill()
        process.wait(10)


async def retains(exchange: Exchange, height: int) -> bool:
    try:
        await exchange.channel("node").ask(BlocksView, BlocksFrom, height, 1)
    except RemoteFault as fault:
        if fault.code == Code.NOT_READY:
            return True
        assert fault.code in (Code.NOT_FOUND, Code.NOT_RETAINED)
        return False
    return True


async def height_of(exchange: Exchange) -> int:
    return (await exchange.channel("node").ask(HeaderView, HeaderRequest, 0)).header.height


async def test_a_validator_that_lacks_blocks_nobody_keeps_starts_from_a_snapshot(
    validators: Validators,
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    validators.start(0, 1, 2)
    async with validators.exchange(0) as first, validators.exchange(3) as last:
        while await retains(first, 1):
            assert loop.time() < deadline, await height_of(first)
            await asyncio.sleep(0.5)
        validators.start(3)
        target = await height_of(first)
        while True:
            try:
                if await height_of(last) >= target:
                    break
            except (RemoteFault, Unreachable):
                pass
            assert loop.time() < deadline, validators.log(3)[-3000:]
            await asyncio.sleep(0.2)
        assert "ledger taken from a snapshot" in validators.log(3)
        assert not await retains(last, 1)
        # It is needed for a quorum from here on.
        process = validators.processes[1]
        process.send_signal(signal.SIGSTOP)
        try:
            target = await height_of(last) + 20
            while await height_of(last) < target:
                assert loop.time() < deadline, validators.log(3)[-3000:]
                await asyncio.sleep(0.2)
        finally:
            process.send_signal(signal.SIGCONT)
        status = await last.channel("node").ask(Status, StatusRequest)
        assert (status.values["validating"], status.values["conserved"]) == ("yes", "yes")
