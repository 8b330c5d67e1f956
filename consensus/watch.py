"""Finds members that sign against themselves, among what verified or can be verified.

Kept are the certificates and proposals of the newest views, and each member's newest vote (in the
vote box): enough to meet the second statement while the first still matters, with bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus.evidence import double_proposal, double_vote
from consensus.members import MemberSet
from consensus.verify import Verifier
from protocol.chain import QC, Header, Proposal, Vote, vote_digest
from protocol.evidence import Evidence

VIEWS_KEPT = 64
REPORTED_OF_MEMBER = 8
"""Offences of one member that are reported in an epoch: the first suffices to punish it."""


class Watch:
    """Collects evidence in one epoch; each offence (member and view) is reported once,
    and no more than `REPORTED_OF_MEMBER` of one member."""

    def __init__(self, members: MemberSet, verifier: Verifier) -> None:
        self._members = members
        self._verifier = verifier
        self._certified: dict[int, QC] = {}
        self._proposed: dict[tuple[int, int], tuple[Header, bytes]] = {}
        self._reported: dict[int, set[int]] = {}
        self._found: list[Evidence] = []

    def take(self) -> list[Evidence]:
        """Evidence found since the last call."""
        found, self._found = self._found, []
        return found

    def certified(self, qc: QC, votes: Iterable[Vote]) -> None:
        """A QC verified; `votes` are unverified ones of its view for other blocks."""
        known = self._certified.get(qc.view)
        if known is not None and known.block_id == qc.block_id:
            return
        if known is None:
            self._certified[qc.view] = qc
            if len(self._certified) > VIEWS_KEPT:
                del self._certified[min(self._certified)]
        else:
            ours = {one.member: one.signature for one in known.signatures}
            for one in qc.signatures:
                if one.member in ours:
                    self._report_votes(
                        _vote_in(known, one.member, ours[one.member]),
                        _vote_in(qc, one.member, one.signature),
                    )
        for vote in votes:
            self.vote(vote)

    def vote(self, vote: Vote, other: Vote | None = None) -> None:
        """A vote whose signature is unverified came, where `other` by the same member is known."""
        if not self._may_report(vote.view, vote.member):
            return
        if other is None:
            qc = self._certified.get(vote.view)
            if qc is None or qc.block_id == vote.block_id:
                return
            for one in qc.signatures:
                if one.member == vote.member:
                    other = _vote_in(qc, one.member, one.signature)
        if other is not None and self._signed(vote) and self._signed(other):
            self._report_votes(vote, other)

    def proposal(self, proposal: Proposal, block_id: bytes) -> None:
        """A proposal whose signature verified came."""
        header = proposal.block.header
        place = (header.view, header.proposer)
        known = self._proposed.setdefault(place, (header, proposal.signature))
        if len(self._proposed) > VIEWS_KEPT:
            del self._proposed[min(self._proposed)]
        if known[0].block_id() == block_id or not self._first_report(*place):
            return
        self._found.append(double_proposal(*known, header, proposal.signature))

    def _signed(self, vote: Vote) -> bool:
        digest = vote_digest(vote.chain_id, vote.epoch, vote.view, vote.height, vote.block_id)
        return self._verifier(self._members.keys[vote.member], vote.signature, digest)

    def _report_votes(self, first: Vote, second: Vote) -> None:
        if self._first_report(first.view, first.member):
            self._found.append(double_vote(first, second))

    def _may_report(self, view: int, member: int) -> bool:
        views = self._reported.get(member, ())
        return view not in views and len(views) < REPORTED_OF_MEMBER

    def _first_report(self, view: int, member: int) -> bool:
        if not self._may_report(view, member):
            return False
        self._reported.setdefault(member, set()).add(view)
        return True


def _vote_in(qc: QC, member: int, signature: bytes) -> Vote:
    """The vote that a certificate holds of one of its signers."""
    return Vote(qc.chain_id, qc.epoch, qc.view, qc.height, qc.block_id, member, signature)
