"""Damage, lies and their end in the midst of trouble: cancellations, back-offs, errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_world import Files, World, nemesis_of

from cluster import faults_orders
from cluster.faults_api import Nemesis
from cluster.faults_damage import byzantine_mode, set_byzantine
from cluster.faults_targets import FaultFailed, LocalTarget, NotRunning
from protocol.errors import ConfigError
from store.ownership import RESTORED_NAME, UNSIGNING
from store.testnet import Testnet

A, B, BROKEN = "validator-0", "validator-1", "execution-0"


def fails_on_damage(
    world: Files, before: dict[str, bytes], name: str, lasts: Callable[[], bool]
) -> Callable[[str], object]:
    """A probe of one that ends as soon as it is looked at, unless its files are right."""

    async def probe(address: str) -> None:
        if world.kept["history"] != before["history"] and not lasts():
            world.down.add(name)
        if name in world.down:
            raise ConnectionRefusedError

    return probe


def test_a_lie_with_a_number_that_is_none_says_what_it_may_be(testnet: Testnet) -> None:
    prover, sequencer = testnet.process("prover-0"), testnet.process("sequencer-0")
    with pytest.raises(ConfigError, match=r":N behind it .* mints-cash:1"):
        set_byzantine(testnet, prover, "mints-cash:x")
    with pytest.raises(ConfigError) as refused:
        set_byzantine(testnet, sequencer, "equivocates:3")
    assert ":N" not in str(refused.value)


# --- damaged files


def test_one_that_is_about_to_fail_on_damaged_files_gets_them_back(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor has just started it again when the fault ends."""
    files = {"history": b"right"}
    world = Files(files)

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        fault = await nemesis.corrupt_file(BROKEN)
        assert files != {"history": b"right"} and BROKEN not in world.down

        fails = fails_on_damage(world, {"history": b"right"}, BROKEN, lambda: False)
        monkeypatch.setattr(faults_orders, "probe", fails)
        await nemesis.end(fault)
        assert "would not run with that" in fault.evidence[BROKEN]

    asyncio.run(flow())
    assert files == {"history": b"right"} and BROKEN not in world.down


@pytest.mark.parametrize(
    ("name", "ran"), [("validator-1", True), ("validator-1", False), (BROKEN, True)]
)
def test_a_member_that_ran_with_the_damage_signs_nothing_by_its_files_of_before(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, name: str, ran: bool
) -> None:
    """It may have signed since, and would sign against itself."""
    files = {"history": b"right"}
    world = Files(files)

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        answers = ran

        fails = fails_on_damage(world, {"history": b"right"}, name, lambda: answers)
        monkeypatch.setattr(faults_orders, "probe", fails)
        fault = await nemesis.corrupt_file(name)
        answers = False
        await nemesis.end(fault)

    asyncio.run(flow())
    marked = {RESTORED_NAME: UNSIGNING.encode()} if ran and name != BROKEN else {}
    assert files == {"history": b"right", **marked} and name not in world.down


