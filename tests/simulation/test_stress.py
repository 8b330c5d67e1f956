"""Stress runs of the real engine: delays are what the cell says, money and claims stay whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from cluster import stress_command
from cluster.stress_command import Task, work
from cluster.stress_files import CRASHES, windows
from protocol.errors import SafetyViolation
from sim.stress_exchange import Exchange
from sim.stress_queue import Policy
from sim.stress_report import NEVER, Run, judge
from sim.stress_setting import QUICK, Cell, Start, prepare, synthetic
from sim.stress_world import World

ROOT = Path(__file__).resolve().parents[2]
MARKET_DATA = Path(os.environ.get("TRILEMMA_MARKET_DATA", ROOT.parent / "shared/data/market"))
LIGHT = Cell(1_000_000, 0, 60_000, Policy.FIFO, False)


@cache
def start(seed: int = 1) -> Start:
    return prepare(synthetic(QUICK), QUICK, seed)


@cache
def run(cell: Cell, seed: int = 1) -> Run:
    return World(start(seed), cell).run()


def test_the_same_seed_is_the_same_run() -> None:
    again = World(prepare(synthetic(QUICK), QUICK, 1), LIGHT).run()
    assert msgspec.json.encode(again) == msgspec.json.encode(run(LIGHT))
    assert run(LIGHT, 2) != run(LIGHT)


def test_an_ideal_exchange_has_no_delays_and_liquidates_nobody_wrongly() -> None:
    ideal = run(LIGHT.ideal_one())
    assert ideal.flow.liquidated > 10
    assert ideal.delays.queue.most <= 20 and ideal.delays.budget.most == 0
    assert ideal.delays.oracle.p50 <= 200
    assert ideal.flow.refused == ideal.flow.offered_filler == ideal.flow.stale_blocks == 0
    assert judge(ideal, ideal, ideal).queue_kept
    assert 0 < ideal.flow.top_ups <= sum(bool(t.reserve_uusd) for t in start().population.traders)


def test_liquidations_come_as_late_as_the_oracle() -> None:
    """The delay of prices is an oracle delay, not a queue: it moves the whole distribution."""
    prompt, late = run(LIGHT), run(LIGHT._replace(delay_ms=5_000))
    assert prompt.delays.oracle.most < 1_000
    assert 4_000 < late.delays.oracle.p50 < 7_000 or late.delays.oracle.most > 5_000
    assert late.delays.queue.p50 < 200
    assert late.backlog.most_uusd > prompt.backlog.most_uusd
    assert late.backlog.zero_ms >= prompt.backlog.zero_ms + 4_000
    assert late.wrongful.accounts > prompt.wrongful.accounts


def test_a_bound_below_the_delay_makes_prices_stale_and_nobody_is_sold() -> None:
    above = run(LIGHT._replace(delay_ms=5_000, staleness_ms=20_000))
    below = run(LIGHT._replace(delay_ms=5_000, staleness_ms=4_000))
    assert above.flow.stale_blocks < above.flow.blocks // 20
    assert below.flow.stale_blocks > below.flow.blocks * 9 // 10
    assert above.flow.liquidated > 10 and below.flow.liquidated == 0
    assert below.backlog.zero_ms == NEVER
    assert below.backlog.most_uusd >= above.backlog.most_uusd


def test_overload_makes_first_come_first_served_late_and_reserved_capacity_does_not() -> None:
    heavy = LIGHT._replace(load_ppm=10_000_000)
    fifo, reserved = run(heavy), run(heavy._replace(policy=Policy.RESERVED))
    assert fifo.flow.offered_filler == reserved.flow.offered_filler
    assert fifo.delays.queue.p999 > 30_000 and fifo.flow.behind_ms > 60_000
    assert reserved.delays.queue.p999 < 1_000 and reserved.flow.behind_ms < 1_000
    assert reserved.flow.refused_filler > reserved.flow.offered_filler // 4
    # Makers saw it, too.
    assert fifo.flow.withdrawals >= 12
    assert fifo.flow.withdrawn_ms > reserved.flow.withdrawn_ms


def test_load_rises_with_volatility() -> None:
    path, flow = start().path, run(LIGHT).flow
    usual = start().shape.load_actions
    assert flow.peak_load == pytest.approx(usual * max(path.activity_ppm) / 1_000_000, rel=0.01)
    mean = flow.offered_filler * 20 / (len(path.ticks) * path.step_ms / 1_000)
    assert usual < mean < flow.peak_load


def test_with_impact_liquidations_move_the_price_and_without_it_they_do_not() -> None:
    without, impact = run(LIGHT), run(LIGHT._replace(impact=True))
    assert without.low_ticks == min(start().path.ticks)
    assert impact.low_ticks < without.low_ticks


@pytest.mark.parametrize(
    ("seed", "load_ppm", "delay_ms"),
    [(1, 1_000_000, 0), (1, 10_000_000, 0), (2, 1_000_000, 30_000), (3, 10_000_000, 30_000)],
)
def test_everybody_is_paid_and_the_ladder_explains_the_funds(
    seed: int, load_ppm: int, delay_ms: int
) -> None:
    """The run itself raises on lost money; here its figures are held against each other."""
    found = run(LIGHT._replace(load_ppm=load_ppm, delay_ms=delay_ms), seed)
    claims = found.claims
    assert (claims.insolvent, claims.unpaid_uusd) == (0, 0)
    assert claims.owed_uusd == claims.cash_uusd + claims.haircut_uusd
    assert found.ladder.haircut_uusd == claims.haircut_uusd
    assert found.ladder.fund_uusd <= start(seed).funds.insurance_uusd
    assert found.ladder.deleveraging_uusd >= 0
    assert found.series.deleveraging_uusd[-1] <= found.ladder.deleveraging_uusd


class Leak:
    """An engine that loses a micro-dollar of an account once."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, exchange: Exchange, changes: Any) -> dict[int, None]:
        taken = TAKE(exchange, changes)
        self.left -= 1
        if not self.left:
            exchange.cash_uusd -= 1
        return taken


