"""Configuration of one process: a TOML file that names its place, its files and its addresses.

Paths are relative to the file's directory. Addresses are ``host:port``, with IPv6 hosts in
brackets. Everything that all processes share stands in the genesis file instead.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from protocol.errors import ConfigError
from protocol.genesis import Chain, Genesis, parse_genesis
from protocol.keys import Key
from store.client_limits import ClientLimits, check_client_limits
from store.keyfiles import load_key

Role = Literal["node", "sequencer", "execution", "prover", "challenger"]
ROLES: tuple[Role, ...] = ("node", "sequencer", "execution", "prover", "challenger")
PEER_ROLES: tuple[Role, ...] = ("node", "sequencer")
"""Roles whose members run consensus among themselves, over a peer port."""

JOINING = -1
"""Index of a validator that joins a running chain instead of standing in its genesis."""

LOG_LEVELS = ("debug", "info", "warning", "error")


class Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member of the own chain: its name in genesis and the address of its peer port."""

    name: str
    address: str


class ProcessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process.

    `index` is its position in the genesis list of its role (execution nodes and challengers, which
    genesis does not list, are just numbered), and `JOINING` for a validator that genesis does not
    name; such a one has its TLS certificate (PEM) in `certificate`.
    `public` is where it listens for clients, `observe` where it serves metrics and health over HTTP
    (empty: nowhere), and with `faults` also takes orders to break itself, on a testnet only;
    `byzantine` names a lie that it tells, on a testnet only. `peer_listen` is where members of its
    chain reach it, empty for roles without consensus. A node keeps its newest `retain_blocks`
    blocks (0: all of them), and takes a snapshot for others every `snapshot_interval` blocks.
    `peers` are all members of its chain in genesis order, itself included. `validators`,
    `sequencers`, `execution` and `prover` are public addresses of the other processes. `clients`
    bounds what clients may ask of the public port.
    """

    role: Role
    name: str
    index: int
    genesis: Path
    key: Path
    data: Path
    public: str
    peer_listen: str = ""
    certificate: Path | None = None
    retain_blocks: int = 0
    snapshot_interval: int = 1_000
    peers: list[Peer] = []
    validators: list[str] = []
    sequencers: list[str] = []
    execution: list[str] = []
    prover: list[str] = []
    observe: str = ""
    faults: bool = False
    clients: ClientLimits = ClientLimits()
    byzantine: str = ""
    log_level: str = "info"
    log_json: bool = False


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[ipv6]:port``; raises `ConfigError`."""
    host, separator, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:26600")
    if not separator or not host:
        raise ConfigError(f"{text!r} is no address; write host:port")
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text[:6]) < 65536):
        raise ConfigError(f"{text!r} has a bad port; ports go from 1 to 65535")
    return host, int(port_text)


def load_config(path: Path | str) -> ProcessConfig:
    """Read and check a process's TOML; raises `ConfigError` with one sentence on what is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration {path} is not UTF-8 text") from None
    base = path.absolute().parent
    try:
        config = msgspec.convert(
            tomllib.loads(text), ProcessConfig, dec_hook=lambda _, value: _path(base, value)
        )
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"the configuration {path} is malformed: {error}") from None
    try:
        _check(config)
    except ConfigError as error:
        raise ConfigError(f"the configuration {path}: {error}") from None
    return config


def _path(base: Path, value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("a path is a text that is not empty")
    given = base / value
    plain = Path(os.path.normpath(given))
    # A folder that is a link has another parent than its name says.
    return plain if os.path.realpath(plain) == os.path.realpath(given) else given


def _check(config: ProcessConfig) -> None:
    joining = config.role == "node" and config.index == JOINING
    if not config.name or (config.index < 0 and not joining):
        raise ConfigError(
            f"a process has a name and an index of 0 or more, a joining validator {JOINING}"
        )
    if joining != (config.certificate is not None):
        raise ConfigError(
            f"a validator with index {JOINING} has a certificate, others have theirs in genesis"
        )
    if config.retain_blocks < 0 or config.snapshot_interval < 1:
        raise ConfigError("retain_blocks must not be negative, snapshot_interval at least 1")
    check_client_limits(config.clients)
    if config.log_level not in LOG_LEVELS:
        raise ConfigError(f"log_level is one of {', '.join(LOG_LEVELS)}, not {config.log_level!r}")
    if config.peer_listen and config.role not in PEER_ROLES:
        raise ConfigError(f"peer_listen is for {' and '.join(PEER_ROLES)}, not {config.role}")
    if config.peer_listen:
        parse_address(config.peer_listen)
    if config.faults and not config.observe:
        raise ConfigError("faults are ordered over HTTP: give the process an observe address")
    if config.observe:
        parse_address(config.observe)
    addresses = [config.public, *(peer.address for peer in config.peers)]
    addresses += config.validators + config.sequencers + config.execution + config.prover
    for address in addresses:
        parse_address(address)


def read_chain(path: Path) -> Chain:
    """Read and check a genesis file; raises `ConfigError`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the genesis file {path}: {error.strerror}") from None
    try:
        return parse_genesis(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_chain(config: ProcessConfig) -> Chain:
    """The chain of a process; raises `ConfigError` where its genesis has no place for it."""
    chain = read_chain(config.genesis)
    names = _member_names(config.role, chain.genesis)
    if names is not None and config.index >= len(names):
        raise ConfigError(f"genesis has {len(names)} {config.role}(s), none at {config.index}")
    if (config.faults or config.byzantine) and not chain.genesis.testnet:
        raise ConfigError(
            "faults and byzantine are for testnets, and this genesis is of none; remove them"
        )
    if config.peers and config.role in PEER_ROLES and names is not None:
        peers = [peer.name for peer in config.peers]
        if peers != names:
            raise ConfigError(f"peers must be those of genesis, in its order: {', '.join(names)}")
    return chain


def _member_names(role: Role, genesis: Genesis) -> list[str] | None:
    if role == "node":
        return [identity.name for identity in genesis.validators]
    if role == "sequencer":
        return [identity.name for identity in genesis.sequencers]
    if role == "prover":
        return list(genesis.provers)
    return None


def load_process_key(config: ProcessConfig, chain: Chain) -> Key:
    """The process's key; raises `ConfigError` where genesis has another one at its place."""
    key = load_key(config.key)
    genesis = chain.genesis
    expected = key.public.hex()
    if config.role == "node" and config.index == JOINING:
        known = [identity.public_key for identity in genesis.validators]
        if expected in known:
            raise ConfigError(
                f"the key file {config.key} is the key of validator {known.index(expected)} in "
                f"genesis; use that validator's own configuration"
            )
    elif config.role == "node":
        expected = genesis.validators[config.index].public_key
    elif config.role == "sequencer":
        expected = genesis.sequencers[config.index].public_key
    elif config.role == "prover":
        expected = genesis.provers[config.index]
    if bytes.fromhex(expected) != key.public:
        raise ConfigError(
            f"the key file {config.key} is not the key of {config.role} {config.index} in genesis"
        )
    return key
