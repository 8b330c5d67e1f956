"""A process that was started and does not go on: what is told of it, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from faults_world import World, nemesis_of

from client.faults import EXIT_SAFETY, EXIT_USAGE
from cluster import faults_ready
from cluster.faults_api import Nemesis
from cluster.faults_ready import last_line, restarted, stopped_for_good, unready
from cluster.faults_targets import FaultFailed, LocalTarget
from store.testnet import Testnet

A, B = "validator-0", "validator-1"


@pytest.mark.parametrize(
    ("written", "told"),
    [(f"older\ntrilemma {A}: config/{A}.toml is no TOML\n", f": config/{A}.toml is no TOML; see "),
     ('{"event": "safety violation, stopping", "error": "it signed more", "time": 3}\n',
      ": safety violation, stopping: it signed more; see "),
     ('{"event": "stopped"}\n', ": stopped; see "), ('{"other": 1}\n', ': {"other": 1}; see '),
     ("", "; it left no word in ")],
)  # fmt: skip
def test_what_it_said_last_is_told_with_the_log(testnet: Testnet, written: str, told: str) -> None:
    log = testnet.log_path(A)
    log.parent.mkdir(exist_ok=True)
    log.write_text(written)
    target = LocalTarget(testnet)
    assert last_line(target, A) == f"{told}{log}"
    log.unlink()
    assert last_line(target, A) == f"; it left no word in {log}"
    assert str(stopped_for_good(target, A, 2)).startswith(f"{A} stopped for good with status 2; ")


def test_one_that_stops_as_it_starts_is_told_with_its_reason(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    monkeypatch.setattr("cluster.faults_orders.stopped_for_good", told_by(world))

    async def gone(_: str) -> None:
        world.down, world.statuses = {A}, {A: EXIT_USAGE}
        raise ConnectionRefusedError

    nemesis = nemesis_of(testnet, world, monkeypatch)
    monkeypatch.setattr("cluster.faults_orders.probe", gone)
    with pytest.raises(FaultFailed, match=f"{A} said why, 2"):
        asyncio.run(nemesis.wait_ready(A))


def told_by(world: World) -> object:
    def told(target: object, name: str, status: int) -> FaultFailed:
        assert target is world
        return FaultFailed(f"{name} said why, {status}")

    return told


def test_one_that_was_down_has_started_and_became_nothing(
    nemesis: Nemesis, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults_ready, "readiness", lambda *_: "")
    world.down = {A}
    fault = asyncio.run(restarted(nemesis, [A, B]))
    assert fault.evidence == {A: "started as process 8", B: "process 7 became 8"}


@pytest.mark.parametrize("status", [EXIT_USAGE, EXIT_SAFETY])
def test_a_restart_is_none_where_the_process_ends_once_it_serves(
    nemesis: Nemesis, world: World, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    looks: list[str] = []

    def look(_: Testnet, name: str) -> str:
        looks.append(name)
        if len(looks) > 3:
            world.down, world.statuses = {A}, {A: status}
        return "it has not looked at what it keeps"

    monkeypatch.setattr(faults_ready, "_POLL_S", 0.001)
    monkeypatch.setattr(faults_ready, "readiness", look)
    with pytest.raises(FaultFailed, match=f"{A} stopped for good with status {status}"):
        asyncio.run(restarted(nemesis, [A]))


def test_one_that_takes_its_time_is_waited_for_and_then_named(
    nemesis: Nemesis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[str] = []

    def look(_: Testnet, name: str) -> str:
        looks.append(name)
        return "12 blocks behind" if name == B or len(looks) < 5 else ""

    monkeypatch.setattr(faults_ready, "_POLL_S", 0.001)
    monkeypatch.setattr(faults_ready, "READY_S", 0.1)
    monkeypatch.setattr(faults_ready, "readiness", look)
    assert asyncio.run(unready(nemesis, [A], 600.0)) == {} and looks.count(A) == 5
    asyncio.run(restarted(nemesis, [A, B]))
    told = capsys.readouterr().err
    assert told == f"{B} serves, and is not ready yet: 12 blocks behind\n"


def test_the_log_of_a_container_is_where_docker_has_it(world: World) -> None:
    assert last_line(world, A) == f"; see: docker compose logs {A}"  # type: ignore[arg-type]


def test_a_start_that_fails_at_once_says_why(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = LocalTarget(testnet)
    log = testnet.log_path(A)
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"trilemma {A}: the key is gone\n")
    stands = iter(["held", "held"])
    (testnet.directory / "run").mkdir(exist_ok=True)
    monkeypatch.setattr(target, "_stands", lambda _: next(stands, "failed"))
    with pytest.raises(FaultFailed, match=rf"{A} ended at once .*: the key is gone; see "):
        target.start(A)
