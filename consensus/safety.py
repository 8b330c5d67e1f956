"""The only file that decides to sign: votes, timeouts and proposals.

Voting rule of Jolteon (Gelashvili et al. 2021, figure 2): vote for a block of view v at most once,
in views that only grow, and only if its QC is of view v - 1, or it carries a TC of view v - 1 and
its QC is at least as high as every QC named there. A timeout in view v ends voting in views up to
v and names the highest QC this member ever voted on top of; that is the lock which makes a
committed pair survive every view change.

Each method returns the `VotingState` that must be durable before the message leaves.
"""

from __future__ import annotations

from typing import Protocol

from consensus.members import MemberSet
from protocol.chain import (
    QC,
    TC,
    Block,
    Proposal,
    Timeout,
    Vote,
    proposal_digest,
    timeout_digest,
    vote_digest,
)
from protocol.codec import Decoder, Wire
from protocol.errors import SafetyViolation


class Signer(Protocol):
    """What signs for a member; `protocol.keys.Key` is one."""

    public: bytes

    def sign(self, digest: bytes) -> bytes:
        """Signature over a domain hash."""


class VotingState(Wire, frozen=True):
    """What a member must never forget; losing it means rejoining under a new key."""

    chain_id: bytes
    epoch: int
    last_voted_view: int
    last_timeout_view: int
    last_proposed_view: int
    high_qc: QC
    high_tc: TC | None


decode_voting_state: Decoder[VotingState] = Decoder(VotingState)


class Safety:
    """Holds the voting state of one member and signs what the rules allow.

    Callers pass only certificates that verified. With `signer` None, or one that is no member's,
    nothing is ever signed.
    """

    __slots__ = (
        "_index",
        "_members",
        "_signer",
        "high_qc",
        "high_tc",
        "last_proposed_view",
        "last_timeout_view",
        "last_voted_view",
    )

    def __init__(
        self,
        members: MemberSet,
        signer: Signer | None,
        origin: QC,
        state: VotingState | None = None,
    ) -> None:
        index = None if signer is None else members.index_of(signer.public)
        if state is not None and state.chain_id != members.chain_id:
            raise SafetyViolation("the stored voting state belongs to another chain")
        if state is not None and state.epoch > members.epoch:
            raise SafetyViolation("the stored voting state is of a later epoch")
        if state is not None and state.epoch < members.epoch:
            # Statements name their epoch: none of an earlier one binds in this one.
            state = None
        self._members = members
        self._signer = None if index is None else signer
        self._index = -1 if index is None else index
        start = origin.view
        self.high_qc = origin if state is None else state.high_qc
        self.high_tc = None if state is None else state.high_tc
        self.last_voted_view = start if state is None else state.last_voted_view
        self.last_timeout_view = start if state is None else state.last_timeout_view
        self.last_proposed_view = start if state is None else state.last_proposed_view

    @property
    def index(self) -> int | None:
        """Own member index, None for an observer."""
        return None if self._signer is None else self._index

    def state(self) -> VotingState:
        """The state to persist."""
        return VotingState(
            self._members.chain_id,
            self._members.epoch,
            self.last_voted_view,
            self.last_timeout_view,
            self.last_proposed_view,
            self.high_qc,
            self.high_tc,
        )

    def observe_qc(self, qc: QC) -> None:
        """Raise the lock to a verified QC of a higher view."""
        if qc.view > self.high_qc.view:
            self.high_qc = qc

    def observe_tc(self, tc: TC) -> None:
        """Note a verified TC, and the QC within it."""
        self.observe_qc(tc.high_qc)
        if self.high_tc is None or tc.view > self.high_tc.view:
            self.high_tc = tc

    def recall(self, qc: QC) -> None:
        """Take up a verified QC that a stored block carries.

        Blocks are stored before the voting state, so after a crash it may hold a vote that the
        state lacks: one that never left, but that stands in what is stored here.
        """
        self.observe_qc(qc)
        if any(one.member == self._index for one in qc.signatures):
            self.last_voted_view = max(self.last_voted_view, qc.view)

    def require_own(self, statement: QC | TC | Vote | Timeout) -> None:
        """Raise `SafetyViolation` where a verified statement is ours and we know nothing of it.

        What is signed is stored before it leaves, so the voting state was lost, or is that of a
        backup.
        """
        if statement.view <= self.last_voted_view or self._signer is None:
            return
        if isinstance(statement, QC | TC):
            ours = any(one.member == self._index for one in statement.signatures)
        else:
            ours = statement.member == self._index
        if ours:
            raise SafetyViolation(
                f"this member's key signed in view {statement.view}, but its voting state ends at "
                f"view {self.last_voted_view}: the state was lost or comes from a backup. The key "
                "must not sign again: join with a new key (trilemma validator init), and unbond "
                "the old one's stake"
            )

    def justified(self, block: Block) -> bool:
        """Whether the block's certificates allow its view (second half of the voting rule)."""
        view, qc, tc = block.header.view, block.justify, block.timeout
        if qc.view + 1 == view:
            return True
        return tc is not None and tc.view + 1 == view and tc.high_qc.view <= qc.view < view

    def vote(self, block: Block, block_id: bytes) -> tuple[VotingState, Vote] | None:
        """Vote for a block, or None where the rules forbid it."""
        header = block.header
        if self._signer is None or header.view <= self.last_voted_view:
            return None
        if header.parent_id != block.justify.block_id or not self.justified(block):
            return None
        self.last_voted_view = header.view
        self.observe_qc(block.justify)
        if block.timeout is not None:
            self.observe_tc(block.timeout)
        digest = vote_digest(header.chain_id, header.epoch, header.view, header.height, block_id)
        vote = Vote(
            header.chain_id,
            header.epoch,
            header.view,
            header.height,
            block_id,
            self._index,
            self._signer.sign(digest),
        )
        return self.state(), vote

    def timeout(self, view: int) -> tuple[VotingState, Timeout] | None:
        """Give up `view`, or None where a later view was voted in or given up already."""
        if self._signer is None or view < self.last_voted_view or view < self.last_timeout_view:
            return None
        if self.high_qc.view >= view:
            return None
        self.last_voted_view = view
        self.last_timeout_view = view
        members = self._members
        entered_by_qc = self.high_qc.view + 1 == view
        digest = timeout_digest(members.chain_id, members.epoch, view, self.high_qc.view)
        timeout = Timeout(
            members.chain_id,
            members.epoch,
            view,
            self.high_qc,
            self._index,
            self._signer.sign(digest),
            None if entered_by_qc else self.high_tc,
        )
        return self.state(), timeout

    def propose(self, block: Block, block_id: bytes) -> tuple[VotingState, Proposal] | None:
        """Sign an own block, or None where this view or a later one has been proposed in."""
        header = block.header
        if self._signer is None or header.view <= self.last_proposed_view:
            return None
        if header.proposer != self._index or not self.justified(block):
            return None
        self.last_proposed_view = header.view
        return self.state(), Proposal(block, self._signer.sign(proposal_digest(block_id)))
