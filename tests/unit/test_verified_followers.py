"""Machines of whoever follows log and inbox: nothing counts that is not proven, nothing twice."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from light_world import LightChain
from pipeline_world import DOLLAR, PipelineWorld

from execution.inbox import FETCH_LIMIT, VerifiedInbox
from execution.log import BLOCK_OVERHEAD_BYTES, VerifiedLog, log_genesis_id
from execution.replay import Replay
from protocol.actions import BUY, Order
from protocol.codec import encode
from protocol.errors import ConfigError, Rejected, SafetyViolation
from protocol.inbox import InboxLeaf, inbox_key
from protocol.ledger_leaves import SweptLeaf
from protocol.messages import InboxView
from protocol.ordering import OrderedBlock, OrderedChunk
from protocol.settlement import (
    EMPTY_INBOX_HASH,
    InboxDeposit,
    InboxEntry,
    extend_inbox_hash,
)

replace = msgspec.structs.replace
HEIGHTS = (2, 2, 5, 9)
ENTRIES: list[tuple[int, InboxEntry]] = [
    (height, InboxDeposit(index, 16, b"\x01" * 20, 5)) for index, height in enumerate(HEIGHTS)
]


def hash_of(entries: Sequence[tuple[int, InboxEntry]]) -> bytes:
    running = EMPTY_INBOX_HASH
    for height, entry in entries:
        running = extend_inbox_hash(running, height, entry)
    return running


def inbox_world(entries: Sequence[tuple[int, InboxEntry]]) -> LightChain:
    leaf = encode(InboxLeaf(len(entries), hash_of(entries)))
    world = LightChain(leaves={inbox_key(0): leaf})
    world.to_epoch(1)
    return world


def view(world: LightChain, entries: Sequence[tuple[int, InboxEntry]]) -> InboxView:
    header = world.headers[-1]
    proof = encode(world.proof(header, [inbox_key(0)]))
    return InboxView(1, list(entries), header, world.certificate(header), proof)


def test_an_inbox_in_parts_counts_once_all_is_there() -> None:
    world, inbox = inbox_world(ENTRIES), VerifiedInbox(0)
    assert not inbox.take(view(world, ENTRIES[:3]))
    assert (inbox.count, inbox.covered_height, inbox.request(7).from_index) == (0, -1, 3)
    assert inbox.take(view(world, ENTRIES[3:]))
    assert (inbox.count, inbox.request(7).from_index) == (4, 4)
    assert inbox.covered_height == world.headers[-1].app_height
    assert [inbox.count_at(height) for height in (1, 2, 4, 5, 8, 9)] == [0, 2, 2, 3, 3, 4]
    assert inbox.entries(1, 3) == [entry for _, entry in ENTRIES[1:3]]


def test_an_unfinished_question_is_forgotten() -> None:
    world, inbox = inbox_world(ENTRIES), VerifiedInbox(0)
    forged = [(2, replace(ENTRIES[0][1], amount_uusd=6))]
    assert not inbox.take(view(world, forged))
    inbox.forget()
    assert inbox.take(view(world, ENTRIES))


@pytest.mark.parametrize(
    "entries",
    [
        [],
        ENTRIES[1:],
        [(3, ENTRIES[0][1]), *ENTRIES[1:]],
        [ENTRIES[1], ENTRIES[0], *ENTRIES[2:]],
        [*ENTRIES[:3], (9, replace(ENTRIES[3][1], amount_uusd=6))],
    ],
    ids=["withheld", "one missing", "another height", "another order", "another amount"],
)
def test_entries_that_are_not_the_ledgers_change_nothing(
    entries: list[tuple[int, InboxEntry]],
) -> None:
    world, inbox = inbox_world(ENTRIES), VerifiedInbox(0)
    with pytest.raises(Rejected):
        while not inbox.take(view(world, entries)):
            entries = []
    assert (inbox.count, inbox.covered_height, inbox.entries(0, 4)) == (0, -1, [])
    inbox.forget()
    assert inbox.take(view(world, ENTRIES))


def test_an_older_answer_changes_nothing() -> None:
    world, inbox = inbox_world(ENTRIES), VerifiedInbox(0)
    old = view(world, [])
    world.to_epoch(2)
    assert inbox.take(view(world, ENTRIES))
    height = inbox.covered_height
    assert inbox.take(old)
    assert inbox.covered_height == height > old.header.app_height


def test_it_is_behind_what_was_told_and_wanted_until_another_validator_is_asked() -> None:
    world, inbox = inbox_world(ENTRIES), VerifiedInbox(0)
    assert inbox.take(view(world, ENTRIES)) and not inbox.behind
    inbox.want(inbox.covered_height + 1)
    assert inbox.behind
    world.block()
    assert inbox.take(view(world, [])) and not inbox.behind
    assert inbox.told(1 << 40) and not inbox.told(9) and inbox.behind
    inbox.forget()
    assert not inbox.behind and inbox.told(5)


def forgotten(entries: int, running_hash: bytes | None = None) -> bytes:
    """The ledger's leaf of what it has forgotten."""
    return encode(SweptLeaf(1, entries, entries, running_hash or hash_of(ENTRIES[:entries])))


