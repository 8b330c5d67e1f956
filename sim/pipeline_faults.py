"""Faults of a run of the whole exchange, scheduled on its kernel before the run begins."""

from __future__ import annotations

from collections.abc import Callable

from sim.actors_process import Process
from sim.kernel import US_PER_MS
from sim.network import Delay, LinkRule, LongTail, Uniform
from sim.pipeline import Exchange

Plan = Callable[[Exchange], None]
DOWN_MS = (20, 1_500)


def again(world: Exchange, low_ms: int, high_ms: int, act: Callable[[], None]) -> None:
    """Do something again and again, after random times, while there is load."""
    random = world.kernel.stream("faults")

    def turn() -> None:
        if world.kernel.now_us < world.options.load_us:
            act()
            world.kernel.after(random.between(low_ms, high_ms) * US_PER_MS, turn)

    world.kernel.after(random.between(low_ms, high_ms) * US_PER_MS, turn)


def crashes(low_ms: int = 150, high_ms: int = 900, roles: tuple[str, ...] = ()) -> Plan:
    """Processes of every kind (or of some `roles`) die at any moment, half of them within a sync,
    and come back after a while."""

    def plan(world: Exchange) -> None:
        random = world.kernel.stream(" ".join(("crashes", *roles)))
        mortal = [one for one in world.servers if not roles or one.role in roles]

        def revive(process: Process) -> None:
            if not process.alive:
                world.history.count(f"restarted_{process.role}")
                process.boot()

        def strike() -> None:
            process = random.pick(mortal)
            if process.alive:
                if random.chance(500_000):
                    process.doomed = True
                else:
                    process.crash()
                delay_us = random.between(*DOWN_MS) * US_PER_MS
                world.kernel.after(delay_us, revive, process)

        again(world, low_ms, high_ms, strike)

    return plan


def blackout(world: Exchange) -> None:
    """All processes die at once, once, and come back one after the other."""
    random = world.kernel.stream("blackout")

    def strike() -> None:
        for process in world.servers:
            process.crash()
            world.kernel.after(random.between(*DOWN_MS) * US_PER_MS, revive, process)
        world.history.count("blackouts")

    def revive(process: Process) -> None:
        if not process.alive:
            process.boot()

    load_us = world.options.load_us
    world.kernel.at(random.between(load_us // 4, load_us), strike)


def partitions(world: Exchange) -> None:
    """Groups of processes that hear nothing of each other, clients among them, come and go."""
    random = world.kernel.stream("partitions")
    names = [process.name for process in (*world.servers, *world.clients)]

    def change() -> None:
        if random.chance(300_000):
            world.network.heal()
            return
        mixed = random.shuffled(names)
        cut = random.between(1, len(mixed) - 1)
        if random.chance(700_000):
            world.network.partition("split", [mixed[:cut], mixed[cut:]])
        else:
            world.network.cut_one_way("split", mixed[:cut], mixed[cut:])

    again(world, 100, 1_500, change)


def weather(world: Exchange) -> None:
    """Loss, repetition, reordering and delays change all the time."""
    random = world.kernel.stream("weather")
    delays: tuple[Delay, ...] = (
        Uniform(500, 2_000), Uniform(2_000, 30_000), LongTail(1_000, 300_000),
    )  # fmt: skip

    def change() -> None:
        world.network.set_default(
            LinkRule(
                delay=random.pick(delays),
                loss_ppm=random.pick((0, 10_000, 60_000)),
                duplicate_ppm=random.pick((0, 50_000)),
                reorder_ppm=random.pick((0, 50_000)),
                ordered=random.chance(500_000),
            )
        )

    again(world, 300, 1_500, change)


def slow_links(world: Exchange) -> None:
    """One process after the other is far away."""
    random = world.kernel.stream("slow")
    names = [process.name for process in (*world.servers, *world.clients)]

    def change() -> None:
        world.network.clear_links()
        slow = random.pick(names)
        low_us = random.between(50, 300) * US_PER_MS
        rule = LinkRule(delay=Uniform(low_us, 2 * low_us))
        for name in names:
            world.network.set_link(slow, name, rule)
            world.network.set_link(name, slow, rule)
        world.history.count("slow_links")

    again(world, 500, 2_000, change)


def pauses(world: Exchange) -> None:
    """Processes stand still for a while and go on."""
    random = world.kernel.stream("pauses")

    def strike() -> None:
        process = random.pick(world.servers)
        if process.alive and not process.paused:
            process.pause()
            world.kernel.after(random.between(20, 1_500) * US_PER_MS, resume, process)

    def resume(process: Process) -> None:
        if process.alive and process.paused:
            process.resume()

    again(world, 200, 1_200, strike)


def forgetful(world: Exchange) -> None:
    """The sequencer forgets what it ordered, as it does with all that is old enough: from then on
    it is execution alone that knows a repeated batch."""

    def forget() -> None:
        if world.sequencer.alive:
            world.sequencer.machine.pool._recent.clear()

    again(world, 500, 1_500, forget)


def plans(*parts: Plan) -> Plan:
    """All of them."""

    def plan(world: Exchange) -> None:
        for part in parts:
            part(world)

    return plan
