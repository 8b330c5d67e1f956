"""One replica under forged messages: votes, commits, timeouts, recovery."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))

from consensus_forge import (
    CONFIG,
    GENESIS_MS,
    Forge,
    RootApp,
    committed,
    receive,
    sent,
    verify,
)

from consensus import (
    Broadcast,
    Committed,
    Effect,
    Misbehaviour,
    Persist,
    PersistBlock,
    RecoveredState,
    Replica,
    Send,
    Tick,
    VotingState,
    Work,
)
from consensus.effects import BlockSource
from consensus.evidence import verify_evidence
from protocol.chain import (
    TC,
    Block,
    BlocksRequest,
    BlocksResponse,
    Certified,
    CommitCertificate,
    Proposal,
    Timeout,
    Vote,
    decode_consensus,
)
from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation


@pytest.fixture
def forge() -> Forge:
    return Forge()


def propose(replica: Replica, forge: Forge, block: Block) -> list[Effect]:
    """Let the block's leader send it, or another member relay it where that is the replica."""
    peer = block.header.proposer
    peer = peer if peer != replica.index else (peer + 1) % len(forge.members)
    return receive(replica, forge.proposal(block), peer)


def votes(effects: list[Effect]) -> list[int]:
    return [message.view for message in sent(effects, Vote) if isinstance(message, Vote)]


def state_of(effects: list[Effect]) -> VotingState:
    return next(effect.state for effect in effects if isinstance(effect, Persist))


# ---- votes


def test_vote_goes_to_the_next_leader_after_block_and_state_are_persisted(forge: Forge) -> None:
    (block,) = forge.chain([1])
    effects = propose(forge.replica(0), forge, block)
    kinds = [type(effect) for effect in effects]
    assert kinds == [PersistBlock, Persist, Send]
    assert state_of(effects).last_voted_view == 1
    last = effects[-1]
    assert isinstance(last, Send)
    # Nothing is committed yet, so the first proposer goes on.
    assert last.member == 1 and last.message == forge.vote(block, 0)


def test_second_block_of_a_view_gets_no_vote(forge: Forge) -> None:
    replica = forge.replica(0)
    propose(replica, forge, forge.block(forge.root_block, 1))
    effects = propose(replica, forge, forge.block(forge.root_block, 1, b"other"))
    (misbehaviour,) = effects
    assert isinstance(misbehaviour, Misbehaviour)
    verify_evidence(forge.members, misbehaviour.evidence, verifier=verify)
    assert replica.counters["equivocations"] == 1


def test_repeated_proposal_gets_no_second_vote(forge: Forge) -> None:
    replica = forge.replica(0)
    (block,) = forge.chain([1])
    assert votes(propose(replica, forge, block)) == [1]
    assert propose(replica, forge, block) == []


class Looking(RootApp):
    """Counts the blocks that it looks at."""

    looks = 0

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        self.looks += 1
        super().check(block, ancestors)


def test_who_follows_looks_at_a_block_once_though_it_has_no_vote(forge: Forge) -> None:
    app = Looking()
    replica = forge.replica(None, app)
    block = forge.block(forge.root_block, 1, b"good")
    for _ in range(20):
        propose(replica, forge, block)
    assert app.looks == 1


def test_a_block_that_may_pass_later_gets_its_vote_though_somebody_sent_it_too_early(
    forge: Forge,
) -> None:
    """As where it names a height of the base layer that this member has not heard of yet."""
    app = Looking()
    app.refuse, app.code = b"early", Code.BAD_INBOX_CURSOR
    replica = forge.replica(0, app)
    early = forge.block(forge.root_block, 1, b"early")
    assert not votes(propose(replica, forge, early))
    app.refuse = b""
    assert votes(propose(replica, forge, early)) == [1]


