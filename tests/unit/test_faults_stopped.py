"""Who stopped for safety's sake is named, whoever runs the testnet: `status` and `faults list`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import typer
from faults_world import World, nemesis_of
from typer.testing import CliRunner

from cluster import commands, faults_stopped
from cluster.faults_hold import RunFolder, Standing
from cluster.faults_orders import ActiveFault
from cluster.faults_stopped import safety_stops, unhealed
from cluster.lock import SupervisorLock
from store.testnet import Testnet

A, B, C = "validator-0", "validator-1", "validator-2"


def container(name: str, **state: Any) -> dict[str, Any]:
    return {"Name": f"/net-{name}-1", "State": {"Restarting": False, "ExitCode": 0, **state}}


def described(monkeypatch: pytest.MonkeyPatch, *names: dict[str, Any]) -> None:
    found = {one["Name"][5:-2]: one for one in names}
    monkeypatch.setattr(faults_stopped, "described_containers", lambda _: found)


def test_containers_that_docker_starts_again_are_told_from_those_that_stay_down(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(
        monkeypatch, container(A, Running=True, Restarting=True, ExitCode=5),
        container(B, Running=False, ExitCode=5), container(C, Running=True),
        container("prover-0", Running=True, Restarting=True, ExitCode=1),
    )  # fmt: skip
    tried, stays = safety_stops(testnet)
    assert tried.startswith(f"{A} stopped for safety's sake, and docker starts it again")
    assert tried.endswith(f"docker stop net-{A}-1")
    assert stays == f"{B} stopped for safety's sake and stays down; its log says why"
    described(monkeypatch)
    assert safety_stops(testnet) == []


def test_the_supervisor_knows_its_own(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, container(A, Running=False, ExitCode=5))
    folder = RunFolder(testnet.directory)
    lock = SupervisorLock(testnet.directory)
    try:
        folder.clear()
        folder.tell(B, Standing("failed", 0, 5))
        folder.tell(C, Standing("failed", 0, 2))
        folder.tell("prover-0", Standing("running", 1, 5))
        assert safety_stops(testnet) == [
            f"{B} stopped for safety's sake and stays down; its log says why"
        ]
    finally:
        folder.clear()
        lock.release()


@pytest.mark.parametrize("answer", [0, 3, 99])
def test_status_names_them_where_not_all_answer(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    described(monkeypatch, container(B, Running=False, ExitCode=5))

    async def shown(testnet: Testnet, **_: Any) -> int:
        return min(answer, len(testnet.processes))

    monkeypatch.setattr("client.status.show_status", shown)
    app = typer.Typer()
    commands.register(app)
    done = CliRunner().invoke(app, ["status", str(testnet.directory)])
    assert done.exit_code == (0 if answer else 1)
    assert (f"{B} stopped for safety's sake" in done.stderr) == (answer < 99), done.stderr


def test_the_list_of_faults_names_them(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.down = {A, B}
    world.statuses = {A: 5, B: 1}
    found = asyncio.run(nemesis_of(testnet, world, monkeypatch).active())
    assert found == [
        ActiveFault(A, "process", "down, stopped for safety's sake"),
        ActiveFault(B, "process", "down"),
    ]


def test_trouble_of_several_is_told_once() -> None:
    troubles = {"docker: no answer": [A, C], f"{B} does not serve": [B]}
    assert unhealed(troubles, []) == (
        f"{A}, {C}: docker: no answer; {B} does not serve; its log says why. All others are healed"
    )
    assert "; prover-0 stopped for safety's sake and stays down; " in unhealed(
        troubles, ["prover-0"]
    )
