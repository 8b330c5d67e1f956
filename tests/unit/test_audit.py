"""The audit passes on an honest chain, and names whatever one thing is changed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from ledger_world import key_of
from pipeline_world import DOLLAR, Lie, PipelineWorld, all_but, rewrite_header

from node.audit import AuditDifference, Auditor
from protocol.actions import BUY, SELL, Order, Withdraw
from protocol.batch_data import pack_blocks
from protocol.chain import Block, CommitCertificate, Signature
from protocol.codec import encode
from protocol.errors import Code
from protocol.merkle import list_proof, list_root
from protocol.settlement import (
    Deposit,
    OutboxEntry,
    Payout,
    PostBatch,
    decode_outbox_entry,
)


def honest(lie: Lie = lambda post: post, *, named_root: bytes | None = None) -> PipelineWorld:
    """Deposits, a trade, a withdrawal that is paid, and one more batch; `lie` is in the second."""
    world = PipelineWorld()
    world.order(inbox_height=0)
    world.order(
        world.sign(world.alice, Order(0, BUY, 600_000, 10), Order(0, BUY, 590_000, 5)),
        world.sign(world.bob, Order(0, SELL, 600_000, 4)),
    )
    world.settle()
    world.ledger_block(world.transaction(world.alice, Deposit(world.alice.address, 7 * DOLLAR)))
    height = world.ledger.height
    world.order(world.sign(world.bob, Withdraw(3 * DOLLAR, world.bob.address)), inbox_height=height)
    world.order(world.sign(world.alice, Withdraw(2 * DOLLAR, world.alice.address)))
    world.order()
    batch, outcome = world.settle(lie)
    if outcome.results[-1].code == Code.OK and lie.__name__ == "<lambda>":
        entries = [decode_outbox_entry(raw) for raw in batch.outbox]
        path = list_proof(batch.outbox, 1)
        payout = world.transaction(key_of("carol"), Payout(batch.header.number, entries[1], path))
        assert world.ledger_block(payout).results[-1].code == Code.OK
    if named_root is not None:
        world.named_root = named_root
    world.ledger_block()
    assert set(world.codes()) == {Code.OK}
    return world


def audited(
    world: PipelineWorld,
    blocks: list[Block] | None = None,
    certificate: CommitCertificate | None = None,
) -> Auditor:
    auditor = Auditor(world.chain)
    auditor.add(blocks or world.blocks, certificate or world.certificate())
    return auditor


def difference(world: PipelineWorld, *parts: object) -> str:
    with pytest.raises(AuditDifference) as caught:
        audited(world, *parts)  # type: ignore[arg-type]
    return str(caught.value)


def test_an_honest_chain_passes_with_everything_counted() -> None:
    world = honest()
    auditor = audited(world)
    report = auditor.report()
    assert auditor.height == report.ledger_blocks == len(world.blocks) == 5
    assert (report.batches, report.ordered_blocks, report.actions, report.fills) == (2, 5, 5, 1)
    assert report.signed_batches == 4
    assert report.state_root == world.batcher.tree.root.hex()
    assert report.ledger_root == world.ledger.root.hex()
    assert report.funds_uusd == world.ledger.shard_leaf().funds_uusd == 10_005 * DOLLAR
    assert report.roots_agree and report.money_conserved
    assert "audit ok" in report.line() and "5 actions" in report.line()


def test_blocks_may_come_in_parts() -> None:
    world = PipelineWorld()
    auditor = Auditor(world.chain)
    world.order(inbox_height=0)
    world.settle()
    auditor.add(world.blocks, world.certificate())
    world.order(world.sign(world.alice, Order(0, BUY, 600_000, 10)))
    world.settle()
    auditor.add(world.blocks[1:], world.certificate())
    assert auditor.report().batches == 2


def test_a_prover_that_posts_another_state_root() -> None:
    text = difference(honest(rewrite_header({"post_state_root": b"\x01" * 32})))
    assert text.startswith("batch 2") and "post-state root" in text
    assert "one of 3 to 5" in text and "cannot be known" in text


def with_outbox(change: Callable[[list[OutboxEntry]], list[OutboxEntry]]) -> Lie:
    """A prover that posts other withdrawals, with the header that belongs to them."""

    def lie(post: PostBatch) -> PostBatch:
        outbox = change(list(post.outbox))
        fields = {
            "outbox_root": list_root([encode(entry) for entry in outbox]),
            "outbox_count": len(outbox),
        }
        return msgspec.structs.replace(rewrite_header(fields)(post), outbox=outbox)

    return lie


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: [msgspec.structs.replace(entries[0], amount_uusd=4 * DOLLAR), entries[1]],
        lambda entries: entries[:1],
        lambda entries: [*entries, msgspec.structs.replace(entries[1], number=2)],
        lambda entries: [entries[0], msgspec.structs.replace(entries[1], address=b"m" * 20)],
    ],
)
def test_withdrawals_that_nobody_made(
    change: Callable[[list[OutboxEntry]], list[OutboxEntry]],
) -> None:
    text = difference(honest(with_outbox(change)))
    assert text.startswith("batch 2") and "outbox root" in text


def test_batch_data_that_validators_should_have_refused() -> None:
    """The data is not what was ordered; validators claim that the batch settled all the same."""

    def other_data(post: PostBatch) -> PostBatch:
        return msgspec.structs.replace(post, data=pack_blocks([]))

    right = honest(rewrite_header({}))
    settled_root = right.blocks[-1].header.app_root
    lying = honest(other_data, named_root=settled_root)
    text = difference(lying)
    assert "ledger block 4" in text and "ledger root" in text


def test_a_ledger_root_that_is_another() -> None:
    world = honest(named_root=b"\x03" * 32)
    text = difference(world)
    assert "ledger root" in text and "0303" in text and f"block {len(world.blocks)}" in text


def test_a_payload_that_was_changed_afterwards() -> None:
    world = honest()
    changed = msgspec.structs.replace(world.blocks[1], payload=world.blocks[0].payload)
    text = difference(world, [world.blocks[0], changed, *world.blocks[2:]])
    assert "ledger block 2" in text and "payload" in text


def test_a_block_that_is_missing() -> None:
    world = honest()
    text = difference(world, all_but(world.blocks, 1))
    assert "ledger block 3" in text and "continue" in text


def test_a_certificate_that_nobody_signed() -> None:
    world = honest()
    right = world.certificate()
    forged = [Signature(0, b"\x04" * 64)]
    for broken in (
        msgspec.structs.replace(right, qc=msgspec.structs.replace(right.qc, signatures=forged)),
        msgspec.structs.replace(
            right, child_qc=msgspec.structs.replace(right.child_qc, signatures=forged)
        ),
        msgspec.structs.replace(right, child_qc=right.qc),
    ):
        text = difference(world, world.blocks, broken)
        assert f"certificate of block {len(world.blocks)}" in text


def test_a_parents_certificate_that_nobody_signed() -> None:
    world = honest()
    justify = msgspec.structs.replace(
        world.blocks[2].justify, signatures=[Signature(0, b"\x05" * 64)]
    )
    blocks = list(world.blocks)
    blocks[2] = msgspec.structs.replace(blocks[2], justify=justify)
    assert "ledger block 3" in difference(world, blocks)
