"""Scenarios of the shared mode: four sequencers that agree, and what may happen to them."""

from __future__ import annotations

from sequencer.pool import REPEAT_BLOCKS
from sim import pipeline_faults as faults
from sim.actors_sequencer import SimSequencer
from sim.kernel import US_PER_MS
from sim.network import LinkRule, Uniform
from sim.pipeline import Exchange, Options
from sim.pipeline_faults import again, plans
from sim.pipeline_scenarios import USUAL, scenario
from sim.random import SplitMix64
from sim.runner import Scenario

SEQUENCERS = 4
BEHAVIOURS = (
    "equivocating_leader", "equivocating_voter", "withholding_leader", "vote_withholding",
    "selective_sending", "stale_certificates", "invalid_payloads", "forged_certificates",
    "replayer", "saboteur",
)  # fmt: skip


def forgetful(world: Exchange) -> None:
    """Sequencers forget what was ordered long ago, as they may: execution alone still knows it."""

    def forget() -> None:
        for one in world.sequencers:
            if one.alive:
                pool = one.machine.pool
                newest = max(pool._recent.values(), default=0)
                for identity, height in list(pool._recent.items()):
                    if height < newest - REPEAT_BLOCKS:
                        del pool._recent[identity]

    again(world, 500, 1_500, forget)


def in_turns(world: Exchange) -> None:
    """One sequencer after the other dies, is cut off, stands still, or loses what it sends."""
    random = world.kernel.stream("turns")
    honest = [one for one in world.sequencers if one.honest]
    everybody = [process.name for process in (*world.servers, *world.clients)]
    others = [one.name for one in world.sequencers]

    def strike() -> None:
        one = random.pick(honest)
        down_us = random.between(100, 2_000) * US_PER_MS
        kind = random.below(4)
        if kind == 0:
            one.crash()
        elif kind == 1:
            # From the other sequencers only: clients and followers still reach it.
            world.network.partition("alone", [[one.name], [n for n in others if n != one.name]])
            world.history.count("sequencers_alone")
        elif kind == 2:
            world.network.partition("gone", [[one.name], [n for n in everybody if n != one.name]])
        elif one.alive and not one.paused:
            one.pause()
        world.kernel.after(down_us, mend, one)

    def mend(one: SimSequencer) -> None:
        world.network.heal()
        if not one.alive:
            world.history.count("restarted_sequencer")
            one.boot()
        elif one.paused:
            one.resume()

    again(world, 300, 1_800, strike)


def _shared(random: SplitMix64, size: int) -> Options:
    link = LinkRule(delay=Uniform(1_000, 8_000), loss_ppm=5_000, duplicate_ppm=5_000)
    return Options(validators=size, sequencers=SEQUENCERS, executions=2, link=link)


def _lying(random: SplitMix64, size: int) -> Options:
    return Options(
        validators=size, sequencers=SEQUENCERS, executions=2,
        sequencer_behaviour=random.pick(BEHAVIOURS),
    )  # fmt: skip


_ALL = [
    scenario(
        "exchange-sequencers", "four sequencers, of which one after the other fails somehow",
        (
            *USUAL, "crashed_sequencer", "paused_sequencer", "restarted_sequencer", "partitioned",
            "sequencers_alone", "sequencers_changed", "recovered_batches", "submissions_repeated",
        ),
        _shared, plans(in_turns, forgetful),
    ),
    scenario(
        "exchange-sequencers-crashes", "sequencers die at any moment, more than one at a time",
        (
            *USUAL, "crashed_sequencer", "crashed_in_sync", "restarted_sequencer", "torn",
            "unsynced_lost", "recovered_batches", "sequencers_changed",
        ),
        _shared,
        plans(faults.crashes(100, 600, ("sequencer",)), faults.crashes(600, 2_000), forgetful),
    ),
    scenario(
        "exchange-sequencers-partition", "four sequencers and everybody else, cut into groups",
        (*USUAL, "partitioned", "reordered", "slow_links", "sequencers_changed"),
        _shared, plans(faults.partitions, faults.weather, faults.slow_links, forgetful),
    ),
    scenario(
        "exchange-sequencers-byzantine", "one of four sequencers lies to everybody",
        (
            *USUAL, "chunks_withheld", "chunks_forged", "rubbish_passed", "submissions_ignored",
            "sequencers_changed", "streams_rejected", "sequencers_caught",
        ),
        _lying, plans(faults.weather, forgetful),
    ),
]  # fmt: skip

SHARED_SCENARIOS: dict[str, Scenario] = {one.name: one for one in _ALL}
"""Scenarios of the shared mode by name."""
