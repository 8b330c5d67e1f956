"""One run's faults by the clock: who is hit when others have hit already, and what fails a run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faults_world import World, nemesis_of

from client.channel import Unreachable
from cluster.faults_course import Run, RunClock
from cluster.faults_kinds import Scene, Values, complete
from cluster.faults_schedule import Step, parse_experiment
from cluster.faults_targets import NotRunning
from cluster.faults_verdict import EXPECTATION, PROGRESS, SAFETY
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import SafetyViolation
from store.testnet import Testnet

ABOUT = """
[experiment]
name = "x"
description = "d"
expected = "e"
duration_s = 20
"""
A, B = "validator-0", "validator-1"


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    folder = tmp_path_factory.mktemp("schedule") / "testnet"
    return create_testnet(folder, TestnetOptions(traders=0, free_ports=True))


def run_of(testnet: Any, told: list[str]) -> Run:
    return Run(
        parse_experiment(ABOUT), testnet, 1, RunClock(),
        (lambda at_s, what, text: told.append(f"{what}: {text}"), lambda one: None),
    )  # fmt: skip


def acted(step: Step, scene: Any, exchange: Any = None) -> list[str]:
    """What a run tells of one step."""
    told: list[str] = []
    asyncio.run(asyncio.wait_for(run_of(None, told)._act(step, scene, exchange), 10))
    return told


def test_a_leader_that_nobody_names_ends_the_step_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        """An exchange whose validators never answer."""

        def channel(self, role: str) -> Silent:
            return self

        async def ask(self, *question: object) -> object:
            return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("cluster.faults_course.LEADER_S", 0.01)
    step = Step(0.0, 1.0, "pause", [], ["validator"], {})
    told = acted(step, None, Silent())
    assert told == ["trouble: pause at 0 s: nobody says in time who leads"]


@pytest.mark.parametrize("sequencers", [1, 4])
def test_sequencers_that_name_no_leader_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequencers: int
) -> None:
    options = TestnetOptions(traders=0, free_ports=True, sequencers=sequencers)
    testnet = create_testnet(tmp_path / "net", options)
    looks: list[int] = []

    async def sample(_: Testnet) -> dict[str, dict[str, str] | None]:
        looks.append(1)
        named = {"leader": "sequencer-2" if len(looks) > 2 else ""}
        statuses: dict[str, dict[str, str] | None] = {
            entry.name: named if entry.role == "sequencer" else None for entry in testnet.processes
        }
        statuses["sequencer-0"] = None
        return statuses

    monkeypatch.setattr("cluster.faults_course.sample", sample)
    monkeypatch.setattr("cluster.faults_course.LEADER_POLL_S", 0.0)
    found = asyncio.run(run_of(testnet, [])._leaders(["sequencer"], cast(Any, None)))
    expected = ("sequencer-0", 1) if sequencers == 1 else ("sequencer-2", 3)
    assert (found[0], len(looks)) == expected


def test_an_order_that_takes_too_long_is_not_laid_to_a_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def late(*order: object) -> object:
        raise TimeoutError

    monkeypatch.setattr("cluster.faults_course.apply", late)
    told = acted(Step(0.0, 1.0, "oracle-silence", [], [], {}), SimpleNamespace(nemesis=None))
    assert told == ["trouble: oracle-silence at 0 s: TimeoutError"]


def step_of(kind: str, *names: str, drawn: bool = False) -> Step:
    needed: Values = {"mode": "silent"} if kind == "byzantine" else {}
    return Step(0.0, 0.0, kind, list(names), [], complete(kind, needed), drawn)


PROCESS_KINDS = (
    "kill", "stop", "crash", "pause", "hammer-time", "kill-random", "corrupt-file", "byzantine",
    "restart",
)  # fmt: skip


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("kind", PROCESS_KINDS)
def test_a_fault_that_another_one_forestalls_is_skipped(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, kind: str, drawn: bool
) -> None:
    """In the instant in which it comes, another one has the process. That fails no run; but where
    the file names the fault, its run does not show what it is for."""
    world = World()
    nemesis = nemesis_of(testnet, world, monkeypatch)
    told: list[str] = []
    run = run_of(testnet, told)

    async def flow() -> None:
        held = await nemesis.kill(A)
        with monkeypatch.context() as patch:
            patch.setattr(run, "_able", lambda kind, names, nemesis: _same(names))
            await run._act(step_of(kind, A, drawn=drawn), Scene(nemesis, cast(Any, None)), None)
        assert nemesis.faults == [held] and world.down == {A}
        await nemesis.end(held)

    asyncio.run(flow())
    (line,) = told
    assert line.startswith(f"skipped: {kind}: {A} is stopped or started by another fault"), told
    failed = [(check.kind, check.name, check.ok) for check in run._checks]
    assert failed == ([] if drawn else [(EXPECTATION, f"it bit: {kind} at 0 s", False)])
    assert run._skips == drawn and run._liars == set() and world.down == set()


def test_a_liar_is_only_who_was_told_to_lie(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another fault has is honest, and answers for what it does."""
    nemesis = nemesis_of(testnet, World(), monkeypatch)
    run = run_of(testnet, [])

    async def flow() -> None:
        await nemesis.kill(A)
        monkeypatch.setattr(run, "_able", lambda kind, names, nemesis: _same(names))
        await run._act(step_of("byzantine", A, B), Scene(nemesis, cast(Any, None)), cast(Any, None))
        await nemesis.heal()

    asyncio.run(flow())
    assert run._liars == {B}