@pytest.mark.parametrize("index", [0, None])
def test_a_block_that_was_refused_is_not_looked_at_again(forge: Forge, index: int | None) -> None:
    app = Looking()
    app.refuse = b"bad"
    replica = forge.replica(index, app)
    bad = forge.block(forge.root_block, 1, b"bad")
    for _ in range(20):
        assert not votes(propose(replica, forge, bad))
    assert app.looks == 1 and replica.counters["rejected_malformed"] == 1
    after = forge.block(bad, 2, b"good", qc=forge.qc(bad))
    assert votes(propose(replica, forge, after)) == ([] if index is None else [2])


def spoilt(forge: Forge) -> dict[str, Proposal]:
    root = forge.root_block
    good = forge.block(root, 1)
    signed = forge.proposal(good)
    gap = forge.block(root, 3)
    weak = forge.block(forge.block(root, 1), 2, qc=forge.qc(forge.block(root, 1), (0, 1)))
    tc = forge.tc(2, [forge.genesis_qc] * 3)
    forged_tc = replace(tc, view=2, signatures=tc.signatures[:2])
    return {
        "bad_signature": replace(signed, signature=bytes(32)),
        "not_authorised": forge.proposal(replace(good, header=replace(good.header, proposer=2))),
        "wrong_chain": forge.proposal(
            replace(good, header=replace(good.header, chain_id=bytes(32)))
        ),
        "bad_certificate gap": forge.proposal(gap),
        "bad_certificate weak qc": forge.proposal(weak),
        "bad_certificate forged tc": forge.proposal(forge.block(root, 3, tc=forged_tc)),
        "bad_certificate payload": forge.proposal(replace(good, payload=b"another")),
        "bad_certificate needless tc": forge.proposal(
            replace(good, timeout=forge.tc(1, [forge.genesis_qc] * 3))
        ),
        "frame_too_large": forge.proposal(
            forge.block(root, 1, bytes(CONFIG.max_payload_bytes + 1))
        ),
    }


@pytest.mark.parametrize("fault", list(spoilt(Forge())))
def test_spoilt_proposal_is_counted_and_leaves_no_trace(forge: Forge, fault: str) -> None:
    replica = forge.replica(0)
    proposal = spoilt(forge)[fault]
    peer = forge.members.leader(proposal.block.header.view)
    assert receive(replica, proposal, peer) == []
    assert replica.counters == {f"rejected_{fault.split()[0]}": 1}
    assert replica.view == 1


@pytest.mark.parametrize(
    ("obstacle", "time_ms"),
    [("time_not_above_parent", GENESIS_MS), ("time_ahead", GENESIS_MS + 100 + 501)],
)
def test_block_time_outside_its_bounds_gets_no_vote(
    forge: Forge, obstacle: str, time_ms: int
) -> None:
    replica = forge.replica(0)
    assert votes(propose(replica, forge, forge.block(forge.root_block, 1, time_ms=time_ms))) == []
    assert replica.counters[f"not_voted_{obstacle}"] == 1


def test_block_time_at_its_bounds_gets_a_vote(forge: Forge) -> None:
    for time_ms in (GENESIS_MS + 1, GENESIS_MS + 100 + 500):
        block = forge.block(forge.root_block, 1, time_ms=time_ms)
        assert votes(propose(forge.replica(0), forge, block)) == [1]


def test_other_application_root_or_height_gets_no_vote(forge: Forge) -> None:
    wrong_root = forge.block(forge.root_block, 1, app_root=bytes(32))
    wrong_height = forge.block(forge.root_block, 1, app_height=1)
    for block, obstacle in ((wrong_root, "app_root"), (wrong_height, "app_height")):
        replica = forge.replica(0)
        assert votes(propose(replica, forge, block)) == []
        assert replica.counters[f"not_voted_{obstacle}"] == 1


def test_application_can_refuse_a_block(forge: Forge) -> None:
    app = RootApp()
    app.refuse = b"bad"
    replica = forge.replica(0, app)
    assert votes(propose(replica, forge, forge.block(forge.root_block, 1, b"bad"))) == []
    assert replica.counters["rejected_malformed"] == 1


