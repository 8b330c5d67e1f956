"""The frontier over load and oracle delay: which runs it needs, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product as combinations
from typing import NamedTuple

from sim.stress_queue import Policy
from sim.stress_report import Point, Run, judge, point
from sim.stress_setting import Cell

RunKey = tuple[str, int, str]
"""Crash, seed, name of the cell."""


class Plan(NamedTuple):
    """What is asked for: all combinations of these."""

    crashes: Sequence[str]
    seeds: Sequence[int]
    loads_ppm: Sequence[int]
    delays_ms: Sequence[int]
    staleness_ms: Sequence[int]
    policies: Sequence[Policy]
    impacts: Sequence[bool]

    def cells(self) -> list[Cell]:
        """The cells of the frontier."""
        return [
            Cell(load, delay, staleness, policy, impact)
            for policy, impact, staleness, load, delay in combinations(
                self.policies, self.impacts, self.staleness_ms, self.loads_ppm, self.delays_ms
            )
        ]

    def runs(self) -> list[tuple[str, int, Cell]]:
        """Every run, the controls among them, once; those of a crash and seed together."""
        cells = self.cells()
        controls = [control for cell in cells for control in (cell.ideal_one(), cell.tenth())]
        needed = list(dict.fromkeys(controls + cells))
        return [(*pair, cell) for pair in combinations(self.crashes, self.seeds) for cell in needed]


def frontier(plan: Plan, runs: Mapping[RunKey, Run]) -> list[Point]:
    """All cells of all crashes whose runs and controls are there, over the seeds that have them."""
    points = []
    for crash, cell in combinations(plan.crashes, plan.cells()):
        found, verdicts = [], []
        for seed in plan.seeds:
            three = [
                runs.get((crash, seed, one.name)) for one in (cell, cell.ideal_one(), cell.tenth())
            ]
            run, ideal, tenth = three
            if run is not None and ideal is not None and tenth is not None:
                found.append(run)
                verdicts.append(judge(run, ideal, tenth))
        if found:
            points.append(
                point(
                    found, verdicts, load_ppm=cell.load_ppm, delay_ms=cell.delay_ms,
                    staleness_ms=cell.staleness_ms, policy=cell.policy.name.lower(),
                    impact=cell.impact,
                )
            )  # fmt: skip
    return points
