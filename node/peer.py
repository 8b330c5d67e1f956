"""What validators say to each other: consensus, transactions passed on, and snapshots."""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.chain import (
    Block,
    BlocksRequest,
    BlocksResponse,
    Certified,
    CommitCertificate,
    Header,
    Proposal,
    Rejoin,
    Remembered,
    Timeout,
    Vote,
)
from protocol.codec import Decoder, Wire
from protocol.tree_node import MAX_KEY_BYTES

MAX_GOSSIP_TRANSACTIONS = 64
"""Most transactions in one message."""

MAX_EPOCH_STEPS = 16
"""Most changes of the member set in one offer."""

MAX_SPLITS = 255
"""Most places at which an offer divides the leaves, so that several peers can be asked."""

CHUNK_BYTES = 256 * 1024
"""Keys and values of one chunk together, but that its last leaf may go beyond."""

CHUNK_LEAVES = 8192
"""Most leaves of one chunk."""

MAX_CHUNK_PROOF_BYTES = 4 << 20
"""Longest encoded proof of a chunk."""

MAX_RECENT_BLOCKS = 128
"""Most blocks in one answer of recent blocks."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
StartKey = Annotated[bytes, msgspec.Meta(max_length=MAX_KEY_BYTES + 1)]


class TransactionGossip(Wire, frozen=True, tag=16):
    """Encoded transactions that the sender got from clients, for whoever leads next."""

    transactions: list[bytes]


class EpochStep(Wire, frozen=True):
    """The last block of an epoch, certified by its members, and the encoded `TreeProof` of the
    next epoch's `EpochLeaf` under its `app_root`."""

    header: Header
    certificate: CommitCertificate
    proof: bytes


class Snapshot(Wire, frozen=True):
    """A ledger state that a peer serves: that after block `tip`.

    `header`: a later final block whose `app_height` is the tip's height, so that its `app_root` is
    the root of the leaves. `leaves` is their number, and `splits` are keys (ascending) between
    which they divide about evenly: hints, not proven.
    """

    header: Header
    certificate: CommitCertificate
    tip: Header
    tip_certificate: CommitCertificate
    leaves: Count
    splits: Annotated[list[StartKey], msgspec.Meta(max_length=MAX_SPLITS)]


class SnapshotRequest(Wire, frozen=True, tag=17):
    """Which snapshot do you have; the asker knows the members of `epoch`."""

    epoch: Count


class SnapshotOffer(Wire, frozen=True, tag=18):
    """Answer to `SnapshotRequest`: changes of the member set from the asker's epoch on, in order.

    Without a snapshot more of them may follow, on another request, or there is none to offer.
    """

    epoch: Count
    steps: Annotated[list[EpochStep], msgspec.Meta(max_length=MAX_EPOCH_STEPS)]
    snapshot: Snapshot | None


class ChunkRequest(Wire, frozen=True, tag=19):
    """Leaves of the snapshot of `height` from key `first` on, until they have `max_bytes`."""

    height: Count
    first: StartKey
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=CHUNK_BYTES)]


class ChunkResponse(Wire, frozen=True, tag=20):
    """Encoded range proof of a chunk; empty where the sender does not serve that snapshot."""

    height: Count
    first: StartKey
    proof: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNK_PROOF_BYTES)]


class RecentRequest(Wire, frozen=True, tag=21):
    """The blocks right below height `below`, which a snapshot of `height` needs beside its leaves:
    its tip, and those that leader reputation counts."""

    height: Count
    below: Count


class RecentResponse(Wire, frozen=True, tag=22):
    """Blocks downward from height `below` - 1; none where the sender does not keep them."""

    height: Count
    below: Count
    blocks: Annotated[list[Block], msgspec.Meta(max_length=MAX_RECENT_BLOCKS)]


SnapshotQuestion = SnapshotRequest | ChunkRequest | RecentRequest
"""What `node.snapshots.SnapshotSource` answers."""

SnapshotAnswer = SnapshotOffer | ChunkResponse | RecentResponse
"""What `node.snapshot_sync.SnapshotSync` takes."""

PeerMessage = (
    Proposal | Vote | Timeout | Certified | BlocksRequest | BlocksResponse | Rejoin | Remembered
    | TransactionGossip
    | SnapshotRequest | SnapshotOffer | ChunkRequest | ChunkResponse
    | RecentRequest | RecentResponse
)  # fmt: skip
"""Everything that crosses a link between validators."""

decode_peer_message: Decoder[PeerMessage] = Decoder(PeerMessage)
