"""Four sequencers: data first, one log, no batch lost or twice, and what voters refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shared_world import ALICE, COUNT, SharedWorld

import sequencer.machine as machine_module
import sequencer.pool as pool_module
import sequencer.taking as taking_module
from protocol.actions import (
    NONCE_PAST_MS,
    ActionBatch,
    Cancel,
    batch_id,
    open_batch,
    sign_batch,
)
from protocol.chain import Block, Proposal
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import Capacity
from protocol.ordering import OrderedPayload, decode_payload
from sequencer.inbox_height import grown_at
from sequencer.on_disconnect import OnDisconnect
from sequencer.peer import MAX_PASSED_BATCHES, PassedBatches, decode_peer_message
from sequencer.pool import REPEAT_BLOCKS, BatchPool

# --- one log


def test_a_batch_submitted_anywhere_is_ordered_once_everywhere_and_its_sender_told() -> None:
    world = SharedWorld()
    sent = []
    for round_ in range(5):
        for member in world.members:
            raw = world.batch()
            sent.append(raw)
            member.submit(raw, (1, round_ + 1))
        world.run(200)
    assert world.logs() == {tuple(world.members[0].ordered())}
    assert sorted(world.members[0].ordered()) == sorted(sent)
    for member in world.members:
        assert len(member.accepts) == len(member.orders) == 5
        assert not len(member.machine.pool) and not len(member.machine._own)
    proposers = {block.header.proposer for block, _ in world.members[0].log if block.payload}
    assert len(proposers) > 1, "also others than whoever accepted them order batches"


def test_a_batch_given_to_two_sequencers_is_ordered_once_and_both_tell_their_client() -> None:
    world = SharedWorld()
    raw = world.batch()
    world.members[1].submit(raw)
    world.members[2].submit(raw)
    world.run(500)
    assert world.logs() == {(raw,)}
    assert len(world.members[1].orders) == len(world.members[2].orders) == 1


def test_what_another_passed_on_is_made_durable_before_it_is_promised_here() -> None:
    world = SharedWorld()
    world.drop = lambda *one: not isinstance(one[2], PassedBatches)  # nobody orders
    raw = world.batch()
    world.members[0].submit(raw)
    world.run(0)
    assert raw in world.members[1].pooled, "kept, with the next sync"
    effects = world.members[1].submit(raw)
    persisted = [one for one in effects if isinstance(one, machine_module.PersistBatches)]
    assert [one.batches for one in persisted if one.promised] == [[raw]]


def test_a_batch_is_ordered_though_whoever_accepted_it_dies() -> None:
    world = SharedWorld()
    raw = world.batch()
    world.members[2].submit(raw)
    world.run(0)
    world.members[2].up = False
    world.run(6_000)
    assert world.logs() == {(raw,)}


def test_a_batch_that_nobody_else_has_is_ordered_when_its_sequencer_is_back() -> None:
    world = SharedWorld()
    world.drop = lambda sender, receiver, _: sender == 2
    raw = world.batch()
    world.members[2].submit(raw)
    world.members[2].up = False
    world.run(5_000)
    assert world.logs() == {()}
    world.drop = lambda *_: False
    world.members[2].restart()
    world.run(6_000)
    assert world.logs() == {(raw,)}


def test_what_links_lost_is_passed_on_again() -> None:
    world = SharedWorld()
    world.drop = lambda sender, receiver, message: isinstance(message, PassedBatches)
    raw = world.batch()
    world.members[3].submit(raw)
    world.drop = lambda *_: False
    world.run(6_000)
    assert world.logs() == {(raw,)}


def test_what_a_session_left_for_its_end_is_ordered_by_all() -> None:
    world = SharedWorld()
    member = world.members[2]
    held = OnDisconnect(member.machine)
    raw = world.batch()
    held.give(7, raw, {ALICE.public}, world.now_ms)
    world.run(500)
    assert world.logs() == {()}
    held.ended(7)
    assert held.submit(world.now_ms) == 1
    member.take(member.machine.flush(world.now_ms))
    world.run(500)
    assert world.logs() == {(raw,)}


def test_a_dead_leader_costs_a_view_and_reputation_skips_it() -> None:
    world = SharedWorld()
    world.members[1].up = False
    for _ in range(30):
        world.members[0].submit(world.batch())
        world.run(300)
    world.run(5_000)
    assert len(world.members[0].ordered()) == 30 and len(world.logs()) == 1
    failed = world.members[0].machine.replica.counters["views_failed"]
    assert 1 <= failed <= 6, failed


def test_more_than_a_third_down_stop_the_log_and_it_goes_on_by_itself() -> None:
    world = SharedWorld()
    world.members[0].submit(world.batch())
    world.run(500)
    for index in (2, 3):
        world.members[index].up = False
    waiting = [world.batch() for _ in range(3)]
    for raw in waiting:
        world.members[0].submit(raw)
    world.run(20_000)
    assert len(world.members[0].ordered()) == 1
    assert len(world.members[0].accepts) == 4
    for index in (2, 3):
        world.members[index].restart()
    world.run(15_000)
    assert len(world.logs()) == 1 and len(world.members[3].ordered()) == 4


def test_one_that_was_cut_off_catches_up_from_the_others_though_the_log_stands_still() -> None:
    world = SharedWorld()
    world.drop = lambda sender, receiver, _: 3 in (sender, receiver)
    for _ in range(10):
        world.members[0].submit(world.batch())
        world.run(300)
    assert world.members[3].ordered() == []
    world.drop = lambda *_: False
    world.run(5_000)
    assert len(world.members[3].ordered()) == 10 and len(world.logs()) == 1


def test_a_restart_in_the_middle_signs_nothing_twice() -> None:
    world = SharedWorld()
    for turn in range(12):
        world.members[0].submit(world.batch())
        world.run(7)
        world.members[turn % COUNT].restart()
        world.run(400)
    world.run(8_000)
    assert len(world.logs()) == 1 and len(world.members[0].ordered()) == 12
    for member in world.members:
        assert "equivocations" not in member.machine.replica.counters


# --- what others pass on


def refused(world: SharedWorld, batches: list[bytes], sender: int = 1) -> dict[str, int]:
    member = world.members[0]
    member.take(member.machine.receive([(sender, PassedBatches(batches))], world.now_ms))
    return dict(member.machine.counters)


def test_garbage_is_counted_and_not_taken() -> None:
    world = SharedWorld()
    counters = refused(world, [b"", b"\xff" * 40, world.batch() + b"\0"])
    assert sum(counters.values()) == 3 and not len(world.members[0].machine.pool)
    raw = world.batch()
    with pytest.raises(Rejected):
        decode_peer_message(encode(PassedBatches([raw] * (MAX_PASSED_BATCHES + 1))))


def test_what_one_has_promised_the_others_order_though_they_would_not_have_admitted_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy sequencer leaves signatures to execution; a nonce may grow too old meanwhile."""
    world = SharedWorld()
    raw = world.batch()
    forged = raw[:-1] + bytes([raw[-1] ^ 1])
    with monkeypatch.context() as patch:
        patch.setattr(machine_module, "SIGNATURES_CHECKED_BELOW", 0)
        world.members[0].submit(forged)
    old_ms = world.now_ms - NONCE_PAST_MS + 1
    old = sign_batch(ALICE, world.chain.chain_id, 0, ActionBatch(16, old_ms, 0, [Cancel(0, 1)]))
    world.members[1].submit(old)
    world.run(2_000)
    assert world.logs() == {tuple(world.members[0].ordered())}
    assert sorted(world.members[0].ordered()) == sorted([forged, old])


