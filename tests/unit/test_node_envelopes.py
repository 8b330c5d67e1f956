"""Opened transactions are kept while they may be needed again, and within their memory."""

from __future__ import annotations

import pytest
from app_world import AppWorld
from object_sizes import memory_of
from pipeline_world import DOLLAR, PipelineWorld

from node.envelopes import Envelopes, OpenedTransaction, kept_bytes
from node.ledger import Ledger
from protocol.actions import Order, Withdraw
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.settlement import OutboxEntry, Payout, PostBatch, decode_outbox_entry

PRICE_TICKS = 600_000


def kept(ledger: Ledger) -> list[OpenedTransaction]:
    return list(ledger.envelopes._kept.values())


def test_opened_transactions_are_kept_within_their_bytes() -> None:
    world = AppWorld()
    raws = [world.tx(world.alice, nonce) for nonce in range(4)]
    envelopes = Envelopes(world.chain.chain_id)
    each = kept_bytes(envelopes.open(raws[0]))
    envelopes = Envelopes(world.chain.chain_id, 2 * each + 50)
    opened = [envelopes.open(raw) for raw in raws]
    assert [one.nonce for one in opened] == [0, 1, 2, 3]
    assert envelopes.kept_bytes == 2 * each
    assert envelopes.open(raws[3]) is opened[3]
    assert envelopes.open(raws[0]) is not opened[0]


def test_what_was_executed_is_forgotten_and_holds_again_when_it_comes_again() -> None:
    world = AppWorld()
    raws = [world.tx(world.alice, nonce) for nonce in range(3)]
    for raw in raws:
        world.app.submit(raw, 0)
    first = world.ledger.envelopes.open(raws[0])
    world.propose()
    assert len(kept(world.ledger)) == 3
    world.commit(*raws[:2])
    assert [one.nonce for one in kept(world.ledger)] == [2], "one waits"
    # A block on another branch that holds them too is checked as if they were new.
    world.app.check(world.make_block(encode(raws[:2])), [])
    assert world.ledger.envelopes.open(raws[0]) == first
    forged = raws[0][:-1] + bytes((raws[0][-1] ^ 1,))
    with pytest.raises(Rejected) as refused:
        world.app.check(world.make_block(encode([forged])), [])
    assert refused.value.code == Code.BAD_SIGNATURE
    world.commit(raws[2])
    assert world.ledger.account(world.alice.address).nonce == 3


def test_a_block_that_comes_without_being_voted_for_leaves_nothing_behind() -> None:
    """As it does while a validator catches up, and in whoever executes the ledger again."""
    world = AppWorld()
    for nonce in range(20):
        world.commit(world.tx(world.alice, nonce))
    assert kept(world.ledger) == [] and world.ledger.envelopes.kept_bytes == 0
    assert world.ledger.account(world.alice.address).nonce == 20


def test_what_is_refused_is_not_kept() -> None:
    """Nobody pays for it, and there may be much of it."""
    world = AppWorld()
    world.app.submit(world.tx(world.alice, 0), 0)
    world.log.append()
    entry = OutboxEntry(0, 16, world.bob.address, 5)
    for raw, code in (
        (world.tx(world.alice, 0, 2), Code.FEE_TOO_LOW),
        (world.tx(world.alice, 900), Code.BAD_LEDGER_NONCE),
        (world.sign(world.alice, world.batch()), Code.NOT_A_PROVER),
        (world.sign(world.bob, Payout(1, entry, [])), Code.UNKNOWN_BATCH),
    ):
        with pytest.raises(Rejected) as refused:
            world.app.submit(raw, 0)
        assert refused.value.code == code
    assert [one.nonce for one in kept(world.ledger)] == [0]


def posted(world: PipelineWorld) -> bytes:
    """A batch that the world's ledger takes, as the transaction that posts it."""
    batch = world.batcher.build(world.batcher.end_of_next())
    assert batch.certificate is not None
    outbox = [decode_outbox_entry(raw) for raw in batch.outbox]
    post = PostBatch(batch.header, batch.data, batch.certificate, outbox)
    return world.transaction(world.prover, post)


def test_batches_are_counted_as_what_their_objects_take() -> None:
    world = PipelineWorld()
    world.order(inbox_height=0)
    for number in range(30):
        world.order(world.sign(world.bob, Withdraw(DOLLAR + number, world.bob.address)))
    with_outbox = posted(world)
    world.order(*(world.sign(world.alice, Order(0, 0, PRICE_TICKS, 1)) for _ in range(200)))
    with_data = posted(world)
    for raw in (with_outbox, with_data):
        opened = Envelopes(world.chain.chain_id).open(raw)
        real = memory_of(opened)
        assert real <= kept_bytes(opened) <= 3 * real


def test_batch_after_batch_leaves_nothing_behind() -> None:
    world = AppWorld()
    for _ in range(3):
        world.log.append()
        raw = world.sign(world.prover, world.batch())
        world.app.submit(raw, 0)
        assert len(kept(world.ledger)) == 1
        world.commit(raw)
        assert kept(world.ledger) == []
    assert world.ledger.shard_leaf().batch == 3
