"""Faults over time: what a scenario schedules on a world's kernel before the run begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protocol.chain import Proposal
from sim.kernel import US_PER_MS, US_PER_S
from sim.network import Delay, LinkRule, LongTail, Uniform
from sim.node import Node
from sim.random import SplitMix64
from sim.world import World

Action = Callable[[], None]


def rounds(world: World, until_us: int, low_us: int, high_us: int, action: Action) -> None:
    """Do something again and again, after random times, until a moment."""
    random = world.kernel.stream("rounds")

    def turn() -> None:
        if world.kernel.now_us < until_us:
            action()
            world.kernel.after(random.between(low_us, high_us), turn)

    world.kernel.after(random.between(low_us, high_us), turn)


def up_nodes(world: World) -> list[Node]:
    return [node for node in world.nodes.values() if node.up]


def split(world: World, random: SplitMix64) -> None:
    """Two groups that hear nothing of each other."""
    names = random.shuffled(world.names)
    cut = random.between(1, len(names) - 1)
    world.network.partition("split", [names[:cut], names[cut:]])


def partial(world: World, random: SplitMix64) -> None:
    """Some pairs cannot talk, in either direction, though others can."""
    pairs = [(a, b) for a in world.names for b in world.names if a < b and random.chance(400_000)]
    world.network.cut("split", [*pairs, *((b, a) for a, b in pairs)])


def one_way(world: World, random: SplitMix64) -> None:
    """Some nodes are heard by nobody, or hear nobody."""
    names = random.shuffled(world.names)
    count = random.between(1, max(1, len(names) // 3))
    if random.chance(500_000):
        world.network.cut_one_way("split", names[:count], names[count:])
    else:
        world.network.cut_one_way("split", names[count:], names[:count])


def bridge(world: World, random: SplitMix64) -> None:
    """Two groups with one node between them that both hear."""
    names = random.shuffled(world.names)
    cut = random.between(2, max(2, len(names) - 1))
    middle = names[0]
    world.network.partition("split", [names[:cut], [middle, *names[cut:]]])


CUTS = (split, partial, one_way, bridge)


def cutting(cuts: tuple[Callable[[World, SplitMix64], None], ...], low_ms: int, high_ms: int,
            calm_ppm: int = 300_000) -> Callable[[World, int], None]:  # fmt: skip
    """A partition of one of some kinds, or none, that changes after random times."""

    def plan(world: World, until_us: int) -> None:
        random = world.kernel.stream("cuts")

        def change() -> None:
            if random.chance(calm_ppm):
                world.network.heal()
            else:
                random.pick(cuts)(world, random)

        rounds(world, until_us, low_ms * US_PER_MS, high_ms * US_PER_MS, change)

    return plan


def hide_commits(world: World, until_us: int) -> None:
    """The first to commit a height, up to f nodes, are cut off before they can tell anybody, and
    honest proposals are lost until a Byzantine leader has had its turn.

    This is the schedule under which only the lock protects what was committed.
    """
    random = world.kernel.stream("hiding")
    hidden: list[str] = []
    turns = 0

    def hide(name: str, height: int) -> None:
        nonlocal turns
        if world.kernel.now_us >= until_us or name in hidden:
            return
        if not hidden:
            if not random.chance(200_000):
                return
            turns = world.bit.get("stale_certificates", 0)
            world.network.censor = censor
            world.kernel.after(random.between(150, 600) * US_PER_MS, reveal)
        elif len(hidden) >= world.faulty_allowed or height < max(world.checkers.blocks):
            return
        hidden.append(name)
        world.bite("commit_hidden")
        others = [n for n in world.names if n not in hidden]
        world.network.partition("hidden", [*([n] for n in hidden), others])

    def censor(source: str, target: str, message: object) -> bool:
        held = isinstance(message, Proposal) and world.nodes[source].honest
        return held and world.bit.get("stale_certificates", 0) == turns

    def reveal() -> None:
        hidden.clear()
        world.network.censor = None
        world.network.heal("hidden")

    world.checkers.on_commit = hide


def crashes(
    world: World,
    until_us: int,
    *,
    most_down: int,
    in_step_ppm: int = 500_000,
    every_ms: tuple[int, int] = (50, 900),
) -> None:
    """Nodes die at any instruction and come back after a while."""
    random = world.kernel.stream("crashes")

    def strike() -> None:
        down = [node for node in world.nodes.values() if not node.up and not node.excused]
        if down and (len(down) >= most_down or random.chance(500_000)):
            random.pick(down).restart()
            return
        up = up_nodes(world)
        if not up:
            return
        node = random.pick(up)
        if random.chance(in_step_ppm):
            node.doomed = True
        else:
            node.crash()

    low_ms, high_ms = every_ms
    rounds(world, until_us, low_ms * US_PER_MS, high_ms * US_PER_MS, strike)


def restart_all(world: World, until_us: int) -> None:
    """All nodes die at once, and come back one after the other."""
    random = world.kernel.stream("crashes")

    def strike() -> None:
        for node in world.nodes.values():
            node.crash()
            world.kernel.after(random.below(800 * US_PER_MS), node.restart)
        world.bite("all_down")

    rounds(world, until_us, 2 * US_PER_S, 6 * US_PER_S, strike)


def pauses(world: World, until_us: int) -> None:
    """Processes stop for a while, as under a debugger or a hypervisor, and go on."""
    random = world.kernel.stream("pauses")

    def strike() -> None:
        node = random.pick(list(world.nodes.values()))
        node.pause()
        world.kernel.after(random.between(20, 2_500) * US_PER_MS, node.resume)

    rounds(world, until_us, 200 * US_PER_MS, 2 * US_PER_S, strike)


def skews(world: World, most_us: int) -> None:
    """Each clock is off by its own amount from the start."""
    random = world.kernel.stream("clocks")
    for node in world.nodes.values():
        node.jump(random.between(-most_us, most_us))


def jumps(world: World, until_us: int, most_us: int) -> None:
    """Clocks are set forward or back, each staying within `most_us` of the right time."""
    random = world.kernel.stream("clocks")

    def strike() -> None:
        node = random.pick(list(world.nodes.values()))
        node.jump(random.between(-most_us, most_us) - node.skew_us)

    rounds(world, until_us, 300 * US_PER_MS, 2 * US_PER_S, strike)


def weather(world: World, until_us: int) -> None:
    """Loss, repetition, reordering and delays change all the time."""
    random = world.kernel.stream("weather")
    delays: tuple[Delay, ...] = (
        Uniform(500, 1_500),
        Uniform(1_000, 30_000),
        LongTail(1_000, 500_000),
    )

    def change() -> None:
        world.network.set_default(
            LinkRule(
                delay=random.pick(delays),
                loss_ppm=random.pick((0, 20_000, 100_000)),
                duplicate_ppm=random.pick((0, 100_000)),
                reorder_ppm=random.pick((0, 100_000)),
                ordered=random.chance(500_000),
            )
        )

    rounds(world, until_us, 300 * US_PER_MS, 2 * US_PER_S, change)


def slow_links(world: World, until_us: int) -> None:
    """All links of one node, then of another, are slow in one direction or both."""
    random = world.kernel.stream("slow")

    def change() -> None:
        world.network.clear_links()
        slow = random.pick(world.names)
        low = random.between(50, 400) * US_PER_MS
        rule = replace(LinkRule(), delay=Uniform(low, 2 * low))
        inward = random.chance(500_000)
        for name in world.names:
            world.network.set_link(slow, name, rule)
            if inward:
                world.network.set_link(name, slow, rule)
        world.bite("slow_link")

    rounds(world, until_us, US_PER_S, 4 * US_PER_S, change)


def restore_backup(world: World, until_us: int) -> None:
    """One node's disk is replaced by an old copy of it: it must stop, and not vote."""
    random = world.kernel.stream("backup")
    node = world.nodes[random.pick([n for n in world.names if world.nodes[n].honest])]
    backups = []
    taken_us = random.between(US_PER_S, until_us // 2)
    world.kernel.at(taken_us, lambda: backups.append(node.disk.copy()))

    def restore() -> None:
        node.crash()
        node.disk.restore(backups[0])
        node.excused = "its disk was restored from a backup"
        world.checkers.forget(node.name)
        world.bite("backup_restored")
        node.restart()

    world.kernel.at(random.between(taken_us + 2 * US_PER_S, until_us), restore)


def damage(world: World, until_us: int) -> None:
    """Sectors of up to f nodes go bad; such a node refuses to start, and comes back as an observer
    with an empty disk."""
    random = world.kernel.stream("sectors")
    for name in random.sample(world.names[: world.size], world.faulty_allowed):
        node = world.nodes[name]
        at_us = random.between(2 * US_PER_S, until_us - 2 * US_PER_S)

        def strike(node: Node = node) -> None:
            world.corrupt(node)
            node.crash()
            node.restart()
            world.kernel.after(US_PER_S, renew, node)

        def renew(node: Node) -> None:
            if node.excused:
                node.wipe()
                node.excused = ""
                node.restart()

        world.kernel.at(at_us, strike)
