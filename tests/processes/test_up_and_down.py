"""A script starts a testnet, trades on it and stops it by the command line alone."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cluster_world import DEADLINE_S, ROOT

from cluster.lock import stop_supervisor, supervisor_pid
from cluster.testnet import TestnetOptions, create_testnet
from store.testnet import Testnet


@pytest_asyncio.fixture
async def testnet(tmp_path: Path) -> AsyncIterator[Testnet]:
    options = TestnetOptions(validators=1, traders=2, free_ports=True)
    made = create_testnet(tmp_path / "net", options)
    yield made
    await asyncio.to_thread(stop_supervisor, made.directory)


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", *arguments, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def trilemma(*arguments: str) -> str:
    """What a command that must succeed prints."""
    process = await start(*arguments)
    out, err = await process.communicate()
    assert process.returncode == 0, (arguments, err.decode())
    return out.decode()


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def pids_of(data: dict[str, Any], testnet: Testnet) -> dict[str, int]:
    """Pids by name of what `up` told, which must be what runs."""
    rows = {row["name"]: row for row in data["processes"]}
    assert [rows[one.name]["public"] for one in testnet.processes] == [
        one.public for one in testnet.processes
    ]
    assert data["ready_s"] > 0
    assert data["supervisor_pid"] == supervisor_pid(testnet.directory)
    pids = {name: row["pid"] for name, row in rows.items()}
    assert not any(is_gone(pid) for pid in pids.values()), pids
    return pids


async def test_in_the_background(testnet: Testnet) -> None:
    directory = str(testnet.directory)
    data = json.loads(await trilemma("up", directory, "--detach", "--json"))
    pids = pids_of(data, testnet)
    placed = await trilemma("order", "BTC-PERP", "buy", "0.1", "59000", "--testnet", directory)
    result, action = placed.splitlines()
    assert result.startswith("resting")
    traced = await trilemma("trace", action.removeprefix("action "), "--testnet", directory)
    assert "Order; ok" in traced.splitlines()[0]
    stopped = json.loads(await trilemma("down", "--testnet", directory, "--json"))
    assert stopped == {
        "directory": directory,
        "supervisor_pid": data["supervisor_pid"],
        "stopped": [{"name": name, "pid": pid} for name, pid in pids.items()],
    }
    assert all(is_gone(pid) for pid in pids.values())
    again = json.loads(await trilemma("down", directory, "--json"))
    assert (again["supervisor_pid"], again["stopped"]) == (None, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_in_the_foreground(testnet: Testnet, number: signal.Signals) -> None:
    running = await start("up", str(testnet.directory), "--json")
    assert running.stdout is not None
    line = await asyncio.wait_for(running.stdout.readline(), DEADLINE_S)
    pids = pids_of(json.loads(line), testnet)
    running.send_signal(number)
    out, err = await asyncio.wait_for(running.communicate(), DEADLINE_S)
    assert (running.returncode, out) == (0, b""), err
    assert all(is_gone(pid) for pid in pids.values())