def test_what_a_lost_sequencer_left_with_one_other_is_ordered_in_a_log_that_stood_still() -> None:
    world = SharedWorld()
    world.drop = lambda sender, receiver, _: sender == 2 and receiver != 3
    raw = world.batch()
    world.members[2].submit(raw)
    world.members[2].up = False
    world.run(1_000)
    assert world.logs() == {()} and len(world.members[3].machine.pool) == 1
    world.run(20_000)
    assert world.logs() == {(raw,)}


def test_no_sequencer_fills_the_pools_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 48)
    world = SharedWorld()
    world.drop = lambda *_: True
    counters = refused(world, [world.batch() for _ in range(40)])
    pool = world.members[0].machine.pool
    assert len(pool) == 4, "a sixth of the pool, half of it for orders"
    assert counters["passed_refused_busy"] == 36
    refused(world, [world.batch() for _ in range(40)], sender=2)
    assert len(pool) == 8, "another one has its own share"
    for _ in range(12):
        world.members[0].submit(world.batch())
    with pytest.raises(Rejected, match="pool is full"):
        world.members[0].submit(world.batch())


def test_what_one_passes_on_in_a_second_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    raw_bytes = len(SharedWorld().batch())
    cost_bytes = raw_bytes + taking_module.BATCH_COST_BYTES
    monkeypatch.setattr(taking_module, "PEER_BYTES_PER_S", 3 * cost_bytes)
    world = SharedWorld()
    world.drop = lambda *_: True
    for _ in range(3):
        refused(world, [world.batch(), world.batch()])
    assert len(world.members[0].machine.pool) == 4
    assert world.members[0].machine.counters["passed_refused_rate_limited"] == 1
    world.now_ms += 1_000
    refused(world, [world.batch()])
    assert len(world.members[0].machine.pool) == 5


