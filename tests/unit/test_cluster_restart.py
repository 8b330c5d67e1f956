"""A rolling restart: in order, each ready before the next, and stopped at the first that is not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client.faults import NoProgress
from cluster import commands, restart
from cluster.restart import Containers, find_restarter, restart_rolling, restart_together
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.testnet import Testnet

app = typer.Typer()
commands.register(app)


class Machine:
    """Processes that are ready, but for `sick` ones, and that take some looks to come back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, testnet: Testnet, looks: int = 2) -> None:
        self._looks = looks
        self.sick: dict[str, str] = {}
        self.falls_ill: dict[str, str] = {}
        self.log: list[str] = []
        self._starting: dict[str, int] = {}
        self._ports = {
            int(entry.observe.rpartition(":")[2]): entry.name for entry in testnet.processes
        }
        monkeypatch.setattr(restart, "check", self._check)
        monkeypatch.setattr(restart, "_POLL_S", 0.001)

    def restart(self, name: str) -> None:
        self.log.append(f"restart {name}")
        self._starting[name] = self._looks
        if name in self.falls_ill:
            self.sick[name] = self.falls_ill[name]

    def _check(self, port: int, host: str) -> str:
        name = self._ports[port]
        assert host == "127.0.0.1"
        if left := self._starting.get(name):
            self._starting[name] = left - 1
            return "starting"
        if name in self._starting and name not in self.sick:
            del self._starting[name]
            self.log.append(f"ready {name}")
        return self.sick.get(name, "")


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    return create_testnet(tmp_path, TestnetOptions(validators=2, traders=0))


def test_each_is_ready_before_the_next_goes(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, news = Machine(monkeypatch, testnet), []
    names = [entry.name for entry in testnet.processes]
    restart_rolling(testnet, machine, names, 30, news.append)
    assert machine.log == [line for name in names for line in (f"restart {name}", f"ready {name}")]
    assert [line.split(",")[0] for line in news] == [f"{name} restarted" for name in names]


def test_one_that_does_not_come_back_stops_it_before_the_others(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, testnet, looks=0)
    machine.falls_ill["validator-1"] = "12 blocks behind"
    names = ["validator-0", "validator-1", "sequencer-0"]
    with pytest.raises(NoProgress, match="validator-1 is not ready after 0 s: 12 blocks behind"):
        restart_rolling(testnet, machine, names, 0, print)
    assert machine.log == ["restart validator-0", "ready validator-0", "restart validator-1"]


def test_one_that_is_not_ready_goes_first_so_that_no_other_is_missing_beside_it(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, testnet, looks=0)
    machine.sick["validator-1"] = "no answer"
    with pytest.raises(NoProgress):
        restart_rolling(testnet, machine, ["validator-0", "validator-1"], 0, print)
    assert machine.log == ["restart validator-1"]


@pytest.mark.parametrize("together", [False, True])
def test_the_command_says_what_it_restarted_and_with_json_nothing_else(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    machine = Machine(monkeypatch, testnet)
    monkeypatch.setattr(restart, "find_restarter", lambda _: machine)
    chosen = ["--process", "validator-1", "--process", "validator-0"]
    options = [*chosen, "--together"] if together else chosen
    done = CliRunner().invoke(app, ["restart", str(testnet.directory), *options, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "restarted": ["validator-1", "validator-0"], "rolling": not together,
    }  # fmt: skip
    done = CliRunner().invoke(app, ["restart", str(testnet.directory), *options])
    assert done.stdout == "restarted and ready: validator-1, validator-0\n"


def test_nothing_is_touched_while_another_process_is_not_ready(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, testnet)
    machine.sick["validator-0"] = "no answer"
    with pytest.raises(NoProgress, match=r"validator-0 is not ready \(no answer\)"):
        restart_rolling(testnet, machine, ["validator-1"], 30, print)
    assert machine.log == []
    del machine.sick["validator-0"]
    restart_together(testnet, machine, ["validator-0", "validator-1"], 30)
    assert machine.log[:2] == ["restart validator-0", "restart validator-1"]


@pytest.mark.parametrize("together", [False, True])
def test_who_stops_it_is_told_which_ones_are_done_and_which_one_may_be_down(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    machine, news = Machine(monkeypatch, testnet, looks=0), list[str]()
    restarts = machine.restart

    def stopped(name: str) -> None:
        restarts(name)
        if name == "validator-1":
            raise KeyboardInterrupt

    monkeypatch.setattr(machine, "restart", stopped)
    names = ["validator-0", "validator-1", "sequencer-0"]
    act = restart_together if together else restart_rolling
    with pytest.raises(KeyboardInterrupt):
        act(testnet, machine, names, 30, news.append)
    told, _, typed = news[-1].partition("; go on with: ")
    assert told == (
        "stopped; restarted: validator-0; validator-1 was being restarted, and may be down; "
        "untouched: sequencer-0"
    )
    chosen = ["--process", "validator-1", "--process", "sequencer-0"]
    assert shlex.split(typed) == [
        "trilemma", "--testnet", str(testnet.directory), "restart", *chosen
    ]  # fmt: skip


def test_a_testnet_that_does_not_run_is_not_restarted(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "described_containers", lambda _: {})
    with pytest.raises(ConfigError, match="does not run"):
        find_restarter(testnet)


def test_a_container_is_made_anew_where_and_how_it_was_made(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(restart, "_compose", lambda: ["compose"])
    monkeypatch.setattr(restart, "_run", lambda *arguments: asked.append(arguments))
    labels = {
        "com.docker.compose.project": "mine",
        "com.docker.compose.project.config_files": "a.yml,b.yml",
        "com.docker.compose.project.working_dir": "/somewhere",
    }
    config = {"Labels": labels, "User": "7:8", "Image": "trilemma:next"}
    containers = Containers(testnet, {"validator-0": {"Config": config}})
    containers.restart("validator-0")
    ((command, environment, folder),) = asked
    assert " ".join(command) == (
        "compose -p mine -f a.yml -f b.yml up -d --no-deps --no-build --force-recreate validator-0"
    )
    assert folder == Path("/somewhere")
    assert environment["TRILEMMA_TESTNET"] == str(testnet.directory)
    assert environment["TRILEMMA_IMAGE"] == "trilemma:next"
    assert (environment["TRILEMMA_UID"], environment["TRILEMMA_GID"]) == ("7", "8")
    with pytest.raises(ConfigError, match="no container of validator-1"):
        containers.restart("validator-1")
