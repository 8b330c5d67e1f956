"""Every scenario of consensus on a fixed set of seeds: nothing breaks, and every fault bites.

``TRILEMMA_SEEDS=500`` runs more seeds of each; a failure names the command that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.runner import Outcome, Report, run_seeds
from sim.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("TRILEMMA_SEEDS", "20"))
LARGER = ("mixed", "crash-storm", "f-crashed", "stale-leaders", "epochs", "partition-one-way")


def assert_sound(report: Report) -> None:
    broken: list[Outcome] = report.violations + report.stalled
    told = [f"{one.violation or one.stalled}\n  {one.replay}" for one in broken]
    assert not broken, "\n".join(told)
    assert not report.missing, f"never happened: {report.missing}; happened: {report.bit}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_four_members_keep_every_promise_in_scenario(name: str) -> None:
    assert_sound(run_seeds(SCENARIOS[name], range(1, SEEDS + 1), 4))


@pytest.mark.parametrize("size", [7, 10])
@pytest.mark.parametrize("name", LARGER)
def test_more_members_keep_every_promise_in_scenario(name: str, size: int) -> None:
    assert_sound(run_seeds(SCENARIOS[name], range(1, 3), size))


def test_catching_up_and_view_changes_happen_under_mixed_faults() -> None:
    report = run_seeds(SCENARIOS["mixed"], range(100, 120), 4)
    assert_sound(report)
    for name in (
        "timeouts_sent", "tcs_formed", "views_failed", "peers_helped", "blocks_fetched",
        "orphans_adopted", "requests_served", "stale_votes", "rejoins_answered",
    ):  # fmt: skip
        assert report.bit.get(f"replica_{name}", 0) > 0, f"{name} never happened"


def test_a_seed_gives_one_trace_and_another_seed_another() -> None:
    first, again = (SCENARIOS["mixed"].run(7, 4, 0) for _ in range(2))
    assert first.trace_hash == again.trace_hash
    assert (first.bit, first.virtual_us, first.events) == (
        again.bit,
        again.virtual_us,
        again.events,
    )
    assert SCENARIOS["mixed"].run(8, 4, 0).trace_hash != first.trace_hash


def test_the_trace_does_not_hang_on_the_interpreters_hash_seed() -> None:
    program = (
        "from sim.scenarios import SCENARIOS\n"
        "print(*(SCENARIOS[n].run(3, 4, 0).trace_hash for n in ('mixed', 'twins', 'epochs')))"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "4242")
    }  # fmt: skip
    assert len(hashes) == 1
