"""A started member signs nothing before it knows that its voting state is its newest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import CHAIN, CONFIG, GENESIS_MS, Forge, receive, sent

from consensus import Persist, Received, RecoveredState, Replica, Tick
from protocol.chain import QC, Certified, Rejoin, Remembered, Timeout, Vote
from protocol.errors import SafetyViolation


@pytest.fixture
def forge() -> Forge:
    return Forge()


def remembered(
    replica: Replica,
    forge: Forge,
    peer: int,
    *,
    qc: QC | None = None,
    vote: Vote | None = None,
    timeout: Timeout | None = None,
    number: int = GENESIS_MS,
) -> list[object]:
    answer = Remembered(CHAIN, 0, number, qc or forge.genesis_qc, None, vote, timeout)
    return list(replica.step(Received(peer, answer), GENESIS_MS + 10))


def test_nothing_is_signed_until_a_quorum_has_answered(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    (block,) = forge.chain([1])
    assert sent(receive(replica, forge.proposal(block), 1), Vote) == []
    assert sent(replica.step(Tick(), GENESIS_MS + 10_000), Timeout) == []
    remembered(replica, forge, 1)
    assert sent(receive(replica, forge.proposal(block), 1), Vote) == []
    effects = remembered(replica, forge, 2)
    # The block that waited gets its vote as soon as that is safe.
    votes = sent(effects, Vote)  # type: ignore[arg-type]
    assert [vote.block_id for vote in votes] == [block.header.block_id()]  # type: ignore[union-attr]


def test_a_member_asks_all_and_asks_again(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    due = replica.next_deadline_ms()
    assert due == GENESIS_MS + CONFIG.fetch_timeout_ms
    assert sent(replica.step(Tick(), due), Rejoin) == [Rejoin(CHAIN, 0, GENESIS_MS)]
    for peer in (1, 2):
        remembered(replica, forge, peer)
    assert sent(replica.step(Tick(), due + 1000), Rejoin) == []


def test_answers_count_once_for_each_member_and_only_to_the_question(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    for _ in range(3):
        remembered(replica, forge, 1)
    remembered(replica, forge, 2, number=7)
    (block,) = forge.chain([1])
    assert sent(receive(replica, forge.proposal(block), 1), Vote) == []


def test_what_is_held_of_a_member_is_told_to_it(forge: Forge) -> None:
    replica = forge.replica(1)
    (block,) = forge.chain([1])
    receive(replica, forge.vote(block, 3), 3)
    given_up = forge.timeout(1, 3, forge.genesis_qc)
    receive(replica, given_up, 3)
    (answer,) = sent(receive(replica, Rejoin(CHAIN, 0, 5), 3), Remembered)
    assert isinstance(answer, Remembered)
    assert answer.vote == forge.vote(block, 3)
    assert answer.timeout == given_up
    assert answer.number == 5


def test_vote_that_the_state_does_not_know_stops_the_member(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    (block,) = forge.chain([1])
    with pytest.raises(SafetyViolation, match="backup"):
        remembered(replica, forge, 1, vote=forge.vote(block, 0))


def test_timeout_that_the_state_does_not_know_stops_the_member(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    with pytest.raises(SafetyViolation, match="backup"):
        remembered(replica, forge, 1, timeout=forge.timeout(3, 0, forge.genesis_qc))


def test_forged_memory_stops_nobody(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    (block,) = forge.chain([1])
    forged = replace(forge.vote(block, 0), signature=bytes(32))
    remembered(replica, forge, 1, vote=forged)
    remembered(replica, forge, 2, vote=forge.vote(block, 3))
    votes = sent(receive(replica, forge.proposal(block), 1), Vote)
    assert len(votes) == 1


def test_certificate_with_an_unknown_own_vote_stops_the_member_at_any_time(forge: Forge) -> None:
    replica = forge.replica(0, rejoined=False)
    for peer in (1, 2):
        remembered(replica, forge, peer)
    (block,) = forge.chain([1])
    with pytest.raises(SafetyViolation, match="voting state ends at view 0"):
        receive(replica, Certified(forge.qc(block, (0, 1, 2)), None), 1)


def test_state_restored_from_a_backup_is_found_out_and_the_newest_is_not(forge: Forge) -> None:
    replica = forge.replica(0)
    states = []
    for block in forge.chain([1, 2, 3]):
        effects = receive(replica, forge.proposal(block), block.header.proposer or 1)
        states += [effect.state for effect in effects if isinstance(effect, Persist)]
    newest = forge.qc(forge.chain([1, 2, 3])[-1], (0, 1, 2))
    intact = forge.replica(0, None, RecoveredState(states[-1], None, None), rejoined=False)
    remembered(intact, forge, 1, qc=newest)
    restored = forge.replica(0, None, RecoveredState(states[0], None, None), rejoined=False)
    with pytest.raises(SafetyViolation, match="backup"):
        remembered(restored, forge, 1, qc=newest)
