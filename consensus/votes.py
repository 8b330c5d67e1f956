"""Gathering votes into quorum certificates and timeouts into timeout certificates.

An honest member's votes and timeouts only move to higher views, so the newest statement of each
member is all that is kept: memory is one vote and one timeout per member.
"""

from __future__ import annotations

from consensus.members import MemberSet
from consensus.verify import Verifier
from protocol.chain import QC, TC, Signature, Timeout, TimeoutSignature, Vote, vote_digest

MAX_TRIES = 4
"""Different timeouts of one member in one view that are looked at: its highest QC rises rarely."""


class VoteBox:
    """Votes sent to this member as next leader.

    Signatures are checked when stake for a quorum is there, so that late votes cost nothing; a
    wrong one is dropped and counted in `bad_signatures`.
    """

    __slots__ = ("_latest", "_members", "_verified", "_verifier", "bad_signatures")

    def __init__(self, members: MemberSet, verifier: Verifier) -> None:
        self._members = members
        self._verifier = verifier
        self._latest: dict[int, Vote] = {}
        self._verified: set[int] = set()
        self.bad_signatures = 0

    def newest_of(self, member: int) -> Vote | None:
        """Newest vote of a member; its signature may not have been checked."""
        return self._latest.get(member)

    def in_view(self, view: int) -> list[Vote]:
        """Votes of one view; their signatures may not have been checked."""
        return [vote for vote in self._latest.values() if vote.view == view]

    def add(self, vote: Vote, *, own: bool = False) -> bool:
        """Keep a vote of a member of the set; whether it is newer than the one known."""
        known = self._latest.get(vote.member)
        if known is not None and known.view >= vote.view:
            return False
        self._latest[vote.member] = vote
        self._verified.discard(vote.member)
        if own:
            self._verified.add(vote.member)
        return True

    def certify(self, vote: Vote) -> QC | None:
        """The QC that the votes equal to this one make, None while they are no quorum."""
        stakes = self._members.stakes
        equal = [
            member
            for member, other in self._latest.items()
            if other.view == vote.view
            and other.block_id == vote.block_id
            and other.height == vote.height
        ]
        if not self._members.quorum(sum(stakes[member] for member in equal)):
            return None
        statement = vote_digest(vote.chain_id, vote.epoch, vote.view, vote.height, vote.block_id)
        for member in equal:
            if member in self._verified:
                continue
            key = self._members.keys[member]
            if self._verifier(key, self._latest[member].signature, statement):
                self._verified.add(member)
            else:
                del self._latest[member]
                self.bad_signatures += 1
        good = sorted(member for member in equal if member in self._verified)
        if not self._members.quorum(sum(stakes[member] for member in good)):
            return None
        signatures = [Signature(member, self._latest[member].signature) for member in good]
        return QC(vote.chain_id, vote.epoch, vote.view, vote.height, vote.block_id, signatures)


class TimeoutBox:
    """Verified timeouts of all members, own ones included."""

    __slots__ = ("_latest", "_members", "_tries")

    def __init__(self, members: MemberSet) -> None:
        self._members = members
        self._latest: dict[int, Timeout] = {}
        # View and number of the statements of each member that were checked in it.
        self._tries: dict[int, tuple[int, int]] = {}

    def may_check(self, timeout: Timeout) -> bool:
        """Whether a statement is worth its signatures: a member has `MAX_TRIES` in one view."""
        view, tries = self._tries.get(timeout.member, (timeout.view, 0))
        tries = tries + 1 if view == timeout.view else 1
        self._tries[timeout.member] = timeout.view, tries
        return tries <= MAX_TRIES

    def add(self, timeout: Timeout) -> int:
        """Take a verified timeout; returns the stake that gave up its view so far."""
        known = self._latest.get(timeout.member)
        if known is None or (known.view, known.high_qc.view) < (timeout.view, timeout.high_qc.view):
            self._latest[timeout.member] = timeout
        stakes = self._members.stakes
        return sum(stakes[member] for member, t in self._latest.items() if t.view == timeout.view)

    def newest_of(self, member: int) -> Timeout | None:
        """Newest timeout of a member."""
        return self._latest.get(member)

    def knows(self, timeout: Timeout) -> bool:
        """Whether this very statement was taken before."""
        known = self._latest.get(timeout.member)
        return known is not None and (
            known.view == timeout.view
            and known.high_qc.view == timeout.high_qc.view
            and known.signature == timeout.signature
        )

    def certificate(self, view: int) -> TC | None:
        """The TC of `view` with the highest QC among its timeouts, once a quorum gave it up."""
        chosen = sorted(
            (t for t in self._latest.values() if t.view == view), key=lambda t: t.member
        )
        if not self._members.quorum(sum(self._members.stakes[t.member] for t in chosen)):
            return None
        high_qc = max((t.high_qc for t in chosen), key=lambda qc: qc.view)
        signatures = [TimeoutSignature(t.member, t.high_qc.view, t.signature) for t in chosen]
        return TC(self._members.chain_id, self._members.epoch, view, high_qc, signatures)
