"""Holding processes down, pausing and starting them, from beside the supervisor that runs them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import faults_targets
from cluster.faults_api import Nemesis
from cluster.faults_hold import RunFolder
from cluster.faults_targets import (
    DOWN,
    PAUSED,
    RUNNING,
    AlreadyRuns,
    FaultFailed,
    LocalTarget,
    NotRunning,
    find_target,
)
from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.testnet import ProcessEntry, Testnet

PATIENCE_S = 30.0
NAME, OTHER = "validator-0", "sequencer-0"
SLEEPS = "import pathlib, sys, time\nend = pathlib.Path('{name}.end')\n" + (
    "sys.exit(int(end.read_text())) if end.exists() else time.sleep(1000)"
)


def command(entry: ProcessEntry, config: Path) -> list[str]:
    return [sys.executable, "-c", SLEEPS.format(name=entry.name)]


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    options = TestnetOptions(validators=1, traders=0, free_ports=True)
    return create_testnet(tmp_path / "testnet", options)


def supervisor(testnet: Testnet, backoff_s: float = 0.05) -> Supervisor:
    return Supervisor(testnet, command=command, backoff_first_s=backoff_s, report=lambda line: None)


async def until(holds: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not holds():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_a_killed_process_stays_down_until_it_is_started(testnet: Testnet) -> None:
    async with supervisor(testnet) as running:
        target = find_target(testnet)
        assert isinstance(target, LocalTarget)
        await until(lambda: target.state(NAME) == RUNNING)
        pid = target.identity(NAME)
        await asyncio.to_thread(target.kill, NAME)
        assert (target.state(NAME), target.identity(NAME)) == (DOWN, "")
        assert (running.state(NAME), running.pid(NAME)) == ("held", None)
        assert target.exit_status(NAME) == -9
        await asyncio.sleep(0.3)  # several times its back-off
        assert target.state(NAME) == DOWN and running.state(OTHER) == "running"
        with pytest.raises(NotRunning):
            await asyncio.to_thread(target.kill, NAME)
        await asyncio.to_thread(target.start, NAME)
        await until(lambda: target.state(NAME) == RUNNING)
        assert target.identity(NAME) not in ("", pid)
        assert running.restarts(NAME) == 0
        with pytest.raises(AlreadyRuns):
            await asyncio.to_thread(target.start, NAME)


async def test_a_crash_is_the_supervisors_to_mend(testnet: Testnet) -> None:
    async with supervisor(testnet) as running:
        target = LocalTarget(testnet)
        await until(lambda: target.state(NAME) == RUNNING)
        pid = target.identity(NAME)
        await asyncio.to_thread(target.crash, NAME)
        await until(lambda: target.identity(NAME) not in ("", pid))
        assert running.restarts(NAME) == 1


async def test_pauses_are_seen_and_end(testnet: Testnet) -> None:
    async with supervisor(testnet):
        nemesis = Nemesis(testnet)
        await until(lambda: nemesis.target.state(NAME) == RUNNING)
        fault = await nemesis.pause(NAME)
        assert nemesis.target.state(NAME) == PAUSED and fault.bit
        with pytest.raises(NotRunning, match="is paused; let it go on"):
            await asyncio.to_thread(nemesis.target.pause, NAME)
        await nemesis.delay(NAME, latency_ms=5)
        assert nemesis.plans.owed == [NAME]
        await nemesis.end(fault)
        assert nemesis.target.state(NAME) == RUNNING and fault.ended_s is not None
        with pytest.raises(ConfigError, match="there is no process 'nobody'"):
            await nemesis.kill("nobody")
        with pytest.raises(ConfigError, match="name a process"):
            await nemesis.kill()


async def test_a_paused_process_can_be_killed(testnet: Testnet) -> None:
    async with supervisor(testnet):
        target = LocalTarget(testnet)
        await until(lambda: target.state(NAME) == RUNNING)
        await asyncio.to_thread(target.pause, NAME)
        await asyncio.to_thread(target.stop, NAME)
        assert target.state(NAME) == DOWN


@pytest.mark.parametrize("status", [2, 5])
async def test_what_failed_for_good_can_be_started_again(testnet: Testnet, status: int) -> None:
    end = testnet.directory / f"{NAME}.end"
    end.write_text(str(status))
    async with supervisor(testnet) as running:
        target = LocalTarget(testnet)
        await until(lambda: running.state(NAME) == "failed")
        assert target.exit_status(NAME) == status
        with pytest.raises(FaultFailed, match=f"status {status}"):
            await asyncio.to_thread(target.start, NAME)
            await until(lambda: running.state(NAME) == "failed")
            raise FaultFailed(f"status {target.exit_status(NAME)}")
        end.unlink()
        await asyncio.to_thread(target.start, NAME)
        await until(lambda: target.state(NAME) == RUNNING)


@pytest.mark.parametrize("status", [2, 5])
async def test_what_failed_for_good_is_not_there_to_be_killed(
    testnet: Testnet, status: int
) -> None:
    """The end of the fault would start it."""
    (testnet.directory / f"{NAME}.end").write_text(str(status))
    async with supervisor(testnet) as running:
        target = LocalTarget(testnet)
        await until(lambda: running.state(NAME) == "failed")
        for act in (target.kill, target.stop, target.crash, target.pause):
            with pytest.raises(NotRunning):
                await asyncio.to_thread(act, NAME)
        assert running.state(NAME) == "failed" and not RunFolder(testnet.directory).held(NAME)


async def test_one_that_waits_to_start_again_can_be_kept_down(testnet: Testnet) -> None:
    end = testnet.directory / f"{NAME}.end"
    end.write_text("1")
    async with supervisor(testnet) as running:
        target = LocalTarget(testnet)
        await until(lambda: running.restarts(NAME) > 0 and running.state(NAME) == "waiting")
        end.unlink()
        await asyncio.to_thread(target.keep_down, NAME)
        assert (running.state(NAME), target.state(NAME)) == ("held", DOWN)
        await asyncio.to_thread(target.start, NAME)
        await until(lambda: target.state(NAME) == RUNNING)


async def test_who_holds_and_frees_one_does_not_wait_until_it_would_have_started_again(
    testnet: Testnet,
) -> None:
    end = testnet.directory / f"{NAME}.end"
    end.write_text("1")
    async with supervisor(testnet, 100 * PATIENCE_S) as running:
        target = LocalTarget(testnet)
        await until(lambda: running.state(NAME) == "waiting")
        end.unlink()
        await asyncio.to_thread(target.keep_down, NAME)
        await asyncio.to_thread(target.start, NAME)
        await until(lambda: target.state(NAME) == RUNNING)


async def test_one_that_came_up_meanwhile_is_kept_down_too(testnet: Testnet) -> None:
    async with supervisor(testnet) as running:
        target = LocalTarget(testnet)
        await until(lambda: target.state(NAME) == RUNNING)
        await asyncio.to_thread(target.keep_down, NAME)
        assert (running.state(NAME), target.state(NAME)) == ("held", DOWN)


@pytest.mark.parametrize("look", [DOWN, RUNNING])
async def test_one_that_comes_up_as_it_is_started_runs_and_is_not_held(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """The look before finds it down, when its supervisor has just started it again."""
    async with supervisor(testnet):
        target = LocalTarget(testnet)
        await until(lambda: target.state(NAME) == RUNNING)
        pid, real = target.identity(NAME), target.state
        looks = iter([look])
        monkeypatch.setattr(target, "state", lambda name: next(looks, None) or real(name))
        with contextlib.suppress(AlreadyRuns):
            await asyncio.to_thread(target.start, NAME)
        assert not RunFolder(testnet.directory).held(NAME) and target.identity(NAME) == pid


async def test_a_pause_of_one_that_is_killed_in_this_instant_is_none(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervisor(testnet):
        target = LocalTarget(testnet)
        await until(lambda: target.state(NAME) == RUNNING)
        real = faults_targets.send_signal

        def killed_too(pid: int, number: signal.Signals) -> None:
            real(pid, number)
            real(pid, signal.SIGKILL)

        monkeypatch.setattr(faults_targets, "send_signal", killed_too)
        with pytest.raises(NotRunning):
            await asyncio.to_thread(target.pause, NAME)


async def test_holds_do_not_outlive_their_supervisor(testnet: Testnet) -> None:
    RunFolder(testnet.directory).clear()
    RunFolder(testnet.directory).hold(NAME)
    async with supervisor(testnet) as running:
        await until(lambda: running.state(NAME) == "running")
        await asyncio.to_thread(LocalTarget(testnet).kill, NAME)
    assert list((testnet.directory / "run").iterdir()) == []


async def test_stopping_does_not_wait_for_a_hold(testnet: Testnet) -> None:
    async with supervisor(testnet) as running:
        target = LocalTarget(testnet)
        await until(lambda: target.state(NAME) == RUNNING)
        await asyncio.to_thread(target.kill, NAME)
        async with asyncio.timeout(PATIENCE_S):
            await running.stop(NAME)
            await running.restart(NAME)
        await until(lambda: target.state(NAME) == RUNNING)


def test_a_testnet_that_does_not_run(testnet: Testnet) -> None:
    with pytest.raises(ConfigError, match=r"does not run.*trilemma up"):
        find_target(testnet)