TAKE = Exchange._take


def test_lost_money_ends_a_run_as_a_safety_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    leak = Leak(after=500)
    monkeypatch.setattr(Exchange, "_take", lambda self, changes: leak(self, changes))
    done = work(Task(synthetic(QUICK), QUICK, 1, LIGHT))
    assert done.run is None and "deposits less withdrawals" in done.violation


def test_a_violation_is_told_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(self: World) -> Run:
        raise SafetyViolation("a winner is not paid")

    monkeypatch.setattr(World, "run", broken)
    app = typer.Typer()
    stress_command.register(app)
    app.command("other")(lambda: None)
    arguments = ["stress", "--quick", "--json", "--jobs", "1", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 5
    assert "a winner is not paid" in outcome.output


def trilemma(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.cli", *arguments],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def test_the_command_writes_data_and_pictures_and_resumes(tmp_path: Path) -> None:
    arguments = ("stress", "--quick", "--json", "--delay", "0", "--jobs", "2", "--out")
    first = trilemma(*arguments, str(tmp_path))
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert [point["load_ppm"] for point in found["points"]] == [1_000_000]
    assert found["violations"] == []
    names = sorted(Path(name).name for name in found["files"])
    assert names[:2] == ["frontier.json", "frontier.svg"] and names[2].startswith("run-synthetic")
    assert all(Path(name).read_bytes() for name in found["files"])
    assert json.loads((tmp_path / "frontier.json").read_text())["points"] == found["points"]
    again = trilemma(*arguments, str(tmp_path))
    assert again.stdout == first.stdout
    assert "3 runs, 3 of them stored" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--crash", "friday"], "there is no crash"),
        (["--crash", "may-2021"], "--data DIRECTORY"),
        (["--load", "1,x"], "--load: 'x'"),
        (["--delay", "-1"], "--delay: '-1'"),
        (["--policy", "lifo"], "none of fifo, reserved, both"),
        (["--impact", "maybe"], "none of off, on, both"),
        (["--cost", "visit_ns=fast"], "NAME=NUMBER"),
        (["--data", "/nowhere"], "there is no binance"),
    ],
)
def test_wrong_usage_says_what_is_wrong(arguments: list[str], says: str, tmp_path: Path) -> None:
    outcome = trilemma("stress", "--quick", "--out", str(tmp_path), *arguments)
    assert outcome.returncode == 2 and says in outcome.stderr and not outcome.stdout


@pytest.mark.parametrize("name", [crash.name for crash in CRASHES])
def test_a_recorded_crash_runs_through(name: str) -> None:
    if not MARKET_DATA.is_dir():
        pytest.skip(f"needs recorded candles in {MARKET_DATA} (TRILEMMA_MARKET_DATA)")
    shape = QUICK._replace(accounts=150)
    [window] = windows([name], MARKET_DATA, shape)
    found = World(prepare(window, shape, 1), LIGHT._replace(delay_ms=1_000)).run()
    assert found.flow.liquidated > 0 and found.claims.unpaid_uusd == 0
