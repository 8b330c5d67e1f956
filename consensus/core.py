"""What a replica knows, and what every certificate does to it: lock, view, commits."""

from __future__ import annotations

from collections import Counter, deque

from consensus.blocktree import BlockTree, Node
from consensus.commits import CommitLog
from consensus.effects import (
    Application,
    BlockSource,
    Outbox,
    RecoveredState,
    ReplicaConfig,
)
from consensus.members import MemberSet
from consensus.pacemaker import Pacemaker
from consensus.safety import Safety, Signer
from consensus.sync import Fetcher
from consensus.verify import VerifiedCache, Verifier, verify_certificate, verify_qc, verify_tc
from consensus.votes import TimeoutBox, VoteBox
from protocol.chain import (
    QC,
    TC,
    Block,
    Certified,
    CommitCertificate,
    Header,
    Proposal,
    Vote,
    genesis_qc,
)
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.keys import verify


class Core:
    """State of a replica, and the processing of certificates that verified."""

    def __init__(
        self,
        config: ReplicaConfig,
        members: MemberSet,
        key: Signer | None,
        app: Application,
        genesis: Header,
        recovered: RecoveredState | None = None,
        *,
        stored: BlockSource | None = None,
        verifier: Verifier = verify,
    ) -> None:
        if genesis.chain_id != members.chain_id:
            raise ConfigError("the genesis block is of another chain than the member set")
        self.config = config
        self.members = members
        self.counters: dict[str, int] = {}
        self._app = app
        self._genesis_id = genesis.block_id()
        self._genesis_qc = genesis_qc(genesis)
        self._stored = stored
        self._verifier = verifier
        self._cache = VerifiedCache()
        self._out = Outbox()
        self._recovered = recovered
        if app.root()[0] == 0 and app.root()[1] != genesis.app_root:
            raise ConfigError("the application's first root is not the one in the genesis block")
        state = None if recovered is None else recovered.voting_state
        self._safety = Safety(members, key, self._genesis_qc, state)
        self.index = self._safety.index
        self._tree = self._make_tree(genesis)
        self._commits = CommitLog(self._tree, app, self._out)
        self._votes = VoteBox(members, verifier)
        self._timeouts = TimeoutBox(members)
        self._pace = Pacemaker(config, self._first_view())
        self._fetch = Fetcher(config, len(members), self.index)
        self._orphans: dict[int, tuple[int, Proposal]] = {}
        self._helped_ms: dict[int, int] = {}
        self._served: Counter[int] = Counter()
        self._served_ms = 0
        self._early: tuple[Node, Block] | None = None
        self._local: deque[Vote] = deque()
        self._announce: QC | None = None
        self._nothing_in_view = -1
        self._asked_in_view = -1
        self._work = False
        self._busy_since_ms: int | None = None
        self._started = False
        self._now_ms = 0

    @property
    def view(self) -> int:
        """Current view."""
        return self._pace.view

    @property
    def high_qc(self) -> QC:
        """Highest verified QC known."""
        return self._safety.high_qc

    @property
    def committed_height(self) -> int:
        """Height of the newest committed block; 0 is genesis."""
        return self._tree.tip.height

    @property
    def committed_block(self) -> Block:
        """The newest committed block."""
        return self._tree.tip.block

    @property
    def certificate(self) -> CommitCertificate | None:
        """Certificate of the newest commit step, None before the first."""
        return self._tree.certificate

    @property
    def _unfinished(self) -> bool:
        """Whether empty blocks must follow: to commit payloads, or to prove the root after them."""
        tree = self._tree
        return tree.pending_payloads > 0 or (self.config.prove_roots and tree.root_unproven)

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    def _make_tree(self, genesis: Header) -> BlockTree:
        config = self.config
        origin = Node(Block(genesis, b"", self._genesis_qc, None), self._genesis_id)
        recovered = self._recovered
        if recovered is None or recovered.tip is None:
            return BlockTree(origin, config.committed_window, config.max_uncommitted)
        if recovered.certificate is None:
            raise SafetyViolation("the recovered tip has no commit certificate")
        tip = Node(recovered.tip, recovered.tip.header.block_id())
        if recovered.certificate.qc.block_id != tip.id:
            raise SafetyViolation("the recovered certificate is not for the recovered tip")
        tree = BlockTree(tip, config.committed_window, config.max_uncommitted)
        tree.certificate = recovered.certificate
        tree.remember(recovered.tip, recovered.certificate)
        return tree

    def _first_view(self) -> int:
        safety = self._safety
        if self._tree.certificate is not None:
            safety.observe_qc(self._tree.certificate.child_qc)
        tc_view = -1 if safety.high_tc is None else safety.high_tc.view
        return max(safety.high_qc.view, tc_view) + 1

    def _check_chain(self, chain_id: bytes, epoch: int) -> None:
        if chain_id != self.members.chain_id or epoch != self.members.epoch:
            raise Rejected(Code.WRONG_CHAIN, "a message of another chain or epoch")

    def _check_qc(self, qc: QC) -> None:
        verify_qc(self.members, qc, self._genesis_id, verifier=self._verifier, cache=self._cache)

    def _check_tc(self, tc: TC) -> None:
        verify_tc(self.members, tc, self._genesis_id, verifier=self._verifier, cache=self._cache)

    def _check_certificate(self, header: Header, certificate: CommitCertificate) -> None:
        verify_certificate(
            self.members, header, certificate, verifier=self._verifier, cache=self._cache
        )

    def _process_qc(self, qc: QC, peer: int) -> None:
        """Take a verified QC: lock, view, commit rule; fetch its block where it is missing."""
        self._safety.observe_qc(qc)
        if qc.view >= self.view:
            self._enter(qc.view + 1, failed=False)
        node = self._tree.get(qc.block_id)
        if node is not None:
            self._commits.certified(node, qc)
        elif qc.height > self.committed_height:
            self._fetch.want(qc, peer)

    def _process_tc(self, tc: TC, peer: int) -> None:
        """Take a verified TC: it opens the next view, and its leader is told."""
        self._process_qc(tc.high_qc, peer)
        self._safety.observe_tc(tc)
        if tc.view < self.view:
            return
        self._count("views_failed")
        self._enter(tc.view + 1, failed=True)
        leader = self.members.leader(self.view)
        if self.index is not None and leader not in (self.index, peer):
            self._out.send(leader, Certified(self._safety.high_qc, tc))

    def _enter(self, view: int, *, failed: bool) -> None:
        self._pace.enter(view, self._now_ms, failed=failed)
        self._announce = None

    def _insert(self, node: Node) -> None:
        """Add a block and apply the commit rule to it and its parent."""
        self._tree.insert(node)
        parent = self._tree.nodes[node.header.parent_id]
        self._commits.certified(parent, node.block.justify)
        if self.high_qc.block_id == node.id:
            self._commits.certified(node, self.high_qc)
