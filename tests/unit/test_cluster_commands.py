"""What `up --json` and `down --json` tell a script; processes are stand-ins that only wait."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cluster import commands
from cluster.faults_hold import RunFolder
from cluster.lock import SupervisorLock
from cluster.supervisor import ClusterError, Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.testnet import ProcessEntry, Testnet

PATIENCE_S = 60.0

app = typer.Typer()
commands.register(app)


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    options = TestnetOptions(validators=1, traders=0, free_ports=True)
    return create_testnet(tmp_path / "net", options)


def supervisor(testnet: Testnet, code: str = "import time; time.sleep(600)") -> Supervisor:
    def command(entry: ProcessEntry, config: Path) -> list[str]:
        return [sys.executable, "-c", code]

    return Supervisor(testnet, command=command, report=lambda _: None)


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def probing(monkeypatch: pytest.MonkeyPatch, probe: Callable[..., Awaitable[Any]]) -> None:
    monkeypatch.setattr("cluster.supervisor.probe", probe)


async def answers(*_: object) -> None:
    pass


async def refuses(*_: object) -> None:
    raise ConnectionRefusedError("nobody listens")


async def test_it_tells_once_all_serve_and_runs_on_until_it_is_asked_to_stop(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(testnet.directory)

    async def runs(address: str, *_: object) -> None:
        entry = next(one for one in testnet.processes if one.public == address)
        if folder.pid(entry.name) is None:
            raise ConnectionRefusedError("not started yet")

    probing(monkeypatch, runs)
    told: list[dict[str, Any]] = []

    def tell() -> None:
        told.append(commands._serving(testnet, 1.23456))
        ask_to_stop()

    await commands._run_and_tell(supervisor(testnet), PATIENCE_S, tell)
    (data,) = told
    assert (data["directory"], data["ready_s"]) == (str(testnet.directory), 1.235)
    assert data["supervisor_pid"] == os.getpid()
    rows = {row["name"]: row for row in data["processes"]}
    assert rows.keys() == {one.name for one in testnet.processes}
    first = testnet.process("validator-0")
    shown = {"role": "node", "public": first.public, "peer": first.peer, "observe": first.observe}
    assert shown.items() <= rows["validator-0"].items()
    pids = {row["pid"] for row in rows.values()}
    assert None not in pids and len(pids) == len(rows)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_it_tells_nothing_where_a_process_fails(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    probing(monkeypatch, refuses)
    failing = supervisor(testnet, "import sys; sys.exit(2)")
    with pytest.raises(ClusterError, match="did not start"):
        await commands._run_and_tell(failing, PATIENCE_S, lambda: pytest.fail("told"))


async def test_it_tells_nothing_where_it_is_stopped_before(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    probing(monkeypatch, refuses)
    asyncio.get_running_loop().call_later(0.1, ask_to_stop)
    await commands._run_and_tell(supervisor(testnet), PATIENCE_S, lambda: pytest.fail("told"))


def test_up_in_the_background_prints_one_object(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(directory: Path, wait_s: float) -> int:
        RunFolder(directory).clear()
        RunFolder(directory).pid_path("prover-0").write_text("78\n")
        monkeypatch.setattr("cluster.lock.supervisor_pid", lambda _: 77)
        return 77

    monkeypatch.setattr("cluster.launch.launch_detached", launch)
    monkeypatch.setattr("cluster.launch.require_ports", lambda _: None)
    done = CliRunner().invoke(app, ["up", str(testnet.directory), "--detach", "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout.splitlines()[-1])
    assert data["supervisor_pid"] == 77 and data["ready_s"] >= 0
    assert {row["name"]: row["pid"] for row in data["processes"]}["prover-0"] == 78


def test_down_tells_what_it_stopped(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> dict[str, Any]:
        done = CliRunner().invoke(app, ["down", str(testnet.directory), "--json"])
        assert done.exit_code == 0, done.output
        data: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return data

    # What a supervisor that was killed left behind.
    RunFolder(testnet.directory).clear()
    RunFolder(testnet.directory).pid_path("prover-0").write_text("78\n")
    directory = str(testnet.directory)
    assert told() == {"directory": directory, "supervisor_pid": None, "stopped": []}
    monkeypatch.setattr("cluster.lock.supervisor_pid", lambda _: 77)
    monkeypatch.setattr("cluster.lock.stop_supervisor", lambda _: True)
    stopped = [{"name": "prover-0", "pid": 78}]
    assert told() == {"directory": directory, "supervisor_pid": 77, "stopped": stopped}


@pytest.mark.parametrize("text", [None, "{", '{"name": "x", "processes": [], "traders": []}'])
def test_down_stops_a_testnet_whose_description_is_damaged(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    description = testnet.directory / "testnet.json"
    description.unlink()
    if text is not None:
        description.write_text(text)
    down = ["down", str(testnet.directory), "--json"]
    done = CliRunner().invoke(app, down)
    assert isinstance(done.exception, ConfigError), "none runs, and there is no testnet"
    RunFolder(testnet.directory).clear()
    for number, name in enumerate(("validator-0", "prover-0")):
        RunFolder(testnet.directory).pid_path(name).write_text(f"{number + 78}\n")
    monkeypatch.setattr("cluster.lock.supervisor_pid", lambda _: 77)
    monkeypatch.setattr("cluster.lock.stop_supervisor", lambda _: True)
    done = CliRunner().invoke(app, down)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["supervisor_pid"] == 77
    assert {one["name"]: one["pid"] for one in told["stopped"]} == {
        "validator-0": 78, "prover-0": 79
    }  # fmt: skip


def test_up_makes_nothing_where_something_is(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.launch.launch_detached", lambda *_: pytest.fail("started"))
    (testnet.directory / "testnet.json").unlink()
    up = ["up", str(testnet.directory), "--detach"]
    done = CliRunner().invoke(app, up)
    assert isinstance(done.exception, ConfigError), done.output
    assert (
        "has lost its testnet.json" in str(done.exception) and "made a testnet" not in done.output
    )
    lock = SupervisorLock(testnet.directory)
    try:
        done = CliRunner().invoke(app, up)
    finally:
        lock.release()
    assert f"stop it with: trilemma down {testnet.directory}" in str(done.exception)


def test_what_a_log_is_told_is_dated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands._note_dated("prover-0 is held down")
    stamp, said = capsys.readouterr().err.split(" UTC ")
    datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S")
    assert said == "prover-0 is held down\n"

    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands, "note", full)
    commands._note_dated("a full disk does not stop the supervisor")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_supervisor_dates_what_it_tells_a_file(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    told: list[Any] = []

    def stand_in(_: Testnet, *, report: Any) -> Supervisor:
        told.append(report)
        raise ConfigError("not now")

    monkeypatch.setattr("cluster.supervisor.Supervisor", stand_in)
    monkeypatch.setattr("cluster.launch.require_ports", lambda _: None)
    monkeypatch.setattr("cluster.commands._on_terminal", lambda: terminal)
    CliRunner().invoke(app, ["up", str(testnet.directory)])
    assert told == [commands.note if terminal else commands._note_dated]
