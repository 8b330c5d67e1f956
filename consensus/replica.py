"""Jolteon as a pure machine: `Replica.step(event, now_ms) -> effects`.

The protocol (Gelashvili, Kokoris-Kogias, Sonnino, Spiegelman, Xiang: "Jolteon and Ditto", 2021,
arXiv 2106.10362; section 3 and figure 2) is two-chain HotStuff. Time is cut into *views*, each
with one leader. The leader of view v proposes a block on top of the block with the highest quorum
certificate (QC) it knows; members vote at most once per view and send the vote to the leader of
view v + 1, who joins votes of more than two thirds of the stake into the QC that its own proposal
carries. A block and its *direct child* of exactly one view higher, both certified, commit the
block with all its ancestors: that is the pair in a `CommitCertificate`. Two blocks whose views are
further apart commit nothing, however many certificates follow.

When a view makes no progress its members broadcast a `Timeout` with the highest QC they voted on
top of, and never vote in that view again. A quorum of timeouts is a timeout certificate (TC) and
opens the next view; its leader must build on a QC at least as high as every one in the TC.
Any two quorums share an honest member: whoever voted for the child of a committed block holds that
block's QC, so every later TC names it, and nothing that conflicts can gather votes (section 3.4,
lemmas 1 to 3). One third of the stake giving up a view makes the rest join (Bracha's
amplification), timeouts are repeated while a view is stuck and carry the proof for their view, so
that partitions heal. Timers back off and return after one success.

Around the protocol: pace (blocks at once with work, quick empty blocks until payloads commit,
heartbeats otherwise), catching up (`sync`), and the application's root, which every header names
for the newest block that its own ancestors commit and which voters compare with their own.

`safety` alone signs. The order of effects in each step is: blocks, voting state, commits, messages;
a shell syncs what is to be persisted before it sends. `now_ms` must not run backwards.
"""

from __future__ import annotations

from consensus.blocktree import Node
from consensus.catchup import CatchUp
from consensus.effects import (
    Effect,
    Event,
    Misbehaviour,
    Received,
    Start,
    Work,
)
from protocol.chain import (
    BlocksRequest,
    BlocksResponse,
    Certified,
    ConsensusMessage,
    Proposal,
    Rejoin,
    Remembered,
    Timeout,
    Vote,
    timeout_digest,
    vote_digest,
)
from protocol.errors import Code, Rejected, SafetyViolation

REJOINS_ANSWERED = 4
"""Questions of one starting member that are answered in one fetch timeout."""


