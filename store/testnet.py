"""The description of a testnet on disk: which processes there are and where they listen.

A testnet is a directory::

    testnet.json   this description     genesis.json   the chain
    config/        one TOML a process   keys/          key files, mode 0600
    data/          what processes keep  logs/          what they print

Clients read it to find addresses and keys; `cluster.testnet` writes it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import Role, load_config, read_chain
from store.keyfiles import load_key

DESCRIPTION_FILE = "testnet.json"
GENESIS_FILE = "genesis.json"
CONFIG_FOLDER = "config"
KEY_FOLDER = "keys"
DATA_FOLDER = "data"
LOG_FOLDER = "logs"
ORACLE_KEY = "oracle"
GUARDIAN_KEY = "guardian"
FAUCET_KEY = "faucet"
CONTAINER_DATA = Path("/data")
"""Where a process in a container or a pod keeps its data, in a folder of its name."""

Place = Literal["host", "compose", "kubernetes"]
"""Where processes run: on this host, in containers of one compose file, or in pods."""


class ProcessEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A process: `public` is its address for clients, `peer` its peer port, `observe` that of its
    metrics (or empty)."""

    name: str
    role: Role
    index: int
    public: str
    peer: str = ""
    observe: str = ""


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of ``testnet.json``; `traders` names funded accounts that have a key file."""

    name: str
    processes: list[ProcessEntry]
    traders: list[str]


class Testnet:
    """A testnet's directory, with its description."""

    __test__: ClassVar[bool] = False

    def __init__(self, directory: Path, description: Description) -> None:
        self.directory = directory
        self.name = description.name
        self.processes = description.processes
        self.traders = description.traders

    @classmethod
    def load(cls, directory: Path | str) -> Testnet:
        """Read the description; raises `ConfigError` where there is none."""
        directory = Path(directory).absolute()
        path = directory / DESCRIPTION_FILE
        try:
            description = msgspec.json.decode(path.read_bytes(), type=Description)
        except FileNotFoundError:
            raise ConfigError(
                f"there is no testnet in {directory}; make one with: "
                f"trilemma init {shlex.quote(str(directory))}"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is malformed: {error}") from None
        if not description.processes:
            raise ConfigError(f"{path} names no processes; make the testnet anew")
        return cls(directory, description)

    @property
    def start_command(self) -> str:
        """What starts its processes on this host, where they are to run there."""
        return f"trilemma up {shlex.quote(str(self.directory))}"

    @property
    def place(self) -> Place:
        """Where its processes are to run, as its configurations say."""
        first = self.processes[0]
        try:
            config = load_config(self.config_path(first.name))
        except ConfigError:
            return "host"
        if config.data != CONTAINER_DATA / first.name:
            return "host"
        # A pod is known by its own name, also to clients; ports of containers are this host's.
        return "kubernetes" if first.public.startswith(f"{first.name}.") else "compose"

    @property
    def start_hint(self) -> str:
        """What to do where its processes do not run: the rest of a sentence."""
        if self.place == "host":
            return f"start it with: {self.start_command}"
        if self.place == "compose":
            return (
                "start its containers with: docker compose -f FILE up -d (FILE: the compose file "
                "that trilemma init wrote)"
            )
        return "Kubernetes starts its pods, once the manifests that trilemma init wrote are applied"

    @property
    def genesis_path(self) -> Path:
        """The genesis file."""
        return self.directory / GENESIS_FILE

    def chain(self) -> Chain:
        """The chain, parsed and checked; raises `ConfigError`."""
        return read_chain(self.genesis_path)

    def process(self, name: str) -> ProcessEntry:
        """The process of this name; raises `ConfigError` naming the known ones."""
        for entry in self.processes:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.processes)
        raise ConfigError(f"there is no process {name!r}; there are {known}")

    def of_role(self, role: Role) -> list[ProcessEntry]:
        """The processes of a role, in genesis order."""
        return [entry for entry in self.processes if entry.role == role]

    def addresses(self, role: Role) -> list[str]:
        """Public addresses of a role, in genesis order."""
        return [entry.public for entry in self.of_role(role)]

    def key_path(self, name: str) -> Path:
        """Where the key of a process, trader, ``oracle`` or ``faucet`` lies."""
        return self.directory / KEY_FOLDER / f"{name}.key"

    def key(self, name: str) -> Key:
        """The key of a process, trader, ``oracle`` or ``faucet``; raises `ConfigError`."""
        path = self.key_path(name)
        if not self.traders and name.startswith("trader-") and not path.exists():
            raise ConfigError(
                f"there is no key of {name!r} here: the testnet in {self.directory} was made "
                "without traders"
            )
        if not path.exists() and self.traders:
            raise ConfigError(
                f"there is no key of {name!r} here; traders are {self.traders[0]} to "
                f"{self.traders[-1]}"
            )
        return load_key(path)

    def config_path(self, name: str) -> Path:
        """The configuration of a process."""
        return self.directory / CONFIG_FOLDER / f"{name}.toml"

    def data_path(self, name: str) -> Path:
        """Where a process keeps its state, unless it was told another place."""
        return self.directory / DATA_FOLDER / name

    def log_path(self, name: str) -> Path:
        """Where the supervisor sends what a process prints."""
        return self.directory / LOG_FOLDER / f"{name}.log"
