"""Where the processes of a testnet listen: a fixed layout of ports above one base port."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Collection

from protocol.errors import ConfigError
from store.config import Role

DEFAULT_BASE_PORT = 26_600
MEMBERS_LIMIT = 20
"""Most processes of one role; each role has a block of this many ports."""

PUBLIC_OFFSETS: dict[Role, int] = {
    "node": 0,
    "sequencer": 20,
    "execution": 40,
    "prover": 60,
    "challenger": 120,
}
PEER_OFFSETS: dict[Role, int] = {"node": 80, "sequencer": 100}
OBSERVE_OFFSETS: dict[Role, int] = {
    "node": 140,
    "sequencer": 160,
    "execution": 180,
    "prover": 200,
    "challenger": 220,
}
LAYOUT_PORTS = 240

_SEARCH_RANGE = (10_000, 32_000)
"""Below the ephemeral range of the usual systems, so no outgoing connection takes a port away."""
_SEARCH_TRIES = 200


def public_port(base_port: int, role: Role, index: int) -> int:
    """Port for clients of a process."""
    return base_port + PUBLIC_OFFSETS[role] + index


def peer_port(base_port: int, role: Role, index: int) -> int:
    """Port for the other members of its chain; 0 for a role without consensus."""
    return base_port + PEER_OFFSETS[role] + index if role in PEER_OFFSETS else 0


def observe_port(base_port: int, role: Role, index: int) -> int:
    """Port for the metrics and health of a process."""
    return base_port + OBSERVE_OFFSETS[role] + index


def used_ports(base_port: int, counts: dict[Role, int]) -> list[int]:
    """Every port that this many processes of each role listen on."""
    ports = []
    for role, count in counts.items():
        for index in range(count):
            ports.append(public_port(base_port, role, index))
            ports.append(observe_port(base_port, role, index))
            if role in PEER_OFFSETS:
                ports.append(peer_port(base_port, role, index))
    return ports


def find_base_port(host: str, counts: dict[Role, int]) -> int:
    """A base port whose used ports are free on `host` now; raises `ConfigError`."""
    low, high = _SEARCH_RANGE
    for _ in range(_SEARCH_TRIES):
        base_port = low + secrets.randbelow(high - low - LAYOUT_PORTS)
        if not any(bind_error(host, port) for port in used_ports(base_port, counts)):
            return base_port
    raise ConfigError(f"found no free ports on {host} between {low} and {high}")


def free_ports(host: str, count: int, taken: Collection[int] = ()) -> list[int]:
    """Ports that are free on `host` now and not `taken`, below the ephemeral range.

    Raises `ConfigError` where none are found.
    """
    low, high = _SEARCH_RANGE
    found: dict[int, None] = {}
    for _ in range(_SEARCH_TRIES * count):
        if len(found) == count:
            return list(found)
        port = low + secrets.randbelow(high - low)
        if port not in taken and not bind_error(host, port):
            found[port] = None
    raise ConfigError(f"found no free ports on {host} between {low} and {high}")


def bind_error(host: str, port: int) -> int:
    """Why nothing can listen there now, as an errno; 0 where the port is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return 0
    except OSError as error:
        return error.errno or errno.EIO