def test_root_of_a_block_that_implies_less_than_is_committed_is_still_known(
    forge: Forge,
) -> None:
    first, second, third = forge.chain([1, 2, 3])
    replica = forge.replica(0)
    for block in (first, second, third):
        propose(replica, forge, block)
    receive(replica, Certified(forge.qc(third), None), 1)
    assert replica.committed_height == 2
    tc = forge.tc(4, [forge.qc(second)] * 3, (1, 2, 3))
    late = forge.block(second, 5, tc=tc)
    assert late.header.app_height == 1
    assert votes(propose(replica, forge, late)) == [5]


# ---- commits


def test_direct_child_of_the_next_view_commits(forge: Forge) -> None:
    app = RootApp()
    replica = forge.replica(0, app)
    first, second, third = forge.chain([1, 2, 3])
    assert committed(propose(replica, forge, first)) == []
    assert committed(propose(replica, forge, second)) == []
    effects = propose(replica, forge, third)
    assert effects[2] == Committed(first, forge.certificate(first, second))
    assert app.blocks == [first]
    assert app.certificates == [forge.certificate(first, second)]
    assert replica.certificate == forge.certificate(first, second)


def gapped_chain(forge: Forge) -> tuple[list[Block], list[TC]]:
    """Views 1, 3, 5, 6, 7: only 5 and 6 are direct."""
    first = forge.block(forge.root_block, 1, b"1")
    tc2 = forge.tc(2, [forge.qc(first)] * 3)
    third = forge.block(first, 3, b"3", tc=tc2)
    tc4 = forge.tc(4, [forge.qc(third)] * 3)
    fifth = forge.block(third, 5, b"5", tc=tc4)
    sixth = forge.block(fifth, 6, b"6")
    return [first, third, fifth, sixth, forge.block(sixth, 7, b"7")], [tc2, tc4]


def test_views_further_apart_commit_nothing_until_a_direct_pair(forge: Forge) -> None:
    app = RootApp()
    replica = forge.replica(0, app)
    blocks, _ = gapped_chain(forge)
    for block in blocks[:4]:
        assert committed(propose(replica, forge, block)) == []
    effects = propose(replica, forge, blocks[4])
    stripped = [replace(block, timeout=None) for block in blocks]
    assert committed(effects) == stripped[:3]
    tip = forge.certificate(blocks[2], blocks[3])
    assert app.certificates == [tip, tip, tip]


def test_withheld_certificate_and_certified_sibling_commit_nothing_wrong(forge: Forge) -> None:
    app = RootApp()
    replica = forge.replica(0, app)
    withheld = forge.block(forge.root_block, 1, b"withheld")
    assert votes(propose(replica, forge, withheld)) == [1]
    # Leader 2 holds the QC back: the view after fails among the others, who only know genesis.
    tc = forge.tc(1, [forge.genesis_qc] * 3, (0, 1, 3))
    sibling = forge.block(forge.root_block, 2, b"sibling", tc=tc)
    assert votes(propose(replica, forge, sibling)) == [2]
    # Both blocks of height 1 are certified now, one view apart; the sibling is no child.
    effects = receive(replica, Certified(forge.qc(withheld), None), 2)
    effects += receive(replica, Certified(forge.qc(sibling), None), 2)
    assert committed(effects) == []
    # A block on the withheld one cannot outbid the sibling's certificate.
    outbid = forge.tc(3, [forge.qc(sibling), forge.qc(withheld), forge.qc(withheld)])
    usurper = forge.block(withheld, 4, b"usurper", tc=outbid)
    assert votes(propose(replica, forge, usurper)) == []
    assert replica.counters["rejected_bad_certificate"] == 1
    child = forge.block(sibling, 3, b"child")
    propose(replica, forge, child)
    effects = receive(replica, Certified(forge.qc(child), None), 0 + 1)
    assert [block.payload for block in committed(effects)] == [b"sibling"]
    assert [block.payload for block in app.blocks] == [b"sibling"]


def rival_history(forge: Forge) -> list[Block]:
    """What only a third of faulty stake could make: another history, certified."""
    rival = forge.block(forge.root_block, 4, b"rival")
    child = forge.block(rival, 5)
    return [rival, child, forge.block(child, 6, b"grandchild")]


