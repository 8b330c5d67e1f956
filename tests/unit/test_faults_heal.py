"""What a nemesis orders and ends, on processes that are not there: who is told what."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from cluster import faults_orders
from cluster.faults_api import Nemesis
from cluster.faults_targets import DOWN, RUNNING, FaultFailed, Target
from cluster.faults_wire import Told
from cluster.supervisor import EXIT_SAFETY
from cluster.testnet import TestnetOptions, create_testnet
from net.injection_plan import NOTHING, Plan
from protocol.errors import ConfigError
from store.testnet import ProcessEntry, Testnet

BROKEN = "execution-0"


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    folder = tmp_path_factory.mktemp("heal") / "testnet"
    return create_testnet(folder, TestnetOptions(traders=0, free_ports=True))


class World:
    """Plans of processes in a dictionary; `broken` never serves, and ends with `status`."""

    def __init__(self, broken: str = "", status: int | None = None) -> None:
        self.broken = broken
        self.status = status
        self.down: set[str] = set()
        self.plans: dict[str, Plan] = {}
        self.started: list[str] = []
        self.looks = 0

    def state(self, name: str) -> str:
        return DOWN if name in self.down else RUNNING

    def identity(self, name: str) -> str:
        self.looks += 1
        return "" if name in self.down else "7"

    def exit_status(self, name: str) -> int | None:
        return self.status if name in self.down & set(self.started) else None

    def kill(self, name: str) -> None:
        self.down.add(name)

    def start(self, name: str) -> None:
        self.started.append(name)
        if name == self.broken:
            raise FaultFailed(f"{name} ended at once")
        self.down.discard(name)

    async def read(self, entry: ProcessEntry) -> Told:
        return Told(plan=self.plans.get(entry.name, NOTHING))

    async def order(self, entry: ProcessEntry, plan: Plan) -> Told:
        names = [toxic.name for toxic in plan.toxics]
        if len(set(names)) < len(names):
            raise ConfigError("a name is used once")
        self.plans[entry.name] = plan
        return Told(plan=plan)

    async def clear(self, entry: ProcessEntry) -> Told:
        self.plans.pop(entry.name, None)
        return Told()


def nemesis_of(testnet: Testnet, world: World, monkeypatch: pytest.MonkeyPatch) -> Nemesis:
    async def serves(address: str) -> None:
        return None

    monkeypatch.setattr(faults_orders, "probe", serves)
    monkeypatch.setattr(faults_orders, "read_faults", world.read)
    monkeypatch.setattr(faults_orders, "order_faults", world.order)
    monkeypatch.setattr(faults_orders, "clear_faults", world.clear)
    return Nemesis(testnet, cast(Target, world))


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
        assert not nemesis._watched

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

        monkeypatch.setattr(nemesis, "_start", delayed)
        monkeypatch.setattr(nemesis, "_count_lies", lambda *_: asyncio.sleep(0))
        monkeypatch.setattr(nemesis.target, "stop", nemesis.target.kill, raising=False)
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


def test_one_that_is_about_to_fail_on_damaged_files_gets_them_back(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor has just started it again when the fault ends."""
    files = {"history": b"right"}

    class Damaged(World):
        def files(self, name: str) -> dict[str, int]:
            return {path: len(raw) for path, raw in files.items()}

        def read_file(self, name: str, path: str) -> bytes:
            return files[path]

        def write_file(self, name: str, path: str, raw: bytes) -> None:
            files[path] = raw

        def keep_down(self, name: str) -> None:
            self.down.add(name)

    world = Damaged()

    async def flow() -> None:
        nemesis = nemesis_of(testnet, world, monkeypatch)
        fault = await nemesis.corrupt_file(BROKEN)
        assert files != {"history": b"right"} and BROKEN not in world.down

        async def fails_at_once(address: str) -> None:
            if files != {"history": b"right"}:
                world.down.add(BROKEN)
                raise ConnectionRefusedError

        monkeypatch.setattr(faults_orders, "probe", fails_at_once)
        await nemesis.end(fault)
        assert "would not run with that" in fault.evidence[BROKEN]

    asyncio.run(flow())
    assert files == {"history": b"right"} and BROKEN not in world.down
