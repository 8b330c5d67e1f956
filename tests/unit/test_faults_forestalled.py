"""Faults that another fault, a crash or a stop for safety's sake forestalls: one rule for all, on
processes that are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from faults_world import World

from cluster.faults_api import Nemesis
from cluster.faults_damage import byzantine_mode
from cluster.faults_evidence import Fault
from cluster.faults_targets import AlreadyRuns, FaultFailed, NotRunning
from cluster.supervisor import EXIT_SAFETY
from protocol.errors import ConfigError
from store.testnet import Testnet

A, B, C = "validator-0", "validator-1", "validator-2"
Flow = Callable[[Nemesis], Awaitable[None]]
HITS = ("kill", "stop", "crash", "pause")


async def order(nemesis: Nemesis, kind: str, *names: str) -> Fault:
    fault: Fault = await getattr(nemesis, kind)(*names)
    return fault


@pytest.mark.parametrize("kind", HITS)
def test_a_fault_of_several_hits_those_that_run_and_heals_those_that_it_hit(
    nemesis: Nemesis, world: World, kind: str
) -> None:
    """A loss of power would be none if it were left out for one process that just starts again."""
    world.falls = {B}

    async def flow() -> None:
        fault = await order(nemesis, kind, A, B, C)
        assert sorted(world.done) == [(kind, A), (kind, C)]
        assert fault.evidence[B] == "it was down already" and not fault.missed
        assert all("already" not in fault.evidence[name] for name in (A, C))
        world.falls = set()
        await nemesis.end(fault)
        assert fault.ended_s is not None

    asyncio.run(flow())
    assert world.down == {B} and not world.paused, "it came back by somebody else, or not at all"
    assert set(world.started) == ({A, C} if kind in ("kill", "stop") else set())


@pytest.mark.parametrize("kind", HITS)
def test_a_fault_that_finds_nobody_running_never_was(
    nemesis: Nemesis, world: World, kind: str
) -> None:
    """Left in the list, it would fail the run as one of which nothing shows that it bit."""
    world.falls = {A, B}

    async def flow() -> None:
        with pytest.raises(NotRunning, match=rf"^{A} is not running"):
            await order(nemesis, kind, A, B)
        assert nemesis.faults == []

    asyncio.run(flow())
    assert world.done == [] and world.started == []


@pytest.mark.parametrize("first", ["kill", "stop", "pause"])
@pytest.mark.parametrize("second", [*HITS, "restart", "corrupt_file"])
def test_what_one_fault_has_no_other_one_takes(
    nemesis: Nemesis, world: World, first: str, second: str
) -> None:
    """Its end would bring the process back in the middle of the other one."""

    async def flow() -> None:
        held = await order(nemesis, first, A)
        state = world.state(A)
        with pytest.raises(NotRunning, match="stopped or started by another fault"):
            await order(nemesis, second, A)
        assert world.state(A) == state and nemesis.faults == [held]
        await nemesis.end(held)
        again = await order(nemesis, second, A)  # as soon as it is free
        await nemesis.end(again)

    asyncio.run(flow())
    assert world.state(A) == "running"


def test_of_several_those_are_hit_that_no_other_fault_has(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        held = await nemesis.pause(A)
        killed = await nemesis.kill(A, B)
        assert killed.evidence[A] == "another fault had it already"
        restarted = await nemesis.restart(A, C)
        assert restarted.wanted == [C] and list(restarted.evidence) == [C]
        await nemesis.end(killed)
        assert world.paused == {A} and world.down == set()
        await nemesis.end(held)

    asyncio.run(flow())
    assert not world.paused


def test_an_order_that_fails_undoes_what_it_did(nemesis: Nemesis, world: World) -> None:
    real = world.stop

    def stop(name: str) -> None:
        if name == B:
            raise FaultFailed(f"the supervisor has {B} held: not within 20 s")
        real(name)

    world.stop = stop  # type: ignore[method-assign]

    async def flow() -> None:
        with pytest.raises(FaultFailed, match="not within 20 s"):
            await nemesis.stop(A, B)
        assert nemesis.faults == [] and world.down == set() and world.started == [A]
        await nemesis.kill(A, B)  # nothing of it is left

    asyncio.run(flow())


def test_one_that_is_killed_in_the_instant_in_which_its_pause_ends(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        fault = await nemesis.pause(A, B)
        world.falls = {A}
        await nemesis.end(fault)
        assert fault.ended_s is not None

    asyncio.run(flow())
    assert world.down == {A} and not world.paused and world.started == []


def test_one_that_comes_back_by_itself_in_the_instant_in_which_it_is_started(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        fault = await nemesis.kill(A)
        world.rises = {A}
        await nemesis.end(fault)
        with pytest.raises(AlreadyRuns):
            world.start(A)

    asyncio.run(flow())
    assert world.down == set() and world.started == []


def test_a_restart_of_one_that_crashes_meanwhile_ends_with_it_serving(
    nemesis: Nemesis, world: World
) -> None:
    world.falls = {A}

    async def flow() -> None:
        fault = await nemesis.restart(A, B)
        assert fault.evidence == dict.fromkeys((A, B), "process 7 became 8")
        assert fault.ended_s is not None

    asyncio.run(flow())
    assert world.down == set() and sorted(world.started) == [A, B]


def test_what_stopped_for_safetys_sake_stays_down_when_the_fault_that_held_it_ends(
    nemesis: Nemesis, world: World
) -> None:
    """SIGTERM may find it doing so; another start would hide it, and could do harm."""

    async def flow() -> None:
        fault = await nemesis.stop(A, B)
        world.statuses[A] = EXIT_SAFETY
        await nemesis.end(fault)
        assert await nemesis.stopped_for_safety() == [A]

    asyncio.run(flow())
    assert world.down == {A} and world.started == [B]


def test_one_that_has_just_crashed_can_crash_again(nemesis: Nemesis, world: World) -> None:
    """Power that goes twice: the end of the first one only waits."""

    async def flow() -> None:
        first = await nemesis.crash(A)
        world.mute = {A}
        ending = asyncio.create_task(nemesis.end(first))
        await asyncio.sleep(0.05)
        second = await nemesis.crash(A)
        world.mute = set()
        await ending
        await nemesis.end(second)

    asyncio.run(flow())
    assert world.done == [("crash", A), ("crash", A)]


def test_the_end_of_a_crash_does_not_wait_for_what_another_fault_keeps_down(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        crashed = await nemesis.crash(A)
        killed = await nemesis.kill(A)
        await asyncio.wait_for(nemesis.end(crashed), 5)
        assert world.down == {A}
        await nemesis.end(killed)

    asyncio.run(flow())
    assert world.down == set()


# --- damage and lies


def test_a_file_that_is_not_there_costs_nobody_a_process(nemesis: Nemesis, world: World) -> None:
    async def flow() -> None:
        with pytest.raises(ConfigError, match="no data file nothing"):
            await nemesis.corrupt_file(A, path="nothing")
        assert nemesis.faults == [] and world.down == set()
        world.down = {B}
        with pytest.raises(ConfigError, match="no data file nothing"):
            await nemesis.corrupt_file(B, path="nothing")

    asyncio.run(flow())
    assert world.started == [A, B], "what was down before is not held for ever"


def test_damage_to_one_that_falls_meanwhile_is_none(nemesis: Nemesis, world: World) -> None:
    world.falls = {A}

    async def flow() -> None:
        with pytest.raises(NotRunning):
            await nemesis.corrupt_file(A)

    asyncio.run(flow())
    assert nemesis.faults == [] and world.done == [] and world.started == []


def test_a_lie_that_another_fault_forestalls_is_told_by_nobody(
    nemesis: Nemesis, world: World, testnet: Testnet
) -> None:
    async def flow() -> None:
        await nemesis.kill(A)
        with pytest.raises(NotRunning):
            await nemesis.byzantine("silent", A)
        lie = await nemesis.byzantine("silent", A, B)
        assert lie.wanted == [B] and not byzantine_mode(testnet, A)
        await nemesis.end(lie)

    asyncio.run(flow())
    assert not byzantine_mode(testnet, B) and world.down == {A}


def test_a_liar_that_does_not_start_is_honest_again(
    nemesis: Nemesis, world: World, testnet: Testnet
) -> None:
    world.broken = B

    async def flow() -> None:
        with pytest.raises(FaultFailed, match="ended at once"):
            await nemesis.byzantine("silent", A, B)

    asyncio.run(flow())
    assert not byzantine_mode(testnet, A) and not byzantine_mode(testnet, B)
    assert nemesis.faults == [] and world.down == {B}


def test_a_liar_that_another_fault_keeps_down_will_start_honest(
    nemesis: Nemesis, world: World, testnet: Testnet
) -> None:
    async def flow() -> None:
        lie = await nemesis.byzantine("silent", A)
        killed = await nemesis.kill(A)
        await nemesis.end(lie)
        assert world.down == {A} and not byzantine_mode(testnet, A)
        await nemesis.end(killed)

    asyncio.run(flow())
    assert world.down == set()