def fetching_rival(forge: Forge) -> Replica:
    replica = forge.replica(0)
    for block in forge.chain([1, 2, 3]):
        propose(replica, forge, block)
    assert replica.committed_height == 1
    effects = propose(replica, forge, rival_history(forge)[2])
    assert len(sent(effects, BlocksRequest)) == 1
    return replica


def test_rival_history_is_not_taken_over(forge: Forge) -> None:
    replica = fetching_rival(forge)
    blocks = rival_history(forge)
    effects = receive(replica, BlocksResponse(blocks, forge.qc(blocks[2]), None), 1)
    assert committed(effects) == []
    assert replica.committed_block.payload == b"payload of view 1"


def test_proof_of_a_conflicting_commit_stops_the_process(forge: Forge) -> None:
    replica = fetching_rival(forge)
    blocks = rival_history(forge)
    proof = forge.certificate(blocks[0], blocks[1])
    with pytest.raises(SafetyViolation, match="conflict"):
        receive(replica, BlocksResponse(blocks[:1], None, proof), 1)


def test_own_state_that_differs_from_a_certified_root_stops_the_process(forge: Forge) -> None:
    app = RootApp()
    replica = forge.replica(0, app)
    blocks = forge.chain([1, 2, 3, 4, 5, 6])
    app.lie = True
    with pytest.raises(SafetyViolation, match="diverged"):
        for block in blocks:
            propose(replica, forge, block)


# ---- leading


def test_leader_joins_votes_and_proposes_on_them(forge: Forge) -> None:
    app = RootApp()
    app.pending = [b"work"]
    replica = forge.replica(2, app)
    *_, block = forge.chain([1, 2, 3, 4])
    for one in forge.chain([1, 2, 3, 4]):
        propose(replica, forge, one)
    assert sent(receive(replica, forge.vote(block, 0), 0), Proposal) == []
    effects = receive(replica, forge.vote(block, 1), 1)
    (proposal,) = sent(effects, Proposal)
    assert isinstance(proposal, Proposal)
    assert proposal.block.justify == forge.qc(block)
    assert proposal.block.payload == b"work"
    assert state_of(effects).last_proposed_view == 5
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Broadcast)


def test_votes_are_counted_by_stake() -> None:
    forge = Forge((10, 10, 10, 70))
    replica = forge.replica(1)
    (block,) = forge.chain([1])
    propose(replica, forge, block)
    for member in (0, 2):
        receive(replica, forge.vote(block, member), member)
    assert replica.view == 1
    receive(replica, forge.vote(block, 3), 3)
    assert replica.view == 2


def test_wrongly_signed_vote_neither_counts_nor_blocks(forge: Forge) -> None:
    replica = forge.replica(1)
    (block,) = forge.chain([1])
    propose(replica, forge, block)
    bad = replace(forge.vote(block, 0), signature=bytes(32))
    receive(replica, bad, 0)
    receive(replica, forge.vote(block, 2), 2)
    assert replica.view == 1
    receive(replica, forge.vote(block, 3), 3)
    assert replica.view == 2


def test_early_block_that_the_application_refuses_harms_nobody(forge: Forge) -> None:
    app = RootApp()
    app.refuse = b"poison"
    replica = forge.replica(0, app)
    early = forge.block(forge.root_block, 1, b"poison", time_ms=GENESIS_MS + 5_000)
    assert votes(propose(replica, forge, early)) == []
    assert replica.counters["not_voted_time_ahead"] == 1
    effects = replica.step(Tick(), GENESIS_MS + 5_000)
    assert votes(effects) == []
    assert replica.counters["rejected_malformed"] == 1


def test_votes_under_anothers_name_are_refused(forge: Forge) -> None:
    replica = forge.replica(2)
    (first,) = forge.chain([1])
    receive(replica, forge.vote(first, 0), 1)
    receive(replica, forge.vote(first, 0), 7)
    receive(replica, forge.vote(first, 2), 2)
    assert replica.counters == {"rejected_not_authorised": 3}


