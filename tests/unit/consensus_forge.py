"""Makes blocks, votes and certificates of a chain whose keys a test all holds."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from consensus import (
    Broadcast,
    Committed,
    Effect,
    MemberSet,
    Received,
    RecoveredState,
    Replica,
    ReplicaConfig,
    Send,
    Start,
)
from consensus.effects import BlockSource
from consensus.reputation import Reputation
from protocol.chain import (
    EMPTY_HASH,
    QC,
    TC,
    Block,
    CommitCertificate,
    ConsensusMessage,
    Header,
    Member,
    Proposal,
    Remembered,
    Signature,
    Timeout,
    TimeoutSignature,
    Vote,
    genesis_header,
    genesis_qc,
    payload_hash,
    proposal_digest,
    timeout_digest,
    vote_digest,
)
from protocol.errors import Code, Rejected

CHAIN = sha256(b"forged chain").digest()
GENESIS_MS = 1_000_000
CONFIG = ReplicaConfig(timeout_ms=200, timeout_max_ms=1000, idle_interval_ms=500)


class FakeKey:
    """Signs with a hash of key and digest; `verify` knows it."""

    def __init__(self, name: int) -> None:
        self.public = sha256(b"key %d" % name).digest()

    def sign(self, digest: bytes) -> bytes:
        return sha256(self.public + digest).digest()


def verify(public_key: bytes, signature: bytes, digest: bytes) -> bool:
    return signature == sha256(public_key + digest).digest()


def root_of(height: int) -> bytes:
    return sha256(b"root %d" % height).digest()


class RootApp:
    """The root depends on the height alone, so that headers can be forged without executing."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.certificates: list[CommitCertificate] = []
        self.pending: list[bytes] = []
        self.refuse = b""
        self.code = Code.MALFORMED
        self.base = 0
        self.lie = False

    def has_work(self) -> bool:
        return bool(self.pending)

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        taken = {block.payload for block in ancestors}
        return next((payload for payload in self.pending if payload not in taken), b"")

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        if self.refuse and block.payload == self.refuse:
            raise Rejected(self.code, "refused by the test")

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        self.blocks.append(block)
        self.certificates.append(certificate)
        if block.payload in self.pending:
            self.pending.remove(block.payload)

    def epoch(self) -> MemberSet | None:
        return None

    def root(self) -> tuple[int, bytes]:
        height = self.base + len(self.blocks)
        return height, bytes(32) if self.lie and height else root_of(height)


