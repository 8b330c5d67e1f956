"""What `trilemma faults run` and `report` tell and leave around a run: nothing runs here."""

from __future__ import annotations

import asyncio
import json
import os
from io import StringIO
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
from rich.console import Console
from rich.live import Live
from rich.table import Table
from typer.testing import CliRunner

from cluster import faults_play
from cluster.faults_command import faults_app
from cluster.faults_course import Run, RunClock
from cluster.faults_play import found_experiment, show_report, told_when_stopped, wrapped
from cluster.faults_report import (
    FILES,
    PAGE,
    PICTURE,
    PREVIOUS,
    REPORT,
    TIMELINE,
    Report,
    open_folder,
    write_report,
)
from cluster.faults_run import running_testnet
from cluster.faults_schedule import load_experiment, parse_experiment
from cluster.faults_targets import FaultFailed
from cluster.faults_verdict import SAFETY, Check
from cluster.faults_watch import Sample
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "faults"


def report(name: str = "x") -> Report:
    return Report(
        name=name, description="d", row="", expected="e", seed=3, processes={}, where="local",
        duration_s=9.0, took_s=12.0, status=0, checks=[Check(SAFETY, "one", True, "fine")],
        bands=[], moments=[], samples=[], load=None, audit=None,
    )  # fmt: skip


def play(out: Path, testnet: Path | None = None) -> int:
    return faults_play.play(
        Path("slow-disks"), seed=1, testnet=testnet, short=True, out=out, as_json=False
    )


# --- the folder


def test_a_folder_that_takes_no_report_is_known_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ran(*_: object) -> Report:
        raise AssertionError("it ran")

    monkeypatch.setattr(faults_play, "run_experiment", ran)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write the report to .*--out"):
        play(tmp_path / "file" / "reports")
    read_only = tmp_path / "read-only"
    read_only.mkdir()
    with monkeypatch.context() as patch:

        def refuses(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "write_bytes", refuses)
        with pytest.raises(ConfigError, match="Permission denied"):
            play(read_only)