def test_quorum_without_a_proposal_is_announced_at_once(forge: Forge) -> None:
    replica = forge.replica(1)
    (block,) = forge.chain([1])
    block = forge.block(forge.root_block, 1)
    propose(replica, forge, block)
    receive(replica, forge.vote(block, 0), 0)
    effects = receive(replica, forge.vote(block, 2), 2)
    assert sent(effects, Certified) == [Certified(forge.qc(block, (0, 1, 2)), None)]
    assert sent(effects, Proposal) == []


# ---- timeouts


def give_up(replica: Replica) -> list[Effect]:
    due = replica.next_deadline_ms()
    assert due is not None
    return replica.step(Tick(), due)


def test_view_is_given_up_and_never_voted_in_again(forge: Forge) -> None:
    replica = forge.replica(0)
    effects = give_up(replica)
    (timeout,) = sent(effects, Timeout)
    assert timeout == forge.timeout(1, 0, forge.genesis_qc)
    assert type(effects[0]) is Persist
    assert state_of(effects).last_voted_view == 1
    assert votes(propose(replica, forge, forge.block(forge.root_block, 1))) == []


def test_timeout_is_repeated_while_the_view_is_stuck(forge: Forge) -> None:
    replica = forge.replica(0)
    first = sent(give_up(replica), Timeout)
    assert sent(give_up(replica), Timeout) == first
    assert replica.view == 1


def test_a_third_of_the_stake_giving_up_makes_the_rest_join(forge: Forge) -> None:
    replica = forge.replica(0)
    assert receive(replica, forge.timeout(1, 1, forge.genesis_qc), 1) == []
    effects = receive(replica, forge.timeout(1, 2, forge.genesis_qc), 2)
    assert sent(effects, Timeout) == [forge.timeout(1, 0, forge.genesis_qc)]
    assert replica.view == 2


def test_quorum_of_timeouts_opens_the_next_view_for_its_leader(forge: Forge) -> None:
    app = RootApp()
    app.pending = [b"work"]
    replica = forge.replica(2, app)
    (block,) = forge.chain([1])
    propose(replica, forge, block)
    receive(replica, forge.timeout(1, 0, forge.genesis_qc), 0)
    effects = receive(replica, forge.timeout(1, 1, forge.genesis_qc), 1)
    (proposal,) = sent(effects, Proposal)
    assert isinstance(proposal, Proposal)
    assert proposal.block.header.view == 2
    assert proposal.block.timeout is not None and proposal.block.timeout.view == 1
    assert proposal.block.justify == forge.genesis_qc


def test_timeout_that_does_not_prove_its_view_is_refused(forge: Forge) -> None:
    replica = forge.replica(0)
    for view in (2, 1000, 1 << 60):
        receive(replica, forge.timeout(view, 1, forge.genesis_qc), 1)
    stale = forge.tc(5, [forge.genesis_qc] * 3)
    receive(replica, forge.timeout(9, 1, forge.genesis_qc, stale), 1)
    assert replica.counters == {"rejected_bad_certificate": 4}
    assert replica.view == 1


def test_forged_timeouts_are_refused(forge: Forge) -> None:
    replica = forge.replica(0)
    good = forge.timeout(1, 1, forge.genesis_qc)
    receive(replica, replace(good, signature=bytes(32)), 1)
    receive(replica, good, 2)
    (block,) = forge.chain([1])
    weak = forge.qc(block, (0, 1))
    receive(replica, forge.timeout(2, 1, weak), 1)
    forged = forge.tc(6, [forge.genesis_qc] * 2, (0, 1))
    receive(replica, forge.timeout(7, 1, forge.genesis_qc, forged), 1)
    receive(replica, Certified(weak, None), 1)
    receive(replica, Certified(forge.genesis_qc, forged), 1)
    assert replica.counters == {
        "rejected_bad_signature": 1,
        "rejected_not_authorised": 1,
        "rejected_bad_certificate": 4,
    }
    assert replica.view == 1 and replica.high_qc == forge.genesis_qc


