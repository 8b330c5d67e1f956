"""The whole exchange under seeds: settled, audited, and the same again from the same seed.

A failure names its seed; `trilemma sim --scenario NAME --replay SEED` runs it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.pipeline_scenarios import PIPELINE_SCENARIOS

ROOT = Path(__file__).parents[2]
SEEDS = range(1, 6)
HASH = """
from sim.pipeline_scenarios import PIPELINE_SCENARIOS
for name in ("exchange-crashes", "exchange-byzantine"):
    print(PIPELINE_SCENARIOS[name].run(7, 4, 0).trace_hash)
"""


@pytest.mark.parametrize("name", list(PIPELINE_SCENARIOS))
def test_everything_accepted_is_settled_and_every_root_agrees(name: str) -> None:
    scenario = PIPELINE_SCENARIOS[name]
    bit: dict[str, int] = {}
    for seed in SEEDS:
        outcome = scenario.run(seed, 4, 0)
        assert not outcome.violation, f"{outcome.replay}: {outcome.violation}"
        assert not outcome.stalled, f"{outcome.replay}: {outcome.stalled}"
        for kind, count in outcome.bit.items():
            bit[kind] = bit.get(kind, 0) + count
    never = [kind for kind in scenario.bites if not bit.get(kind)]
    # A few seeds need not meet every fault, but most of them.
    assert len(never) <= len(scenario.bites) // 4, f"never happened in {SEEDS}: {never}"


def test_a_seed_gives_the_same_trace_in_every_interpreter() -> None:
    traces = []
    for hash_seed in ("0", "12345"):
        ran = subprocess.run(
            [sys.executable, "-c", HASH],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.append(ran.stdout)
    assert traces[0] == traces[1]
    assert len(set(traces[0].split())) == 2


def test_seven_validators_settle_too() -> None:
    outcome = PIPELINE_SCENARIOS["exchange-byzantine"].run(3, 7, 0)
    assert not outcome.violation + outcome.stalled, outcome.replay
