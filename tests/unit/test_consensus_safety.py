"""What a member signs, and what it never signs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import Forge

from consensus import Safety, VotingState, decode_voting_state
from protocol.chain import Block
from protocol.codec import encode
from protocol.errors import SafetyViolation


@pytest.fixture
def forge() -> Forge:
    return Forge()


def safety_of(forge: Forge, index: int = 0, state: VotingState | None = None) -> Safety:
    return Safety(forge.members, forge.keys[index], forge.genesis_qc, state)


def vote(safety: Safety, block: Block):  # type: ignore[no-untyped-def]
    return safety.vote(block, block.header.block_id())


def test_votes_for_a_block_of_the_view_after_its_qc(forge: Forge) -> None:
    block = forge.block(forge.root_block, 1)
    signed = vote(safety_of(forge), block)
    assert signed is not None
    state, message = signed
    assert state.last_voted_view == 1
    assert message == forge.vote(block, 0)


def test_votes_at_most_once_in_a_view(forge: Forge) -> None:
    safety = safety_of(forge)
    assert vote(safety, forge.block(forge.root_block, 1)) is not None
    assert vote(safety, forge.block(forge.root_block, 1, b"sibling")) is None


def test_never_votes_in_a_lower_view(forge: Forge) -> None:
    first, second = forge.chain([1, 2])
    safety = safety_of(forge)
    assert vote(safety, second) is not None
    assert vote(safety, first) is None


def test_gap_in_views_needs_a_timeout_certificate(forge: Forge) -> None:
    block = forge.block(forge.root_block, 2)
    assert vote(safety_of(forge), block) is None
    tc = forge.tc(1, [forge.genesis_qc] * 3)
    assert vote(safety_of(forge), forge.block(forge.root_block, 2, tc=tc)) is not None


def test_timeout_certificate_must_be_of_the_view_before(forge: Forge) -> None:
    tc = forge.tc(1, [forge.genesis_qc] * 3)
    assert vote(safety_of(forge), forge.block(forge.root_block, 3, tc=tc)) is None


def test_block_below_the_highest_qc_of_its_timeout_certificate_gets_no_vote(forge: Forge) -> None:
    first = forge.block(forge.root_block, 1)
    tc = forge.tc(2, [forge.genesis_qc, forge.qc(first), forge.genesis_qc])
    assert vote(safety_of(forge), forge.block(forge.root_block, 3, tc=tc)) is None
    assert vote(safety_of(forge), forge.block(first, 3, tc=tc)) is not None


def test_no_vote_in_a_view_that_was_given_up(forge: Forge) -> None:
    safety = safety_of(forge)
    signed = safety.timeout(1)
    assert signed is not None and signed[0].last_voted_view == 1
    assert vote(safety, forge.block(forge.root_block, 1)) is None


def test_timeout_names_the_qc_of_the_block_voted_for(forge: Forge) -> None:
    first, second = forge.chain([1, 2])
    safety = safety_of(forge)
    signed = vote(safety, second)
    assert signed is not None and signed[0].high_qc == forge.qc(first)
    given_up = safety.timeout(2)
    assert given_up is not None
    assert given_up[1] == forge.timeout(2, 0, forge.qc(first))


def test_lock_never_goes_down(forge: Forge) -> None:
    first, second = forge.chain([1, 2])
    safety = safety_of(forge)
    safety.observe_qc(forge.qc(second))
    safety.observe_qc(forge.qc(first))
    assert safety.high_qc.view == 2


def test_no_timeout_below_a_view_voted_in(forge: Forge) -> None:
    first, second = forge.chain([1, 2])
    safety = safety_of(forge)
    assert vote(safety, second) is not None
    assert safety.timeout(1) is None
    assert first.header.view == 1


def test_timeout_of_a_view_entered_by_timeouts_carries_their_certificate(forge: Forge) -> None:
    safety = safety_of(forge)
    tc = forge.tc(1, [forge.genesis_qc] * 3)
    safety.observe_tc(tc)
    signed = safety.timeout(2)
    assert signed is not None
    assert signed[1].last_tc == tc
    assert signed[0].high_tc == tc


def test_leader_proposes_once_in_a_view(forge: Forge) -> None:
    safety = safety_of(forge, 1)
    block = forge.block(forge.root_block, 1)
    signed = safety.propose(block, block.header.block_id())
    assert signed is not None and signed[0].last_proposed_view == 1
    assert signed[1] == forge.proposal(block)
    other = forge.block(forge.root_block, 1, b"other")
    assert safety.propose(other, other.header.block_id()) is None


def test_only_the_leader_of_the_view_proposes(forge: Forge) -> None:
    block = forge.block(forge.root_block, 1)
    assert safety_of(forge, 2).propose(block, block.header.block_id()) is None


def test_stored_state_prevents_double_signing(forge: Forge) -> None:
    safety = safety_of(forge, 1)
    block = forge.block(forge.root_block, 1)
    proposed = safety.propose(block, block.header.block_id())
    voted = vote(safety, block)
    assert proposed is not None and voted is not None
    state = decode_voting_state(encode(voted[0]))
    again = safety_of(forge, 1, state)
    sibling = forge.block(forge.root_block, 1, b"sibling")
    assert vote(again, sibling) is None
    assert again.propose(sibling, sibling.header.block_id()) is None
    assert again.high_qc == forge.genesis_qc


def test_observer_signs_nothing(forge: Forge) -> None:
    safety = Safety(forge.members, None, forge.genesis_qc)
    block = forge.block(forge.root_block, 1)
    assert vote(safety, block) is None
    assert safety.timeout(1) is None
    assert safety.propose(block, block.header.block_id()) is None


def test_state_of_another_chain_stops_the_process(forge: Forge) -> None:
    state = VotingState(b"x" * 32, 0, 1, 0, 0, forge.genesis_qc, None)
    with pytest.raises(SafetyViolation):
        safety_of(forge, 0, state)
