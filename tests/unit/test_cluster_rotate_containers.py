"""A validator's new key in a container, on a docker that is made up but for what its process does
with the files that it sees."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rotation_world import Killed, Life

from client.sdk import Exchange
from cluster import faults_containers, rotate, rotate_files
from cluster.faults_containers import SERVICE_LABEL
from cluster.faults_targets import FaultFailed
from cluster.rotate import Rotation
from cluster.rotate_files import Journal, RotationFiles
from cluster.rotate_places import ContainerPlace, LocalPlace, find_place
from cluster.testnet import TestnetOptions, contained, create_testnet
from node.process_peers import read_certificate
from protocol.errors import ConfigError
from protocol.keys import Key
from store.config import ProcessConfig, load_chain, load_config, load_process_key, parse_address
from store.files import path_of
from store.keyfiles import load_key
from store.ownership import claim_directory, may_sign
from store.testnet import Testnet

NAME = "validator-2"
USER = 10_001
CHANGES = (
    (rotate_files, "write_atomic"), (rotate_files, "sync_directory"), (os, "link"), (os, "replace"),
)  # fmt: skip


class Docker:
    """One container of a testnet; `volume` is what it has in /data, `signers` the keys that it
    could have signed with, one for each start."""

    def __init__(self, testnet: Testnet, volume: Path) -> None:
        self.volume = volume
        self.testnet = testnet
        self.running = False
        self.id = "id"
        self.signers: list[bytes | None] = []
        self.owners: dict[str, tuple[int, int, int]] = {}
        self.life = Life(1_000)
        paths = (testnet.genesis_path, testnet.config_path(NAME), testnet.key_path(NAME))
        self.mounts = [{"Source": str(path)} for path in paths]
        self.mounts.append({"Source": "/var/lib/docker/volumes/x/_data", "Destination": "/data"})

    def __call__(self, *arguments: str, given: bytes | None = None) -> bytes:
        verb = arguments[0]
        if verb == "ps":
            return self.id.encode()
        if verb == "inspect":
            return json.dumps([self.described()]).encode()
        if verb == "cp" and given is None:
            return self._copy_out(arguments[1].partition(":")[2])
        if verb in ("stop", "start") and arguments[-1] != self.id:
            raise FaultFailed(f"docker {verb}: No such container: {arguments[-1]}")
        self.life.change()
        if verb == "cp":
            assert given is not None
            self._copy_in(arguments[2].partition(":")[2], given)
        elif verb in ("stop", "start"):
            self.running = False
            if verb == "start":
                self.start()
        return b""

    def described(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Config": {"Labels": {SERVICE_LABEL: NAME}, "User": f"{USER}:{USER + 1}"},
            "Mounts": self.mounts,
            "State": {"Running": self.running, "Paused": False, "Pid": 7, "StartedAt": "t",
                      "ExitCode": 0},
        }  # fmt: skip

    def start(self) -> None:
        """What the process does first, with the files that the container has mounted by then."""
        config = self.config()
        try:
            chain = load_chain(config)
            key = load_process_key(config, chain)
            if config.certificate is not None:
                read_certificate(config.certificate, key)
            claim_directory(config, chain, key)
        except ConfigError:
            self.signers.append(None)
            return
        self.running = True
        self.signers.append(key.public if may_sign(config) else None)

    def config(self) -> ProcessConfig:
        """The configuration as the container sees it, with this host's paths of its volume."""
        config = load_config(self.testnet.config_path(NAME))
        paths = {"data": self.volume / config.data.relative_to("/data")}
        if config.certificate is not None:
            paths["certificate"] = self.volume / config.certificate.relative_to("/data")
        return msgspec.structs.replace(config, **paths)

    def _copy_out(self, inside: str) -> bytes:
        path = self.volume / Path(inside).relative_to("/data")
        if not path.exists():
            raise FaultFailed(f"docker cp: Could not find the file {inside} in container id")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(path, path.name)
        return buffer.getvalue()

    def _copy_in(self, folder: str, given: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(given)) as archive:
            (member,) = archive.getmembers()
            read = archive.extractfile(member)
            assert read is not None
            path = self.volume / Path(folder).relative_to("/data") / member.name
            path.write_bytes(read.read())
            self.owners[member.name] = member.uid, member.gid, member.mode


