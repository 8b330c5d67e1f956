"""Batches: contiguous, bounded, and what the ledger accepts."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from pipeline_world import DOLLAR, PipelineWorld

import prover.batcher as batcher_module
from protocol.actions import BUY, SELL, Order, Withdraw
from protocol.batch_data import unpack_blocks
from protocol.codec import encode
from protocol.errors import Code, SafetyViolation
from protocol.ordering import OrderedChunk
from protocol.settlement import BatchHeader
from prover.batcher import Batcher, Position
from prover.tree import StateTree


def trade(world: PipelineWorld) -> list[bytes]:
    return [
        world.sign(world.alice, Order(0, BUY, 600_000, 2)),
        world.sign(world.bob, Order(0, SELL, 600_000, 1)),
    ]


def test_batches_are_contiguous_and_settle() -> None:
    world = PipelineWorld()
    headers: list[BatchHeader] = []
    for number in range(4):
        if not number:
            world.order(inbox_height=0)
        world.order(*trade(world))
        world.order(world.sign(world.bob, Withdraw(DOLLAR + number, world.bob.address)))
        batch, outcome = world.settle()
        assert outcome.results[-1].code == Code.OK, outcome.results[-1].text
        headers.append(batch.header)
        assert batch.actions == 3 and len(batch.outbox) == 1
    assert [header.number for header in headers] == [1, 2, 3, 4]
    assert headers[0].first_block == 1 and headers[0].pre_state_root == world.genesis_root
    for before, after in pairwise(headers):
        assert after.first_block == before.last_block + 1
        assert after.pre_state_root == before.post_state_root
        assert after.outbox_first == before.outbox_first + before.outbox_count
    assert world.ledger.shard_leaf().state_root == headers[-1].post_state_root
    leaves = world.engine.leaves()
    assert headers[-1].post_state_root == StateTree(sorted(leaves.items())).root
    assert dict(world.batcher.tree.iterate()) == leaves
    assert world.batcher.waiting_blocks == world.batcher.waiting_diffs == 0


def test_the_data_is_exactly_the_ordered_blocks() -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    world.order(*trade(world))
    batch, _ = world.settle()
    assert unpack_blocks(batch.data) == world.log.blocks


def test_a_batch_ends_where_its_size_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    for _ in range(6):
        world.order(*trade(world))
    sizes = [len(encode(block)) for block in world.log.blocks]
    monkeypatch.setattr(batcher_module, "BATCH_BYTES_MAX", sum(sizes[:3]) + 1)
    assert world.batcher.end_of_next() == 3 and world.batcher.full()
    batch, outcome = world.settle()
    assert batch.header.last_block == 3 and outcome.results[-1].code == Code.OK
    monkeypatch.setattr(batcher_module, "BATCH_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(batcher_module, "BATCH_BLOCKS_MAX", 2)
    assert world.batcher.end_of_next() == 5
    monkeypatch.setattr(batcher_module, "BATCH_BLOCKS_MAX", 100)
    assert world.batcher.end_of_next() == 7 and not world.batcher.full()


def test_a_batch_needs_both_block_and_diff_and_ends_at_a_certificate() -> None:
    world = PipelineWorld()
    batcher = world.batcher
    diffs = [world.execute(inbox_height=0), world.execute(*trade(world)), world.execute()]
    assert batcher.end_of_next() == 0 and not batcher.actions_waiting()
    batcher.add_diff(diffs[0])
    batcher.add_diff(diffs[1])
    assert batcher.end_of_next() == 0, "diffs without blocks"
    last = world.log.blocks[2].header
    batcher.add_chunk(OrderedChunk(world.log.blocks[:3], world.log.certificate(last)))
    assert batcher.end_of_next() == 0, "the certificate stands at block 3, whose diff is missing"
    batcher.add_diff(diffs[2])
    assert batcher.end_of_next() == 3 and batcher.actions_waiting()
    assert (batcher.next_block, batcher.next_diff) == (4, 4)


def test_a_settled_batch_can_be_followed_where_no_certificate_stands() -> None:
    """After a loss of data the log is streamed in longer chunks than it was posted in."""
    world = PipelineWorld()
    diffs = [world.execute(inbox_height=0), world.execute(*trade(world)), world.execute()]
    last = world.log.blocks[2].header
    world.batcher.add_chunk(OrderedChunk(world.log.blocks[:3], world.log.certificate(last)))
    for diff in diffs:
        world.batcher.add_diff(diff)
    first = world.batcher.build(2)
    assert first.certificate is None and first.header.last_block == 2
    second = world.batcher.build(3)
    assert second.certificate == world.log.certificate(last)
    assert second.header.pre_state_root == first.header.post_state_root


def test_blocks_and_diffs_out_of_order_or_of_another_block() -> None:
    world = PipelineWorld()
    diff = world.execute(inbox_height=0)
    block = world.log.blocks[0]
    chunk = OrderedChunk([block], world.log.certificate(block.header))
    batcher = world.batcher
    with pytest.raises(SafetyViolation, match="instead of 1"):
        batcher.add_diff(msgspec.structs.replace(diff, height=2))
    batcher.add_chunk(chunk)
    with pytest.raises(SafetyViolation, match="instead of 2"):
        batcher.add_chunk(chunk)
    batcher.add_diff(msgspec.structs.replace(diff, block_id=b"\x01" * 32))
    with pytest.raises(SafetyViolation, match="not the ordered one"):
        batcher.build(1)


def test_leaves_that_do_not_belong_to_the_stored_root() -> None:
    world = PipelineWorld()
    tree = StateTree(sorted(world.engine.leaves().items()))
    position = Position(3, 9, b"\x01" * 32, b"\x02" * 32, 0, 0)
    with pytest.raises(SafetyViolation, match="state root"):
        Batcher(world.chain.chain_id, 0, world.prover.public, tree, position)


def test_the_room_for_a_settled_batch_goes_with_a_rewind() -> None:
    """That batch may never come again, and with it what waits would have no bound."""
    world = PipelineWorld()
    batcher, before = world.batcher, world.batcher.position
    batcher.wanted_block = 1_000_000
    batcher.rewind(before, {})
    assert batcher.wanted_block == 0
