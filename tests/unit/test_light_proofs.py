"""What a light client reads below a certified header, with headers and proofs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import msgspec
import pytest
from pipeline_world import DOLLAR, PipelineWorld

from consensus.light import LightClient
from consensus.light_proofs import (
    ProvenLeaves,
    first_state_leaves,
    ordered_block,
    require_ordered,
    require_outbox_entry,
    state_leaves,
)
from execution.leaves import ACCOUNT, account_key, decode_account
from protocol import ledger_leaves
from protocol.actions import BUY, SELL, Order, Withdraw
from protocol.chain import payload_hash
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.inbox import inbox_key
from protocol.light import genesis_checkpoint
from protocol.merkle import list_proof, list_root
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, OutboxEntry, decode_outbox_entry
from prover.batcher import Batch

replace = msgspec.structs.replace


@cache
def settled() -> tuple[PipelineWorld, Batch, list[bytes]]:
    """A world after two batches, the second one with withdrawals, and its signed batches."""
    world = PipelineWorld()
    world.order(inbox_height=0)
    world.order(world.sign(world.alice, Order(0, BUY, 600_000, 10)))
    world.settle()
    sent = [
        world.sign(world.bob, Order(0, SELL, 600_000, 4)),
        world.sign(world.bob, Withdraw(3 * DOLLAR, world.bob.address)),
        world.sign(world.alice, Withdraw(2 * DOLLAR, world.alice.address)),
    ]
    world.order(*sent)
    world.order()
    batch, outcome = world.settle()
    assert [result.code for result in outcome.results] == [Code.OK]
    world.ledger_block()
    world.ledger_block()
    return world, batch, sent


def proven(*keys: bytes) -> ProvenLeaves:
    """Leaves under the newest header."""
    world = settled()[0]
    header = world.blocks[-1].header
    proof = world.ledger.prove_at(header.app_height, header.app_root, keys)
    now_ms = header.time_ms
    client = LightClient(genesis_checkpoint(world.chain), trusting_ms=10**9, now_ms=now_ms)
    return client.prove(header, world.certificate(), proof, keys, now_ms)


def unproven(call: Callable[..., object], *args: object) -> None:
    with pytest.raises(Rejected) as caught:
        call(*args)
    assert caught.value.code == Code.BAD_PROOF


def test_balances_and_numbers_of_known_and_unknown_addresses() -> None:
    world = settled()[0]
    address, nobody = world.alice.address, b"\x99" * 20
    keys = [
        ledger_leaves.account_key(address), ledger_leaves.number_key(address),
        ledger_leaves.account_key(nobody), ledger_leaves.number_key(nobody),
    ]  # fmt: skip
    leaves = proven(*keys)
    assert leaves.account(address) == world.ledger.account(address)
    assert leaves.account(address).balance_uusd == 1_000 * DOLLAR
    assert leaves.account_number(address) == world.ledger.account_number(address) > 0
    assert leaves.account(nobody).balance_uusd == leaves.account_number(nobody) == 0
    assert leaves.height == world.blocks[-1].header.app_height
    unproven(leaves.account, world.bob.address)
    unproven(leaves.current_epoch)


def test_shard_inbox_batches_and_payouts() -> None:
    world, batch, _ = settled()
    leaves = proven(
        ledger_leaves.shard_key(0), inbox_key(0), ledger_leaves.batch_key(0, 2),
        ledger_leaves.batch_key(0, 3), ledger_leaves.paid_key(0, batch.header.outbox_first),
    )  # fmt: skip
    shard = leaves.shard(0)
    assert shard is not None and shard.state_root == batch.header.post_state_root
    assert leaves.inbox(0) == world.ledger.inbox()
    found = leaves.batch(0, 2)
    assert found is not None and found.header == batch.header
    assert leaves.batch(0, 3) is None
    assert leaves.paid_height(0, batch.header.outbox_first) is None
    unproven(leaves.batch, 0, 1)


def test_a_batch_leaf_that_holds_another_batch() -> None:
    world = settled()[0]
    header = world.blocks[-1].header
    raw = proven(ledger_leaves.batch_key(0, 2)).raw(ledger_leaves.batch_key(0, 2))
    unproven(ProvenLeaves(header, {ledger_leaves.batch_key(0, 1): raw}).batch, 0, 1)


def test_the_leaves_of_a_proof_belong_to_its_header() -> None:
    world = settled()[0]
    header, certificate = world.blocks[-1].header, world.certificate()
    now_ms = header.time_ms
    client = LightClient(genesis_checkpoint(world.chain), trusting_ms=10**9, now_ms=now_ms)
    key = ledger_leaves.account_key(world.alice.address)
    other = ledger_leaves.account_key(world.bob.address)
    proof = world.ledger.prove_at(header.app_height, header.app_root, [key])

    def verify(changed: object, keys: Sequence[bytes], shown: object = header) -> None:
        client.verify_leaves(shown, certificate, changed, keys, now_ms)  # type: ignore[arg-type]

    verify(proof, [key])
    both = world.ledger.prove_at(header.app_height, header.app_root, [key, other])
    richer = encode(ledger_leaves.Account(10**15, 0))
    for forged in (both, replace(proof, leaves=((key, richer),)), replace(proof, hashes=())):
        unproven(verify, forged, [key])
    unproven(verify, proof, [other])
    unproven(verify, proof, [key], world.blocks[0].header)
    swapped = replace(world.blocks[0].header, app_root=header.app_root)
    with pytest.raises(Rejected) as caught:
        verify(proof, [key], swapped)
    assert caught.value.code == Code.BAD_CERTIFICATE


def test_accounts_under_a_batchs_state_root() -> None:
    world, batch, _ = settled()
    number = world.ledger.account_number(world.bob.address)
    key = account_key(number)
    proof = world.batcher.tree.prove([key])
    value = state_leaves(batch.header, proof, [key])[key]
    assert value is not None and decode_account(value).address == world.bob.address
    unproven(state_leaves, replace(batch.header, post_state_root=bytes(32)), proof, [key])
    unproven(state_leaves, batch.header, proof, [account_key(number - 1)])
    first = first_state_leaves(batch.header, world.batcher.tree.prove_first(ACCOUNT, 2), ACCOUNT, 2)
    assert len(first) == 2 and first[0][0] < first[1][0]


def test_withdrawals_under_a_batchs_outbox_root() -> None:
    _, batch, _ = settled()
    header = batch.header
    assert header.outbox_count == 2
    for index, raw in enumerate(batch.outbox):
        entry: OutboxEntry = decode_outbox_entry(raw)
        path = list_proof(batch.outbox, index)
        require_outbox_entry(header, entry, path)
        richer = replace(entry, amount_uusd=entry.amount_uusd + 1)
        unproven(require_outbox_entry, header, richer, path)
        unproven(require_outbox_entry, header, replace(entry, number=entry.number + 1), path)
        unproven(require_outbox_entry, header, entry, path[:-1])
        unproven(require_outbox_entry, replace(header, outbox_count=1), entry, path)


def test_actions_under_a_batchs_data_root() -> None:
    world, batch, sent = settled()
    header: BatchHeader = batch.header
    blocks = [
        OrderedBlock(block.header, block.payload)
        for block in world.log.blocks
        if header.first_block <= block.header.height <= header.last_block
    ]
    encoded = [encode(block) for block in blocks]
    for index, block in enumerate(blocks):
        path = list_proof(encoded, index)
        payload = ordered_block(header, block, path)
        assert (payload is None) == (not block.payload)
        unproven(ordered_block, replace(header, number=9, data_root=bytes(32)), block, path)
        unproven(ordered_block, header, blocks[index - 1], path)
        unproven(require_ordered, header, block, path, b"what was never sent")
    path = list_proof(encoded, 0)
    assert [require_ordered(header, blocks[0], path, raw) for raw in sent] == [0, 1, 2]
    other = replace(blocks[0], payload=b"")
    forged = [encode(other), *encoded[1:]]
    assert payload_hash(other.payload) != other.header.payload_hash
    lied = replace(header, data_root=list_root(forged))
    unproven(ordered_block, lied, other, list_proof(forged, 0))
