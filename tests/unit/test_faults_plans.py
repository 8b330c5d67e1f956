"""What processes are told to suffer by themselves, while they go down, pause, start and do not
answer: nothing is lost, nothing stays, and nothing counts as a hit that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from faults_world import World, nemesis_of

from cluster import faults_command
from cluster.faults_api import Nemesis
from cluster.faults_command import CLOCK_BY_HAND, DISK_BY_HAND
from cluster.faults_evidence import Fault
from cluster.faults_targets import FaultFailed
from net.injection_plan import NOTHING, Plan
from protocol.errors import ConfigError, TrilemmaError
from store.testnet import Testnet

A, B, C = "validator-0", "validator-1", "validator-2"
Order = Callable[[Nemesis], Awaitable[Fault]]
ORDERS: dict[str, Order] = {
    "delay": lambda nemesis: nemesis.delay(A, B, latency_ms=5),
    "loss": lambda nemesis: nemesis.loss(A, B, loss_ppm=5),
    "clock": lambda nemesis: nemesis.clock_skew(A, B, skew_ms=5),
    "clock-scrambler": lambda nemesis: nemesis.clock_scrambler(A, B, most_ms=5),
    "slow-disk": lambda nemesis: nemesis.slow_disk(A, B, delay_ms=5),
    "full-disk": lambda nemesis: nemesis.full_disk(A, B),
    "partition": lambda nemesis: nemesis.partition([[A], [B]]),
    "halves": lambda nemesis: nemesis.partition_shape("partition-halves", [A, B]),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("how", ["falls", "down", "paused", "mute"])
def test_one_that_cannot_be_told_is_told_when_it_answers(
    nemesis: Nemesis, world: World, order: Order, how: str
) -> None:
    async def flow() -> None:
        getattr(world, how).add(B)
        fault = await order(nemesis)
        assert world.suffering == {A: 1} and nemesis.plans.owed == [B]
        for gone in (world.falls, world.down, world.paused, world.mute):
            gone.clear()
        await nemesis.note()
        assert world.suffering == {A: 1, B: 1} and nemesis.plans.owed == []
        await nemesis.end(fault)
        assert world.suffering == {}

    asyncio.run(flow())


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("how", ["falls", "paused", "mute"])
def test_one_that_cannot_be_told_that_it_is_over_suffers_no_longer_when_it_answers(
    nemesis: Nemesis, world: World, order: Order, how: str
) -> None:
    async def flow() -> None:
        lasting = await nemesis.limit_data(B, size=9)
        fault = await order(nemesis)
        getattr(world, how).add(B)
        await nemesis.end(fault)
        assert fault.ended_s is not None and A not in world.suffering
        for gone in (world.falls, world.down, world.paused, world.mute):
            gone.clear()
        await nemesis.note()
        assert world.suffering == {B: 1}, "the other fault lasts"
        await nemesis.end(lasting)
        assert world.suffering == {}

    asyncio.run(flow())


def test_what_ended_before_it_was_told_is_never_told(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        world.down = {A}
        fault = await nemesis.delay(A, latency_ms=5)
        await nemesis.end(fault)
        world.down = set()
        await nemesis.note()
        assert not fault.bit

    asyncio.run(flow())
    assert world.suffering == {}


def test_one_that_goes_on_is_told_at_once(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        paused = await nemesis.pause(A)
        await nemesis.delay(A, latency_ms=5)
        assert world.suffering == {}
        await nemesis.end(paused)
        assert world.suffering == {A: 1}

    asyncio.run(flow())


def test_one_that_started_again_is_told_all_of_it_with_the_next_order(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        await nemesis.delay(A, latency_ms=5)
        world.crash(A)
        assert world.suffering == {}
        await nemesis.loss(A, loss_ppm=5)
        assert world.suffering == {A: 2}

    asyncio.run(flow())


def test_an_order_that_one_refuses_is_taken_back_everywhere(nemesis: Nemesis, world: World) -> None:
    world.refuses = {B}

    async def flow() -> None:
        with pytest.raises(ConfigError, match=f"{B} refuses"):
            await nemesis.delay(A, B, C, latency_ms=5)
        assert nemesis.faults == []
        await nemesis.note()

    asyncio.run(flow())
    assert world.suffering == {}


def test_orders_at_one_process_at_the_same_time_are_all_told(
    nemesis: Nemesis, world: World
) -> None:
    """Each changes what it read; two that read the same would lose one."""

    async def flow() -> None:
        first = await nemesis.delay(A, latency_ms=5)
        _, second, third = await asyncio.gather(
            nemesis.end(first), nemesis.loss(A, loss_ppm=5), nemesis.clock_skew(A, skew_ms=5)
        )
        assert world.suffering == {A: 2}
        await asyncio.gather(nemesis.end(second), nemesis.note(), nemesis.end(third))
        await nemesis.note()

    asyncio.run(flow())
    assert world.suffering == {}


def test_a_look_while_a_fault_ends_does_not_order_it_anew(nemesis: Nemesis, world: World) -> None:
    """The process says already that it suffers nothing; the nemesis does not know yet why."""

    async def flow() -> None:
        fault = await nemesis.delay(A, latency_ms=5)
        ending = asyncio.ensure_future(nemesis.end(fault))
        while not ending.done():
            await nemesis.note()
        await ending

    asyncio.run(flow())
    assert world.suffering == {}


def test_nothing_is_told_again_after_all_is_healed(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        await nemesis.delay(A, latency_ms=5)
        await asyncio.gather(nemesis.heal(), nemesis.note(), nemesis.note())
        await nemesis.note()

    asyncio.run(flow())
    assert world.suffering == {}


def test_nothing_is_told_again_after_one_is_cleared(
    nemesis: Nemesis, world: World, testnet: Testnet
) -> None:
    async def flow() -> None:
        await nemesis.delay(A, latency_ms=5)
        world.mute = {A}
        await nemesis.loss(A, loss_ppm=5)
        world.mute = set()
        await nemesis.plans.clear(testnet.process(A))
        assert nemesis.plans.owed == []
        await nemesis.note()

    asyncio.run(flow())
    assert world.suffering == {}


PAIRS = {
    "clocks": ("clock", "clock"), "a clock and a scrambler": ("clock", "clock-scrambler"),
    "slow disks": ("slow-disk", "slow-disk"), "full disks": ("full-disk", "full-disk"),
    "a full disk and a slow one": ("full-disk", "slow-disk"),
    "a clock and a disk": ("clock", "slow-disk"),
}  # fmt: skip


@pytest.mark.parametrize("kinds", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("last", [False, True])
def test_the_end_of_one_of_two_faults_leaves_the_other(
    nemesis: Nemesis, world: World, kinds: tuple[str, str], last: bool
) -> None:
    async def flow() -> None:
        alone = []
        for kind in kinds:
            fault = await ORDERS[kind](nemesis)
            alone.append(world.plans[B])
            await nemesis.end(fault)
            nemesis.rng.seed(1)
        both = [await ORDERS[kind](nemesis) for kind in kinds]
        assert world.suffering == {A: 2, B: 2}
        await nemesis.end(both[last])
        assert effect(world.plans[B]) == effect(alone[not last]) != effect(NOTHING)
        await nemesis.end(both[not last])
        assert world.suffering == {}

    asyncio.run(flow())


def effect(plan: Plan) -> tuple[int, int, bool, bool]:
    return plan.skew_ms, plan.sync_delay_ms, plan.disk_full, plan.disk_read_only


def test_clocks_of_two_nemeses_add_up_and_end_alone(
    testnet: Testnet, nemesis: Nemesis, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = nemesis_of(testnet, world, monkeypatch)

    async def flow() -> None:
        first = await nemesis.clock_skew(A, skew_ms=300)
        await other.clock_skew(A, skew_ms=-500)
        assert world.plans[A].skew_ms == -200
        await nemesis.end(first)
        assert world.plans[A].skew_ms == -500

    asyncio.run(flow())


def test_what_is_set_by_hand_replaces_what_was_and_nothing_else(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        await nemesis.clock_skew(A, skew_ms=300)
        for skew_ms, together in ((-400, -100), (100, 400), (0, 300)):
            await nemesis.clock_skew(A, skew_ms=skew_ms, label=CLOCK_BY_HAND)
            assert world.plans[A].skew_ms == together
        assert world.suffering == {A: 1}
        await nemesis.slow_disk(A, delay_ms=5, label=DISK_BY_HAND)
        await nemesis.full_disk(A, label=DISK_BY_HAND)
        assert effect(world.plans[A]) == (300, 0, True, False)
        await nemesis.read_only_disk(A, label=DISK_BY_HAND)
        assert effect(world.plans[A]) == (300, 0, False, True)

    asyncio.run(flow())


# --- proof


def test_a_clock_that_two_faults_set_proves_either(nemesis: Nemesis, world: World) -> None:
    """The second may bring it nearer to the right time."""

    async def flow() -> None:
        first = await nemesis.clock_skew(A, skew_ms=300)
        world.bits = {A: {"clock_off_ms": 300}}
        second = await nemesis.clock_skew(A, skew_ms=-200)
        await nemesis.note()
        assert first.bit and not second.bit
        world.bits = {A: {"clock_off_ms": 100}}
        await nemesis.note()
        assert second.evidence == {A: "-200 clock off ms"}

    asyncio.run(flow())


def lost(count: int) -> dict[str, dict[str, dict[str, int]]]:
    return {"peers": {C: {"lost_frames": count}}}


def test_hits_are_counted_from_when_a_process_was_told(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        world.bits = {A: lost(5), B: lost(5)}
        world.paused = {B}
        fault = await nemesis.loss(A, B, loss_ppm=5)
        world.paused = set()
        await nemesis.note()
        assert not fault.bit, "what was lost before is no proof"
        world.bits = {A: lost(6), B: lost(8)}
        await nemesis.note()
        assert fault.evidence == {A: "1 lost frames", B: "3 lost frames"}

    asyncio.run(flow())


def test_all_that_one_counts_is_a_hit_that_started_since(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        world.down = {A}
        fault = await nemesis.loss(A, B, loss_ppm=5)
        world.down = set()
        await nemesis.note()
        assert world.suffering == {A: 1, B: 1}
        world.crash(B)
        await nemesis.note()
        world.bits = {A: lost(2), B: lost(3)}
        await nemesis.note()
        assert fault.evidence == {A: "2 lost frames", B: "3 lost frames"}

    asyncio.run(flow())


@pytest.mark.parametrize("how", ["mute", "paused", "down before", "killed"])
def test_a_full_disk_is_not_proven_by_whoever_does_not_answer(
    nemesis: Nemesis, world: World, how: str
) -> None:
    async def flow() -> None:
        if how == "down before":
            world.down = {A}
        fault = await nemesis.full_disk(A)
        if how == "killed":
            world.kill(A)
        elif how != "down before":
            getattr(world, how).add(A)
        await nemesis.note()
        if how == "down before":
            world.down, world.mute = set(), {A}  # it starts
            await nemesis.note()
        world.down, world.paused, world.mute = set(), set(), set()
        await nemesis.note()
        assert not fault.bit

    asyncio.run(flow())


@pytest.mark.parametrize("back", [False, True])
def test_a_full_disk_is_proven_by_whoever_stopped_over_it(
    nemesis: Nemesis, world: World, back: bool
) -> None:
    async def flow() -> None:
        fault = await nemesis.full_disk(A)
        world.statuses[A] = 1
        if back:
            world.crash(A)
        else:
            world.down = {A}
        await nemesis.note()
        assert fault.evidence == {A: "the process stopped" + " and came back" * back}

    asyncio.run(flow())


def test_a_fault_that_begins_during_a_look_is_proven_by_the_next(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        await nemesis.delay(A, latency_ms=5)
        looking = asyncio.ensure_future(nemesis.note())
        await asyncio.sleep(0)
        fault = await nemesis.full_disk(B)
        await looking
        assert not fault.bit

    asyncio.run(flow())


# --- by hand


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [("paused", ConfigError, f"{B} is paused .* bring it back first: trilemma faults resume {B}"),
     ("down", ConfigError, f"{B} is down .* bring it back first: trilemma faults restart {B}"),
     ("mute", FaultFailed, f"{B} does not answer, so that no process was told anything")],
)  # fmt: skip
def test_by_hand_all_are_told_or_none(
    nemesis: Nemesis, world: World, how: str, kind: type[TrilemmaError], said: str
) -> None:
    """The command ends, and nobody would tell them later."""
    getattr(world, how).add(B)
    for order in (ORDERS["delay"], ORDERS["partition"], ORDERS["halves"]):
        with pytest.raises(kind, match=f"^{said}$"):
            faults_command._order(nemesis, lambda order=order: order(nemesis), as_json=True)
        assert world.suffering == {}
