"""How much clients may ask of a public port, as a process's configuration says it."""

from __future__ import annotations

import msgspec

from protocol.errors import ConfigError

MIB = 1024 * 1024


class ClientLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a public port: the table ``[clients]`` of a process's TOML. A rate of 0 is none.

    `sessions` stand at once, `sessions_of_host` of them from one address (of IPv6: one /64).
    A session, and an address with all of its sessions, may send so many requests and bytes a
    second; whoever sends more is read from only as fast as that. What was not used is saved up for
    `burst_s` seconds. `host_busy_ppm` is the share of a processor that the requests of one address
    may take, 0 for no bound: right where load comes from one machine, while a port that strangers
    reach wants one, since requests differ in what they cost. An address may open
    `host_connections_per_s`; more are turned away. A session without a complete frame `silent_ms`
    after it opened is closed. One signer may have `signer_batches` accepted batches waiting at a
    sequencer.
    """

    sessions: int = 512
    sessions_of_host: int = 384
    requests_per_s: int = 20_000
    bytes_per_s: int = 32 * MIB
    host_requests_per_s: int = 60_000
    host_bytes_per_s: int = 128 * MIB
    host_busy_ppm: int = 0
    host_connections_per_s: int = 200
    burst_s: int = 5
    silent_ms: int = 30_000
    signer_batches: int = 4_096


def check_client_limits(limits: ClientLimits) -> None:
    """Raises `ConfigError` for limits that would serve nobody."""
    for name in limits.__struct_fields__:
        if getattr(limits, name) < 0:
            raise ConfigError(f"clients.{name} must not be negative")
    for name in ("sessions", "sessions_of_host", "burst_s", "signer_batches"):
        if getattr(limits, name) < 1:
            raise ConfigError(f"clients.{name} must be at least 1, or nobody is served")
