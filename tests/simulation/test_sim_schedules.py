"""Random Byzantine schedules for 4, 7 and 10 members with f faulty ones; failures shrink.

``TRILEMMA_EXAMPLES=1000`` tries more of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.byzantine_forgers import BEHAVIOURS
from sim.kernel import US_PER_MS
from sim.network import LinkRule, LongTail, Uniform
from sim.scenarios import HASTY
from sim.world import FAST, World

EXAMPLES = int(os.environ.get("TRILEMMA_EXAMPLES", "40"))
PATIENCE_MS = 40_000

LINKS = (
    LinkRule(),
    LinkRule(delay=Uniform(1_000, 30_000), loss_ppm=100_000, ordered=False),
    LinkRule(delay=LongTail(2_000, 500_000), duplicate_ppm=100_000, ordered=False),
)


@dataclass(frozen=True)
class Step:
    """After `wait_ms` something happens to the node at place `node` (counted round)."""

    wait_ms: int
    verb: str
    node: int


@dataclass(frozen=True)
class Schedule:
    """A whole run; twins and behaviours together make at most f members faulty."""

    seed: int
    size: int
    behaviours: list[str]
    twin: bool
    hasty: bool
    link: int
    steps: list[Step]


VERBS = (
    "crash",
    "doom",
    "restart",
    "pause",
    "resume",
    "isolate",
    "deafen",
    "mute",
    "split",
    "heal",
    "link",
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    size = draw(st.sampled_from((4, 7, 10)))
    faulty = (size - 1) // 3
    twin = draw(st.booleans())
    kinds = st.sampled_from(sorted(BEHAVIOURS))
    step = st.builds(Step, st.integers(1, 600), st.sampled_from(VERBS), st.integers(0, size - 1))
    return Schedule(
        seed=draw(st.integers(0, 2**32)),
        size=size,
        behaviours=draw(st.lists(kinds, max_size=faulty - int(twin))),
        twin=twin,
        hasty=draw(st.booleans()),
        link=draw(st.integers(0, len(LINKS) - 1)),
        steps=draw(st.lists(step, max_size=14)),
    )


def perform(world: World, step: Step) -> None:
    node = world.nodes[world.names[step.node % len(world.names)]]
    others = [name for name in world.names if name != node.name]
    network = world.network
    if step.verb == "crash":
        node.crash()
    elif step.verb == "doom":
        node.doomed = node.up
    elif step.verb == "restart":
        node.restart()
    elif step.verb == "pause":
        node.pause()
    elif step.verb == "resume":
        node.resume()
    elif step.verb == "isolate":
        network.partition(node.name, [[node.name], others])
    elif step.verb == "deafen":
        network.cut_one_way(node.name, others, [node.name])
    elif step.verb == "mute":
        network.cut_one_way(node.name, [node.name], others)
    elif step.verb == "split":
        half = len(others) // 2
        network.partition("split", [[node.name, *others[:half]], others[half:]])
    elif step.verb == "link":
        network.set_default(LINKS[step.node % len(LINKS)])
    else:
        network.heal()


def play(schedule: Schedule) -> World:
    """Carry a schedule out; raises what the checkers find."""
    first = 1 if schedule.twin else 0
    world = World(
        schedule.seed,
        schedule.size,
        config=HASTY if schedule.hasty else FAST,
        byzantine={first + at: BEHAVIOURS[kind] for at, kind in enumerate(schedule.behaviours)},
        twins=[0] if schedule.twin else [],
        link=LINKS[schedule.link],
    )
    kernel = world.kernel
    length_ms = sum(step.wait_ms for step in schedule.steps) + 500
    world.order(10 * US_PER_MS, length_ms * US_PER_MS, 150 * US_PER_MS)
    world.boot()
    for step in schedule.steps:
        kernel.run(kernel.now_us + step.wait_ms * US_PER_MS)
        perform(world, step)
    kernel.run(length_ms * US_PER_MS)
    world.heal()
    world.finish(PATIENCE_MS * US_PER_MS)
    return world


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="TRILEMMA_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(schedules())
def test_no_schedule_breaks_a_promise_or_stops_the_chain_for_good(schedule: Schedule) -> None:
    play(schedule)
