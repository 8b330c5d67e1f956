"""Evidence: what proves that a member signed against itself, and everything that does not."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec
import pytest
from ledger_world import key_of

from consensus import MemberSet
from consensus.evidence import double_proposal, double_vote, verify_evidence
from protocol.chain import EMPTY_HASH, Header, Member, Vote, proposal_digest, vote_digest
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.evidence import DoubleProposal, DoubleVote, Evidence, decode_evidence, evidence_id

CHAIN = sha256(b"chain").digest()
OTHER = sha256(b"other chain").digest()
KEYS = [key_of(f"member {number}") for number in range(3)]
MEMBERS = MemberSet(CHAIN, [Member(key.public, 1) for key in KEYS], 2)
replace = msgspec.structs.replace


def vote(block: bytes, member: int = 1, *, view: int = 7, epoch: int = 2, chain: bytes = CHAIN,
         signer: int | None = None, height: int = 4) -> Vote:  # fmt: skip
    block_id = sha256(block).digest()
    digest = vote_digest(chain, epoch, view, height, block_id)
    key = KEYS[member if signer is None else signer]
    return Vote(chain, epoch, view, height, block_id, member, key.sign(digest))


def proposal(time_ms: int, member: int = 1, *, view: int = 7, epoch: int = 2,
             chain: bytes = CHAIN, signer: int | None = None) -> tuple[Header, bytes]:  # fmt: skip
    header = Header(
        chain, epoch, view, 4, EMPTY_HASH, 6, time_ms, member, EMPTY_HASH, EMPTY_HASH, 0, EMPTY_HASH
    )
    key = KEYS[member if signer is None else signer]
    return header, key.sign(proposal_digest(header.block_id()))


def votes(**second: int) -> DoubleVote:
    return double_vote(vote(b"a"), vote(b"b", **second))  # type: ignore[arg-type]


def proposals(**second: int) -> DoubleProposal:
    return double_proposal(*proposal(1), *proposal(2, **second))  # type: ignore[arg-type]


def swapped(evidence: Evidence) -> Evidence:
    """The same statements in the wrong order."""
    if isinstance(evidence, DoubleVote):
        return DoubleVote(evidence.second, evidence.first)
    return DoubleProposal(
        evidence.second, evidence.second_signature, evidence.first, evidence.first_signature
    )


@pytest.mark.parametrize("make", [votes, proposals])
def test_two_statements_of_one_view_prove_the_offence_in_one_order(
    make: Callable[[], Evidence],
) -> None:
    evidence = make()
    verify_evidence(MEMBERS, evidence)
    assert (evidence.member, evidence.view, evidence.epoch) == (1, 7, 2)
    assert decode_evidence(encode(evidence)) == evidence
    assert evidence_id(CHAIN, evidence) == evidence_id(CHAIN, swapped(evidence))


def test_the_order_of_making_does_not_matter() -> None:
    one, other = vote(b"a"), vote(b"b")
    assert double_vote(one, other) == double_vote(other, one)
    first, second = proposal(1), proposal(2)
    assert double_proposal(*first, *second) == double_proposal(*second, *first)


def test_a_vote_and_a_proposal_of_one_view_are_one_offence() -> None:
    assert evidence_id(CHAIN, votes()) == evidence_id(CHAIN, proposals())
    assert evidence_id(CHAIN, votes()) != evidence_id(OTHER, votes())


FORGED: list[Callable[[], Evidence]] = [
    lambda: double_vote(vote(b"a"), vote(b"a")),
    lambda: double_vote(vote(b"a"), vote(b"a", height=5)),
    lambda: swapped(votes()),
    lambda: votes(view=8),
    lambda: votes(epoch=3),
    lambda: votes(member=2),
    lambda: votes(signer=2),
    lambda: double_vote(vote(b"a", signer=0), vote(b"b")),
    lambda: double_vote(vote(b"a", epoch=1), vote(b"b", epoch=1)),
    lambda: double_vote(vote(b"a", chain=OTHER), vote(b"b", chain=OTHER)),
    lambda: double_vote(vote(b"a", view=0), vote(b"b", view=0)),
    lambda: DoubleVote(replace(votes().first, member=3), replace(votes().second, member=3)),
    lambda: DoubleVote(replace(votes().first, member=-1), replace(votes().second, member=-1)),
    lambda: DoubleVote(votes().first, replace(votes().second, signature=b"")),
    lambda: DoubleVote(replace(votes().first, height=5), votes().second),
    lambda: double_proposal(*proposal(1), *proposal(1)),
    lambda: swapped(proposals()),
    lambda: proposals(view=8),
    lambda: proposals(epoch=3),
    lambda: proposals(member=2),
    lambda: proposals(signer=2),
    lambda: double_proposal(*proposal(1, signer=0), *proposal(2)),
    lambda: double_proposal(*proposal(1, epoch=1), *proposal(2, epoch=1)),
    lambda: double_proposal(*proposal(1, chain=OTHER), *proposal(2, chain=OTHER)),
    lambda: double_proposal(*proposal(1, view=0), *proposal(2, view=0)),
    lambda: replace(proposals(), first_signature=proposals().second_signature),
    lambda: replace(proposals(), second=replace(proposals().second, proposer=3),
                    first=replace(proposals().first, proposer=3)),
]  # fmt: skip


@pytest.mark.parametrize("make", FORGED, ids=range(len(FORGED)))
def test_anything_else_proves_nothing(make: Callable[[], Evidence]) -> None:
    with pytest.raises(Rejected) as refused:
        verify_evidence(MEMBERS, make())
    assert refused.value.code == Code.BAD_EVIDENCE
