"""What `status` says of processes that do not answer; their processes are stand-ins."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from client.status import Values, make_rows, make_view, with_standings
from cluster import commands
from cluster.faults_hold import RunFolder, Standing
from cluster.lock import SupervisorLock
from cluster.standings import standings
from cluster.testnet import TestnetOptions, create_testnet
from store.testnet import Testnet

app = typer.Typer()
commands.register(app)


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    options = TestnetOptions(validators=2, sequencers=4, traders=0, free_ports=True)
    return create_testnet(tmp_path / "net", options)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_each_state_is_told_while_a_supervisor_runs(
    testnet: Testnet, sleeper: subprocess.Popen[bytes]
) -> None:
    folder = RunFolder(testnet.directory)
    folder.clear()
    folder.hold("validator-0")
    folder.tell("validator-0", Standing("held"))
    folder.tell("validator-1", Standing("failed", 0, 5))
    folder.tell("sequencer-0", Standing("waiting", 2, -9))
    folder.tell("sequencer-1", Standing("waiting"))
    folder.tell("sequencer-2", Standing("running"))
    folder.pid_path("prover-0").write_text(f"{sleeper.pid}\n")
    names = [one.name for one in testnet.processes]
    assert standings(testnet, names) == {}, "left behind by a supervisor that was killed"
    lock = SupervisorLock(testnet.directory)
    try:
        told = {
            "validator-0": "held", "validator-1": "failed (status 5)",
            "sequencer-0": "waiting (status -9)", "sequencer-1": "waiting", "prover-0": "silent",
        }  # fmt: skip
        assert standings(testnet, names) == told
        assert standings(testnet, ["validator-0"]) == {"validator-0": "held"}
        os.kill(sleeper.pid, signal.SIGSTOP)
        os.waitpid(sleeper.pid, os.WUNTRACED)
        assert standings(testnet, names) == told | {"prover-0": "paused"}
    finally:
        lock.release()


def shown(testnet: Testnet, up: list[str], known: dict[str, str], width: int) -> str:
    found: dict[str, Values | None] = dict.fromkeys(one.name for one in testnet.processes)
    found |= {name: {"height": 1} for name in up}
    rows = make_rows(testnet, found, found, 1.0)
    rows = with_standings(rows, testnet, lambda *_: known)
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(make_view(rows, width))
    return capture.get()


def test_the_state_is_in_the_table_or_below_it(testnet: Testnet) -> None:
    up = [one.name for one in testnet.processes if one.name != "validator-1"]
    known = {"validator-1": "failed (status 5)"}
    (line,) = [one for one in shown(testnet, up, known, 120).splitlines() if "validator-1" in one]
    assert line.split(maxsplit=1)[1].strip() == "failed (status 5)"
    lines = [one for one in shown(testnet, up, known, 80).splitlines() if "validator-1" in one]
    assert [one.split(maxsplit=1)[1].strip() for one in lines] == ["down", "failed (status 5)"]
    (line,) = [one for one in shown(testnet, up, {}, 80).splitlines() if "validator-1" in one]
    assert line.split()[1:] == ["down"]


@pytest.mark.parametrize(
    ("answering", "says"),
    [
        (4, ""),
        (3, ""),
        (2, "2 of 4 sequencers answer, too few: nothing is ordered"),
        (0, "no sequencer answers: nothing is ordered"),
    ],
)
def test_it_is_said_where_nothing_is_ordered(testnet: Testnet, answering: int, says: str) -> None:
    up = ["validator-0", *(f"sequencer-{number}" for number in range(answering))]
    text = shown(testnet, up, {}, 120)
    assert says in text and ("nothing is ordered" in text) == bool(says)
    assert "nothing is ordered" not in shown(testnet, [], {}, 120)


def test_a_testnet_of_which_nobody_answers_is_not_to_be_started_where_it_runs(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def nobody(testnet: Testnet, **named: Any) -> int:
        asked.append(named["standings"])
        return 0

    monkeypatch.setattr("client.status.show_status", nobody)
    lock = SupervisorLock(testnet.directory)
    try:
        done = CliRunner().invoke(app, ["status", str(testnet.directory)])
    finally:
        lock.release()
    assert done.exit_code == 1 and "trilemma up" not in done.stderr
    assert "no process answers; its supervisor runs" in done.stderr
    assert asked == [standings]
