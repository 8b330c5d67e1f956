"""Where a validator runs that gets a new key: under a supervisor here, or in a container.

A container has the validator's key and configuration mounted one by one, and looks at their paths
anew at each start, so that stopping and starting it is enough. What it keeps lies in its volume,
which docker reads and writes; the new certificate goes there too, since no file is mounted for it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Protocol

from client.console import testnet_option
from cluster.faults_containers import ContainerTarget, find_containers
from cluster.faults_targets import FaultFailed, LocalTarget, Target
from cluster.layout import bind_error, free_ports
from protocol.errors import ConfigError
from store.config import load_config, parse_address
from store.ownership import RESTORED_NAME, UNSIGNING, mark_restore
from store.running import is_supervised
from store.testnet import CONTAINER_DATA, Testnet

_ABSENT = ("Could not find the file", "No such container:path")
"""What docker says of a file that is not there."""


class Place(Protocol):
    """Where one validator of a testnet runs."""

    testnet: Testnet
    name: str
    target: Target

    def check(self) -> None:
        """Raise `ConfigError` where the process would not see its new files."""

    def free_peer(self) -> str:
        """Where others could dial it, at a port that nobody had yet."""

    def check_peer(self, peer: str) -> None:
        """Raise `ConfigError` where the process cannot be dialled at this port."""

    def described(self, peer: str) -> str:
        """What the testnet's description says where others dial `peer`."""

    def data_text(self, file: str) -> str:
        """A small file of its data directory, empty where there is none."""

    def leave_voting_state(self) -> None:
        """Have its data directory sign nothing with the key that it belongs to."""

    def give_certificate(self, path: Path, pem: bytes) -> str:
        """Let the process, which is down, see its certificate, which lies in `path` on this host;
        its path as the configuration names it."""

    def logs(self) -> str:
        """What to look at where it does not start."""


def find_place(testnet: Testnet, name: str) -> Place:
    """Where this validator runs; raises `ConfigError` where it is none, or runs nowhere here."""
    if testnet.process(name).role != "node":
        raise ConfigError(f"{name} is no validator; genesis fixes the keys of others")
    if is_supervised(testnet.directory):
        return LocalPlace(testnet, name)
    containers = find_containers(testnet)
    if containers is not None:
        return ContainerPlace(testnet, name, containers)
    raise ConfigError(
        "the key of a validator is exchanged while it runs, under trilemma up or in a container on "
        "this machine; elsewhere, as in Kubernetes, step by step: trilemma validator init"
    )


def command(testnet: Testnet, *words: str) -> str:
    """What to type for a command of `trilemma` on this testnet."""
    is_usual = Path(testnet_option()).absolute() == testnet.directory
    chosen = () if is_usual else ("--testnet", str(testnet.directory))
    return shlex.join(["trilemma", *chosen, *words])


def _ports(testnet: Testnet) -> dict[int, str]:
    """Ports of its processes, with whose they are."""
    return {
        parse_address(each)[1]: one.name
        for one in testnet.processes
        for each in (one.public, one.peer, one.observe)
        if each
    }


def _require_unused(testnet: Testnet, peer: str) -> None:
    port = parse_address(peer)[1]
    user = _ports(testnet).get(port)
    if user is not None:
        # At the peer port of the old key others would dial both keys, and one of the links would
        # always displace the other. The host is the same, by whatever name.
        raise ConfigError(
            f"the new key needs another peer port than {port}, which {user} has; without --peer it "
            "gets a free one"
        )


class LocalPlace:
    """A process under a supervisor of this machine."""

    def __init__(self, testnet: Testnet, name: str) -> None:
        self.testnet = testnet
        self.name = name
        self.target: Target = LocalTarget(testnet)

    def check(self) -> None:
        """It reads what is read here."""

    def free_peer(self) -> str:
        """A free port of the same host."""
        host = self.testnet.process(self.name).peer.rpartition(":")[0]
        return f"{host}:{free_ports(host.strip('[]'), 1, _ports(self.testnet))[0]}"

    def check_peer(self, peer: str) -> None:
        """Nobody has the port on this host."""
        _require_unused(self.testnet, peer)
        port = parse_address(peer)[1]
        listen = load_config(self.testnet.config_path(self.name)).peer_listen
        error = bind_error(parse_address(listen)[0], port)
        if error:
            raise ConfigError(
                f"{self.name} cannot listen at port {port}: {os.strerror(error)}; without --peer "
                "the new key gets a free one"
            )

    def described(self, peer: str) -> str:
        """The same."""
        return peer

    def data_text(self, file: str) -> str:
        """Read here."""
        try:
            return (self._data() / file).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return ""

    def leave_voting_state(self) -> None:
        """Mark it as restored."""
        mark_restore(self._data(), UNSIGNING)

    def give_certificate(self, path: Path, pem: bytes) -> str:
        """Relative to the configuration, as all of its paths."""
        return os.path.relpath(path, self.testnet.config_path(self.name).parent)

    def logs(self) -> str:
        """Its log file."""
        return str(self.testnet.log_path(self.name))

    def _data(self) -> Path:
        return load_config(self.testnet.config_path(self.name)).data


class ContainerPlace:
    """A container of a compose project, where others know the validator by its service's name."""

    def __init__(self, testnet: Testnet, name: str, target: ContainerTarget) -> None:
        self.testnet = testnet
        self.name = name
        self.target: Target = target
        self._container = target

    def check(self) -> None:
        """It has its configuration, its key and a volume mounted, as compose files of ours say."""
        config = load_config(self.testnet.config_path(self.name))
        if config.data != CONTAINER_DATA / self.name:
            raise ConfigError(f"{self.name} keeps its data in {config.data}, which is no volume")
        mounted = self._container.mounted(self.name)
        for path in (self.testnet.config_path(self.name), self.testnet.key_path(self.name)):
            resolved = path.resolve()
            if not any(each in (resolved, *resolved.parents) for each in mounted):
                raise ConfigError(
                    f"the container of {self.name} has not mounted {path}, and would not see a "
                    "new one"
                )

    def free_peer(self) -> str:
        """The name of its service, and a port above all others: so none that its container uses,
        and none that an earlier key had."""
        port = max(_ports(self.testnet)) + 1
        if port > 65_535:
            raise ConfigError("no port is left above those of the testnet; choose one with --peer")
        return f"{self.name}:{port}"

    def check_peer(self, peer: str) -> None:
        """No process of the testnet has the port; ports of this host are others."""
        _require_unused(self.testnet, peer)

    def described(self, peer: str) -> str:
        """Addresses of the description are those that this host sees."""
        host = self.testnet.process(self.name).peer.rpartition(":")[0]
        return f"{host}:{parse_address(peer)[1]}"

    def data_text(self, file: str) -> str:
        """Copied out of the volume."""
        try:
            raw = self._container.read_file(self.name, file)
        except FaultFailed as error:
            if any(words in str(error) for words in _ABSENT):
                return ""
            raise
        return raw.decode("ascii", errors="replace")

    def leave_voting_state(self) -> None:
        """Mark its volume as restored. Were the mark lost, the new key would not start on it."""
        path = f"{CONTAINER_DATA}/{self.name}/{RESTORED_NAME}"
        self._container.add_file(self.name, path, UNSIGNING.encode("ascii"))

    def give_certificate(self, path: Path, pem: bytes) -> str:
        """Beside its data, in the volume."""
        inside = f"{CONTAINER_DATA}/{path.name}"
        self._container.add_file(self.name, inside, pem)
        os.sync()  # docker does not sync what it copies
        return inside

    def logs(self) -> str:
        """Those of docker."""
        return f"docker compose logs {self.name}"
