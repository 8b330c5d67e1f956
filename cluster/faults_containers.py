"""The processes of a testnet in containers, reached with docker commands.

The containers are those of a compose project which have the testnet's directory mounted: compose
labels each with its service, which is the process's name.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.faults_targets import (
    DOWN,
    PAUSED,
    RUNNING,
    AlreadyRuns,
    FaultFailed,
    NotRunning,
    until,
)
from protocol.errors import ConfigError
from store.testnet import CONTAINER_DATA, GENESIS_FILE, Testnet

COMPOSE_LABEL = "com.docker.compose."
SERVICE_LABEL = f"{COMPOSE_LABEL}service"
DOCKER_S = 60.0

_STOP = ("stop", "--time", "10")


def docker(*arguments: str, given: bytes | None = None) -> bytes:
    """Run docker; raises `FaultFailed` with what it says."""
    try:
        done = subprocess.run(
            ["docker", *arguments], input=given, capture_output=True, timeout=DOCKER_S, check=False
        )
    except FileNotFoundError:
        raise ConfigError("there is no docker command here") from None
    except subprocess.TimeoutExpired:
        raise FaultFailed(f"docker {arguments[0]}: no answer in {DOCKER_S:g} s") from None
    if done.returncode:
        raise FaultFailed(f"docker {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def described_containers(testnet: Testnet) -> dict[str, dict[str, Any]]:
    """What docker says of the containers that have the testnet mounted, by the names of their
    processes; nothing where there is no docker."""
    try:
        ids = docker("ps", "-aq", "--filter", f"label={SERVICE_LABEL}").decode().split()
        described = json.loads(docker("inspect", *ids)) if ids else []
    except (ConfigError, FaultFailed):
        return {}
    names = {entry.name for entry in testnet.processes}
    found: dict[str, dict[str, Any]] = {}
    for container in described:
        service = container["Config"]["Labels"].get(SERVICE_LABEL, "")
        mounted = any(_same(mount.get("Source"), testnet) for mount in container["Mounts"])
        if service in names and mounted:
            found[service] = container
    return found


def find_containers(testnet: Testnet) -> ContainerTarget | None:
    """The containers that have the testnet mounted; None where there are none, or no docker."""
    found = {name: container["Id"] for name, container in described_containers(testnet).items()}
    return ContainerTarget(testnet, found) if found else None


def _is_up(state: dict[str, Any]) -> bool:
    """Docker calls a container running that waits for its restart, and has no process."""
    return bool(state.get("Running")) and not state.get("Restarting")


def _same(source: object, testnet: Testnet) -> bool:
    """Whether a mount is the testnet's folder, or its genesis file."""
    directory = testnet.directory.resolve()
    own = (directory, directory / GENESIS_FILE)
    return isinstance(source, str) and Path(source).resolve() in own


