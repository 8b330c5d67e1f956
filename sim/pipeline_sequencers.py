"""The sequencers of a run, and what must hold of all of them together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.genesis import Identity
from sim.actors_keys import SimKey
from sim.actors_lying_sequencer import ByzantineSequencer
from sim.actors_sequencer import SimSequencer

if TYPE_CHECKING:
    from sim.pipeline import Exchange


def sequencer_names(count: int) -> list[str]:
    """Names of the sequencers, in the order of genesis."""
    return ["sequencer", *(f"sequencer-{n}" for n in range(1, count))]


def identity(name: str, stake: int) -> Identity:
    """A member as genesis names it."""
    return Identity(name, SimKey(name).public.hex(), stake, "00")


def make_sequencers(world: Exchange, validators: list[str]) -> list[SimSequencer]:
    """The sequencers; the last one lies where the run says how."""
    names = sequencer_names(world.options.sequencers)
    made: list[SimSequencer] = []
    for index, name in enumerate(names):
        lies = world.options.sequencer_behaviour and index == len(names) - 1
        kind = ByzantineSequencer if lies else SimSequencer
        one = kind(
            world.setting, name, index, SimKey(name), validators, names, world.skew()
        )  # fmt: skip
        if isinstance(one, ByzantineSequencer):
            one.behaviour, one.honest = world.options.sequencer_behaviour, False
        made.append(one)
    return made


def furthest(sequencers: list[SimSequencer]) -> SimSequencer:
    """The honest sequencer with the longest log; one that runs, where there is one."""
    honest = [one for one in sequencers if one.honest]
    return max(honest, key=lambda one: (one.alive, one.store.height if one.boots else -1))


def all_ordered(sequencers: list[SimSequencer]) -> bool:
    """Whether nothing waits at any honest sequencer, and all of them have the same log."""
    honest = [one for one in sequencers if one.honest]
    height = furthest(sequencers).store.height
    return all(
        one.alive and not len(one.machine.pool) and one.store.height == height for one in honest
    )


def lag_of(sequencers: list[SimSequencer]) -> str:
    """Who has what."""
    return ", ".join(
        f"{one.name} {'up' if one.alive else 'down'} at {one.store.height} view "
        f"{one.machine.replica.view}, pool {len(one.machine.pool)}"
        for one in sequencers
    )
