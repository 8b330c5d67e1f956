"""What a round of a validator takes in and gives out, and the pace of the ledger's consensus.

A round steps the machine through every event that waits, so that all of them share one
transaction and one sync.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus import MemberSet, ReplicaConfig
from node.app import ExecutedBlock
from node.mempool import Displaced
from node.peer import PeerMessage
from node.snapshots import SyncedSnapshot
from node.store import WriteBatch
from protocol.chain import CommitCertificate
from protocol.genesis import Pace

MAX_LEDGER_PAYLOAD_BYTES = 3 << 20
"""Largest block payload that consensus carries; a larger one in genesis counts as this."""


@dataclass(frozen=True, slots=True)
class FromPeer:
    """A message and the key (32 bytes) that its sender proved."""

    sender: bytes
    message: PeerMessage


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the peer with the key `to`, or for all peers where that is None."""

    to: bytes | None
    message: PeerMessage


@dataclass(slots=True)
class Round:
    """What a round asks of the shell: write `batch`, sync, then send `messages` in order.

    `swept` says that the pool was, `expired` are ids of what had waited too long in it, `displaced`
    what had to leave it. `epoch_began` is the
    newest member set that took over; `peers_changed` says that links have to follow the ledger.
    A `snapshot` replaces everything that is stored, and the machine that gave it.
    """

    batch: WriteBatch = field(default_factory=WriteBatch)
    messages: list[Outgoing] = field(default_factory=list)
    executed: list[ExecutedBlock] = field(default_factory=list)
    certificates: dict[int, CommitCertificate] = field(default_factory=dict)
    swept: bool = False
    expired: list[bytes] = field(default_factory=list)
    displaced: list[Displaced] = field(default_factory=list)
    epoch_began: MemberSet | None = None
    peers_changed: bool = False
    snapshot: SyncedSnapshot | None = None


def replica_config(pace: Pace) -> ReplicaConfig:
    """Pace of the ledger's consensus as its replica takes it."""
    return ReplicaConfig(
        block_interval_ms=pace.block_interval_ms,
        empty_interval_ms=pace.empty_interval_ms,
        idle_interval_ms=pace.idle_interval_ms or None,
        timeout_ms=pace.timeout_ms,
        timeout_max_ms=pace.timeout_max_ms,
        prove_roots=True,
        max_payload_bytes=min(pace.max_payload_bytes, MAX_LEDGER_PAYLOAD_BYTES),
    )
