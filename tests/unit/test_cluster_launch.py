"""A testnet that is started in the background and does not come up: stopped again, and said why.
The supervisor is a stand-in that waits until it is told to end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.faults import NoProgress
from cluster import launch
from cluster.faults_hold import RunFolder, Standing
from cluster.launch import LaunchFailed, launch_detached
from cluster.testnet import TestnetOptions, create_testnet
from store.testnet import Testnet

POPEN = subprocess.Popen
WAITS = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def end(*_):
    (here / "ended").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(here / "began").touch()
while True:
    time.sleep(0.05)
"""
FAILS = """
print("2026-01-01 00:00:00 UTC prover-0 ended with status 1", flush=True)
print("trilemma: prover-0 (waiting) does not serve: no answer", flush=True)
print("its last words", flush=True)
raise SystemExit(1)
"""


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    options = TestnetOptions(validators=1, traders=0, free_ports=True)
    return create_testnet(tmp_path / "net", options)


def standing_in(testnet: Testnet, monkeypatch: pytest.MonkeyPatch, code: str) -> list[list[str]]:
    """Start this instead of a supervisor; returns the command lines that were asked for."""
    asked: list[list[str]] = []

    def start(command: list[str], **named: Any) -> subprocess.Popen[bytes]:
        asked.append(command)
        return POPEN([sys.executable, "-c", code, str(testnet.directory)], **named)

    monkeypatch.setattr("cluster.launch.subprocess.Popen", start)
    return asked


def sampled(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, found: Callable[[], dict[str, Any]]
) -> None:
    async def sample(_: Testnet) -> dict[str, Any]:
        if not (testnet.directory / "began").exists():
            return dict.fromkeys(one.name for one in testnet.processes)
        return found()

    monkeypatch.setattr(launch, "sample", sample)
    monkeypatch.setattr(launch, "POLL_S", 0.01)


def test_ctrl_c_stops_what_was_started(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> dict[str, Any]:
        raise KeyboardInterrupt

    commands = standing_in(testnet, monkeypatch, WAITS)
    sampled(testnet, monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch_detached(testnet.directory, 600.0)
    assert (testnet.directory / "ended").exists(), "it was waited for"
    assert "stopping" in capsys.readouterr().err
    # The supervisor must not give up before its launcher.
    assert commands[0][-2:] == ["--wait-s", "610"]


def test_who_does_not_serve_in_time_is_named_and_all_are_stopped(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def late() -> dict[str, Any]:
        folder = RunFolder(testnet.directory)
        folder.clear()
        folder.tell("prover-0", Standing("waiting", 3, 1))
        folder.tell("sequencer-0", Standing("running"))
        clock[0] = 100.0
        silent = ("prover-0", "sequencer-0", "execution-0")
        return {one.name: None if one.name in silent else {} for one in testnet.processes}

    standing_in(testnet, monkeypatch, WAITS)
    sampled(testnet, monkeypatch, late)
    monkeypatch.setattr("cluster.launch.time.monotonic", lambda: clock[0])
    with pytest.raises(NoProgress) as failed:
        launch_detached(testnet.directory, 60.0)
    assert str(failed.value) == (
        "not all processes serve: sequencer-0 (running), execution-0 (not started), "
        "prover-0 (waiting, ended with status 1) after 60 s; everything is stopped again; "
        f"see {testnet.directory / 'logs'}"
    )
    assert (testnet.directory / "ended").exists(), "it was waited for"


def test_money_that_does_not_arrive_in_time_is_no_process_that_does_not_serve(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def poor() -> dict[str, Any]:
        clock[0] = 100.0
        values = {"inbox_entries": 4, "inbox_cursor": 3}
        return {one.name: values for one in testnet.processes}

    standing_in(testnet, monkeypatch, WAITS)
    sampled(testnet, monkeypatch, poor)
    monkeypatch.setattr("cluster.launch.time.monotonic", lambda: clock[0])
    with pytest.raises(NoProgress, match="all processes serve, but the deposits of genesis"):
        launch_detached(testnet.directory, 60.0)


def test_a_supervisor_that_ends_has_its_whole_last_sentence_told(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    testnet.log_path("supervisor").write_text("trilemma: what went wrong the last time\n")
    sampled(testnet, monkeypatch, dict)
    standing_in(testnet, monkeypatch, FAILS)
    with pytest.raises(LaunchFailed) as failed:
        launch_detached(testnet.directory, 600.0)
    assert str(failed.value) == (
        "the testnet did not start: prover-0 (waiting) does not serve: no answer\nits last words"
    )
    standing_in(testnet, monkeypatch, "raise SystemExit(3)")
    with pytest.raises(LaunchFailed, match=r"the testnet did not start: status 3$"):
        launch_detached(testnet.directory, 600.0)


def test_one_that_serves_runs_on(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(testnet, monkeypatch, WAITS)
    values = {"inbox_entries": 4, "inbox_cursor": 4}
    sampled(testnet, monkeypatch, lambda: {one.name: values for one in testnet.processes})
    pid = launch_detached(testnet.directory, 600.0)
    assert not (testnet.directory / "ended").exists()
    os.kill(pid, 15)
    os.waitpid(pid, 0)