class Forge:
    """Keys of all members, and everything they could sign."""

    def __init__(self, stakes: Sequence[int] = (1, 1, 1, 1)) -> None:
        self.keys = [FakeKey(i) for i in range(len(stakes))]
        self.members = MemberSet(
            CHAIN, [Member(self.keys[i].public, stake) for i, stake in enumerate(stakes)]
        )
        self.genesis = genesis_header(CHAIN, GENESIS_MS, root_of(0))
        self.genesis_qc = genesis_qc(self.genesis)
        self.root_block = Block(self.genesis, b"", self.genesis_qc, None)
        self.known = {self.genesis.block_id(): self.root_block}

    def replica(
        self,
        index: int | None,
        app: RootApp | None = None,
        recovered: RecoveredState | None = None,
        config: ReplicaConfig = CONFIG,
        stored: BlockSource | None = None,
        now_ms: int = GENESIS_MS,
        rejoined: bool = True,
    ) -> Replica:
        """A started replica; `rejoined`: the others remember nothing of it, so that it may sign,
        and forged certificates may hold votes that it never gave."""
        key = None if index is None else self.keys[index]
        replica = Replica(
            config, self.members, key, app or RootApp(), self.genesis, recovered,
            stored=stored, verifier=verify,
        )  # fmt: skip
        if rejoined:
            vars(replica)["_require_own"] = lambda statement: None
        replica.step(Start(), now_ms)
        if rejoined:
            for peer in range(len(self.keys)):
                if index is not None and peer != index:
                    answer = Remembered(CHAIN, 0, now_ms, self.genesis_qc, None, None, None)
                    replica.step(Received(peer, answer), now_ms)
            replica.counters.clear()
        return replica

    def leader(self, parent: Block, view: int) -> int:
        """Who proposes in a view on top of a block."""
        header = parent.header
        if view != header.view + 1:
            return self.members.leader(view)
        reputation = Reputation(self.members, self.genesis_qc, 128)
        chain = []
        block = parent
        while block.header.height > 0 and block.header.parent_id in self.known:
            chain.append(block)
            block = self.known[block.header.parent_id]
        for block in reversed(chain):
            reputation.note(block.header, block.justify)
        return reputation.after(header, header.block_id())

    def qc(self, block: Block, signers: Sequence[int] = (0, 1, 2)) -> QC:
        header = block.header
        if header.height == 0:
            return self.genesis_qc
        return self.qc_of(header, signers)

    def qc_of(self, header: Header, signers: Sequence[int] = (0, 1, 2)) -> QC:
        block_id = header.block_id()
        digest = vote_digest(header.chain_id, header.epoch, header.view, header.height, block_id)
        signatures = [Signature(i, self.keys[i].sign(digest)) for i in signers]
        return QC(header.chain_id, header.epoch, header.view, header.height, block_id, signatures)

    def tc(self, view: int, qcs: Sequence[QC], signers: Sequence[int] = (0, 1, 2)) -> TC:
        """A TC in which `signers[i]` names `qcs[i]` as its highest QC."""
        signatures = [
            TimeoutSignature(i, qc.view, self.keys[i].sign(timeout_digest(CHAIN, 0, view, qc.view)))
            for i, qc in zip(signers, qcs, strict=True)
        ]
        return TC(CHAIN, 0, view, max(qcs, key=lambda qc: qc.view), signatures)

    def block(
        self,
        parent: Block,
        view: int,
        payload: bytes = b"",
        tc: TC | None = None,
        time_ms: int | None = None,
        app_height: int | None = None,
        app_root: bytes | None = None,
        qc: QC | None = None,
    ) -> Block:
        """A well-formed block; the keyword arguments spoil it."""
        up = parent.header
        if app_height is None:
            direct = up.height > 0 and up.view == up.parent_view + 1
            app_height = up.height - 1 if direct else up.app_height
        justify = qc or self.qc(parent)
        header = Header(
            CHAIN, 0, view, up.height + 1, up.block_id() if up.height else justify.block_id,
            up.view, up.time_ms + 10 if time_ms is None else time_ms,
            self.leader(parent, view), payload_hash(payload), justify.digest(),
            app_height, root_of(app_height) if app_root is None else app_root,
            None if view == up.view + 1 else self.leader(parent, up.view + 1),
        )  # fmt: skip
        block = Block(header, payload, justify, tc)
        self.known[header.block_id()] = block
        return block

    def chain(self, views: Sequence[int]) -> list[Block]:
        """Blocks of these views, each on top of the one before, without TCs."""
        blocks = []
        parent = self.root_block
        for view in views:
            parent = self.block(parent, view, b"payload of view %d" % view)
            blocks.append(parent)
        return blocks

    def proposal(self, block: Block) -> Proposal:
        key = self.keys[block.header.proposer]
        return Proposal(block, key.sign(proposal_digest(block.header.block_id())))

    def vote(self, block: Block, member: int) -> Vote:
        header = block.header
        block_id = header.block_id()
        digest = vote_digest(CHAIN, 0, header.view, header.height, block_id)
        signature = self.keys[member].sign(digest)
        return Vote(CHAIN, 0, header.view, header.height, block_id, member, signature)

    def timeout(self, view: int, member: int, qc: QC, last_tc: TC | None = None) -> Timeout:
        signature = self.keys[member].sign(timeout_digest(CHAIN, 0, view, qc.view))
        return Timeout(CHAIN, 0, view, qc, member, signature, last_tc)

    def certificate(self, block: Block, child: Block) -> CommitCertificate:
        return CommitCertificate(child.justify, child.header, self.qc(child))


def receive(
    replica: Replica, message: ConsensusMessage, peer: int, now_ms: int = GENESIS_MS + 100
) -> list[Effect]:
    return replica.step(Received(peer, message), now_ms)


def sent(effects: Sequence[Effect], kind: type) -> list[ConsensusMessage]:
    """Messages of one kind among the effects."""
    found = [e.message for e in effects if isinstance(e, Send | Broadcast)]
    return [message for message in found if isinstance(message, kind)]


def committed(effects: Sequence[Effect]) -> list[Block]:
    return [effect.block for effect in effects if isinstance(effect, Committed)]


NO_BLOCK = EMPTY_HASH
