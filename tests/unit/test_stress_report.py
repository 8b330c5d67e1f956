"""Percentiles, verdicts and points of the frontier."""

from __future__ import annotations

import pytest
from stress_runs import plan, run

from sim.stress_frontier import frontier
from sim.stress_queue import Policy
from sim.stress_report import (
    NEVER,
    Percentiles,
    judge,
    percentiles,
)
from sim.stress_setting import Cell, load_text


def test_percentiles_are_nearest_ranks() -> None:
    assert percentiles(range(1, 1_001)) == Percentiles(1_000, 500, 990, 999, 1_000)
    assert percentiles([7]) == Percentiles(1, 7, 7, 7, 7)
    assert percentiles([3, 1]) == Percentiles(2, 1, 3, 3, 3)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, True),
        ({"queue": 1_000, "zero_ms": 60_000, "backstop": 100_000}, True),
        ({"queue": 1_001}, False),
        ({"zero_ms": 60_001}, False),
        ({"zero_ms": NEVER}, False),
        ({"backstop": 100_001}, False),
        ({"trader": 10**9}, True),
    ],
)
def test_keeping_up_is_three_limits(changes: dict[str, int], kept: bool) -> None:
    assert judge(run(**changes), run(), run()).kept_up == kept  # type: ignore[arg-type]


def test_excess_is_paired_with_the_controls() -> None:
    verdict = judge(run(backstop=700, trader=50), run(backstop=300, trader=20), run(backstop=600))
    assert (verdict.excess_uusd, verdict.excess_over_tenth_uusd) == (400, 100)
    assert (verdict.trader_excess_uusd, verdict.trader_excess_over_tenth_uusd) == (30, 50)
    assert verdict.excess_ppm == 1
    assert judge(run(), run(backstop=500_000), run()).excess_ppm == -500


def test_a_plan_names_every_run_once_with_its_controls() -> None:
    runs = plan().runs()
    assert len(runs) == len(set(runs)) == 2 * (4 + 1 + 2)
    names = [cell.name for _, seed, cell in runs if seed == 1]
    assert names[0] == "ideal" and names.count("fifo-load0.1x-delay5000-stale60000") == 1
    # Those of a seed stand together, so that its prices and population are drawn once.
    assert [seed for _, seed, _ in runs] == [1] * 7 + [2] * 7
    both = plan(impacts=[False, True], policies=list(Policy)).runs()
    assert len({cell.name for _, _, cell in both}) == 2 + 2 * 2 * (4 + 2)


def test_a_point_holds_the_median_and_the_worst_of_its_seeds() -> None:
    runs = {}
    for crash, seed, cell in plan(seeds=[1, 2, 3]).runs():
        heavy = cell.load_ppm == 10_000_000
        runs[crash, seed, cell.name] = run(
            cell.name, seed,
            queue=500 * seed if heavy else 5,
            zero_ms=NEVER if heavy and seed == 3 else 1_000,
            backstop=seed * 40_000 if heavy else 0,
            wrongful=seed,
        )  # fmt: skip
    points = frontier(plan(seeds=[1, 2, 3]), runs)
    assert [(p.load_ppm, p.delay_ms) for p in points] == [
        (1_000_000, 0), (1_000_000, 5_000), (10_000_000, 0), (10_000_000, 5_000),
    ]  # fmt: skip
    light, heavy_point = points[0], points[-1]
    assert (light.kept_up, light.seeds, light.queue_ms) == (3, 3, (5, 5))
    assert (heavy_point.kept_up, heavy_point.queue_ms) == (2, (1_000, 1_500))
    assert heavy_point.backlog_ms == (1_000, NEVER)
    assert heavy_point.excess_ppm == (80, 120)
    assert heavy_point.losses_uusd["backstop_uusd"] == 80_000


def test_runs_that_are_missing_leave_their_seeds_out() -> None:
    runs = {(crash, seed, cell.name): run(cell.name, seed) for crash, seed, cell in plan().runs()}
    del runs["synthetic", 2, "ideal"]
    assert {point.seeds for point in frontier(plan(), runs)} == {1}
    del runs["synthetic", 1, "ideal"]
    assert frontier(plan(), runs) == []


def test_controls_of_a_cell() -> None:
    cell = Cell(3_000_000, 5_000, 60_000, Policy.RESERVED, True)
    assert cell.tenth().load_ppm == 100_000 and cell.tenth().delay_ms == 5_000
    assert cell.ideal_one().ideal and cell.ideal_one().impact
    assert cell.name == "reserved-load3x-delay5000-stale60000-impact"
    assert [load_text(ppm) for ppm in (1_000_000, 100_000, 2_500_000, 30_000_000)] == [
        "1x", "0.1x", "2.5x", "30x",
    ]  # fmt: skip
