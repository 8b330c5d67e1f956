"""Evidence of a member that signed against itself: making it, and checking what others made.

Pure functions of the statements and of the keys of the epoch that they name, so that whoever knows
an epoch's members can judge (accountability as in PBFT-style protocols; Buchman et al. 2018,
section on fork accountability).
"""

from __future__ import annotations

from consensus.members import MemberSet
from consensus.verify import Verifier
from protocol.chain import GENESIS_VIEW, Header, Vote, proposal_digest, vote_digest
from protocol.errors import Code, Rejected
from protocol.evidence import DoubleProposal, DoubleVote, Evidence
from protocol.keys import verify


def double_vote(one: Vote, other: Vote) -> DoubleVote:
    """Evidence of two votes in its canonical order; whether it holds, `verify_evidence` says."""
    first, second = sorted((one, other), key=lambda vote: vote.block_id)
    return DoubleVote(first, second)


def double_proposal(
    one: Header, one_signature: bytes, other: Header, other_signature: bytes
) -> DoubleProposal:
    """Evidence of two signed proposals in its canonical order; `verify_evidence` judges it."""
    pairs = ((one, one_signature), (other, other_signature))
    first, second = sorted(pairs, key=lambda pair: pair[0].block_id())
    return DoubleProposal(*first, *second)


def verify_evidence(members: MemberSet, evidence: Evidence, *, verifier: Verifier = verify) -> None:
    """Check that a member of this epoch signed two statements of which an honest one signs one.

    Raises `Rejected(bad_evidence)` where that is not proven; returns None where it is.
    """
    first, second = evidence.first, evidence.second
    for statement in (first, second):
        if statement.chain_id != members.chain_id or statement.epoch != members.epoch:
            raise _bad("a statement is of another chain or epoch")
    if first.view != second.view:
        raise _bad("the statements are of two views, in which a member may well say two things")
    if first.view <= GENESIS_VIEW:
        raise _bad("nobody signs anything in the view of genesis")
    if evidence.member not in members:
        raise _bad(f"there is no member {evidence.member} in this epoch")
    if isinstance(evidence, DoubleVote):
        _verify_votes(members, evidence, verifier)
    else:
        _verify_proposals(members, evidence, verifier)


def _verify_votes(members: MemberSet, evidence: DoubleVote, verifier: Verifier) -> None:
    first, second = evidence.first, evidence.second
    if first.member != second.member:
        raise _bad("the votes are of two members")
    if first.block_id >= second.block_id:
        raise _bad("the votes must be for two blocks, the lower block id first")
    key = members.keys[first.member]
    for vote in (first, second):
        digest = vote_digest(vote.chain_id, vote.epoch, vote.view, vote.height, vote.block_id)
        if not verifier(key, vote.signature, digest):
            raise _bad("a vote has a wrong signature")


def _verify_proposals(members: MemberSet, evidence: DoubleProposal, verifier: Verifier) -> None:
    if evidence.first.proposer != evidence.second.proposer:
        raise _bad("the proposals are of two members")
    first_id, second_id = evidence.first.block_id(), evidence.second.block_id()
    if first_id >= second_id:
        raise _bad("the proposals must be two blocks, the lower block id first")
    key = members.keys[evidence.first.proposer]
    for block_id, signature in (
        (first_id, evidence.first_signature),
        (second_id, evidence.second_signature),
    ):
        if not verifier(key, signature, proposal_digest(block_id)):
            raise _bad("a proposal has a wrong signature")


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_EVIDENCE, text)
