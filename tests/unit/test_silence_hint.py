"""What is said of a testnet that does not answer: that it does not run, or what to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.channel import Channel, Unreachable
from client.sdk import Exchange
from client.trace import Tracer
from cluster.faults_hold import RunFolder
from cluster.lock import SupervisorLock
from cluster.testnet import TestnetOptions, contained, create_testnet
from store.running import silence_hint
from store.testnet import Testnet


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    options = TestnetOptions(validators=1, executions=2, traders=0, free_ports=True)
    return create_testnet(tmp_path / "my net", options)


@pytest.fixture
def folder(testnet: Testnet) -> Iterator[RunFolder]:
    """Of the supervisor that runs it."""
    lock = SupervisorLock(testnet.directory)
    found = RunFolder(testnet.directory)
    found.clear()
    yield found
    lock.release()


def test_one_that_does_not_run_is_to_be_started(testnet: Testnet, tmp_path: Path) -> None:
    RunFolder(testnet.directory).clear()
    RunFolder(testnet.directory).hold("execution-0")
    where = f"'{testnet.directory}'"
    started = f"is the cluster up? start it with: trilemma up {where}"
    assert silence_hint(testnet, "execution") == started
    options = contained(TestnetOptions(traders=0, free_ports=True), "compose")
    made = create_testnet(tmp_path / "containers", options)
    assert "docker compose" in silence_hint(made, "execution")


def test_one_that_runs_is_to_be_looked_at(testnet: Testnet, folder: RunFolder) -> None:
    where = f"'{testnet.directory}'"
    looks = f"the testnet runs; see: trilemma status {where}"
    assert silence_hint(testnet, "execution") == looks
    folder.hold("execution-1")
    assert silence_hint(testnet, "execution") == (
        "execution-1 is held down; start again with: trilemma faults restart execution-1 "
        f"--testnet {where}"
    )
    assert silence_hint(testnet, "sequencer") == looks
    folder.hold("execution-0")
    told = silence_hint(testnet, "execution")
    assert told.startswith("execution-0 and execution-1 are held down; ")
    assert "restart execution-0 execution-1 --testnet" in told


def test_a_channel_says_what_is_to_be_done_when_it_gives_up(
    testnet: Testnet, folder: RunFolder
) -> None:
    async def gives_up() -> str:
        channel = Channel(
            testnet.chain(), "execution", testnet.addresses("execution"), 1,
            start_hint=lambda: silence_hint(testnet, "execution"),
        )  # fmt: skip
        folder.hold("execution-0")  # after the channel was made
        with pytest.raises(Unreachable) as failed:
            await channel.session()
        return str(failed.value)

    told = asyncio.run(gives_up())
    assert "execution-0 is held down" in told and "is the cluster up" not in told


def test_a_trace_says_it_too(testnet: Testnet, folder: RunFolder) -> None:
    async def trace() -> None:
        await Tracer(testnet).trace(bytes(32))

    with pytest.raises(Unreachable, match="no sequencer answers; the testnet runs; see: trilemma"):
        asyncio.run(trace())


def test_an_exchange_says_it_of_the_role_that_it_asks(testnet: Testnet, folder: RunFolder) -> None:
    async def asks() -> str:
        async with Exchange.connect(testnet.directory, patience_ms=1) as exchange:
            folder.hold("execution-0")
            with pytest.raises(Unreachable) as failed:
                await exchange.book(0, 1)
        return str(failed.value)

    assert "execution-0 is held down; start again with: trilemma faults" in asyncio.run(asks())