async def _same(names: list[str]) -> list[str]:
    return names


@pytest.mark.parametrize("kind", ["kill", "stop", "crash", "pause", "hammer-time", "kill-random"])
def test_a_fault_of_one_that_goes_down_by_itself_is_skipped(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world = World()
    world.falls = {A}
    nemesis = nemesis_of(testnet, world, monkeypatch)
    (told,) = acted(step_of(kind, A), Scene(nemesis, cast(Any, None)))
    assert told.startswith(f"skipped: {kind}: {A} is not running"), told
    assert nemesis.faults == [] and world.started == []


@pytest.mark.parametrize(
    "kind", ["delay", "loss", "bandwidth", "reset", "slicer", "limit-data", "clock",
             "clock-scrambler", "slow-disk", "full-disk", "read-only-disk", "partition",
             "partition-halves", "partition-one"],
)  # fmt: skip
def test_an_order_to_one_that_goes_down_by_itself_ends_no_run(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world = World()
    world.falls = {A}
    nemesis = nemesis_of(testnet, world, monkeypatch)
    names = (A, B) if kind.startswith("partition-") else (A,)
    told = acted(step_of(kind, *names), Scene(nemesis, cast(Any, None)))
    assert [line.partition(":")[0] for line in told] == [kind, "end"], told
    (fault,) = nemesis.faults
    assert not fault.bit and fault.ended_s is not None and world.suffering == {}


@pytest.mark.parametrize("kind", ["kill", "delay", "bad-input"])
def test_what_is_down_or_paused_is_left_out_before_a_fault_is_ordered(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    world = World()
    world.down, world.paused = {A}, {B}
    nemesis = nemesis_of(testnet, world, monkeypatch)
    (told,) = acted(step_of(kind, A, B), Scene(nemesis, cast(Any, None)))
    assert told == f"skipped: {kind}: none of {A}, {B} can suffer it now"
    assert nemesis.faults == [] and world.done == []


def test_a_restart_by_the_schedule_brings_nothing_back_that_stopped_for_safetys_sake(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hide that an invariant was broken, which is the first thing a run has to tell."""
    world = World()
    world.down, world.statuses = {A, B}, {A: 5, B: -9}
    nemesis = nemesis_of(testnet, world, monkeypatch)
    told = acted(step_of("restart", A, B), Scene(nemesis, cast(Any, None)))
    assert told == [f"restart: restart {B}", f"end: restart {B}"] and world.down == {A}
    (told,) = acted(step_of("restart", A), Scene(nemesis, cast(Any, None)))
    assert told.startswith("skipped: restart") and world.down == {A}


def test_one_fault_of_damage_is_of_one_process(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    nemesis = nemesis_of(testnet, World(), monkeypatch)
    (told,) = acted(step_of("corrupt-file", A, B), Scene(nemesis, cast(Any, None)))
    assert told.startswith("trouble: corrupt-file at 0 s: one process at a time")


def test_an_error_of_ours_in_what_nobody_awaits_fails_the_run() -> None:
    told: list[str] = []
    run = run_of(None, told)

    async def broken() -> None:
        raise KeyError("height")

    async def flow() -> None:
        task = asyncio.ensure_future(broken())
        await asyncio.wait([task])
        run._ended_well("every process is looked at", task)
        sound = asyncio.ensure_future(asyncio.sleep(60))
        run._ended_well("x", sound)
        sound.cancel()
        await asyncio.wait([sound])
        run._ended_well("x", sound)
        run._ended_well("x", None)

    asyncio.run(flow())
    assert told == ["trouble: KeyError: 'height'"]
    assert [check.name for check in run._checks] == ["every process is looked at"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(SafetyViolation("a gap in the events"), SAFETY), (Unreachable("nobody"), PROGRESS)],
)
def test_a_load_that_sees_an_invariant_broken_is_a_matter_of_safety(
    error: Exception, kind: str
) -> None:
    run = run_of(None, [])

    async def flow() -> None:
        running: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        running.set_exception(error)
        assert await run._loaded(cast(Any, running), cast(Any, None)) is None

    asyncio.run(flow())
    assert [(check.kind, check.ok) for check in run._checks] == [(kind, False)]


def test_a_hint_to_restart_names_the_process() -> None:
    assert str(NotRunning("prover-0")).endswith("start it with: trilemma faults restart prover-0")