class Replica(CatchUp):
    """One member (or, with `key` None, one observer) of a chain.

    `stored` serves committed blocks that left the window; `verifier` can be replaced in
    simulations. A fault of ours raises `SafetyViolation`; a peer's is counted in `counters`.
    """

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event at `now_ms` (Unix milliseconds, not decreasing); returns the effects."""
        self._now_ms = now_ms
        kind = type(event)
        if kind is Start:
            self._start()
        elif not self._started:
            raise SafetyViolation("the first event of a replica must be Start")
        elif isinstance(event, Received):
            self._receive(event.peer, event.message)
        elif kind is Work:
            self._nothing_in_view = -1
        self._progress()
        return self._out.drain()

    def next_deadline_ms(self) -> int | None:
        """When the shell must send `Tick`; None when only an event can change anything."""
        due = [
            self._fetch.deadline_ms(), self._proposal_due_ms(), self._view_deadline_ms(),
            self._early_due_ms(), self._rejoin.due_ms(self._now_ms), self._gathered_due_ms(),
        ]  # fmt: skip
        return min((moment for moment in due if moment is not None), default=None)

    def _start(self) -> None:
        """Take up the recovered blocks and ask a peer what happened meanwhile."""
        if self._started:
            raise SafetyViolation("a replica starts once")
        self._started = True
        self._pace.entered_ms = self._now_ms
        self._commits.replay(self._stored)
        self._turn_epoch()
        self._commits.recall(self._stored)
        if self._recovered is not None:
            for block in sorted(self._recovered.blocks, key=lambda b: b.header.height):
                if block.header.epoch != self.members.epoch:
                    continue
                self._safety.recall(block.justify)
                block_id = block.header.block_id()
                known = self._tree.get(block_id) is not None
                if not known and self._tree.get(block.header.parent_id) is not None:
                    self._insert(Node(block, block_id))
            self._recovered = None
            self._fetch.refresh(self._now_ms)
        elif self.index is None:
            self._fetch.refresh(self._now_ms)
        self._process_qc(self._safety.high_qc, -1)

    def _receive(self, peer: int, message: ConsensusMessage) -> None:
        try:
            if peer == self.index:
                raise Rejected(Code.NOT_AUTHORISED, "a message of our own")
            if peer not in self.members and not isinstance(message, BlocksRequest):
                self._check_chain(peer, *_place(message))
                raise Rejected(Code.NOT_AUTHORISED, "only other members take part")
            self._dispatch(peer, message)
        except Rejected as error:
            self._count(f"rejected_{error.code.label}")

    def _dispatch(self, peer: int, message: ConsensusMessage) -> None:
        if isinstance(message, Vote):
            self._on_vote(peer, message)
        elif isinstance(message, Proposal):
            self._on_proposal(peer, message)
        elif isinstance(message, Certified):
            self._on_certified(peer, message)
        elif isinstance(message, Timeout):
            self._on_timeout(peer, message)
        elif isinstance(message, BlocksRequest):
            self._on_request(peer, message)
        elif isinstance(message, BlocksResponse):
            self._on_response(peer, message)
        elif isinstance(message, Rejoin):
            self._on_rejoin(peer, message)
        elif isinstance(message, Remembered):
            self._on_remembered(peer, message)
        else:
            raise Rejected(Code.UNKNOWN_MESSAGE, "no message of consensus")

    def _progress(self) -> None:
        """Do what is due: own votes, timers, proposals, requests."""
        now = self._now_ms
        self._turn_epoch()
        self._refresh_work()
        if self._rejoin.ask(now):
            number = self._rejoin.number
            self._out.broadcast(Rejoin(self.members.chain_id, self.members.epoch, number))
        while True:
            self._vote_early()
            while self._local:
                self._collect(self._local.popleft(), own=True)
            self._certify_gathered()
            self._turn_epoch()
            self._refresh_work()
            due = self._view_deadline_ms()
            if due is not None and now >= due:
                self._give_up_view()
                continue
            due = self._proposal_due_ms()
            if due is None or now < due:
                break
            self._propose()
        if self._announce is not None:
            self._out.broadcast(Certified(self._announce, None))
            self._announce = None
        for evidence in self._watch.take():
            self._count("equivocations")
            self._out.tell(Misbehaviour(evidence))
        self._fetch.settle(self._tree)
        for request in self._fetch.requests(now, self.committed_height):
            self._count("requests_sent")
            self._out.send(*request)

    def _refresh_work(self) -> None:
        self._work = self._app.has_work()
        if not self._work and not self._unfinished:
            self._busy_since_ms = None
        elif self._busy_since_ms is None:
            self._busy_since_ms = self._now_ms

    def _view_deadline_ms(self) -> int | None:
        if self.index is None or self._rejoin.waiting:
            return None
        if len(self.members) == 1 and self._safety.last_voted_view < self.view:
            return None
        return self._pace.deadline_ms(self._busy_since_ms, self._idle_ms)

    def _give_up_view(self) -> None:
        self._pace.gave_up(self._now_ms)
        signed = self._safety.timeout(self.view)
        if signed is None:
            return
        self._count("timeouts_sent")
        self._out.persist(signed[0])
        self._out.broadcast(signed[1])
        self._add_timeout(signed[1], -1)

    def _add_timeout(self, timeout: Timeout, peer: int) -> None:
        stake = self._timeouts.add(timeout)
        if self.members.quorum(stake):
            tc = self._timeouts.certificate(timeout.view)
            if tc is not None:
                self._count("tcs_formed")
                self._cache.add(tc.digest())
                self._process_tc(tc, peer)
        elif self.members.includes_honest(stake) and self._may_join():
            self._give_up_view()

    def _may_join(self) -> bool:
        return self.index is not None and self._pace.said_ms is None and not self._rejoin.waiting

    def _on_timeout(self, peer: int, timeout: Timeout) -> None:
        if timeout.member != peer:
            raise Rejected(Code.NOT_AUTHORISED, "a timeout of another member")
        self._check_chain(peer, timeout.chain_id, timeout.epoch)
        if timeout.high_qc.view > self.high_qc.view:
            self._check_qc(timeout.high_qc)
            self._process_qc(timeout.high_qc, peer)
            self._pass_on(timeout.high_qc, peer)
        if timeout.view < self.view:
            self._help(peer)
            return
        if self._timeouts.knows(timeout):
            return
        view, last_tc = timeout.view, timeout.last_tc
        if timeout.high_qc.view >= view:
            raise Rejected(Code.BAD_CERTIFICATE, "a QC of a view that was given up")
        if timeout.high_qc.view + 1 != view and (last_tc is None or last_tc.view + 1 != view):
            raise Rejected(Code.BAD_CERTIFICATE, "the timeout does not prove its view")
        statement = timeout_digest(timeout.chain_id, timeout.epoch, view, timeout.high_qc.view)
        if not self._verifier(self.members.keys[peer], timeout.signature, statement):
            raise Rejected(Code.BAD_SIGNATURE, "wrong signature under a timeout")
        if not self._timeouts.may_check(timeout):
            self._count("timeouts_ignored")
            return
        self._check_qc(timeout.high_qc)
        if last_tc is not None and last_tc.view >= self.view:
            self._check_tc(last_tc)
            self._process_tc(last_tc, peer)
        if view == self.view:
            self._add_timeout(timeout, peer)

    def _on_certified(self, peer: int, message: Certified) -> None:
        self._check_chain(peer, *_place(message))
        if message.qc.view > self.high_qc.view:
            self._check_qc(message.qc)
            self._process_qc(message.qc, peer)
            self._pass_on(message.qc, peer)
        if message.tc is not None and message.tc.view >= self.view:
            self._check_tc(message.tc)
            self._process_tc(message.tc, peer)

    def _on_rejoin(self, peer: int, message: Rejoin) -> None:
        """Tell a member that has started what we hold of it."""
        self._check_chain(peer, message.chain_id, message.epoch)
        if self._now_ms >= self._rejoins_ms + self.config.fetch_timeout_ms:
            self._rejoins.clear()
            self._rejoins_ms = self._now_ms
        self._rejoins[peer] += 1
        if self._rejoins[peer] > REJOINS_ANSWERED:
            self._count("rejoins_ignored")
            return
        self._count("rejoins_answered")
        members, safety = self.members, self._safety
        answer = Remembered(
            members.chain_id, members.epoch, message.number, safety.high_qc, safety.high_tc,
            self._votes.newest_of(peer), self._timeouts.newest_of(peer),
        )  # fmt: skip
        self._out.send(peer, answer)

    def _on_remembered(self, peer: int, message: Remembered) -> None:
        self._check_chain(peer, message.chain_id, message.epoch)
        if message.number != self._rejoin.number:
            raise Rejected(Code.NOT_AUTHORISED, "an answer that was not asked for")
        if not self._rejoin.waiting:
            self._count("late_answers")
            return
        self._check_qc(message.qc)
        if message.tc is not None:
            self._check_tc(message.tc)
        for statement in (message.vote, message.timeout):
            if statement is not None and self._is_ours(statement):
                self._require_own(statement)
        self._process_qc(message.qc, peer)
        if message.tc is not None:
            self._process_tc(message.tc, peer)
        self._rejoin.answered(peer)

    def _is_ours(self, statement: Vote | Timeout) -> bool:
        """Whether a statement of this epoch bears our own signature."""
        epoch, view = self.members.epoch, statement.view
        if statement.member != self.index or statement.epoch != epoch:
            return False
        chain_id = self.members.chain_id
        if isinstance(statement, Vote):
            digest = vote_digest(chain_id, epoch, view, statement.height, statement.block_id)
        else:
            digest = timeout_digest(chain_id, epoch, view, statement.high_qc.view)
        return self._verifier(self.members.keys[self.index], statement.signature, digest)


def _place(message: ConsensusMessage) -> tuple[bytes, int]:
    """Chain and epoch that a message speaks of."""
    if isinstance(message, Proposal):
        return message.block.header.chain_id, message.block.header.epoch
    if isinstance(message, Certified):
        return message.qc.chain_id, message.qc.epoch
    if isinstance(message, BlocksRequest | BlocksResponse):
        raise Rejected(Code.NOT_AUTHORISED, "only other members take part")
    return message.chain_id, message.epoch
