"""Votes and proposals: the steady state of the protocol."""

from __future__ import annotations

from consensus.blocktree import Node
from consensus.core import Core
from consensus.proposals import build_block, check_leader, check_proposal, voting_obstacle
from protocol.chain import (
    EMPTY_HASH,
    Block,
    Proposal,
    Vote,
    vote_digest,
)
from protocol.errors import Code, Rejected, SafetyViolation

MAX_SIGNATURE_BYTES = 128
"""Votes are kept before their signature is checked, so what they may weigh is bounded."""

PASSING = frozenset({Code.BAD_INBOX_CURSOR})
"""Why the application refuses what it may allow later, when it has heard of a height."""


class Ordering(Core):
    """Collects votes as next leader, proposes as leader, checks proposals and votes as member."""

    def _on_vote(self, peer: int, message: Vote) -> None:
        if message.member != peer:
            raise Rejected(Code.NOT_AUTHORISED, "a vote of another member")
        self._check_chain(peer, message.chain_id, message.epoch)
        if len(message.signature) > MAX_SIGNATURE_BYTES or len(message.block_id) != len(EMPTY_HASH):
            raise Rejected(Code.MALFORMED, "a vote with an oversized field")
        self._collect(message)

    def _collect(self, vote: Vote, *, own: bool = False) -> None:
        if not own:
            known = self._votes.newest_of(vote.member)
            twice = known is not None and known.view == vote.view
            if twice and known is not None and known.block_id != vote.block_id:
                self._watch.vote(vote, known)
            else:
                self._watch.vote(vote)
        if vote.view <= self.high_qc.view or vote.view + 1 < self.view:
            self._count("stale_votes")
            return
        if not self._votes.add(vote, own=own):
            return
        node = self._tree.get(vote.block_id)
        fits = node is not None and (node.view, node.height) == (vote.view, vote.height)
        if node is not None and fits and self._commits.leader_after(node) != self.index:
            if self._gathered is None or self._gathered.view < vote.view:
                self._gathered, self._gathered_ms = vote, self._now_ms
            return
        self._certify(vote)

    def _certify(self, vote: Vote) -> None:
        """Join the votes equal to this one, where they are a quorum."""
        qc = self._votes.certify(vote)
        if self._votes.bad_signatures:
            self.counters["votes_badly_signed"] = self._votes.bad_signatures
        if qc is None:
            return
        self._count("qcs_formed")
        self._cache.add(qc.digest())
        self._process_qc(qc, vote.member)
        if len(self.members) > 1:
            self._announce = qc

    def _gathered_due_ms(self) -> int | None:
        """When the proposer of a block joins its votes itself: should the next leader be dead."""
        if self._gathered is None or self._gathered.view <= self.high_qc.view:
            return None
        return self._gathered_ms + self.config.timeout_ms // 2

    def _certify_gathered(self) -> None:
        """The next leader has shown no certificate of our block for a while: make it."""
        due = self._gathered_due_ms()
        if self._gathered is not None and due is not None and self._now_ms >= due:
            vote, self._gathered = self._gathered, None
            self._certify(vote)

    def _proposal_due_ms(self) -> int | None:
        """When this member proposes in the current view; None when it does not."""
        safety, view = self._safety, self.view
        if self.index is None or self._rejoin.waiting:
            return None
        if safety.last_proposed_view >= view or safety.last_voted_view >= view:
            return None
        parent = self._tree.get(safety.high_qc.block_id)
        if parent is None or self._leader_above(parent) != self.index:
            return None
        config = self.config
        interval = self._idle_ms
        if self._work and self._nothing_in_view != view:
            interval = self._block_interval_ms()
            if self._unfinished and self._asked_in_view != view:
                interval = min(interval, config.empty_interval_ms)
        elif self._unfinished:
            interval = config.empty_interval_ms
        if interval is None:
            return None
        return min(parent.header.time_ms, self._pace.entered_ms) + interval

    @property
    def leader(self) -> int | None:
        """Who proposes in the current view, None while the block to build on is not here."""
        parent = self._tree.get(self.high_qc.block_id)
        return None if parent is None else self._leader_above(parent)

    def _leader_above(self, parent: Node) -> int:
        """Who proposes in the current view on top of the highest certified block."""
        if parent.view + 1 == self.view:
            return self._commits.leader_after(parent)
        return self.members.leader(self.view)

    def _block_interval_ms(self) -> int:
        # At least 1, or a single member would fill one step with blocks for ever.
        return max(self.config.block_interval_ms, 1)

    def _propose(self) -> None:
        """Propose on the highest certified block, and vote for it.

        While payloads are uncommitted the application is asked early, once per view: if all its
        work is in those blocks an empty one goes out now, otherwise the block interval is kept.
        """
        safety, view = self._safety, self.view
        parent = self._tree.nodes[safety.high_qc.block_id]
        ancestors = [node.block for node in self._tree.path(parent)]
        time_ms = max(self._now_ms, parent.header.time_ms + 1)
        payload = b""
        room = len(ancestors) < self.config.max_uncommitted
        if self._work and room and not self._closing(parent):
            payload = self._app.propose(ancestors, time_ms)
        self._asked_in_view = view
        if not payload:
            self._nothing_in_view = view
        due = self._proposal_due_ms()
        if due is None or self._now_ms < due:
            return
        if len(payload) > self.config.max_payload_bytes:
            raise SafetyViolation("the application proposed more than max_payload_bytes")
        block = build_block(
            view, self.index or 0, parent, safety.high_qc, safety.high_tc, payload, time_ms,
            self._commits,
        )  # fmt: skip
        block_id = block.header.block_id()
        signed = safety.propose(block, block_id)
        if signed is None:
            raise SafetyViolation("an own proposal breaks the rules of its view")
        self._count("proposals_sent")
        node = Node(block, block_id)
        self._out.persist_block(node.block)
        self._out.persist(signed[0])
        if len(self.members) > 1:
            self._out.broadcast(signed[1])
        self._announce = None
        self._insert(node)
        self._vote(node, block, own=True)

    def _on_proposal(self, peer: int, message: Proposal) -> None:
        block = message.block
        header = block.header
        self._check_chain(peer, header.chain_id, header.epoch)
        if header.view <= self._tree.tip.view:
            self._count("stale_proposals")
            return
        block_id = header.block_id()
        known = self._tree.get(block_id)
        settled = header.view < self.view or header.view <= self._safety.last_voted_view
        if known is not None and (settled or known.judged):
            return  # its leader can say it as often as it likes
        check_proposal(message, block_id, self.members, self.config, self._verifier)
        self._check_qc(block.justify)
        if block.timeout is not None:
            self._check_tc(block.timeout)
        self._watch.proposal(message, block_id)
        self._process_qc(block.justify, peer)
        if block.timeout is not None:
            self._process_tc(block.timeout, peer)
        if header.view <= self._tree.tip.view or self._commits.next_members is not None:
            return
        if self._tree.get(header.parent_id) is None:
            self._keep_orphan(peer, message)
        else:
            self._accept(block, block_id)

    def _accept(self, block: Block, block_id: bytes) -> None:
        """Insert a checked proposal on a known parent, and vote where that is right."""
        node = self._tree.get(block_id)
        if node is None:
            header = block.header
            check_leader(header, self._tree.nodes[header.parent_id], self._commits)
            first = self._tree.first_in_view.get((header.view, header.proposer))
            if first is not None or self._tree.full():
                self._count("second_proposals" if first is not None else "tree_full")
                return
            node = Node(block, block_id)
            self._out.persist_block(node.block)
            self._insert(node)
        self._vote(node, block)
        self._adopt_orphans()

    def _vote(self, node: Node, block: Block, *, own: bool = False) -> None:
        """Vote for a proposal of the current view; `block` is as proposed, with its TC."""
        if node.view != self.view or self._safety.last_voted_view >= node.view:
            return
        if self._rejoin.waiting:
            self._early = node, block
            return
        if not own:
            parent = self._tree.nodes.get(node.header.parent_id)
            obstacle = voting_obstacle(node, parent, self._commits, self.config, self._now_ms)
            if obstacle is not None:
                self._count(f"not_voted_{obstacle}")
                if obstacle == "time_ahead":
                    self._early = node, block
                return
            ancestors = [ancestor.block for ancestor in self._tree.path(node)[:-1]]
            if block.payload and len(ancestors) >= self.config.max_uncommitted:
                self._count("not_voted_backlog")
                return
            try:
                self._app.check(node.block, ancestors)
            except Rejected as error:
                node.judged = error.code not in PASSING
                raise
            node.judged = self.index is None  # who has no vote to give need not look again
        signed = self._safety.vote(block, node.id)
        if signed is None:
            return
        self._count("votes_sent")
        state, vote = signed
        self._out.persist(state)
        statement = vote_digest(vote.chain_id, vote.epoch, vote.view, vote.height, vote.block_id)
        self._cache.add_own(statement, vote.signature)
        leader = self._commits.leader_after(node)
        # To the next leader, and to the proposer: should the next leader be dead, its turn fails
        # and not the one before, and what this block gathered is not lost.
        for member in sorted({leader, node.header.proposer}):
            if member == self.index:
                self._local.append(vote)
            else:
                self._out.send(member, vote)

    def _early_due_ms(self) -> int | None:
        """When a block of the current view that came before its time can be voted for."""
        if self._early is None or self._rejoin.waiting:
            return None
        node = self._early[0]
        if node.view != self.view or self._safety.last_voted_view >= node.view:
            self._early = None
            return None
        return node.header.time_ms - self.config.max_clock_ahead_ms

    def _vote_early(self) -> None:
        """Vote for a block whose leader's clock is far ahead of ours, now that its time came."""
        due = self._early_due_ms()
        if self._early is not None and due is not None and self._now_ms >= due:
            early, self._early = self._early, None
            try:
                self._vote(*early)
            except Rejected as error:
                self._count(f"rejected_{error.code.label}")

    def _keep_orphan(self, peer: int, proposal: Proposal) -> None:
        """Hold a checked proposal, one per leader, until its parent is here."""
        header = proposal.block.header
        self._orphans.setdefault((header.view, header.proposer), (peer, proposal))
        if len(self._orphans) > self.config.max_orphans:
            del self._orphans[min(self._orphans)]

    def _adopt_orphans(self) -> None:
        for place in sorted(self._orphans):
            block = self._orphans[place][1].block
            if block.header.view <= self._tree.tip.view:
                del self._orphans[place]
            elif self._tree.get(block.header.parent_id) is not None:
                del self._orphans[place]
                self._count("orphans_adopted")
                try:
                    self._accept(block, block.header.block_id())
                except Rejected as error:
                    # Another member's fault than that of whoever is being listened to.
                    self._count(f"rejected_{error.code.label}")
                    continue
                return
