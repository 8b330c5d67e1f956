"""Verdicts, expectations and pictures of runs that are made up: nothing runs here."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client.submission import STATES, State, Submission
from cluster import faults_pictures, faults_play
from cluster.faults_expect import (
    Band,
    Seen,
    check_done,
    check_expectations,
    check_faults,
)
from cluster.faults_report import PAGE, PICTURE, Moment, Report, read_report, write_report
from cluster.faults_schedule import Expect
from cluster.faults_verdict import (
    EXPECTATION,
    PROGRESS,
    SAFETY,
    Check,
    Judge,
    exit_status,
    verdict,
)
from cluster.faults_watch import Sample, percentiles
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.config import Role

BEGAN_NS = time.perf_counter_ns()


def batch(at_s: float, **reached_s: float) -> Submission:
    one = Submission(b"", b"", 0, 1, 5)
    one.submitted_ns = BEGAN_NS + int(at_s * 1e9)
    for state, later_s in reached_s.items():
        one.reach(cast(State, state), BEGAN_NS + int(later_s * 1e9))
    return one


def sample(at_s: float, lag: int = 0, bad_debt_uusd: int = 0) -> Sample:
    return Sample(
        at_s=at_s, counts=dict.fromkeys(STATES, 1), per_s=dict.fromkeys(STATES, 100.0),
        latency_ms={"executed": (5.0, 9.0), "final": (900.0, 1_200.0)}, lag=lag,
        bad_debt_uusd=bad_debt_uusd, ledger_height=3, ordered_height=9, down=[], active=[],
    )  # fmt: skip


def seen(batches: list[Submission], **others: Any) -> Seen:
    values: dict[str, Any] = {
        "testnet": None, "began_ns": BEGAN_NS, "duration_s": 10.0, "submissions": batches,
        "samples": [sample(0.0), sample(5.0, 80), sample(9.0, 2)], "bands": [], "first": {},
        "last": {}, "load": None, "codes": {}, "counted": {}, **others,
    }  # fmt: skip
    return Seen(**values)


def look(what: str, of: Seen, **others: Any) -> Check:
    (check,) = check_expectations([Expect(cast(Any, what), **others)], of)
    return check


def test_a_freeze_is_by_every_validators_account() -> None:
    nodes = [SimpleNamespace(name="validator-0"), SimpleNamespace(name="validator-1")]
    testnet = SimpleNamespace(of_role=lambda role: nodes)
    both = {"validator-0": {"frozen": "yes"}, "validator-1": {"frozen": "yes"}}
    one = {**both, "validator-1": {"frozen": "no"}}
    assert look("frozen", seen([], testnet=testnet, last=both)).ok
    assert not look("frozen", seen([], testnet=testnet, last=one)).ok
    assert not look("frozen", seen([], testnet=testnet, last={})).ok


STEADY = [batch(n / 10, final=n / 10 + 0.05) for n in range(100)]
HOLE = [one for n, one in enumerate(STEADY) if not 30 <= n < 70]
BAND = Band("kill", "kill a", 3.0, 7.0, {"a": "gone"})


def test_progress_is_the_longest_standstill() -> None:
    assert look("progress", seen(STEADY), within_s=0.5).ok
    found = look("progress", seen(HOLE), within_s=3.0)
    assert (found.ok, found.kind) == (False, PROGRESS) and "4.1 s" in found.text
    assert look("progress", seen(HOLE), within_s=5.0).ok
    assert not look("progress", seen(STEADY[:20]), within_s=5.0).ok, "it ended too early"
    assert not look("progress", seen([]), within_s=5.0).ok


def test_a_standstill_has_to_last_as_long_as_the_fault() -> None:
    assert look("standstill", seen(HOLE, bands=[BAND]), within_s=0.5, state="final").ok
    assert not look("standstill", seen(STEADY, bands=[BAND]), within_s=0.5).ok
    assert not look("standstill", seen(HOLE, bands=[BAND]), within_s=9.0).ok, (
        "nothing was looked at"
    )


def test_a_standstill_is_over_when_the_fault_begins_to_be_undone() -> None:
    slow = replace(BAND, ended_s=BAND.ended_s + 2)
    assert not look("standstill", seen(HOLE, bands=[slow]), within_s=0.5, state="final").ok
    undone = replace(slow, healing_s=BAND.ended_s)
    assert look("standstill", seen(HOLE, bands=[undone]), within_s=0.5, state="final").ok


def test_recovery_leaves_nothing_over() -> None:
    assert look("recovers", seen(HOLE, bands=[BAND]), within_s=1.0, state="final").ok
    left = [*HOLE, batch(9.0, executed=9.1)]
    assert not look("recovers", seen(left, bands=[BAND]), within_s=1.0, state="final").ok
    late = [one for one in STEADY if one.submitted_ns < BEGAN_NS + 3e9] + [batch(4, final=9.5)]
    assert not look("recovers", seen(late, bands=[BAND]), within_s=1.0, state="final").ok


def test_other_expectations() -> None:
    of = seen(STEADY, codes={"busy": 3}, counted={"market_stale": 2})
    assert look("latency", of, within_s=0.1).ok and not look("latency", of, within_s=0.01).ok
    assert look("lag", of, at_least=60).ok and not look("lag", of, at_least=90).ok
    stuck = seen(STEADY, samples=[sample(0.0), sample(9.0, 80)])
    assert not look("lag", stuck, at_least=60).ok, "it never fell again"
    assert look("code", of, name="busy", at_least=3).ok
    assert not look("code", of, name="busy", at_least=4).ok
    assert look("counted", of, name="market_stale", at_least=2).ok
    assert not look("counted", of, name="market_stale", at_least=0).ok
    assert look("counted", of, name="liquidated", at_least=0).ok
    assert look("solvent", of).ok
    assert not look("solvent", seen(STEADY, samples=[sample(1.0, 0, 5)])).ok
    assert check_done(of).ok and not check_done(seen([])).ok
    assert not check_done(seen([batch(1, accepted=2)])).ok


def test_a_fault_that_left_no_trace_fails() -> None:
    silent = Band("loss", "loss at a", 1.0, 2.0)
    partly = Band("loss", "loss at b", 1.0, 2.0, {"b": "3 lost frames"}, ["c"])
    checks = check_faults([BAND, silent, partly])
    assert [check.ok for check in checks] == [True, False, True]
    assert "not noticed by c" in checks[2].text
    drawn = [Band("loss", "x", 1.0, 2.0, {"a": "3"} if n else {}, drawn=True) for n in range(4)]
    assert [check.ok for check in check_faults(drawn)] == [True] * 4
    assert not check_faults(drawn[:2])[0].ok, "half of them is not most"
    assert check_faults(drawn, skipped=1)[0].text == "3 of 4 did, 1 found nobody"
    assert check_faults(drawn, skipped=9)[0].ok, "what was skipped was never there"
    assert not check_faults([], skipped=1)[0].ok and check_faults([]) == []


@pytest.mark.parametrize(
    ("failed", "status", "word"),
    [([], 0, "passed"), ([EXPECTATION], 1, "FAILED"), ([PROGRESS, EXPECTATION], 4, "NO PROGRESS"),
     ([EXPECTATION, SAFETY, PROGRESS], 5, "SAFETY VIOLATION")],
)  # fmt: skip
def test_the_worst_decides(failed: list[str], status: int, word: str) -> None:
    checks = [Check(SAFETY, "fine", True, ""), *(Check(kind, "x", False, "") for kind in failed)]
    assert exit_status(checks) == status and verdict(status) == word


def test_percentiles() -> None:
    assert percentiles([]) == (0.0, 0.0)
    assert percentiles([float(n) for n in range(101)]) == (50.0, 99.0)


def report(**others: Any) -> Report:
    values: dict[str, Any] = {
        "name": "x", "description": "d <b>", "row": "r", "expected": "e", "seed": 3,
        "processes": {"validator": 4}, "where": "local", "duration_s": 9.0, "took_s": 12.0,
        "status": 1, "checks": [Check(SAFETY, "one & all", False, "<script>")], "bands": [BAND],
        "moments": [Moment(1.0, "kill", "kill a")],
        "samples": [sample(float(n), n) for n in range(10)], "load": None, "audit": None, **others,
    }  # fmt: skip
    return Report(**values)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert write_report(report(), tmp_path) == []
    assert read_report(tmp_path) == report()
    page = (tmp_path / PAGE).read_text()
    assert "&lt;script&gt;" in page and "<script" not in page and "one &amp; all" in page
    assert "href" not in page and "src=" not in page and page.count("<svg") == 1
    assert (tmp_path / PICTURE).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match=r"no report\.json"):
        read_report(tmp_path / "nowhere")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no report"):
        read_report(tmp_path)


def test_without_the_extra_there_is_a_note_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *others: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *others, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    (note,) = write_report(report(), tmp_path)
    assert "matplotlib is not installed" in note and "pictures" in note
    assert (tmp_path / PAGE).exists() and not (tmp_path / PICTURE).exists()


def test_a_run_too_short_for_a_picture() -> None:
    assert "too short" in faults_pictures.svg_picture(report(samples=[sample(0.0)]))


def test_the_verdict_is_told_though_its_pictures_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> list[str]:
        raise OSError("no space left")

    async def ran(*_: object) -> Report:
        return report()

    monkeypatch.setattr(faults_play, "run_experiment", ran)
    monkeypatch.setattr(faults_play, "write_report", full)
    experiment = Path(__file__).parents[2] / "faults" / "slow-disks.toml"
    with pytest.raises(OSError, match="no space left"):
        faults_play.play(experiment, seed=1, testnet=None, short=True, out=tmp_path, as_json=False)
    assert report().verdict in capsys.readouterr().out


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_end_heals_first(number: signal.Signals, ctrl_c: Any) -> None:
    """In the background of a script, too, where Ctrl-C is ignored."""
    healed: list[str] = []

    async def running() -> Report:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(30)
        finally:
            os.kill(os.getpid(), number)  # again, by somebody impatient
            await asyncio.sleep(0.05)
            healed.append("all")
        return report()

    wanted: dict[signal.Signals, Any] = {signal.SIGINT: ctrl_c, number: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in wanted.items()}
    try:
        with pytest.raises(KeyboardInterrupt):
            faults_play.run_until_asked(running())
        assert healed == ["all"] and signal.getsignal(number) is signal.SIG_DFL
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_a_run_under_nohup_goes_on() -> None:
    async def running() -> Report:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        return report()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert faults_play.run_until_asked(running()) == report()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("role", ["node", "execution"])
def test_a_ledger_that_only_liars_hold_is_not_called_one(tmp_path: Path, role: Role) -> None:
    testnet = create_testnet(tmp_path / "net", TestnetOptions(traders=0, free_ports=True))
    liars = {entry.name for entry in testnet.of_role(role)}
    judge = Judge(testnet, cast(Any, None), liars, 10.0)
    look = {"node": judge._ledger, "execution": judge._executions}[role]
    asyncio.run(judge._safely("one", look))
    (check,) = judge.checks
    assert (check.kind, check.ok) == (PROGRESS, False) and f"role {role} lied" in check.text