@pytest.mark.parametrize("at", ["write_file", "start"])
def test_who_is_cancelled_in_the_damage_puts_the_files_back(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """There is no other copy of them."""
    before = {"history": b"right"}
    world = Files(dict(before))

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        monkeypatch.setattr(
            faults_orders, "probe", fails_on_damage(world, before, A, lambda: False)
        )
        begun, go_on = threading.Event(), threading.Event()
        real = getattr(world, at)

        def slow(*given: object) -> None:
            begun.set()
            go_on.wait(10)
            real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(world, at, slow)
            damaging = asyncio.ensure_future(nemesis.corrupt_file(A))
            await asyncio.to_thread(begun.wait, 10)
            damaging.cancel()
            asyncio.get_running_loop().call_later(0.05, go_on.set)
            await asyncio.wait([damaging])
        assert damaging.cancelled() and world.kept["history"] != b"right"
        assert await nemesis.heal() == []

    asyncio.run(flow())
    # One that was about to start may have signed.
    marked = {RESTORED_NAME: UNSIGNING.encode()} if at == "start" else {}
    assert world.kept == {**before, **marked} and world.down == set()


def test_a_write_that_fails_halfway_leaves_no_damage(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Files({"history": b"right"})
    real = world.write_file

    def full(name: str, path: str, raw: bytes) -> None:
        if raw != b"right":
            real(name, path, raw[:2])
            raise FaultFailed("no space left on device")
        real(name, path, raw)

    monkeypatch.setattr(world, "write_file", full)

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        with pytest.raises(FaultFailed, match="no space left"):
            await nemesis.corrupt_file(A)
        assert nemesis.faults == []
        world.written.clear()
        await nemesis.heal()

    asyncio.run(flow())
    assert world.kept == {"history": b"right"} and world.down == set()
    assert world.written == [], "a fault that never was has nothing to undo"


def test_files_of_before_come_alone_and_the_mark_comes_first(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that was made since fits no older one; an older mark may say another thing."""
    before = {"history": b"right", RESTORED_NAME: b"passing"}
    world = Files(dict(before))

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        lasts = True
        monkeypatch.setattr(
            faults_orders, "probe", fails_on_damage(world, before, A, lambda: lasts)
        )
        fault = await nemesis.corrupt_file(A)
        world.kept["history-2"] = b"newer"
        world.written.clear()
        lasts = False
        await nemesis.end(fault)

    asyncio.run(flow())
    assert world.kept == {"history": b"right", RESTORED_NAME: UNSIGNING.encode()}
    assert world.written == [RESTORED_NAME, "history"] and world.down == set()


def test_a_file_of_a_local_process_is_removed(testnet: Testnet, tmp_path: Path) -> None:
    target = LocalTarget(testnet)
    folder = testnet.data_path(A)
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "7.seg").write_bytes(b"newer")
    target.remove_file(A, "log/7.seg")
    assert target.files(A) == {}


def test_one_that_waits_for_its_back_off_has_not_refused_the_damage(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It crashed of something else; by its files of before it could sign nothing more."""
    world = Files({"history": b"right"})

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        fault = await nemesis.corrupt_file(A)
        world.down = {A}
        await nemesis.end(fault)
        assert "would not run" not in fault.evidence[A]

    asyncio.run(flow())
    assert world.down == set() and world.kept.keys() == {"history"}


def test_one_that_was_down_is_not_held_by_a_damage_that_failed(
    nemesis: Nemesis, world: World
) -> None:
    async def flow() -> None:
        world.down = {A}
        with pytest.raises(ConfigError, match="no data file nothing"):
            await nemesis.corrupt_file(A, path="nothing")

    asyncio.run(flow())
    assert world.started == [A] and world.down == set()


# --- lies


def test_a_liar_that_is_paused_as_its_lie_ends_goes_on_honest(
    nemesis: Nemesis, world: World, testnet: Testnet
) -> None:
    """It would go on as it was, with the lie in its memory, for ever."""

    async def flow() -> None:
        lie = await nemesis.byzantine("silent", A, B)
        paused = await nemesis.pause(A)
        world.done.clear()
        await nemesis.end(lie)
        assert world.done == [("crash", A), ("stop", B)]
        await nemesis.end(paused)

    asyncio.run(flow())
    assert not byzantine_mode(testnet, A) and world.down == world.paused == set()


# --- healing


def test_a_target_that_does_not_answer_once_keeps_nothing_from_being_healed(
    nemesis: Nemesis, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mute(name: str) -> str:
        raise FaultFailed("docker inspect: no answer in 60 s")

    async def flow() -> None:
        await nemesis.delay(B, latency_ms=5)
        paused = await nemesis.pause(A)
        with monkeypatch.context() as patch:
            patch.setattr(world, "identity", mute)
            await nemesis.end(paused)
        assert not world.paused
        await nemesis.pause(A)
        with monkeypatch.context() as patch:
            patch.setattr(world, "identity", mute)
            real, asked = world.state, set[str]()

            def once(name: str) -> str:
                if name == A and name not in asked:
                    asked.add(name)
                    mute(name)
                return real(name)

            patch.setattr(world, "state", once)
            assert await nemesis.heal() == []

    asyncio.run(flow())
    assert not world.paused and world.suffering == {}


def test_a_fault_that_is_healed_in_the_instant_in_which_it_hits(
    nemesis: Nemesis, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(name: str) -> None:
        nemesis.release(nemesis.faults[0])
        raise NotRunning(name)

    monkeypatch.setattr(world, "kill", kill)
    with pytest.raises(NotRunning):
        asyncio.run(nemesis.kill(A))
