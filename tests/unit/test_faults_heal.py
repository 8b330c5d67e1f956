"""What a nemesis orders and ends, on processes that are not there: who is told what."""

from __future__ import annotations

import asyncio
import threading

import pytest
from faults_world import World, nemesis_of

from cluster.faults_damage import byzantine_mode
from cluster.faults_targets import FaultFailed
from cluster.supervisor import EXIT_SAFETY
from protocol.errors import Code, RemoteFault
from store.testnet import Testnet

BROKEN = "execution-0"


def test_one_that_stops_for_safetys_sake_as_it_starts_is_named_and_no_failure(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A liar whose key signed what its state does not know."""
    world = World(BROKEN, EXIT_SAFETY)
    world.down = {"validator-2", BROKEN}
    assert asyncio.run(nemesis_of(testnet, world, monkeypatch).heal()) == [BROKEN]
    assert world.down == {BROKEN}


def test_one_that_does_not_serve_keeps_nobody_else_from_being_healed(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(BROKEN)

    async def flow() -> None:
        await nemesis_of(testnet, world, monkeypatch).partition(isolate="validator-0")
        assert set(world.plans) >= {"validator-0", "validator-1", "prover-0"}
        world.down = {"validator-2", BROKEN}
        world.plans = {name: plan for name, plan in world.plans.items() if name not in world.down}
        later = nemesis_of(testnet, world, monkeypatch)
        with pytest.raises(FaultFailed, match=rf"^{BROKEN} ended at once.*others are healed"):
            await later.heal()

    asyncio.run(flow())
    assert not world.plans
    assert set(world.started) == {"validator-2", BROKEN}


def test_one_that_its_own_nemesis_cannot_bring_back_keeps_nobody_else_from_being_healed(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(BROKEN)

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        await nemesis.delay("validator-0", latency_ms=50)
        await nemesis.kill("validator-2")
        await nemesis.kill(BROKEN)
        with pytest.raises(FaultFailed, match=rf"^{BROKEN} ended at once.*others are healed"):
            await nemesis.heal()
        assert all(fault.ended_s is not None for fault in nemesis.faults)

    asyncio.run(flow())
    assert not world.plans and world.down == {BROKEN}


def test_nemeses_of_one_seed_order_one_kind_at_one_process(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two commands do: each is a nemesis of its own, with the default seed."""
    world = World()

    async def flow() -> None:
        for _ in range(2):
            nemesis = nemesis_of(testnet, world, monkeypatch)
            slow = await nemesis.delay("validator-0", latency_ms=50)
        assert len(world.plans["validator-0"].toxics) == 2
        await nemesis.end(slow)
        assert len(world.plans["validator-0"].toxics) == 1

    asyncio.run(flow())


def test_faults_that_are_over_are_not_looked_for_any_more(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a day orders thousands, and looks each second."""
    world = World()

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        lasting = await nemesis.delay("validator-0", latency_ms=50)
        for _ in range(20):
            await nemesis.end(await nemesis.loss("validator-0", loss_ppm=1_000))
        world.looks = 0
        await nemesis.note()
        assert world.looks == 1
        world.plans.clear()  # it started again
        await nemesis.note()
        assert len(world.plans["validator-0"].toxics) == 1
        await nemesis.end(lasting)
        assert not nemesis.plans._watched

    asyncio.run(flow())


def test_a_fault_that_begins_while_a_liar_starts_is_not_lost(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restart of a liar is no fault of its own, and takes its time."""

    async def flow() -> None:
        nemesis = nemesis_of(testnet, World(), monkeypatch)
        texts = []

        async def delayed(*_: object) -> None:
            texts.append((await nemesis.delay("validator-0", latency_ms=50)).text)

        monkeypatch.setattr(nemesis, "bring_up", delayed)
        liar = await nemesis.byzantine("silent", "validator-1")
        assert nemesis.faults[0] is liar
        await nemesis.end(liar)
        assert [fault.text for fault in nemesis.faults] == [liar.text, *texts]

    asyncio.run(flow())


def test_what_is_down_already_is_said_to_be(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.down = {"prover-0"}
    killed = asyncio.run(nemesis_of(testnet, world, monkeypatch).kill("prover-0", "validator-1"))
    assert killed.evidence == {
        "prover-0": "it was down already",
        "validator-1": "process 7 is gone",
    }


def test_a_liar_that_is_down_is_healed_as_all_others_are(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be stopped for that, and starts honest."""
    world = World()

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        await nemesis.byzantine("silent", "validator-1")
        await nemesis.kill("validator-1", "validator-2")
        later = nemesis_of(testnet, world, monkeypatch)
        assert await later.heal() == []

    asyncio.run(flow())
    assert world.down == set() and not byzantine_mode(testnet, "validator-1")


def test_one_that_broke_an_invariant_is_made_honest_and_stays_down(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        await nemesis.byzantine("silent", "validator-1")
        world.down, world.statuses["validator-1"] = {"validator-1"}, EXIT_SAFETY
        world.started.clear()
        later = nemesis_of(testnet, world, monkeypatch)
        assert await later.heal() == ["validator-1"]

    asyncio.run(flow())
    assert world.down == {"validator-1"} and not world.started
    assert not byzantine_mode(testnet, "validator-1")


DOCKER = "docker inspect: Cannot connect to the Docker daemon"


@pytest.mark.parametrize("when", [(1,), (2,), (1, 2)], ids=["before", "after", "never"])
def test_one_that_cannot_be_looked_at_keeps_nobody_else_from_being_healed(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, when: tuple[int, ...]
) -> None:
    """It is not started, as it may have stopped for safety's sake; what it suffers still ends. Each
    is looked at before and after."""
    world = World()
    hidden = ("validator-1", "prover-0")
    asked: dict[str, int] = {}

    def hide(name: str) -> None:
        asked[name] = asked.get(name, 0) + 1
        if name in hidden and asked[name] in when:
            raise FaultFailed(DOCKER)

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        await nemesis.delay("validator-1", "validator-0", latency_ms=50)
        await nemesis.pause("validator-3")
        await nemesis.kill("validator-2", "prover-0")
        world.down.add("execution-0")
        world.statuses["execution-0"] = EXIT_SAFETY
        status = world.exit_status
        monkeypatch.setattr(world, "exit_status", lambda name: (hide(name), status(name))[1])
        with pytest.raises(FaultFailed) as failed:
            await nemesis_of(testnet, world, monkeypatch).heal()
        said = str(failed.value)
        assert said.startswith(f"validator-1, prover-0: {DOCKER}; execution-0 stopped for safety")
        assert "others are healed" in said

    asyncio.run(flow())
    left = {"prover-0"} if 1 in when else set()
    assert world.down == {"execution-0", *left}
    assert set(world.started) == {"validator-2", "prover-0"} - left
    assert world.suffering == {} and world.paused == set()


def test_the_end_of_a_fault_starts_those_that_can_be_looked_at(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    hidden = {"validator-1", "prover-0"}

    def exit_status(name: str) -> int | None:
        if name in hidden:
            raise FaultFailed(DOCKER)
        return None

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        killed = await nemesis.kill("validator-1", "validator-2")
        other = await nemesis.kill("validator-3")
        monkeypatch.setattr(world, "exit_status", exit_status)
        await nemesis.end(other)
        assert world.started == ["validator-3"], "others are not its concern"
        with pytest.raises(FaultFailed, match="Cannot connect"):
            await nemesis.end(killed)

    asyncio.run(flow())
    assert world.down == {"validator-1"} and world.started == ["validator-3", "validator-2"]


def test_a_liar_that_cannot_be_stopped_is_known_for_one_the_next_time(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()

    def stop(name: str) -> None:
        raise FaultFailed("docker stop: no answer")

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        await nemesis.byzantine("silent", "validator-1")
        with monkeypatch.context() as patch:
            patch.setattr(world, "stop", stop)
            with pytest.raises(FaultFailed, match=r"^validator-1: docker stop"):
                await nemesis_of(testnet, world, patch).heal()
            assert byzantine_mode(testnet, "validator-1")
        before = world.pids["validator-1"]
        assert await nemesis_of(testnet, world, monkeypatch).heal() == []
        assert world.pids["validator-1"] > before

    asyncio.run(flow())
    assert not byzantine_mode(testnet, "validator-1")


def test_an_end_that_fails_keeps_nothing_else_from_being_healed(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault beside the processes, such as a forced action, may end with any refusal."""
    world = World()

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        await nemesis.kill("validator-1")

        async def refused() -> None:
            raise RemoteFault(Code.NOT_READY, "later")

        nemesis.until_end(nemesis.begin("forced-action", ["a"], "a acts"), refused)
        await nemesis.heal()
        assert all(fault.ended_s is not None for fault in nemesis.faults)

    asyncio.run(flow())
    assert world.down == set()


def test_faults_that_end_together_are_each_undone_once(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks first what it hit, which takes a while."""
    undone: list[str] = []

    async def flow() -> None:
        nemesis = nemesis_of(testnet, World(), monkeypatch)
        await nemesis.delay("validator-0", latency_ms=1)  # something to look at

        def undo(name: str):  # type: ignore[no-untyped-def]
            async def work() -> None:
                undone.append(name)

            return work

        faults = [nemesis.begin("x", [name], name) for name in "abcd"]
        for fault in faults:
            nemesis.until_end(fault, undo(fault.text))
        await asyncio.gather(*(nemesis.end(fault) for fault in faults[:3]))
        assert sorted(undone) == ["a", "b", "c"]
        await nemesis.end(faults[0])
        await nemesis.end(faults[3])
        assert sorted(undone) == ["a", "b", "c", "d"]

    asyncio.run(flow())
    assert len(undone) == 4


def test_what_is_done_to_a_process_is_seen_through(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever heals after a cancellation finds what the thread did, and not half of it."""
    world = World()

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        begun, go_on = threading.Event(), threading.Event()

        def slow(name: str) -> None:
            begun.set()
            go_on.wait(10)
            world.down.add(name)

        monkeypatch.setattr(world, "kill", slow)
        killing = asyncio.ensure_future(nemesis.kill("validator-1"))
        await asyncio.to_thread(begun.wait, 10)
        killing.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        await asyncio.wait([killing])
        assert killing.cancelled() and world.down == {"validator-1"}
        await nemesis.heal()

    asyncio.run(flow())
    assert world.down == set()
