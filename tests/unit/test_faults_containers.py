"""Containers as targets, on a docker that is made up: which are found, and what is asked of it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cluster import faults_containers
from cluster.faults_containers import SERVICE_LABEL, find_containers
from cluster.faults_damage import flip_bits
from cluster.faults_targets import (
    DOWN,
    PAUSED,
    RUNNING,
    AlreadyRuns,
    FaultFailed,
    NotRunning,
    find_target,
)
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from store.testnet import Testnet

DATA = bytes(1_000)


class Docker:
    """Containers by id, and the commands that were given."""

    def __init__(self, testnet: Testnet) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.dies_at = ""
        self.files = {"LOCK": b"1", "log/0.seg": DATA}
        self.containers: dict[str, dict[str, Any]] = {}
        for name, source in (("validator-0", testnet.directory), ("validator-1", Path("/other"))):
            self.containers[f"id-{name}"] = {
                "Id": f"id-{name}", "Image": "sha256:1",
                "Config": {"Labels": {SERVICE_LABEL: name}, "User": "10001:10001"},
                "Mounts": [{"Source": str(source), "Destination": "/testnet"}],
                "State": {"Running": True, "Paused": False, "Pid": 7, "StartedAt": "t0",
                          "ExitCode": 0},
                "NetworkSettings": {"Networks": {"net": {"Aliases": [name]}}},
            }  # fmt: skip

    def __call__(self, *arguments: str, given: bytes | None = None) -> bytes:
        self.commands.append(arguments)
        verb, last = arguments[0], arguments[-1]
        if verb == "ps":
            return " ".join(self.containers).encode()
        if verb == "inspect":
            return json.dumps([self.containers[one] for one in arguments[1:]]).encode()
        if verb == "cp":
            return self._copy(arguments, given)
        if verb == "network":
            return b""
        if verb == "run":
            del self.files[last.partition("/data/validator-0/")[2]]
            return b""
        state = self.containers[last]["State"]
        if verb == self.dies_at:
            state.update(Running=False, Paused=False, ExitCode=137)
            raise FaultFailed(f"docker {verb}: Container {last} is not running")
        if verb in ("kill", "stop"):
            ended = 137 if verb == "kill" else 0
            state.update(Running=False, Restarting=False, ExitCode=ended)
        elif verb == "start" and not state.get("Restarting"):
            state.update(Running=True, StartedAt="t1")
        elif verb in ("pause", "unpause"):
            state.update(Paused=verb == "pause")
        return b""

    def _copy(self, arguments: tuple[str, ...], given: bytes | None) -> bytes:
        if given is not None:
            with tarfile.open(fileobj=io.BytesIO(given)) as archive:
                (member,) = archive.getmembers()
                read = archive.extractfile(member)
                assert read is not None
                folder = arguments[-1].partition("/data/validator-0")[2].strip("/")
                self.files[f"{folder}/{member.name}".lstrip("/")] = read.read()
            return b""
        wanted = arguments[1].partition("/data/validator-0")[2].strip("/")
        if wanted and wanted not in self.files:
            raise FaultFailed(f"docker cp: could not find the file {wanted}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, raw in self.files.items():
                if wanted in ("", path):
                    inside = path.rpartition("/")[2] if wanted else f"validator-0/{path}"
                    member = tarfile.TarInfo(inside)
                    member.size, member.uid = len(raw), 10_001
                    archive.addfile(member, io.BytesIO(raw))
        return buffer.getvalue()


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    return create_testnet(tmp_path / "testnet", TestnetOptions(traders=0, free_ports=True))


@pytest.fixture
def docker(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> Docker:
    made_up = Docker(testnet)
    monkeypatch.setattr(faults_containers, "docker", made_up)
    return made_up


def test_containers_of_this_testnet_are_found(testnet: Testnet, docker: Docker) -> None:
    target = find_target(testnet)
    assert (target.kind, target.state("validator-0")) == ("containers", RUNNING)
    with pytest.raises(ConfigError, match="validator-1 has no container"):
        target.state("validator-1")


def test_a_container_is_killed_paused_and_started(testnet: Testnet, docker: Docker) -> None:
    target = find_containers(testnet)
    assert target is not None
    first = target.identity("validator-0")
    target.pause("validator-0")
    assert target.state("validator-0") == PAUSED
    target.resume("validator-0")
    target.kill("validator-0")
    assert (target.state("validator-0"), target.identity("validator-0")) == (DOWN, "")
    assert target.exit_status("validator-0") == 137
    for act in (target.kill, target.stop, target.crash, target.pause, target.resume):
        with pytest.raises(NotRunning, match="is not running"):
            act("validator-0")
    target.start("validator-0")
    assert target.identity("validator-0") not in ("", first)
    with pytest.raises(AlreadyRuns):
        target.start("validator-0")


@pytest.mark.parametrize("verb", ["kill", "stop", "crash", "pause", "resume"])
def test_a_container_that_goes_down_in_this_instant_is_not_running(
    testnet: Testnet, docker: Docker, verb: str
) -> None:
    target = find_containers(testnet)
    assert target is not None
    if verb == "resume":
        target.pause("validator-0")
    docker.dies_at = {"resume": "unpause", "crash": "kill"}.get(verb, verb)
    with pytest.raises(NotRunning):
        getattr(target, verb)("validator-0")


def test_a_pause_that_docker_refuses_is_told_as_docker_does(
    testnet: Testnet, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: str, given: bytes | None = None) -> bytes:
        if arguments[0] == "pause":
            raise FaultFailed("docker pause: no cgroups here")
        return docker(*arguments, given=given)

    target = find_containers(testnet)
    assert target is not None
    monkeypatch.setattr(faults_containers, "docker", refuses)
    with pytest.raises(FaultFailed, match="no cgroups here"):
        target.pause("validator-0")


def test_a_container_that_waits_for_its_restart_is_down(testnet: Testnet, docker: Docker) -> None:
    """Docker has it as running, with no process: it can be neither paused nor told anything."""
    target = find_containers(testnet)
    assert target is not None
    docker.containers["id-validator-0"]["State"].update(Restarting=True, Pid=0, ExitCode=5)
    assert (target.state("validator-0"), target.identity("validator-0")) == (DOWN, "")
    assert target.exit_status("validator-0") == 5


def test_a_container_that_waits_for_its_restart_is_started_at_once(
    testnet: Testnet, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.faults_targets.ACT_S", 0.1)
    target = find_containers(testnet)
    assert target is not None
    docker.containers["id-validator-0"]["State"].update(Restarting=True, Pid=0, ExitCode=5)
    target.start("validator-0")
    assert target.state("validator-0") == RUNNING


def test_a_container_leaves_its_network_and_returns(testnet: Testnet, docker: Docker) -> None:
    target = find_containers(testnet)
    assert target is not None and target.sets_network()
    target.disconnect("validator-0")
    target.connect("validator-0")
    assert [command for command in docker.commands if command[0] == "network"] == [
        ("network", "disconnect", "--force", "net", "id-validator-0"),
        ("network", "connect", "--alias", "validator-0", "net", "id-validator-0"),
    ]


def test_files_in_a_volume_are_damaged(testnet: Testnet, docker: Docker) -> None:
    target = find_containers(testnet)
    assert target is not None
    assert target.files("validator-0") == {"LOCK": 1, "log/0.seg": len(DATA)}
    damage = flip_bits(target, "validator-0", Random(1), bits=3)
    after = docker.files["log/0.seg"]
    assert sum((a ^ b).bit_count() for a, b in zip(DATA, after, strict=True)) == 3
    target.write_file("validator-0", damage.path, damage.before)
    assert docker.files["log/0.seg"] == DATA


def test_a_file_is_made_and_removed_in_a_volume(testnet: Testnet, docker: Docker) -> None:
    """As the mark of a restore is, which no process had before."""
    target = find_containers(testnet)
    assert target is not None
    target.write_file("validator-0", "RESTORED", b"mark")
    assert docker.files == {"LOCK": b"1", "log/0.seg": DATA, "RESTORED": b"mark"}
    target.remove_file("validator-0", "RESTORED")
    assert docker.files == {"LOCK": b"1", "log/0.seg": DATA}
    ran = next(one for one in docker.commands if one[0] == "run")
    assert ran[ran.index("--user") + 1] == "10001:10001" and "--rm" in ran


def test_without_docker_nothing_runs(testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: str, given: bytes | None = None) -> bytes:
        raise FaultFailed("no daemon")

    monkeypatch.setattr(faults_containers, "docker", fails)
    with pytest.raises(ConfigError, match="neither a supervisor nor a container"):
        find_target(testnet)