class World:
    """A rotation whose stakes have changed, with all but the swap behind it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.testnet = Testnet.load(directory / "net")
        self.docker = Docker(self.testnet, directory / "volume")
        monkeypatch.setattr(faults_containers, "docker", self.docker)
        monkeypatch.setattr(rotate, "readiness", lambda *_: "" if self.docker.running else "down")
        self.files = RotationFiles(self.place())

    def place(self) -> ContainerPlace:
        found = find_place(Testnet.load(self.testnet.directory), NAME)
        assert isinstance(found, ContainerPlace)
        return found

    def swap(self, journal: Journal) -> Path:
        exchange = Exchange.connect(self.testnet.directory)
        return Rotation(exchange, self.place(), payer="trader-00")._swap(journal)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder with a testnet for containers and the volume of the validator, which has run."""
    directory = tmp_path / "before"
    options = contained(TestnetOptions(free_ports=True, traders=1), "compose")
    testnet = create_testnet(directory / "net", options)
    config = load_config(testnet.config_path(NAME))
    data = directory / "volume" / NAME
    data.mkdir(parents=True)
    claim_directory(
        msgspec.structs.replace(config, data=data), testnet.chain(), load_key(config.key)
    )
    return directory


def begun(before: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Journal, Key, Key]:
    world = World(before, monkeypatch)
    with world.files.lock():
        journal = world.files.begin(world.place().free_peer())
    old, new = world.files.keys(journal)
    world.docker.start()
    assert world.docker.signers == [old.public]
    return world, journal, old, new