def test_it_begins_behind_what_the_ledger_has_forgotten() -> None:
    world = inbox_world(ENTRIES)
    for needed in (2, 3, None):
        inbox = VerifiedInbox(0, needed)
        inbox.begin_behind(forgotten(2))
        assert (inbox.covered_height, inbox.request(7).from_index) == (-1, 2)
        assert inbox.take(view(world, ENTRIES[2:]))
        assert [inbox.count_at(height) for height in (5, 8, 9)] == [3, 3, 4]
        assert inbox.entries(2, 4) == [entry for _, entry in ENTRIES[2:]]
        with pytest.raises(SafetyViolation, match="entry 1 is released"):
            inbox.entries(1, 3)


def test_what_comes_behind_forgotten_entries_hashes_to_the_leaf_too() -> None:
    world = inbox_world(ENTRIES)
    for leaf, entries in (
        (forgotten(2, hash_of(ENTRIES[:1])), ENTRIES[2:]),
        (forgotten(2), [(6, ENTRIES[2][1]), ENTRIES[3]]),
        (forgotten(2), [ENTRIES[3], ENTRIES[2]]),
    ):
        inbox = VerifiedInbox(0, 2)
        inbox.begin_behind(leaf)
        with pytest.raises(Rejected):
            inbox.take(view(world, entries))
        assert (inbox.count, inbox.covered_height) == (2, -1)


def test_who_needs_what_is_forgotten_ends_with_a_word() -> None:
    for inbox in (VerifiedInbox(0), VerifiedInbox(0, 1)):
        with pytest.raises(ConfigError, match="to 1, which come next"):
            inbox.begin_behind(forgotten(2))
    inbox = VerifiedInbox(0)
    inbox.release(2)
    inbox.begin_behind(forgotten(2))
    assert inbox.count == 2


def test_nothing_is_left_out_that_the_ledger_has() -> None:
    inbox = VerifiedInbox(0, None)
    with pytest.raises(Rejected, match="entry 0 is withheld"):
        inbox.begin_behind(None)
    assert not inbox.take(view(inbox_world(ENTRIES), ENTRIES[:1]))
    inbox.forget()
    inbox.begin_behind(forgotten(3))
    for leaf in (None, forgotten(2), forgotten(3)):
        with pytest.raises(Rejected, match="entry 3 is withheld"):
            inbox.begin_behind(leaf)
    assert inbox.take(view(inbox_world(ENTRIES), ENTRIES[3:])) and inbox.count == 4


def test_what_is_not_known_yet_cannot_be_released() -> None:
    """Others may have ordered entries of which nothing was heard here since the start."""
    inbox = VerifiedInbox(0, None)
    inbox.release(2 * FETCH_LIMIT)
    assert inbox.take(view(inbox_world(ENTRIES), ENTRIES))
    assert inbox.entries(0, 4) == [entry for _, entry in ENTRIES] and inbox.count_at(2) == 2


def test_released_entries_are_freed_and_numbers_stay() -> None:
    many: list[tuple[int, InboxEntry]] = [
        (2 + index, InboxDeposit(index, 16, b"\x01" * 20, 5)) for index in range(FETCH_LIMIT + 3)
    ]
    inbox = VerifiedInbox(0)
    assert inbox.take(view(inbox_world(many), many))
    inbox.release(FETCH_LIMIT - 1)
    assert inbox.entries(0, 1) == [many[0][1]]
    inbox.release(FETCH_LIMIT + 1)
    assert inbox.entries(FETCH_LIMIT + 1, FETCH_LIMIT + 3) == [one for _, one in many[-2:]]
    assert inbox.count_at(FETCH_LIMIT + 3) == FETCH_LIMIT + 2 and inbox.count == FETCH_LIMIT + 3


