"""Sequencers of the whole exchange that lose their disks: none of them orders a second log.

A failure names its seed; set TRILEMMA_SEED to have it again.
"""

from __future__ import annotations

import os
import random

import pytest

from sim.actors_keys import simulated_signatures
from sim.actors_sequencer import SimSequencer
from sim.checkers import Violation
from sim.disk import Disk
from sim.kernel import US_PER_MS, US_PER_S
from sim.pipeline import Exchange, Options

SEED = int(os.environ.get("TRILEMMA_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
STEP_US = 100 * US_PER_MS


def lose(one: SimSequencer) -> None:
    """It dies with its disks, and starts with empty ones."""
    one.crash()
    one.disks = {name: Disk(one.kernel, f"{one.name} {name} new") for name in one.disks}
    one.boot()


def run_until_settled(world: Exchange) -> None:
    """Let the exchange run until the base layer has settled a part of the log."""
    while not all(one.ledger.shard_leaf().last_block for one in world.validators):
        assert world.kernel.now_us < 60 * US_PER_S, "nothing is settled"
        world.kernel.run(world.kernel.now_us + STEP_US)
    world.kernel.run(world.kernel.now_us + US_PER_S)  # until a certified header proves it


def new_exchange(sequencers: int) -> Exchange:
    print(f"seed {SEED}")
    world = Exchange(SEED, Options(sequencers=sequencers, traders=3, load_us=60 * US_PER_S))
    world.boot()
    run_until_settled(world)
    return world


def test_the_only_sequencer_stops_before_it_signs() -> None:
    with simulated_signatures():
        world = new_exchange(1)
        lose(world.sequencer)
        with pytest.raises(Violation, match=r"settled this log up to block .* ends at block 0"):
            world.kernel.run(world.kernel.now_us + 10 * US_PER_S)
        assert world.sequencer.store.height == 0
        assert world.sequencer.machine.replica._safety.last_voted_view == 0
        world.close()


def test_one_that_does_not_reach_the_base_layer_waits() -> None:
    with simulated_signatures():
        world = new_exchange(1)
        for validator in world.validators:
            validator.crash()
        lose(world.sequencer)
        world.kernel.run(world.kernel.now_us + 5 * US_PER_S)
        one = world.sequencer
        assert one.alive and one.store.height == 0 and one.machine.settled.waiting
        for validator in world.validators:
            validator.boot()
        with pytest.raises(Violation, match="has settled this log"):
            world.kernel.run(world.kernel.now_us + 20 * US_PER_S)
        world.close()


def test_four_that_lost_everything_together_sign_nothing() -> None:
    with simulated_signatures():
        world = new_exchange(4)
        for one in world.sequencers:
            one.crash()
        world.kernel.run(world.kernel.now_us + US_PER_S)  # no message of before is on its way
        for one in world.sequencers:
            lose(one)
        world.kernel.run(world.kernel.now_us + 10 * US_PER_S)
        for one in world.sequencers:
            assert one.alive and one.store.height == 0 and one.machine.settled.height > 0
            assert "settled up to block" in one.machine.settled.trouble(0)
            assert one.machine.replica._safety.last_voted_view == 0
        world.close()
