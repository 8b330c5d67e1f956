"""Blocks, votes and certificates of a BFT chain (Jolteon, Gelashvili et al. 2021).

The base layer and the sequencers run the same protocol under different chain ids, so that no vote
of one means anything on the other. A block is a `Header` and its payload bytes; its id hashes the
header, and the header names the payload, the parent and the certificate that justified it.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from protocol.codec import Decoder, Wire, encode
from protocol.keys import domain_hash

GENESIS_VIEW = 0
"""View of the genesis block; the first proposal has view 1."""

EMPTY_HASH = bytes(32)
"""Stands where a hash has nothing to name."""


class Member(Wire, frozen=True):
    """A consensus member: index in the set, signing key, voting weight."""

    public_key: bytes
    stake: int


class Signature(Wire, frozen=True):
    """One member's signature, by index in the member set."""

    member: int
    signature: bytes


class Header(Wire, frozen=True):
    """A block header; every field is under the block id.

    `parent_view` is the view of the direct parent, `time_ms` the block time (above the parent's),
    `justify_hash` hashes the encoded QC for the parent that the proposal carried, `app_height` and
    `app_root` the application state after the newest block that this block's own ancestors commit,
    `skipped` the member whose turn in the view after the parent's came to nothing (None where this
    block is of that view): leader reputation counts it.
    """

    chain_id: bytes
    epoch: int
    view: int
    height: int
    parent_id: bytes
    parent_view: int
    time_ms: int
    proposer: int
    payload_hash: bytes
    justify_hash: bytes
    app_height: int
    app_root: bytes
    skipped: int | None = None

    def block_id(self) -> bytes:
        """SHA-256 over the domain and the canonical header (32 bytes)."""
        return domain_hash(b"trilemma/header", encode(self))


class QC(Wire, frozen=True):
    """Quorum certificate: more than two thirds of the stake voted for one block in its view."""

    chain_id: bytes
    epoch: int
    view: int
    height: int
    block_id: bytes
    signatures: list[Signature]

    def digest(self) -> bytes:
        """Hash of the whole certificate, signatures included, as headers name it."""
        return domain_hash(b"trilemma/qc", encode(self))


class TimeoutSignature(Wire, frozen=True):
    """One member's timeout in a view, bound to the view of the highest QC it knew."""

    member: int
    high_qc_view: int
    signature: bytes


class TC(Wire, frozen=True):
    """Timeout certificate: a quorum gave up `view`; carries the highest QC among them."""

    chain_id: bytes
    epoch: int
    view: int
    high_qc: QC
    signatures: list[TimeoutSignature]

    def digest(self) -> bytes:
        """Hash of the whole certificate, signatures included."""
        return domain_hash(b"trilemma/tc", encode(self))


class Block(Wire, frozen=True):
    """A proposed block: header, payload bytes, the QC for its parent, and the TC of the view
    before where the parent is not of the view before."""

    header: Header
    payload: bytes
    justify: QC
    timeout: TC | None


class CommitCertificate(Wire, frozen=True):
    """Proof that a block is final: the QC of it or of a descendant, and the QC of that one's direct
    child, one view higher.

    `path` holds the headers above the proven block up to the one that `qc` certifies, lowest first;
    it is empty where that is the block itself. A single QC proves nothing final. Outside
    ``consensus/`` the word certificate means this.
    """

    qc: QC
    child: Header
    child_qc: QC
    path: list[Header] = msgspec.field(default_factory=list)

    @property
    def height(self) -> int:
        """Height of the block that this certificate proves final."""
        return self.qc.height - len(self.path)


class Proposal(Wire, frozen=True, tag=1):
    """A leader's signed block."""

    block: Block
    signature: bytes


class Vote(Wire, frozen=True, tag=2):
    """A member's vote for a block, sent to the next leader."""

    chain_id: bytes
    epoch: int
    view: int
    height: int
    block_id: bytes
    member: int
    signature: bytes


