"""What a prover settles, and when: intervals, certificates, and batches settled before."""

from __future__ import annotations

import msgspec
import pytest
from ledger_world import make_chain
from pipeline_world import DOLLAR, PipelineWorld

from protocol.actions import Withdraw
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import SettlementRules
from protocol.merkle import list_root, verify_list_proof
from protocol.messages import WithdrawalRequest
from protocol.ordering import OrderedChunk
from protocol.settlement import BatchHeader
from protocol.windows import OPEN_BATCHES_MAX
from prover.batcher import Batcher
from prover.settlement import (
    TURN_MS,
    Settlement,
    genesis,
    interval_ms,
    same_batch,
    withdrawal_view,
)

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


def test_a_settled_batch_is_followed_once_it_is_reached_and_only_where_it_is_right() -> None:
    world = PipelineWorld()
    position, tree = genesis(world.chain)
    other = Batcher(world.chain.chain_id, 0, world.prover.public, tree, position, removable=True)
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
    for lie in ({"post_state_root": bytes(32)}, {"outbox_root": bytes(32)}, {"inbox_cursor": 99}):
        assert one.follow(replace(settled, **lie)) is None
        assert other.position == position and other.tree.root == position.state_root
        assert (other.waiting_blocks, other.waiting_diffs) == (2, 2) and other.next_block == 3
    followed = one.follow(replace(settled, prover=world.alice.public, bond_uusd=7))
    assert followed is not None and followed.header == settled
    assert not same_batch(settled, replace(settled, post_state_root=bytes(32)))


def test_a_wrong_batch_stops_a_prover_that_cannot_go_back() -> None:
    world = PipelineWorld()
    one = settlement(world)
    world.order(inbox_height=0)
    right = world.batcher.tree.root
    with pytest.raises(SafetyViolation, match="contradicts our execution"):
        block = world.log.blocks[0].header
        one.follow(header_of(world, block.block_id(), right))


def header_of(world: PipelineWorld, last_block_id: bytes, root: bytes) -> BatchHeader:
    """A batch of the first block that changes nothing."""
    return BatchHeader(
        world.chain.chain_id, 0, 1, 1, 1, last_block_id, root, root, bytes(32), 0, bytes(32), 0, 0,
        world.prover.public, 0,
    )  # fmt: skip


def test_provers_wait_for_their_turns() -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    for place in range(3):
        one = Settlement(world.batcher, INTERVAL_MS, IDLE_MS, place, 3)
        assert one.shared and one.due_ms(NOW_MS) == INTERVAL_MS + place * TURN_MS
    world.settle()
    world.order(inbox_height=0)
    work(world)
    dues = [
        Settlement(world.batcher, INTERVAL_MS, IDLE_MS, place, 3).due_ms(NOW_MS)
        for place in range(3)
    ]
    assert dues == [INTERVAL_MS + 2 * TURN_MS, INTERVAL_MS, INTERVAL_MS + TURN_MS]


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


def test_batches_are_spaced_so_that_those_of_a_window_have_room() -> None:
    def interval(window_ms: int) -> int:
        chain = make_chain([], settlement=SettlementRules(window_ms=window_ms))
        return interval_ms(chain, INTERVAL_MS)

    assert interval(0) == interval(3_000) == interval(16_384_000) == INTERVAL_MS
    week_ms = 7 * 86_400_000
    assert interval(week_ms) == 18_457 and 2 * week_ms // interval(week_ms) <= OPEN_BATCHES_MAX
