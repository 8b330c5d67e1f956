"""Four sequencers under seeds: one log, nothing accepted lost, nothing twice, everything settled.

A failure names its seed; `trilemma sim --scenario NAME --replay SEED` runs it again.
"""

from __future__ import annotations

import pytest

from sim.actors_keys import simulated_signatures
from sim.kernel import US_PER_S
from sim.pipeline import Exchange, Options
from sim.pipeline_shared import BEHAVIOURS, SHARED_SCENARIOS

SEEDS = range(1, 6)
NEED_FAILED_VIEWS = ("stale_certificates", "saboteur")
"""What they do takes views that fail, of which a short calm run has none."""


@pytest.mark.parametrize("name", list(SHARED_SCENARIOS))
def test_shared_mode_holds_under_faults(name: str) -> None:
    scenario = SHARED_SCENARIOS[name]
    bit: dict[str, int] = {}
    for seed in SEEDS:
        outcome = scenario.run(seed, 4, 0)
        assert not outcome.violation, f"{outcome.replay}: {outcome.violation}"
        assert not outcome.stalled, f"{outcome.replay}: {outcome.stalled}"
        for kind, count in outcome.bit.items():
            bit[kind] = bit.get(kind, 0) + count
    never = [kind for kind in scenario.bites if not bit.get(kind)]
    assert len(never) <= len(scenario.bites) // 4, f"never happened in {SEEDS}: {never}"
    assert not bit["batches_ordered_twice"]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_each_lie_of_a_sequencer_is_withstood(behaviour: str) -> None:
    with simulated_signatures():
        options = Options(
            sequencers=4, sequencer_behaviour=behaviour, load_us=3 * US_PER_S, traders=3
        )
        world = Exchange(3, options)
        world.boot()
        world.kernel.run(options.load_us)
        world.heal()
        world.finish()
        world.close()
    if behaviour not in NEED_FAILED_VIEWS:
        assert world.totals().get(f"byzantine_{behaviour}", 0) > 0


def test_without_faults_no_view_fails_and_all_sequencers_lead() -> None:
    with simulated_signatures():
        world = Exchange(11, Options(sequencers=4))
        world.boot()
        world.kernel.run(4 * US_PER_S)
        world.close()
    for one in world.sequencers:
        counters = one.machine.replica.counters
        assert "views_failed" not in counters, (one.name, counters)
        assert counters["proposals_sent"] > world.sequencer.store.height // 8
