"""What a prover settles, and when: intervals, certificates, and batches settled before."""

from __future__ import annotations

import msgspec
import pytest
from pipeline_world import DOLLAR, PipelineWorld

from protocol.actions import Withdraw
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.merkle import list_root, verify_list_proof
from protocol.messages import WithdrawalRequest
from protocol.ordering import OrderedChunk
from prover.batcher import Batcher
from prover.settlement import Settlement, genesis, require_same_root, withdrawal_view

replace = msgspec.structs.replace
INTERVAL_MS, IDLE_MS, NOW_MS = 500, 30_000, 1_000_000


def settlement(world: PipelineWorld) -> Settlement:
    return Settlement(world.batcher, INTERVAL_MS, IDLE_MS)


def work(world: PipelineWorld) -> None:
    world.order(world.sign(world.bob, Withdraw(DOLLAR, world.bob.address)))


def test_work_waits_for_the_interval_and_idle_blocks_for_longer() -> None:
    world = PipelineWorld()
    one = settlement(world)
    assert one.due_ms(NOW_MS) is None
    world.order(inbox_height=0)
    assert one.due_ms(NOW_MS) == INTERVAL_MS, "the first deposits are work"
    one.build(NOW_MS)
    assert one.due_ms(NOW_MS) is None
    world.order()
    assert one.due_ms(NOW_MS) == NOW_MS + IDLE_MS
    work(world)
    assert one.due_ms(NOW_MS) == NOW_MS + INTERVAL_MS


def test_a_full_batch_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PipelineWorld()
    one = settlement(world)
    world.order(inbox_height=0)
    one.build(NOW_MS)
    monkeypatch.setattr("prover.batcher.BATCH_BLOCKS_MAX", 2)
    for _ in range(2):
        world.order()
    assert one.due_ms(NOW_MS) == NOW_MS + IDLE_MS
    world.order()
    assert one.due_ms(NOW_MS + 7) == NOW_MS + 7


def test_what_is_posted_is_what_was_built() -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    batch, posting = settlement(world).build(NOW_MS)
    assert (posting.header, posting.data) == (batch.header, batch.data)
    assert world.ledger_block(world.transaction(world.prover, posting)).results[-1].code == Code.OK


def test_a_settled_batch_is_adopted_once_it_is_reached_and_only_with_our_root() -> None:
    world = PipelineWorld()
    position, tree = genesis(world.chain)
    other = Batcher(world.chain.chain_id, 0, world.prover.public, tree, position)
    one = Settlement(other, INTERVAL_MS, IDLE_MS)
    diffs = [world.order(inbox_height=0), world.order()]
    settled = world.settle()[0].header
    for block, diff in zip(world.log.blocks, diffs, strict=True):
        assert not one.reaches(settled)
        certificate = world.log.certificate(block.header)
        other.add_chunk(OrderedChunk([block], certificate))
        assert not one.reaches(settled), "its diff is missing"
        other.add_diff(diff)
    assert one.reaches(settled)
    assert one.adopt(settled).header == settled
    with pytest.raises(SafetyViolation, match="another state root"):
        require_same_root(settled, replace(settled, post_state_root=bytes(32)))


def test_a_withdrawal_is_shown_once_its_batch_is_settled() -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    for _ in range(3):
        work(world)
    batch, _ = settlement(world).build(NOW_MS)
    found = (batch.header.number, batch.outbox)
    request = WithdrawalRequest(9, batch.header.outbox_first + 2)
    with pytest.raises(Rejected) as caught:
        withdrawal_view(request, None, None)
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(Rejected) as caught:
        withdrawal_view(request, found, batch.header.number)
    assert caught.value.code == Code.NOT_READY
    view = withdrawal_view(request, found, None)
    assert (view.request_id, view.batch, view.entry.number) == (9, 1, request.number)
    assert verify_list_proof(list_root(batch.outbox), batch.outbox[2], 2, 3, view.path)