def test_the_swap_comes_to_the_same_end_from_every_interruption(
    before: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, journal, old, new = begun(before, monkeypatch)
    for calls in range(40):
        directory = tmp_path / f"after-{calls}"
        shutil.copytree(before, directory)
        world = World(directory, monkeypatch)
        docker = world.docker
        docker.start()
        done = False
        with monkeypatch.context() as patch:
            docker.life.left = calls
            docker.life.bounds(patch, CHANGES)
            try:
                world.swap(journal)
                done = True
            except Killed:
                docker.life.left = 1_000
        # Somebody else may start the container now: the old key signs with all of its state, or
        # not at all, and never again once it could not.
        for _ in range(2):
            docker.start()
        others = [at for at, key in enumerate(docker.signers) if key != old.public]
        assert old.public not in docker.signers[min(others, default=len(docker.signers)) :]
        assert (docker.signers[-1] == old.public) == (calls < 2)
        assert not (done and docker.signers[-1] != new.public)
        swapped(world, journal, old, new)
        if done:
            break
    assert calls == 11, "a stop, two files in the volume, a start, and seven changes here"


def swapped(world: World, journal: Journal, old: Key, new: Key) -> None:
    """Run the swap to its end: the container runs with the new key, whose files it sees."""
    retired = world.swap(journal)
    docker, testnet = world.docker, Testnet.load(world.testnet.directory)
    assert docker.running and docker.signers[-1] == new.public
    assert load_key(retired).public == old.public
    config, entry = load_config(testnet.config_path(NAME)), testnet.process(NAME)
    port = parse_address(journal.peer)[1]
    assert str(config.certificate) == f"/data/{NAME}.crt"
    assert config.peer_listen == f"0.0.0.0:{port}"
    assert (journal.peer, entry.peer) == (f"{NAME}:{port}", f"127.0.0.1:{port}")
    starts = len(docker.signers)
    assert world.swap(journal) == retired and len(docker.signers) == starts, "it is done"


def test_a_container_that_was_made_anew_meanwhile_gets_the_new_key(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, journal, _, new = begun(before, monkeypatch)
    exchange = Exchange.connect(world.testnet.directory)
    rotation = Rotation(exchange, world.place(), payer="trader-00")
    world.docker.id = "another"
    mounts, world.docker.mounts = world.docker.mounts, world.docker.mounts[:2]
    with pytest.raises(ConfigError, match="not mounted"):
        rotation._swap(journal)
    assert world.docker.running, "it is not stopped where it would not see its new key"
    world.docker.mounts = mounts
    rotation._swap(journal)
    assert world.docker.signers[-1] == new.public


def test_files_belong_to_the_user_of_the_container(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[int, int]] = {}
    late: list[str] = []
    rename = os.rename

    def chown(path: Path, uid: int, gid: int, *, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        given[path.name] = uid, gid

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given[path_of(descriptor).name] = uid, gid

    def renamed(source: Path, target: Path) -> None:
        if source.name in given:
            given[target.name] = given.pop(source.name)
        else:
            late.append(target.name)
        rename(source, target)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name, made_up in (("chown", chown), ("fchown", fchown), ("rename", renamed)):
        monkeypatch.setattr(os, name, made_up)
    world, journal, _, _ = begun(before, monkeypatch)
    world.swap(journal)
    owner = (before / "net" / "keys").stat()
    # The new key has another name when it is written.
    wanted = {f"{NAME}-next.part", f"{NAME}.crt", f"{NAME}.toml", f"{NAME}.json", "testnet.json"}
    assert not wanted & set(late), "from its first moment under its name it has its owner"
    assert wanted <= given.keys() and set(given.values()) == {(owner.st_uid, owner.st_gid)}
    assert world.testnet.key_path(NAME).stat().st_mode & 0o777 == 0o600
    assert world.docker.owners == dict.fromkeys(("RESTORED", f"{NAME}.crt"), (USER, USER + 1, 420))


def test_a_volume_that_was_lost_gets_the_certificate_alone(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, journal, _, new = begun(before, monkeypatch)
    shutil.rmtree(world.docker.volume / NAME)
    (world.docker.volume / NAME).mkdir()
    world.swap(journal)
    assert world.docker.signers[-1] == new.public
    assert list(world.docker.owners) == [f"{NAME}.crt"]


def test_a_port_is_never_taken_twice(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, journal, _, _ = begun(before, monkeypatch)
    entries = world.testnet.processes
    given = [each for one in entries for each in (one.public, one.peer, one.observe) if each]
    first = parse_address(journal.peer)[1]
    assert first == 1 + max(parse_address(each)[1] for each in given)
    world.swap(journal)
    assert world.place().free_peer() == f"{NAME}:{first + 1}"


def test_a_container_that_would_not_see_its_new_files_is_refused(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(before, monkeypatch)
    world.place().check()
    mounts = world.docker.mounts
    world.docker.mounts = [{"Source": str(world.testnet.directory)}]
    world.place().check()
    world.docker.mounts = mounts[:2]
    with pytest.raises(ConfigError, match=rf"not mounted .*{NAME}\.key"):
        world.place().check()
    path = world.testnet.config_path(NAME)
    path.write_text(path.read_text().replace("/data/", "/elsewhere/"))
    with pytest.raises(ConfigError, match="no volume"):
        world.place().check()


def test_a_docker_that_fails_is_no_file_that_is_missing(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(before, monkeypatch)
    place = world.place()
    assert place.data_text("OWNER").startswith("node ") and place.data_text("RESTORED") == ""

    def fails(*arguments: str, given: bytes | None = None) -> bytes:
        raise FaultFailed("docker cp: no answer in 60 s")

    monkeypatch.setattr(faults_containers, "docker", fails)
    with pytest.raises(FaultFailed):
        place.data_text("RESTORED")


def test_a_supervisor_comes_before_containers(
    before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(before, monkeypatch)
    with pytest.raises(ConfigError, match="no validator"):
        find_place(world.testnet, "sequencer-0")
    monkeypatch.setattr("cluster.rotate_places.is_supervised", lambda _: True)
    assert isinstance(find_place(world.testnet, NAME), LocalPlace)
