"""Leaders from the committed chain, and the evidence that is found on the way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import CONFIG, GENESIS_MS, Forge, committed, receive, sent, verify

from consensus import Effect, Misbehaviour, Send, Tick
from consensus.evidence import verify_evidence
from consensus.reputation import ACTIVE_BLOCKS, Reputation
from consensus.watch import REPORTED_OF_MEMBER
from protocol.chain import Block, Certified, Vote
from protocol.evidence import DoubleProposal, DoubleVote

WINDOW = 8


@pytest.fixture
def forge() -> Forge:
    return Forge()


def leader_on_top(
    forge: Forge, blocks: list[tuple[int, tuple[int, ...], int | None]], window: int = WINDOW
) -> list[int]:
    """Leaders of the next views over committed blocks of (proposer, signers, skipped)."""
    reputation = Reputation(forge.members, forge.genesis_qc, window)
    header = forge.genesis
    for height, (proposer, signers, skipped) in enumerate(blocks, 1):
        justify = replace(forge.qc_of(header, signers), view=height)
        header = replace(
            header, height=height, view=height, proposer=proposer, skipped=skipped,
            app_height=height,
        )  # fmt: skip
        reputation.note(header, justify)
    return [
        reputation.after(replace(header, view=header.view + more), b"block") for more in range(12)
    ]


def test_members_that_take_part_lead_in_turn(forge: Forge) -> None:
    leaders = leader_on_top(forge, [(0, (0, 1, 2), None), (1, (1, 2, 3), None)])
    assert sorted(leaders[:4]) == [0, 1, 2, 3]
    assert leaders[:4] == leaders[4:8]


def test_silent_member_does_not_lead(forge: Forge) -> None:
    assert set(leader_on_top(forge, [(0, (0, 1, 3), None)] * 3)) == {0, 1, 3}


def test_member_that_fell_silent_does_not_lead_for_long(forge: Forge) -> None:
    silent = [(0, (0, 1, 3), None)] * ACTIVE_BLOCKS
    early: tuple[int, tuple[int, ...], int | None] = (2, (0, 1, 2, 3), None)
    assert 2 in leader_on_top(forge, [early, *silent[1:]], window=128)
    assert 2 not in leader_on_top(forge, [early, *silent], window=128)


def test_member_whose_turn_failed_does_not_lead_until_it_leaves_the_window(forge: Forge) -> None:
    failed: tuple[int, tuple[int, ...], int | None] = (0, (0, 1, 2, 3), 2)
    good: tuple[int, tuple[int, ...], int | None] = (1, (0, 1, 2, 3), None)
    assert set(leader_on_top(forge, [failed])) == {0, 1, 3}
    assert set(leader_on_top(forge, [failed] + [good] * (WINDOW - 1))) == {0, 1, 3}
    assert set(leader_on_top(forge, [failed] + [good] * WINDOW)) == {0, 1, 2, 3}


def test_member_that_led_again_after_its_failure_is_back(forge: Forge) -> None:
    blocks = [(0, (0, 1, 2, 3), 2), (2, (0, 1, 2, 3), None)]
    assert set(leader_on_top(forge, blocks)) == {0, 1, 2, 3}  # type: ignore[arg-type]


def test_all_failing_leaves_the_last_proposer(forge: Forge) -> None:
    blocks = [(1, (0,), 0), (2, (1,), 1), (3, (2,), 2), (0, (3,), 3), (1, (0,), 1)]
    leaders = set(leader_on_top(forge, blocks))  # type: ignore[arg-type]
    assert leaders <= {0, 1, 2, 3} and leaders


def test_header_that_hides_a_failed_turn_gets_no_vote(forge: Forge) -> None:
    replica = forge.replica(3)
    for block in forge.chain([1, 2, 3]):
        receive(replica, forge.proposal(block), block.header.proposer)
    tip = forge.chain([1, 2, 3])[-1]
    tc = forge.tc(4, [forge.qc(tip)] * 3)
    good = forge.block(tip, 5, tc=tc)
    assert good.header.skipped is not None
    hidden = replace(good, header=replace(good.header, skipped=None))
    receive(replica, forge.proposal(hidden), hidden.header.proposer)
    assert replica.counters["not_voted_skipped"] == 1


def test_proposal_of_another_than_the_leader_is_refused(forge: Forge) -> None:
    replica = forge.replica(0)
    (first,) = forge.chain([1])
    receive(replica, forge.proposal(first), 1)
    usurper = forge.block(first, 2)
    usurper = replace(usurper, header=replace(usurper.header, proposer=3))
    assert sent(receive(replica, forge.proposal(usurper), 3), Vote) == []
    assert replica.counters["rejected_not_authorised"] == 1


# ---- evidence


def evidence(effects: list[Effect], forge: Forge) -> list[DoubleVote | DoubleProposal]:
    found = [effect.evidence for effect in effects if isinstance(effect, Misbehaviour)]
    for one in found:
        verify_evidence(forge.members, one, verifier=verify)
    return found


def rivals(forge: Forge) -> tuple[Block, Block]:
    return forge.block(forge.root_block, 1, b"one"), forge.block(forge.root_block, 1, b"other")


def test_two_votes_of_one_view_are_evidence_once(forge: Forge) -> None:
    replica = forge.replica(1)
    one, other = rivals(forge)
    assert evidence(receive(replica, forge.vote(one, 3), 3), forge) == []
    (found,) = evidence(receive(replica, forge.vote(other, 3), 3), forge)
    assert isinstance(found, DoubleVote) and (found.member, found.view) == (3, 1)
    assert evidence(receive(replica, forge.vote(other, 3), 3), forge) == []


def test_vote_against_a_certificate_with_ones_own_vote_is_evidence(forge: Forge) -> None:
    replica = forge.replica(0)
    one, other = rivals(forge)
    receive(replica, Certified(forge.qc(one, (1, 2, 3)), None), 1)
    (found,) = evidence(receive(replica, forge.vote(other, 2), 2), forge)
    assert isinstance(found, DoubleVote) and found.member == 2


def test_certificate_against_a_vote_is_evidence(forge: Forge) -> None:
    replica = forge.replica(0)
    one, other = rivals(forge)
    receive(replica, forge.vote(other, 2), 2)
    effects = receive(replica, Certified(forge.qc(one, (1, 2, 3)), None), 1)
    assert [found.member for found in evidence(effects, forge)] == [2]


def test_wrongly_signed_second_vote_is_no_evidence(forge: Forge) -> None:
    replica = forge.replica(1)
    one, other = rivals(forge)
    receive(replica, forge.vote(one, 3), 3)
    bad = replace(forge.vote(other, 3), signature=bytes(32))
    assert evidence(receive(replica, bad, 3), forge) == []
    assert len(evidence(receive(replica, forge.vote(other, 3), 3), forge)) == 1


def test_two_proposals_of_one_view_are_evidence(forge: Forge) -> None:
    replica = forge.replica(0)
    one, other = rivals(forge)
    receive(replica, forge.proposal(one), 1)
    (found,) = evidence(receive(replica, forge.proposal(other), 1), forge)
    assert isinstance(found, DoubleProposal) and found.member == 1


def test_one_offender_is_not_reported_without_end(forge: Forge) -> None:
    replica = forge.replica(1)
    found = []
    for view in range(1, 40):
        for name in (b"one", b"other"):
            vote = forge.vote(forge.block(forge.root_block, view, name), 3)
            found += evidence(receive(replica, vote, 3), forge)
    assert len(found) == REPORTED_OF_MEMBER


def test_forged_certificates_of_far_views_do_not_blind_the_watch(forge: Forge) -> None:
    replica = forge.replica(0)
    for view in range(1_000, 1_200):
        far = forge.block(forge.root_block, view, tc=forge.tc(view - 1, [forge.genesis_qc] * 3))
        forged = replace(far.timeout, signatures=far.timeout.signatures[:1])  # type: ignore[type-var]
        receive(replica, forge.proposal(replace(far, timeout=forged)), far.header.proposer)
    one, other = rivals(forge)
    receive(replica, forge.proposal(one), 1)
    assert len(evidence(receive(replica, forge.proposal(other), 1), forge)) == 1


# ---- blame


def test_certificate_that_came_without_a_proposal_is_passed_to_the_next_leader(
    forge: Forge,
) -> None:
    replica = forge.replica(3)
    chain = forge.chain([1, 2, 3])
    for block in chain:
        receive(replica, forge.proposal(block), block.header.proposer)
    tip = chain[-1]
    leader = forge.leader(tip, 4)
    sender = next(member for member in (0, 1, 2) if member != leader)
    effects = receive(replica, Certified(forge.qc(tip), None), sender)
    passed = [e.member for e in effects if isinstance(e, Send) and isinstance(e.message, Certified)]
    assert passed == ([] if leader == 3 else [leader])


def test_vote_for_a_made_up_view_does_not_occupy_the_gathering(forge: Forge) -> None:
    replica = forge.replica(1)
    chain = forge.chain([1, 2])
    for block in chain:
        receive(replica, forge.proposal(block), 0)  # relayed: the proposer is the replica itself
    tip = chain[-1]
    assert tip.header.proposer == 1 and forge.leader(tip, 3) != 1
    far = forge.vote(tip, 3)
    receive(replica, replace(far, view=10**9), 3)
    for member in (0, 2):
        receive(replica, forge.vote(tip, member), member)
    due = GENESIS_MS + 100 + CONFIG.timeout_ms // 2
    assert sent(replica.step(Tick(), due), Certified) == [Certified(forge.qc(tip), None)]


def test_repeated_timeouts_of_one_view_cost_a_bounded_number_of_checks(forge: Forge) -> None:
    replica = forge.replica(0)
    chain = forge.chain([1, 2, 3])
    for block in chain:
        receive(replica, forge.proposal(block), block.header.proposer)
    tc = forge.tc(9, [forge.qc(chain[-1])] * 3)
    for signers in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)):
        for block in chain:
            timeout = forge.timeout(10, 3, forge.qc(block, signers), tc)
            receive(replica, timeout, 3)
    assert replica.counters["timeouts_ignored"] > 0


# ---- the end of an epoch


def test_payload_behind_the_boundary_gets_no_vote(forge: Forge) -> None:
    replica = forge.replica(0)
    replica.members.ends_ms = GENESIS_MS + 10
    (boundary,) = forge.chain([1])
    assert len(sent(receive(replica, forge.proposal(boundary), 1), Vote)) == 1
    late = forge.block(boundary, 2, b"late")
    assert sent(receive(replica, forge.proposal(late), 1), Vote) == []
    assert replica.counters["not_voted_payload_behind_boundary"] == 1


def test_message_of_a_later_epoch_makes_a_member_ask_and_of_an_earlier_one_help(
    forge: Forge,
) -> None:
    replica = forge.replica(0)
    (block,) = forge.chain([1])
    later = replace(forge.vote(block, 1), epoch=1)
    effects = receive(replica, later, 1)
    assert any(hasattr(effect, "message") for effect in effects), "it asks for blocks"
    earlier = replace(forge.vote(block, 1), epoch=-1)
    (answer,) = sent(receive(replica, earlier, 1), Certified)
    assert answer == Certified(replica.high_qc, None)
    assert replica.counters["rejected_wrong_epoch"] == 2


def test_replica_without_a_seat_follows_and_signs_nothing(forge: Forge) -> None:
    from consensus_forge import FakeKey, RootApp

    from consensus import Replica, Start

    replica = Replica(CONFIG, forge.members, FakeKey(9), RootApp(), forge.genesis, verifier=verify)
    replica.step(Start(), GENESIS_MS)
    effects: list[Effect] = []
    for block in forge.chain([1, 2, 3, 4]):
        effects += receive(replica, forge.proposal(block), block.header.proposer)
    assert len(committed(effects)) == 2
    assert sent(effects, Vote) == []