def test_a_run_that_is_stopped_leaves_no_report_but_the_one_before_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(report("older"), tmp_path)
    open_folder(tmp_path)
    assert {path.name for path in (tmp_path / PREVIOUS).iterdir()} == set(FILES)
    write_report(report("old"), tmp_path, [REPORT, PAGE])

    async def stopped(*_: object) -> Report:
        raise asyncio.CancelledError

    monkeypatch.setattr(faults_play, "run_experiment", stopped)
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PREVIOUS]
    kept = {path.name for path in (tmp_path / PREVIOUS).iterdir()}
    assert kept == {REPORT, PAGE}, "files of two runs"
    assert b'"old"' in (tmp_path / PREVIOUS / REPORT).read_bytes()
    assert "no report was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unhealed", "removed", "words"),
    [(False, False, "every fault is healed"), (True, False, "end them with: trilemma faults heal"),
     (True, True, "its testnet is removed")],
)  # fmt: skip
def test_who_stops_a_run_is_told_what_became_of_its_faults(
    unhealed: bool, removed: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = RunClock()
    clock.unhealed = unhealed
    with pytest.raises(KeyboardInterrupt), told_when_stopped(clock, removed=removed):
        raise KeyboardInterrupt
    told = capsys.readouterr().err
    assert words in told and "no report was written" in told


def test_faults_are_over_once_all_are_healed_and_not_before() -> None:
    run = object.__new__(Run)
    run._clock = RunClock()
    troubles: list[Exception] = [FaultFailed("validator-0 does not serve")]

    class Healer:
        async def heal(self) -> list[str]:
            if troubles:
                raise troubles.pop()
            return []

    async def flow() -> None:
        assert not run._clock.unhealed
        run._clock.begin()
        assert await run._healed(cast(Any, Healer())) and run._clock.unhealed
        assert not await run._healed(cast(Any, Healer())) and not run._clock.unhealed

    asyncio.run(flow())


def test_a_run_that_is_stopped_leaves_no_numbers_of_faults_that_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Console(file=StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(faults_play, "Console", lambda **_: screen)
    shown: list[Any] = []
    monkeypatch.setattr(Live, "update", lambda _, what, **__: shown.append(what))
    experiment = load_experiment(EXPERIMENTS / "slow-disks.toml")
    with pytest.raises(KeyboardInterrupt), faults_play.timeline(experiment) as (tell, show):
        tell(3.0, "kill", "kill validator-0")
        show(Sample(
            at_s=3.0, counts={}, per_s={}, latency_ms={}, lag=0, bad_debt_uusd=0, ledger_height=1,
            ordered_height=1, down=["validator-0"], active=["kill validator-0"],
        ))  # fmt: skip
        raise KeyboardInterrupt
    numbers = [any(isinstance(part, Table) for part in one.renderables) for one in shown]
    assert numbers == [True, True, False]
    assert [str(part) for part in shown[-1].renderables] == ["   3.0 s  kill: kill validator-0"]


def test_a_report_is_shown_from_a_folder_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(report(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    show_report(tmp_path, as_json=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / TIMELINE).unlink()
    (tmp_path / PICTURE).unlink()
    with monkeypatch.context() as patch:

        def refuses(*_: object) -> int:
            raise OSError(30, "Read-only file system")

        patch.setattr(Path, "write_bytes", refuses)
        show_report(tmp_path, as_json=False)
    shown = capsys.readouterr()
    assert shown.out.count("passed in 12.0 s") == 2 and "Read-only file system" in shown.err
    show_report(tmp_path, as_json=False)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    page = tmp_path / PAGE
    assert page.stat().st_mtime_ns == before[page]


# --- the experiments


def test_an_experiment_that_there_is_not_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.stem for path in EXPERIMENTS.glob("*.toml"))
    with pytest.raises(ConfigError) as refused:
        found_experiment(Path("nope"))
    assert str(refused.value) == f"there is no experiment 'nope'; there are {', '.join(names)}"
    monkeypatch.chdir(tmp_path)
    Path("chaos").mkdir()
    assert found_experiment(Path("chaos")) == EXPERIMENTS / "chaos.toml", "no folder is meant"
    assert found_experiment(Path("mine.toml")) == Path("mine.toml")
    done = CliRunner().invoke(faults_app, ["run", "--list", "--json"])
    assert [one["name"] for one in json.loads(done.stdout)["experiments"]] == names
    assert all(one["description"] for one in json.loads(done.stdout)["experiments"])
    lines = CliRunner().invoke(faults_app, ["run", "--list"]).stdout.splitlines()
    assert [line.split()[0] for line in lines] == names
    asked = CliRunner().invoke(faults_app, ["run"])
    assert isinstance(asked.exception, ConfigError) and "--list" in str(asked.exception)


SPIKE = '[[fault]]\nat_s = 1\nkind = "load-spike"\n'


@pytest.mark.parametrize(
    ("traders", "accounts", "fault", "wanted"),
    [(0, 8, "", 8), (3, 4, "", 4), (7, 1, SPIKE, 8), (8, 8, SPIKE, 0)],
)
def test_a_testnet_with_too_few_traders_is_refused_before_anything_starts(
    tmp_path: Path, traders: int, accounts: int, fault: str, wanted: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Started(Exception):
        pass

    def starts(*_: object, **__: object) -> None:
        raise Started

    monkeypatch.setattr("cluster.faults_run.Supervisor", starts)
    testnet = create_testnet(
        tmp_path / "net", TestnetOptions(validators=1, traders=traders, free_ports=True)
    )
    experiment = parse_experiment(
        '[experiment]\nname = "x"\ndescription = ""\nexpected = ""\nduration_s = 9\n'
        f"[testnet]\nvalidators = 1\n[load]\naccounts = {accounts}\n{fault}"
    )

    async def begin() -> None:
        async with running_testnet(experiment, testnet.directory, print):
            pass

    if not wanted:
        with pytest.raises(Started):
            asyncio.run(begin())
        return
    with pytest.raises(ConfigError, match=f"needs {wanted} traders, .* testnet has {traders};"):
        asyncio.run(begin())


# --- lines


class Screen:
    """A stream that is a terminal, or none."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_lines_break_between_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[Any] = [os.terminal_size((80, 24)), os.terminal_size((50, 24))]
    lines = ["  ok   executed once: " + "word-of-it " * 30, "short"]
    for size in sizes:
        monkeypatch.setattr("shutil.get_terminal_size", lambda size=size: size)
        shown = wrapped(lines, cast(TextIO, Screen(True))).split("\n")
        assert shown[0].startswith("  ok   executed") and shown[-1] == "short"
        assert all(len(line) <= size.columns for line in shown) and len(shown) > 3
        words = [word for line in shown for word in line.split()]
        assert words == " ".join(lines).split()
    assert wrapped(lines, cast(TextIO, Screen(False))) == "\n".join(lines)