class Timeout(Wire, frozen=True, tag=3):
    """A member gives up a view; carries its highest QC, and the last TC when it has one."""

    chain_id: bytes
    epoch: int
    view: int
    high_qc: QC
    member: int
    signature: bytes
    last_tc: TC | None


class Certified(Wire, frozen=True, tag=4):
    """News of certificates, so that lagging members advance."""

    qc: QC
    tc: TC | None


class BlocksRequest(Wire, frozen=True, tag=5):
    """Ask a peer for up to `limit` blocks above `above_height`, lowest first, on the way to
    `block_id`; where that is empty or unknown to the peer, on the way to its highest certified
    block."""

    block_id: bytes
    above_height: int
    limit: int


class BlocksResponse(Wire, frozen=True, tag=6):
    """Consecutive blocks of one epoch in ascending height, the sender's highest QC, and the
    certificate of the newest committed block among them where the sender has one.

    `retained_from`: lowest height that the sender can still serve."""

    blocks: list[Block]
    high_qc: QC | None
    certificate: CommitCertificate | None
    retained_from: int = 1


class Rejoin(Wire, frozen=True, tag=7):
    """A member that has just started asks what others remember of it, before it signs anything.

    `number` is chosen by the asker and comes back in the answer."""

    chain_id: bytes
    epoch: int
    number: int


class Remembered(Wire, frozen=True, tag=8):
    """Answer to `Rejoin`: the sender's highest certificates, and the newest vote and timeout of the
    asker that it holds."""

    chain_id: bytes
    epoch: int
    number: int
    qc: QC
    tc: TC | None
    vote: Vote | None
    timeout: Timeout | None


ConsensusMessage = (
    Proposal | Vote | Timeout | Certified | BlocksRequest | BlocksResponse | Rejoin | Remembered
)
"""Everything that members of one chain say to each other."""

decode_consensus: Decoder[ConsensusMessage] = Decoder(ConsensusMessage)
decode_header: Decoder[Header] = Decoder(Header)
decode_block: Decoder[Block] = Decoder(Block)
decode_certificate: Decoder[CommitCertificate] = Decoder(CommitCertificate)


def payload_hash(payload: bytes) -> bytes:
    """Hash of a block's payload as its header names it."""
    return sha256(b"trilemma/payload" + payload).digest()


def vote_digest(chain_id: bytes, epoch: int, view: int, height: int, block_id: bytes) -> bytes:
    """What a member signs when it votes."""
    return domain_hash(b"trilemma/vote", chain_id, encode((epoch, view, height, block_id)))


def timeout_digest(chain_id: bytes, epoch: int, view: int, high_qc_view: int) -> bytes:
    """What a member signs when it gives up a view."""
    return domain_hash(b"trilemma/timeout", chain_id, encode((epoch, view, high_qc_view)))


def proposal_digest(block_id: bytes) -> bytes:
    """What a leader signs when it proposes."""
    return domain_hash(b"trilemma/proposal", block_id)


def genesis_header(chain_id: bytes, time_ms: int, app_root: bytes) -> Header:
    """The block of height 0, certified by definition."""
    return Header(
        chain_id, 0, GENESIS_VIEW, 0, EMPTY_HASH, GENESIS_VIEW, time_ms, 0,
        payload_hash(b""), EMPTY_HASH, 0, app_root,
    )  # fmt: skip


def genesis_qc(header: Header) -> QC:
    """The QC of the genesis block: no signatures, valid by definition."""
    return QC(header.chain_id, header.epoch, header.view, 0, header.block_id(), [])


def origin_qc(epoch: int, last: Header, last_id: bytes) -> QC:
    """The QC from which `epoch` starts: of the last block of the epoch before, without signatures,
    valid by definition once that block is final."""
    return QC(last.chain_id, epoch, last.view, last.height, last_id, [])
