"""The named scenarios of consensus clusters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sim import faults
from sim.byzantine_forgers import BEHAVIOURS
from sim.disk import DiskRule
from sim.faults import CUTS, cutting
from sim.kernel import US_PER_MS, US_PER_S
from sim.network import LinkRule, LongTail, Regions, Uniform
from sim.random import SplitMix64, derive_seed
from sim.runner import Outcome, Scenario, guarded
from sim.world import FAST, World

Plan = Callable[[World, int], None]
"""(world, end of the faults in microseconds): schedules the faults of a run."""

Options = Callable[[SplitMix64, int], dict[str, Any]]
"""(randomness, members) -> arguments of `World`."""

SLOW = replace(FAST, timeout_ms=900, timeout_max_ms=4_000, fetch_timeout_ms=500)
HASTY = replace(FAST, block_interval_ms=5, empty_interval_ms=2, timeout_ms=40, timeout_max_ms=80,
                fetch_timeout_ms=20, idle_interval_ms=60)  # fmt: skip
REGIONS_US = (
    (1_000, 35_000, 75_000, 110_000),
    (35_000, 1_000, 45_000, 140_000),
    (75_000, 45_000, 1_000, 60_000),
    (110_000, 140_000, 60_000, 1_000),
)


@dataclass(frozen=True)
class Shape:
    """How long faults last, how busy clients are, and how long healing may take."""

    faults_us: int = 14 * US_PER_S
    operation_us: int = 400 * US_PER_MS
    patience_us: int = 40 * US_PER_S


def no_options(random: SplitMix64, size: int) -> dict[str, Any]:
    return {}


def no_plan(world: World, until_us: int) -> None:
    """Nothing goes wrong."""


def play(
    name: str, options: Options, plan: Plan, shape: Shape, seed: int, size: int, keep_trace: int
) -> Outcome:
    """One run: faults while clients order, then healing, then everybody must catch up."""
    random = SplitMix64(derive_seed(seed, name))
    world = World(derive_seed(seed, name), size, keep_trace=keep_trace, **options(random, size))
    outcome = Outcome(name, seed, size)

    def body() -> None:
        world.order(50 * US_PER_MS, shape.faults_us, shape.operation_us)
        plan(world, shape.faults_us)
        world.boot()
        world.kernel.run(shape.faults_us)
        world.heal()
        world.finish(shape.patience_us)

    guarded(outcome, body)
    outcome.virtual_us, outcome.events = world.kernel.now_us, world.kernel.events
    outcome.blocks = max(world.checkers.blocks)
    outcome.bit = world.totals()
    world.kernel.trace("end", world.network.sent, world.network.delivered, outcome.violation)
    outcome.trace_hash, outcome.lines = world.kernel.trace_hash(), world.kernel.lines
    return outcome


def scenario(
    name: str,
    title: str,
    bites: tuple[str, ...],
    *,
    options: Options = no_options,
    plan: Plan = no_plan,
    shape: Shape | None = None,
) -> Scenario:
    """A scenario of a consensus cluster."""
    chosen = Shape() if shape is None else shape

    def run(seed: int, size: int, keep_trace: int) -> Outcome:
        return play(name, options, plan, chosen, seed, size, keep_trace)

    return Scenario(name, title, run, bites)


def plans(*parts: Plan) -> Plan:
    def plan(world: World, until_us: int) -> None:
        for part in parts:
            part(world, until_us)

    return plan


def fixed(**arguments: Any) -> Options:
    def options(random: SplitMix64, size: int) -> dict[str, Any]:
        return dict(arguments)

    return options


def allowed(size: int) -> int:
    return (size - 1) // 3


def byzantine(kind: str, **arguments: Any) -> Options:
    """f members behave in one way."""

    def options(random: SplitMix64, size: int) -> dict[str, Any]:
        chosen = random.sample(range(size), allowed(size))
        return {"byzantine": dict.fromkeys(chosen, BEHAVIOURS[kind]), **arguments}

    return options


def _regions(random: SplitMix64, size: int) -> dict[str, Any]:
    region = {f"n{index}": random.below(len(REGIONS_US)) for index in range(size)}
    return {"config": SLOW, "link": LinkRule(delay=Regions(region, REGIONS_US))}


def _twins(random: SplitMix64, size: int) -> dict[str, Any]:
    return {"twins": random.sample(range(size), allowed(size)), "config": HASTY}


def _late(random: SplitMix64, size: int) -> dict[str, Any]:
    return {"late": random.sample(range(size), allowed(size))}


def _late_to_pruned(random: SplitMix64, size: int) -> dict[str, Any]:
    config = replace(FAST, committed_window=12, fetch_limit=8)
    return {**_late(random, size), "retain": 12, "config": config}


def _join(world: World, until_us: int) -> None:
    random = world.kernel.stream("join")
    for node in world.nodes.values():
        if node.name in world.late:

            def start(name: str = node.name) -> None:
                world.nodes[name].boot()
                world.bite("joined_late")

            world.kernel.at(random.between(until_us // 2, until_us), start)


def _crashed(world: World, until_us: int) -> None:
    """f members die at random moments, while the others lose views around them; for good."""
    random = world.kernel.stream("dead")
    faults.crashes(world, until_us, most_down=world.faulty_allowed)
    cutting(CUTS, 200, 1_200, calm_ppm=500_000)(world, until_us)
    for name in random.sample(world.names, world.faulty_allowed):

        def die(name: str = name) -> None:
            world.nodes[name].excused = "it is dead"
            world.nodes[name].crash()

        world.kernel.at(random.between(until_us // 2, until_us), die)


def _starved(world: World, until_us: int) -> None:
    random = world.kernel.stream("bandwidth")

    def change() -> None:
        for name in world.names:
            rate = random.pick((None, 8_000, 40_000)) if random.chance(500_000) else None
            world.network.set_bandwidth(name, rate)
        for _ in range(2):
            a, b = random.sample(world.names, 2)
            world.network.set_link(a, b, LinkRule(bytes_per_s=random.pick((3_000, 20_000))))

    faults.rounds(world, until_us, US_PER_S, 3 * US_PER_S, change)


def _mixed(random: SplitMix64, size: int) -> dict[str, Any]:
    """A random Byzantine behaviour, a disk that tears, and every other fault from the plan."""
    chosen = random.sample(range(size), random.below(allowed(size) + 1))
    kinds = list(BEHAVIOURS)
    return {
        "byzantine": {index: BEHAVIOURS[random.pick(kinds)] for index in chosen},
        "disk": DiskRule(sync_us=2_000, sync_jitter_us=4_000, tear_ppm=500_000),
        "fidelity": random.chance(200_000),
        "stakes": [random.between(10, 12) for _ in range(size)] if random.chance(300_000) else (),
    }


def _everything(world: World, until_us: int) -> None:
    faults.weather(world, until_us)
    cutting(CUTS, 300, 2_000, calm_ppm=700_000)(world, until_us)
    faults.crashes(world, until_us, most_down=world.size - 1, every_ms=(200, 2_500))
    faults.pauses(world, until_us)
    faults.jumps(world, until_us, 200 * US_PER_MS)


def _storm(world: World, until_us: int) -> None:
    faults.crashes(world, until_us, most_down=world.size)


def _epochs(world: World, until_us: int) -> None:
    faults.crashes(world, until_us, most_down=1, every_ms=(300, 2_500))
    cutting((faults.one_way, faults.partial), 500, 3_000, calm_ppm=700_000)(world, until_us)


def _torn(world: World, until_us: int) -> None:
    faults.crashes(world, until_us, most_down=2, in_step_ppm=1_000_000)


def _hidden(world: World, until_us: int) -> None:
    """Who hears whom changes about once a view, so that certificates stay where they arise."""
    cutting(CUTS, 15, 120, calm_ppm=250_000)(world, until_us)


def _cut(name: str, kind: Any) -> Scenario:
    what = name.replace("_", " ")
    return scenario(
        f"partition-{name.replace('_', '-')}", f"{what} partitions that come and go",
        ("partitioned", "replica_views_failed"), plan=cutting((kind,), 500, 4_000),
    )  # fmt: skip


def _behaving(kind: str) -> Scenario:
    return scenario(
        kind.replace("_", "-"), f"f members: {kind.replace('_', ' ')}; others restart", (kind,),
        options=byzantine(kind), plan=_around_liars,
    )  # fmt: skip


def _around_liars(world: World, until_us: int) -> None:
    cutting(CUTS, 300, 1_500, calm_ppm=600_000)(world, until_us)
    faults.crashes(world, until_us, most_down=1, every_ms=(500, 3_000))


TORN = DiskRule(sync_us=2_000, sync_jitter_us=6_000, tear_ppm=1_000_000, keep_ppm=400_000)
LOSSY = LinkRule(delay=Uniform(1_000, 20_000), loss_ppm=100_000, duplicate_ppm=50_000,
                 reorder_ppm=100_000)  # fmt: skip
TAIL = LinkRule(delay=LongTail(8_000, 3_000_000), ordered=False)
SHORT = Shape(faults_us=6 * US_PER_S, operation_us=60 * US_PER_MS)

_SCENARIOS = [
    scenario("steady", "nothing goes wrong; every message goes through the wire format",
             ("replica_qcs_formed",), options=fixed(fidelity=True)),
    scenario("lossy", "10% of messages lost, 5% repeated, 10% held back",
             ("lost", "repeated", "reordered"), options=fixed(link=LOSSY)),
    scenario("long-tail", "delays of a Pareto distribution, up to two seconds",
             ("reordered", "replica_views_failed"), options=fixed(link=TAIL)),
    scenario("regions", "members spread over four regions up to 140 ms apart",
             ("replica_qcs_formed",), options=_regions),
    _cut("full", faults.split), _cut("partial", faults.partial), _cut("one_way", faults.one_way),
    _cut("bridge", faults.bridge),
    scenario("slow-link", "the links of one member after the other are slow", ("slow_link",),
             plan=faults.slow_links),
    scenario("bandwidth", "members and links with too little bandwidth", ("queued", "queue_full"),
             plan=_starved),
    scenario("crash-storm", "any number of members crash and restart, half of them within a step",
             ("crashed", "restarted", "crashed_in_step", "unsynced_lost"), plan=_storm),
    scenario("torn-disk", "crashes within a sync tear what was being written",
             ("torn", "unsynced_lost", "crashed_in_step"), options=fixed(disk=TORN), plan=_torn),
    scenario("corrupt-sector", "sectors of f members go bad under what was written",
             ("corrupted", "damage_found"), plan=faults.damage),
    scenario("all-restart", "all members crash at once and come back", ("all_down", "restarted"),
             plan=faults.restart_all),
    scenario("clock-skew", "clocks up to 200 ms off", ("clock_moved",),
             plan=lambda world, until_us: faults.skews(world, 200 * US_PER_MS)),
    scenario("clock-jumps", "clocks jump by up to a second", ("clock_moved",),
             plan=lambda world, until_us: faults.jumps(world, until_us, 500 * US_PER_MS)),
    scenario("pause", "members stop for a while and go on", ("paused",), plan=faults.pauses),
    scenario("late-join", "f members start late, with empty disks", ("joined_late",),
             options=_late, plan=_join),
    scenario("snapshot", "f members start so late that nobody serves the first blocks any more",
             ("joined_late", "snapshot_taken"), options=_late_to_pruned, plan=_join),
    scenario("f-crashed", "f members die and stay dead", ("crashed", "replica_views_failed"),
             plan=_crashed),
    scenario("restored-backup", "a member's disk is replaced by an old copy: it must stop",
             ("backup_restored", "stopped_itself"), plan=faults.restore_backup),
    *(_behaving(kind) for kind in BEHAVIOURS if kind != "saboteur"),
    scenario("twins", "f keys run in two processes each, under changing partitions",
             ("partitioned", "replica_equivocations"), options=_twins, plan=_hidden, shape=SHORT),
    scenario("hidden-certificates", "f saboteurs, and partitions that change every view",
             ("saboteur", "stale_certificates", "partitioned"),
             options=byzantine("saboteur", config=HASTY), plan=_hidden, shape=SHORT),
    scenario("stale-leaders", "f leaders build on old certificates, and who commits is cut off",
             ("stale_certificates", "commit_hidden"),
             options=byzantine("stale_certificates", config=HASTY), plan=faults.hide_commits,
             shape=SHORT),
    scenario("epochs", "the member set changes every two seconds, while members crash",
             ("epoch_began", "crashed", "restarted"),
             options=fixed(spare=2, epoch_ms=2_000), plan=_epochs),
    scenario("mixed", "everything at once",
             ("crashed", "partitioned", "lost", "reordered", "paused", "clock_moved"),
             options=_mixed, plan=_everything),
]  # fmt: skip

SCENARIOS: dict[str, Scenario] = {entry.name: entry for entry in _SCENARIOS}
"""Every scenario by name, in the order in which `trilemma sim` runs them."""