class ContainerTarget:
    """Containers by the names of their processes."""

    kind = "containers"

    def __init__(self, testnet: Testnet, containers: dict[str, str]) -> None:
        self.testnet = testnet
        self._containers = containers
        self._networks: dict[str, dict[str, list[str]]] = {}

    def state(self, name: str) -> str:
        """running, paused or down; one that its restart policy will start again is down."""
        state = self._inspect(name)["State"]
        if state.get("Paused"):
            return PAUSED
        return RUNNING if _is_up(state) else DOWN

    def identity(self, name: str) -> str:
        """When the container was started last."""
        state = self._inspect(name)["State"]
        return f"{state['Pid']}@{state['StartedAt']}" if _is_up(state) else ""

    def exit_status(self, name: str) -> int | None:
        """How it last ended; None while it runs."""
        state = self._inspect(name)["State"]
        return None if _is_up(state) else int(state["ExitCode"])

    def kill(self, name: str) -> None:
        """`docker kill`: compose's restart policy leaves such a container down."""
        self._act(name, "kill")
        until(f"{name} is down", lambda: self.state(name) == DOWN)

    def stop(self, name: str) -> None:
        """`docker stop`: SIGTERM, and SIGKILL after 10 s."""
        self._act(name, *_STOP)

    def keep_down(self, name: str) -> None:
        """Stop it even where its restart policy is about to start it again."""
        docker(*_STOP, self._id(name))

    def crash(self, name: str) -> None:
        """`docker kill`, and start it: no restart policy does that for a container killed so."""
        self._act(name, "kill")
        docker("start", self._id(name))

    def start(self, name: str) -> None:
        """`docker start`."""
        if self.state(name) != DOWN:
            raise AlreadyRuns(name)
        if self._inspect(name)["State"].get("Restarting"):
            self.keep_down(name)  # docker starts none that waits for its restart
        docker("start", self._id(name))
        until(f"{name} starts", lambda: self.state(name) == RUNNING)

    def pause(self, name: str) -> None:
        """`docker pause`."""
        self._act(name, "pause", needs=(RUNNING,))

    def resume(self, name: str) -> None:
        """`docker unpause`."""
        self._act(name, "unpause", needs=(PAUSED,))

    def files(self, name: str) -> dict[str, int]:
        """Its data files, with their sizes."""
        return {path: size for path, size, _ in self._archive(name, "")}

    def read_file(self, name: str, path: str) -> bytes:
        """A data file."""
        for _, _, raw in self._archive(name, path):
            return raw
        raise ConfigError(f"{name} has no file {path}")

    def write_file(self, name: str, path: str, raw: bytes) -> None:
        """Write a data file; of one that is there, owner and mode are kept."""
        whole = self._path(name, path)
        try:
            packed = docker("cp", f"{self._id(name)}:{whole}", "-")
        except FaultFailed:  # it is not there
            self.add_file(name, whole, raw)
            return
        with tarfile.open(fileobj=io.BytesIO(packed)) as before:
            member = before.getmembers()[0]
        self._put(name, whole.rpartition("/")[0], member, raw)

    def remove_file(self, name: str, path: str) -> None:
        """Remove a data file, from a container beside it: in one that is down nothing runs."""
        found = self._inspect(name)
        user = ("--user", found["Config"]["User"]) if found["Config"].get("User") else ()
        docker(
            "run", "--rm", "--network", "none", "--volumes-from", self._id(name), *user,
            "--entrypoint", "rm", found["Image"], "-f", self._path(name, path),
        )  # fmt: skip

    def add_file(self, name: str, path: str, raw: bytes) -> None:
        """Write a file of the container's user, which is there or not, into its volume; `path` is
        absolute, in the container."""
        folder, _, file = path.rpartition("/")
        member = tarfile.TarInfo(file)
        uid, _, gid = self._inspect(name)["Config"]["User"].partition(":")
        if uid.isdigit() and (gid or uid).isdigit():
            member.uid, member.gid = int(uid), int(gid or uid)
        self._put(name, folder, member, raw)

    def mounted(self, name: str) -> list[Path]:
        """What the container has mounted, as it is called on this host."""
        sources = [mount.get("Source") for mount in self._inspect(name)["Mounts"]]
        return [Path(source).resolve() for source in sources if source]

    def _put(self, name: str, folder: str, member: tarfile.TarInfo, raw: bytes) -> None:
        member.size = len(raw)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as packed:
            packed.addfile(member, io.BytesIO(raw))
        docker("cp", "-", f"{self._id(name)}:{folder}", given=buffer.getvalue())

    def sets_network(self) -> bool:
        """Containers have a network each."""
        return True

    def disconnect(self, name: str) -> None:
        """Take the container off all its networks; its service name is kept for `connect`."""
        networks = self._inspect(name)["NetworkSettings"]["Networks"]
        if not networks:
            raise ConfigError(f"{name} is on no network")
        self._networks[name] = {
            network: [alias for alias in (settings.get("Aliases") or []) if alias]
            for network, settings in networks.items()
        }
        for network in networks:
            docker("network", "disconnect", "--force", network, self._id(name))

    def connect(self, name: str) -> None:
        """Put it back on the networks that it was on."""
        known = self._networks.pop(name, None) or self._networks_of_others(name)
        for network, aliases in known.items():
            named = [part for alias in {*aliases, name} for part in ("--alias", alias)]
            docker("network", "connect", *named, network, self._id(name))

    def _networks_of_others(self, name: str) -> dict[str, list[str]]:
        """Where another process took it off: the networks that the other containers are on."""
        for other in self._containers:
            networks = self._inspect(other)["NetworkSettings"]["Networks"]
            if other != name and networks:
                return {network: [] for network in networks}
        raise ConfigError(f"nothing tells which network {name} was on")

    def _archive(self, name: str, path: str) -> list[tuple[str, int, bytes]]:
        packed = docker("cp", f"{self._id(name)}:{self._path(name, path)}", "-")
        found = []
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            for member in archive.getmembers():
                read = archive.extractfile(member) if member.isfile() else None
                if read is not None:
                    inside = path or member.name.partition("/")[2]
                    found.append((inside, member.size, read.read()))
        return found

    def _path(self, name: str, path: str) -> str:
        return f"{CONTAINER_DATA}/{name}" + (f"/{path}" if path else "")

    def _act(self, name: str, *command: str, needs: Sequence[str] = (RUNNING, PAUSED)) -> None:
        """Run a docker command on a container that stands as it needs; raises `NotRunning` where it
        does not, or no longer does by then."""
        try:
            if self.state(name) in needs:
                docker(*command, self._id(name))
                return
        except FaultFailed:
            if self.state(name) in needs:
                raise
        raise NotRunning(name, self.state(name))

    def _id(self, name: str) -> str:
        self.testnet.process(name)
        if name not in self._containers:
            raise ConfigError(f"{name} has no container; make it with: docker compose up -d")
        return self._containers[name]

    def _inspect(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", self._id(name)))
        return found[0]