def test_many_tiny_batches_are_not_looked_at_for_ever() -> None:
    world = SharedWorld()
    garbage = [PassedBatches([bytes([part, one % 256, one // 256]) for one in range(1_024)])
               for part in range(40)]  # fmt: skip
    member = world.members[0]
    member.take(member.machine.receive([(1, message) for message in garbage], world.now_ms))
    counters = member.machine.counters
    looked_at = sum(counters.values()) - counters["passed_refused_rate_limited"]
    assert 0 < looked_at <= 17 * 1_024, "each counts for more than its bytes"


# --- what voters refuse


def block_on(world: SharedWorld, payload: bytes, after_ms: int = 20) -> Block:
    """A block on top of member 0's newest committed one."""
    tip = world.members[0].log[-1][0]
    header = msgspec.structs.replace(
        tip.header, height=tip.header.height + 1, time_ms=tip.header.time_ms + after_ms
    )
    return msgspec.structs.replace(tip, header=header, payload=payload)


def pool_with_a_block(capacity: Capacity | None = None) -> tuple[SharedWorld, BatchPool, bytes]:
    """A world whose log holds one batch, member 0's pool, and that batch."""
    world = SharedWorld(capacity)
    raw = world.batch()
    world.members[0].submit(raw)
    world.run(500)
    return world, world.members[0].machine.pool, raw


def votes_for(pool: BatchPool, block: Block, *ancestors: Block) -> Code | None:
    """Why a block gets no vote, None where it gets one."""
    try:
        pool.check(block, ancestors)
    except Rejected as error:
        return error.code
    return None


def test_voters_refuse_a_batch_that_has_its_place() -> None:
    world, pool, raw = pool_with_a_block()
    fresh = world.batch()
    assert votes_for(pool, block_on(world, encode(OrderedPayload(0, [fresh])))) is None
    again = block_on(world, encode(OrderedPayload(0, [fresh, raw])))
    assert votes_for(pool, again) == Code.NONCE_USED
    twice = block_on(world, encode(OrderedPayload(0, [fresh, fresh])))
    assert votes_for(pool, twice) == Code.NONCE_USED
    below = block_on(world, encode(OrderedPayload(0, [fresh])))
    assert votes_for(pool, below, below) == Code.NONCE_USED


def test_all_voters_remember_the_same_blocks_also_after_they_forgot_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "RECENT_MAX", 1)
    world, pool, raw = pool_with_a_block()
    world.members[0].submit(world.batch())
    world.run(500)
    block = block_on(world, encode(OrderedPayload(0, [raw])))
    assert votes_for(pool, block) == Code.NONCE_USED
    pool._height += REPEAT_BLOCKS
    assert votes_for(pool, block) is None, "then it is execution that finds it"
    pool.remember(batch_id(b"another"), pool._height)
    assert pool.committed_at(batch_id(raw)) is None


def test_voters_refuse_an_inbox_height_that_falls_or_is_beyond_what_they_verified() -> None:
    world, pool, _ = pool_with_a_block()
    pool.note_ledger(7, 1, 5)
    assert (pool.ledger_height, pool.verified_height) == (5, 7)
    for height, code in ((7, None), (8, Code.BAD_INBOX_CURSOR)):
        assert votes_for(pool, block_on(world, encode(OrderedPayload(height, [])))) == code
    named = block_on(world, encode(OrderedPayload(6, [])))
    lower = block_on(world, encode(OrderedPayload(5, [])))
    assert votes_for(pool, lower, named) == Code.BAD_INBOX_CURSOR
    beyond = block_on(world, encode(OrderedPayload(9, [])))
    assert votes_for(pool, beyond, beyond) is None, "what is certified a quorum has verified"


def test_voters_refuse_malformed_batches_and_payloads() -> None:
    world, pool, _ = pool_with_a_block()
    for payload in (b"\xff", encode(OrderedPayload(0, [b"no batch"]))):
        assert votes_for(pool, block_on(world, payload)) is not None


def test_voters_refuse_more_work_than_the_time_allows() -> None:
    world, pool, _ = pool_with_a_block(Capacity(500_000, 100, 10, 1_000))
    batches = [world.batch(actions=10) for _ in range(10)]
    payload = encode(OrderedPayload(0, batches))
    assert votes_for(pool, block_on(world, payload, 4)) is None
    assert votes_for(pool, block_on(world, payload, 3)) == Code.TOO_MANY_ACTIONS


def test_voters_refuse_more_bytes_than_may_commit_together() -> None:
    world, pool, _ = pool_with_a_block()
    batches = [world.batch(actions=90) for _ in range(100)]
    half = block_on(world, encode(OrderedPayload(0, batches)))
    pool._max_payload_bytes = len(half.payload) + 200
    other = block_on(world, encode(OrderedPayload(0, [world.batch(actions=90)])))
    assert votes_for(pool, half) is None
    assert votes_for(pool, other, half) == Code.FRAME_TOO_LARGE
    assert votes_for(pool, block_on(world, b"")) is None


def test_a_leader_above_full_ancestors_proposes_nothing_that_voters_refuse() -> None:
    world, pool, _ = pool_with_a_block()
    pool.note_ledger(7, 100_000, 5)  # more entries than a chain of uncommitted blocks takes in
    full = block_on(world, encode(OrderedPayload(5, [world.batch(actions=90)] * 9)))
    pool._max_payload_bytes = len(full.payload) + 50
    ancestors = [full]
    for _ in range(30):
        block = block_on(world, pool.propose(ancestors, full.header.time_ms))
        assert votes_for(pool, block, *ancestors) is None
        ancestors.append(block)


def test_voters_refuse_too_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "BLOCK_BATCHES_MAX", 3)
    world, pool, _ = pool_with_a_block()
    payload = encode(OrderedPayload(0, [world.batch() for _ in range(4)]))
    assert votes_for(pool, block_on(world, payload)) == Code.TOO_MANY_ACTIONS


def test_what_a_leader_proposes_the_others_vote_for() -> None:
    world, pool, _ = pool_with_a_block(Capacity(500_000, 100, 10, 1_000))
    for _ in range(300):
        raw = world.batch(actions=20)
        pool.add(batch_id(raw), raw, *open_batch(raw))
    ancestors: list[Block] = []
    for _ in range(5):
        block = block_on(world, b"")
        payload = pool.propose(ancestors, block.header.time_ms + 20 * len(ancestors))
        header = msgspec.structs.replace(
            block.header, time_ms=block.header.time_ms + 20 * len(ancestors)
        )
        block = msgspec.structs.replace(block, header=header, payload=payload)
        assert payload and votes_for(pool, block, *ancestors) is None
        ancestors.append(block)
    found = [raw for one in ancestors for raw in decode_payload(one.payload).batches]
    assert len(found) == len(set(found))


# --- news of the base layer


def test_a_voter_waits_for_the_base_layer_height_that_a_block_names() -> None:
    world = SharedWorld()
    first, *others = world.members
    views = [one.machine.replica.view for one in world.members]
    for member in world.members:
        member.take(member.machine.note_ledger(3, 0, world.now_ms, 0))
    leader = world.members[first.machine.replica.leader or 0]
    leader.take(leader.machine.note_ledger(5, 2, world.now_ms, 4))
    world.run(100)
    voters = [one for one in world.members if one is not leader]
    assert all(one.machine.held_proposals == 1 for one in voters)
    assert not leader.log and others
    for member in voters:
        member.take(member.machine.note_ledger(4, 2, world.now_ms, 4))
    world.run(400)
    for member in world.members:
        assert len(member.log) and member.machine.pool.inbox_height == 4
        assert "views_failed" not in member.machine.replica.counters
    assert views == [1] * COUNT


def test_false_proposals_do_not_cut_the_wait_for_the_base_layer_short() -> None:
    world = SharedWorld()
    leader = world.members[world.members[0].machine.replica.leader or 0]
    voters = [one for one in world.members if one is not leader]
    leader.take(leader.machine.note_ledger(5, 2, world.now_ms, 4))
    world.run(50)
    assert all(one.machine.held_proposals == 1 for one in voters)
    liar = voters[0].index
    held = [one[2] for one in world.sent if isinstance(one[2], Proposal)][-1]
    for payload in (b"", encode(OrderedPayload(99, []))):
        header = msgspec.structs.replace(held.block.header, proposer=liar, view=9)
        block = msgspec.structs.replace(held.block, header=header, payload=payload)
        for member in voters[1:]:
            false = Proposal(block, bytes(64))
            member.take(member.machine.receive([(liar, false)], world.now_ms))
    for member in voters:
        member.take(member.machine.note_ledger(4, 2, world.now_ms, 4))
    world.run(400)
    for member in world.members:
        assert member.machine.pool.inbox_height == 4
        assert "views_failed" not in member.machine.replica.counters


def test_who_is_last_to_wait_goes_on_with_the_quorum() -> None:
    world = SharedWorld()
    slow = world.members[((world.members[0].machine.replica.leader or 0) + 2) % COUNT]
    for member in world.members:
        if member is not slow:
            member.take(member.machine.note_ledger(5, 2, world.now_ms, 4))
    world.run(300)
    assert slow.machine.held_proposals == 1
    assert slow.machine.pool.inbox_height == 4, "it did not wait for what a quorum has verified"


def test_who_hears_nothing_of_the_base_layer_follows_the_quorum() -> None:
    world = SharedWorld()
    for member in world.members[:3]:
        member.take(member.machine.note_ledger(5, 2, world.now_ms, 4))
    world.run(4_000)
    deaf = world.members[3]
    assert deaf.machine.pool.inbox_height == 4 and len(world.logs()) == 1
    deaf.submit(world.batch())
    world.run(4_000)
    assert len(deaf.ordered()) == 1, "it leads and votes on top of what others verified"


def test_of_each_sequencer_one_proposal_is_held_and_false_ones_do_not_stay() -> None:
    world = SharedWorld()
    world.members[0].submit(world.batch())
    world.run(500)
    block = block_on(world, encode(OrderedPayload(99, [])))
    member = world.members[0]
    for _ in range(3):
        for proposer in (1, 2, 3):
            header = msgspec.structs.replace(block.header, proposer=proposer, view=1_000)
            false = Proposal(msgspec.structs.replace(block, header=header), bytes(64))
            member.take(member.machine.receive([(proposer, false)], world.now_ms))
    assert len(member.machine._held) == 3
    world.run(3_000)
    assert member.machine._held.deadline_ms() is None
    for one in world.members:
        one.submit(world.batch())
    world.run(8_000)
    assert len(world.logs()) == 1 and len(member.ordered()) == 5


def test_blocks_name_the_height_at_which_the_inbox_grew() -> None:
    heights = [2, 2, 5, 9]

    def count_at(height: int) -> int:
        return sum(one <= height for one in heights)

    assert [grown_at(count_at, covered) for covered in (0, 1, 2, 4, 5, 8, 9, 50)] == [
        0, 0, 2, 2, 5, 5, 9, 9,
    ]  # fmt: skip


def test_the_cursor_follows_heights_that_others_named() -> None:
    world, pool, _ = pool_with_a_block()
    pool.note_ledger(4, 3, 4)
    pool.note_ledger(9, 10, 9)
    block = block_on(world, encode(OrderedPayload(6, [])))
    header = msgspec.structs.replace(block.header, height=pool._height + 1)
    certificate: Any = None
    pool.commit(msgspec.structs.replace(block, header=header), certificate)
    assert pool.inbox_cursor == 3, "at least what the height below held"
    assert pool.has_work()


def test_an_entry_that_an_uncommitted_empty_block_took_in_gets_a_block_that_commits_it() -> None:
    world, _, _ = pool_with_a_block()
    pool = BatchPool(1 << 20, 1, 0, 0, 0)
    pool.note_ledger(4, 2, 4)
    first = block_on(world, pool.propose([], world.now_ms))
    assert first.payload
    empty = block_on(world, b"")
    assert pool.propose([first, empty], world.now_ms) == b"", "the payload commits them all"
    header = msgspec.structs.replace(first.header, height=1)
    certificate: Any = None
    pool.commit(msgspec.structs.replace(first, header=header), certificate)
    assert pool.inbox_cursor == 1 and pool.has_work()
    payload = pool.propose([empty], world.now_ms)
    assert payload, "nothing else would have the empty block committed"
    assert pool.propose([empty, block_on(world, payload)], world.now_ms) == b""
