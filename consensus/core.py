"""What a replica knows, and what every certificate does to it: lock, view, commits."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from consensus.blocktree import BlockTree, Node
from consensus.commits import CommitLog
from consensus.effects import (
    Application,
    BlockSource,
    EpochBegan,
    FellBehind,
    Outbox,
    RecoveredState,
    ReplicaConfig,
)
from consensus.members import MemberSet
from consensus.pacemaker import Pacemaker
from consensus.rejoin import Rejoining
from consensus.safety import Safety, Signer
from consensus.sync import Fetcher
from consensus.verify import VerifiedCache, Verifier, verify_certificate, verify_qc, verify_tc
from consensus.votes import TimeoutBox, VoteBox
from consensus.watch import Watch
from protocol.chain import (
    QC,
    TC,
    Block,
    Certified,
    CommitCertificate,
    Header,
    Proposal,
    Timeout,
    Vote,
    genesis_qc,
)
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.keys import verify

HELPED_MAX = 4096
"""Peers whose last help is remembered."""


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
        retained_from: Callable[[], int] | None = None,
        verifier: Verifier = verify,
    ) -> None:
        if genesis.chain_id != members.chain_id:
            raise ConfigError("the genesis block is of another chain than the member set")
        self.config = config
        self.members = members
        self.beat_ms: int | None = None
        """A faster heartbeat than `idle_interval_ms`, for as long as the holder sets it: something
        in the application's state waits for time to pass."""
        self.counters: dict[str, int] = {}
        self._app = app
        self.retained_from = retained_from or (lambda: 1)
        self._key = key
        self._origin = members.origin or genesis_qc(genesis)
        self._stored = stored
        self._verifier = verifier
        self._cache = VerifiedCache()
        self._out = Outbox()
        self._recovered = recovered
        if app.root()[0] == 0 and app.root()[1] != genesis.app_root:
            raise ConfigError("the application's first root is not the one in the genesis block")
        state = None if recovered is None else recovered.voting_state
        self._safety = Safety(members, key, self._origin, state)
        self.index = self._safety.index
        self._tree = self._make_tree(genesis)
        self._commits = CommitLog(
            self._tree, app, self._out, members, self._origin, config.reputation_window
        )
        self._votes = VoteBox(members, verifier)
        self._timeouts = TimeoutBox(members)
        self._watch = Watch(members, verifier)
        self._pace = Pacemaker(config, self._first_view())
        self._fetch = Fetcher(config, len(members), self.index)
        self._rejoin = Rejoining(self.index, members, config.fetch_timeout_ms)
        self._orphans: dict[tuple[int, int], tuple[int, Proposal]] = {}
        self._helped_ms: dict[int, int] = {}
        self._rejoins: Counter[int] = Counter()
        self._rejoins_ms = 0
        self._told_ms: dict[int, int] = {}
        self._served: dict[int, tuple[int, int]] = {}
        self._early: tuple[Node, Block] | None = None
        self._local: deque[Vote] = deque()
        self._announce: QC | None = None
        self._gathered: Vote | None = None
        self._gathered_ms = 0
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
    def _idle_ms(self) -> int | None:
        """Heartbeat with nothing to do; None is silence."""
        idle_ms, beat_ms = self.config.idle_interval_ms, self.beat_ms
        if beat_ms is None or idle_ms is None:
            return idle_ms if beat_ms is None else beat_ms
        return min(idle_ms, beat_ms)

    @property
    def _unfinished(self) -> bool:
        """Whether empty blocks must follow: to commit payloads, or to prove the root after them."""
        tree = self._tree
        return (
            tree.pending_payloads > 0
            or (self.config.prove_roots and tree.root_unproven)
            or self._closing(tree.get(self.high_qc.block_id))
        )

    def _closing(self, parent: Node | None) -> bool:
        """Whether the epoch's boundary is behind: blocks on top are empty until the epoch ends."""
        ends_ms = self.members.ends_ms
        return ends_ms is not None and parent is not None and parent.header.time_ms >= ends_ms

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    def _make_tree(self, genesis: Header) -> BlockTree:
        origin = Node(Block(genesis, b"", genesis_qc(genesis), None), genesis.block_id())
        recovered = self._recovered
        if recovered is None or recovered.tip is None:
            return self._tree_above(origin, None)
        if recovered.certificate is None:
            raise SafetyViolation("the recovered tip has no commit certificate")
        tip = Node(recovered.tip, recovered.tip.header.block_id())
        if recovered.certificate.height != tip.height:
            raise SafetyViolation("the recovered certificate is not for the recovered tip")
        return self._tree_above(tip, recovered.certificate)

    def _tree_above(self, tip: Node, certificate: CommitCertificate | None) -> BlockTree:
        config = self.config
        return BlockTree(
            tip, config.committed_window, config.committed_bytes, config.max_uncommitted,
            certificate,
        )  # fmt: skip

    def _first_view(self) -> int:
        safety = self._safety
        certificate = self._tree.certificate
        if certificate is not None and certificate.child_qc.epoch == self.members.epoch:
            safety.observe_qc(certificate.child_qc)
        tc_view = -1 if safety.high_tc is None else safety.high_tc.view
        return max(safety.high_qc.view, tc_view) + 1

    def _check_chain(self, peer: int, chain_id: bytes, epoch: int) -> None:
        """Raise `Rejected` for a message of another chain or epoch.

        Who is ahead of us by an epoch is asked for blocks, who is behind is shown ours.
        """
        if chain_id != self.members.chain_id:
            raise Rejected(Code.WRONG_CHAIN, "a message of another chain")
        if epoch == self.members.epoch:
            return
        if epoch < self.members.epoch:
            self._help(peer)
        else:
            self._fetch.refresh(self._now_ms)
            pause_ms = 10 * self.config.fetch_timeout_ms
            if (
                peer not in self.members
                and self._fetch.unheard
                and not self._is_soon(peer, self._told_ms, pause_ms)
            ):
                # All members that we know may be gone for good: the shell has other ways.
                self._out.tell(FellBehind(peer, self.committed_height + 1))
        raise Rejected(Code.WRONG_EPOCH, "a message of another epoch")

    def _is_soon(self, peer: int, answered_ms: dict[int, int], pause_ms: int) -> bool:
        """Whether a peer was answered so recently that it cannot matter again; else notes it."""
        last = answered_ms.get(peer)
        if last is not None and self._now_ms < last + pause_ms:
            return True
        if len(answered_ms) >= HELPED_MAX:
            answered_ms.clear()
        answered_ms[peer] = self._now_ms
        return False

    def _help(self, peer: int) -> None:
        """Send a peer in an old view what leads to ours, not more often than it can matter."""
        if self._is_soon(peer, self._helped_ms, self.config.timeout_ms // 4):
            return
        self._count("peers_helped")
        self._out.send(peer, Certified(self._safety.high_qc, self._safety.high_tc))

    def _check_qc(self, qc: QC) -> None:
        verify_qc(self.members, qc, self._origin, verifier=self._verifier, cache=self._cache)

    def _check_tc(self, tc: TC) -> None:
        verify_tc(self.members, tc, self._origin, verifier=self._verifier, cache=self._cache)

    def _check_certificate(self, header: Header, certificate: CommitCertificate) -> None:
        verify_certificate(
            self.members, header, certificate, verifier=self._verifier, cache=self._cache
        )

    def _process_qc(self, qc: QC, peer: int) -> None:
        """Take a verified QC: lock, view, commit rule; fetch its block where it is missing."""
        self._require_own(qc)
        self._watch.certified(
            qc, [vote for vote in self._votes.in_view(qc.view) if vote.block_id != qc.block_id]
        )
        self._safety.observe_qc(qc)
        if qc.view >= self.view:
            self._enter(qc.view + 1, failed=False)
        node = self._tree.get(qc.block_id)
        if node is not None:
            self._commits.certified(node, qc)
        elif qc.height > self.committed_height:
            self._fetch.want(qc, peer)

    def _pass_on(self, qc: QC, peer: int) -> None:
        """Tell the next leader of a certificate that came without a proposal: whoever formed it may
        have kept it from the leader, so that its turn fails."""
        node = self._tree.get(qc.block_id)
        if self.index is None or node is None or qc.view + 1 != self.view:
            return
        leader = self._commits.leader_after(node)
        if leader not in (self.index, peer):
            self._out.send(leader, Certified(qc, None))

    def _process_tc(self, tc: TC, peer: int) -> None:
        """Take a verified TC: it opens the next view, and its leader is told."""
        self._process_qc(tc.high_qc, peer)
        self._require_own(tc)
        self._safety.observe_tc(tc)
        if tc.view < self.view:
            return
        self._count("views_failed")
        self._enter(tc.view + 1, failed=True)
        leader = self.members.leader(self.view)
        if self.index is not None and leader not in (self.index, peer):
            self._out.send(leader, Certified(self._safety.high_qc, tc))

    def _require_own(self, statement: QC | TC | Vote | Timeout) -> None:
        """Stop where a verified statement is ours and we know nothing of it."""
        self._safety.require_own(statement)

    def _enter(self, view: int, *, failed: bool) -> None:
        self._pace.enter(view, self._now_ms, failed=failed)
        self._announce = None

    def _insert(self, node: Node) -> None:
        """Add a block and apply the commit rule to it and its parent."""
        self._require_own(node.block.justify)
        self._tree.insert(node)
        parent = self._tree.nodes[node.header.parent_id]
        self._commits.certified(parent, node.block.justify)
        if self.high_qc.block_id == node.id:
            self._commits.certified(node, self.high_qc)

    def _turn_epoch(self) -> None:
        """Go on under the next member set where the epoch's last block has just committed."""
        members = self._commits.next_members
        if members is None:
            return
        tip = self._tree.tip
        if members.origin is None or members.origin.block_id != tip.id:
            raise SafetyViolation("the next epoch does not start from the last block of this one")
        if self._announce is not None:
            # It was formed here: whoever has the blocks ends the epoch by this alone.
            self._out.broadcast(Certified(self._announce, None))
        self._out.drop_sends()
        self._count("epochs_begun")
        self.members, self._origin = members, members.origin
        self._safety = Safety(members, self._key, self._origin, None)
        self.index = self._safety.index
        self._cache = VerifiedCache()
        self._tree.begin_epoch()
        self._commits.begin(members, self._origin)
        self._votes = VoteBox(members, self._verifier)
        self._timeouts = TimeoutBox(members)
        self._watch = Watch(members, self._verifier)
        self._fetch = Fetcher(self.config, len(members), self.index)
        self._rejoin = self._rejoin.in_epoch(self.index, members)
        self._orphans.clear()
        self._helped_ms.clear()
        self._rejoins.clear()
        self._local.clear()
        self._early = self._gathered = None
        self._nothing_in_view = self._asked_in_view = -1
        self._enter(self._origin.view + 1, failed=False)
        if self.index is None:
            self._fetch.refresh(self._now_ms)
        self._out.tell(EpochBegan(members))