def test_certificates_of_a_later_view_bring_a_replica_there(forge: Forge) -> None:
    replica = forge.replica(0)
    tc = forge.tc(40, [forge.genesis_qc] * 3)
    receive(replica, forge.timeout(41, 3, forge.genesis_qc, tc), 3)
    assert replica.view == 41
    (block,) = forge.chain([50])
    receive(replica, Certified(forge.qc(block), None), 3)
    assert replica.view == 51


def test_peer_in_an_old_view_is_helped_but_not_at_every_word(forge: Forge) -> None:
    replica = forge.replica(0)
    tc = forge.tc(7, [forge.genesis_qc] * 3)
    receive(replica, Certified(forge.genesis_qc, tc), 3)
    old = forge.timeout(1, 1, forge.genesis_qc)
    assert sent(receive(replica, old, 1), Certified) == [Certified(forge.genesis_qc, tc)]
    assert receive(replica, old, 1) == []
    later = receive(replica, old, 1, GENESIS_MS + 100 + CONFIG.timeout_ms)
    assert len(sent(later, Certified)) == 1


def test_patience_grows_with_failures_and_returns_after_success(forge: Forge) -> None:
    app = RootApp()
    app.pending = [b"work"]
    replica = forge.replica(0, app)
    now = GENESIS_MS + 100
    lengths = []
    for view in (1, 2, 5, 6, 9):
        tc = forge.tc(view, [forge.genesis_qc] * 3)
        receive(replica, Certified(forge.genesis_qc, tc), 3, now)
        lengths.append((replica.next_deadline_ms() or 0) - now)
    assert lengths == [300, 450, 675, 1000, 1000]
    (block,) = forge.chain([12])
    receive(replica, Certified(forge.qc(block), None), 3, now)
    assert replica.view == 13
    pace = replica._pace
    assert pace.patience_ms() == 200


# ---- recovery


def test_restart_neither_votes_again_nor_forgets_the_lock(forge: Forge) -> None:
    replica = forge.replica(0)
    first, second = forge.chain([1, 2])
    propose(replica, forge, first)
    state = state_of(propose(replica, forge, second))
    again = forge.replica(0, recovered=RecoveredState(state, None, None, [second, first]))
    assert again.view == 2
    assert again.high_qc == forge.qc(first)
    assert votes(propose(again, forge, second)) == []
    sibling = forge.block(first, 2, b"sibling")
    assert votes(propose(again, forge, sibling)) == []
    third = forge.block(second, 3)
    effects = propose(again, forge, third)
    assert state_of(effects).last_voted_view == 3
    assert committed(effects) == [first]


def test_restarted_leader_does_not_propose_again(forge: Forge) -> None:
    app = RootApp()
    app.pending = [b"work"]
    effects = forge.replica(1, app).step(Work(), GENESIS_MS + 100)
    assert len(sent(effects, Proposal)) == 1
    state = state_of(effects)
    assert state.last_proposed_view == 1 and state.last_voted_view == 1
    again = forge.replica(1, app, RecoveredState(state, None, None))
    assert sent(again.step(Work(), GENESIS_MS + 150), Proposal) == []


def commit_five(forge: Forge) -> tuple[list[Block], RecoveredState]:
    replica = forge.replica(0)
    blocks = forge.chain([1, 2, 3, 4, 5, 6, 7])
    for block in blocks:
        effects = propose(replica, forge, block)
    assert replica.committed_height == 5
    certificate = replica.certificate
    return blocks, RecoveredState(state_of(effects), blocks[4], certificate, blocks[5:])


def store_of(forge: Forge, blocks: list[Block]) -> BlockSource:
    """The blocks as a store would give them back."""

    def stored(height: int) -> tuple[Block, CommitCertificate | None] | None:
        return blocks[height - 1], forge.certificate(blocks[height - 1], blocks[height])

    return stored