# --- log


def ordered_world() -> PipelineWorld:
    world = PipelineWorld()
    world.order(inbox_height=0)
    for price in (600_000, 600_001, 600_002):
        world.order(world.sign(world.alice, Order(0, BUY, price, 1)))
    return world


def chunk_of(world: PipelineWorld, blocks: list[OrderedBlock]) -> OrderedChunk:
    return OrderedChunk(blocks, world.log.certificate(blocks[-1].header))


def test_a_log_goes_on_where_it_stands_and_nowhere_else() -> None:
    world = ordered_world()
    blocks = world.log.blocks
    log = VerifiedLog(world.chain, 0, log_genesis_id(world.chain))
    log.add(chunk_of(world, blocks[:2]))
    assert (log.height, log.block_id) == (2, blocks[1].header.block_id())
    altered = OrderedBlock(blocks[2].header, blocks[1].payload)
    uncertified = OrderedChunk(blocks[2:], world.log.certificate(blocks[2].header))
    for chunk in (
        OrderedChunk([], world.log.certificate(blocks[1].header)),
        chunk_of(world, blocks[:1]),
        chunk_of(world, blocks[3:]),
        OrderedChunk([altered], world.log.certificate(blocks[2].header)),
        uncertified,
    ):
        with pytest.raises(Rejected):
            log.add(chunk)
        assert (log.height, log.block_id) == (2, blocks[1].header.block_id())
    log.add(chunk_of(world, blocks[2:]))
    assert log.height == 4


def test_a_chunk_that_no_batch_of_settlement_would_hold_is_refused() -> None:
    world = ordered_world()
    log = VerifiedLog(world.chain, 0, log_genesis_id(world.chain))
    log._chunk_bytes = 4 * BLOCK_OVERHEAD_BYTES
    with pytest.raises(Rejected, match="bytes"):
        log.add(chunk_of(world, world.log.blocks))
    log.add(chunk_of(world, world.log.blocks[:1]))
    assert log.height == 1


# --- execution


def test_a_replay_goes_on_from_its_snapshot_to_the_same_records() -> None:
    world, inbox = ordered_world(), genesis_inbox()
    first = Replay(world.chain, None)
    blocks = world.log.blocks
    records = [first.apply(one.header, first.payload(one), inbox, None)[2] for one in blocks[:2]]
    snapshot = first.snapshot()
    records += [first.apply(one.header, first.payload(one), inbox, None)[2] for one in blocks[2:]]
    again = Replay(world.chain, snapshot)
    for block, known in zip(blocks[2:], records[2:], strict=True):
        assert again.apply(block.header, again.payload(block), inbox, known)[2] == known
    assert again.snapshot() == first.snapshot() and again.height == 4
    assert dict(again.leaves) == world.engine.leaves()
    with pytest.raises(SafetyViolation, match="another chain"):
        Replay(world.chain, replace(snapshot, chain_id=bytes(32)))


def test_another_result_than_before_a_restart_is_in_no_snapshot() -> None:
    world, inbox = ordered_world(), genesis_inbox()
    replay = Replay(world.chain, None)
    block = world.log.blocks[0]
    before = replay.snapshot()
    record = Replay(world.chain, None).apply(block.header, replay.payload(block), inbox, None)[2]
    with pytest.raises(SafetyViolation, match="again gave another result"):
        replay.apply(block.header, replay.payload(block), inbox, replace(record, events=b"other"))
    assert replay.snapshot() == before


def genesis_inbox() -> VerifiedInbox:
    """The inbox as genesis leaves it: each trader's deposit, at height 0."""
    world = PipelineWorld()
    placed = world.ledger.entries(0, world.ledger.entries_at(0), 0)
    assert placed and all(entry.amount_uusd == 5_000 * DOLLAR for _, entry in placed)
    inbox = VerifiedInbox(0)
    assert inbox.take(view(inbox_world(placed), placed))
    return inbox