def test_application_behind_the_stored_chain_is_brought_up_to_it(forge: Forge) -> None:
    blocks, recovered = commit_five(forge)
    app = RootApp()
    replica = forge.replica(0, app, recovered, stored=store_of(forge, blocks))
    assert app.blocks == blocks[:5]
    assert replica.committed_height == 5
    effects = propose(replica, forge, forge.block(blocks[6], 8))
    assert committed(effects) == [blocks[5]]


def test_application_at_the_tip_executes_nothing_again(forge: Forge) -> None:
    blocks, recovered = commit_five(forge)
    app = RootApp()
    app.base = 5
    replica = forge.replica(0, app, recovered, stored=store_of(forge, blocks))
    assert app.blocks == []
    assert votes(propose(replica, forge, forge.block(blocks[6], 8))) == [8]


def test_missing_or_future_state_stops_the_process(forge: Forge) -> None:
    _, recovered = commit_five(forge)
    with pytest.raises(SafetyViolation, match="missing"):
        forge.replica(0, RootApp(), recovered)
    ahead = RootApp()
    ahead.base = 6
    with pytest.raises(SafetyViolation, match="stored chain ends"):
        forge.replica(0, ahead, recovered)


def test_restart_beside_a_certified_block_off_the_committed_child_can_still_lead(
    forge: Forge,
) -> None:
    """The root that such a block's child must name is older than anything executed since."""
    blocks, recovered = commit_five(forge)
    tip = blocks[4]
    tc = forge.tc(7, [forge.qc(tip)] * 3)
    beside = forge.block(tip, 8, b"beside", tc=tc)
    app = RootApp()
    app.base = 5
    app.pending = [b"work"]
    stored = store_of(forge, blocks)
    replica = forge.replica(0, app, replace_state(recovered), stored=stored)
    propose(replica, forge, beside)
    effects = receive(replica, Certified(forge.qc(beside), None), 3)
    (proposal,) = sent(effects, Proposal)
    assert isinstance(proposal, Proposal)
    assert proposal.block.header.parent_id == beside.header.block_id()
    assert proposal.block.header.app_height == 4


def replace_state(recovered: RecoveredState) -> RecoveredState:
    return RecoveredState(None, recovered.tip, recovered.certificate)


# ---- the rest


def test_first_event_is_start_and_roots_match_genesis(forge: Forge) -> None:
    replica = Replica(CONFIG, forge.members, None, RootApp(), forge.genesis)
    with pytest.raises(SafetyViolation):
        replica.step(Tick(), GENESIS_MS)
    other = replace(forge.genesis, app_root=bytes(32))
    with pytest.raises(ConfigError):
        Replica(CONFIG, forge.members, None, RootApp(), other)


def test_memory_for_votes_and_timeouts_is_one_per_member(forge: Forge) -> None:
    replica = forge.replica(2)
    for view in range(1, 4000, 4):
        vote = replace(forge.vote(forge.chain([1])[0], 0), view=view)
        receive(replica, vote, 0)
    assert len(replica._votes._latest) == 1


def test_every_message_survives_the_wire(forge: Forge) -> None:
    blocks, tcs = gapped_chain(forge)
    messages = [
        forge.proposal(blocks[1]),
        forge.vote(blocks[0], 1),
        forge.timeout(3, 2, forge.qc(blocks[0]), tcs[0]),
        Certified(forge.qc(blocks[0]), tcs[0]),
        BlocksRequest(b"", 0, 64),
    ]
    for message in messages:
        assert decode_consensus(encode(message)) == message
    with pytest.raises(Rejected):
        decode_consensus(encode(messages[1]) + b"\0")


def test_non_members_may_only_ask_for_blocks(forge: Forge) -> None:
    replica = forge.replica(0)
    (block,) = forge.chain([1])
    receive(replica, forge.proposal(block), 99)
    assert replica.counters == {"rejected_not_authorised": 1}
    (answer,) = receive(replica, BlocksRequest(b"", 0, 5), 99)
    assert isinstance(answer, Send) and answer.member == 99
