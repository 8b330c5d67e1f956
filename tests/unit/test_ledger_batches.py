"""Every rule that a batch must obey before it settles, and payouts against settled batches."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import LedgerWorld, key_of, make_chain

from node import batches
from protocol.batch_data import pack_blocks
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import CASH_MOVE_LIMIT, Limits
from protocol.inbox import block_inbox_height, next_cursor
from protocol.ledger_leaves import SYSTEM_KEY, account_key
from protocol.merkle import EMPTY_LIST_ROOT
from protocol.ordering import OrderedBlock
from protocol.settlement import OutboxEntry, PostBatch


def world_with_blocks() -> LedgerWorld:
    """Three ordered blocks wait; the first takes in the deposit of genesis."""
    world = LedgerWorld()
    world.log.append(0)
    world.log.append()
    world.log.append(0, [b"a signed batch"])
    return world


def refused(world: LedgerWorld, post: PostBatch) -> Code:
    """Code of a batch that must not settle and must change nothing but its sender's nonce."""
    outcome = world.block(world.sign(world.prover, post))
    assert outcome.batches == [] and set(outcome.changes) == {
        account_key(world.prover.address), SYSTEM_KEY,
    }  # fmt: skip
    return outcome.results[0].code


def test_a_right_batch_settles() -> None:
    world = world_with_blocks()
    post = world.batch()
    outcome = world.block(world.sign(world.prover, post))
    assert outcome.results[0].code == Code.OK and outcome.batches == [post.header]
    shard = world.ledger.shard_leaf()
    assert (shard.batch, shard.last_block, shard.inbox_cursor) == (1, 3, 1)
    assert shard.state_root == post.header.post_state_root
    assert shard.funds_uusd == 500
    settled = world.ledger.batch(1)
    assert settled is not None and settled.header == post.header and settled.ledger_height == 1
    world.log.append(1)
    assert world.code(world.sign(world.prover, world.batch())) == Code.OK
    assert world.ledger.shard_leaf().batch == 2
    assert world.ledger.batch(0) is None and world.ledger.batch(3) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"prover": key_of("mallory").public}, Code.NOT_A_PROVER),
        ({"chain_id": bytes(32)}, Code.WRONG_CHAIN),
        ({"shard": 1}, Code.WRONG_SHARD),
        ({"number": 2}, Code.WRONG_BATCH_NUMBER),
        ({"number": 0}, Code.WRONG_BATCH_NUMBER),
        ({"first_block": 2}, Code.WRONG_BATCH_NUMBER),
        ({"pre_state_root": bytes(32)}, Code.WRONG_PRE_STATE),
        ({"post_state_root": b"short"}, Code.WRONG_TYPE),
        ({"last_block_id": bytes(32)}, Code.BAD_BATCH_DATA),
        ({"last_block": 2}, Code.BAD_BATCH_DATA),
        ({"last_block": 0}, Code.BAD_BATCH_DATA),
        ({"last_block": 1 << 40}, Code.BAD_BATCH_DATA),
        ({"data_root": bytes(32)}, Code.BAD_BATCH_DATA),
        ({"inbox_cursor": 0}, Code.BAD_INBOX_CURSOR),
        ({"inbox_cursor": 2}, Code.BAD_INBOX_CURSOR),
        ({"outbox_first": 1}, Code.BAD_OUTBOX),
        ({"outbox_count": -1}, Code.BAD_OUTBOX),
        ({"outbox_count": 1}, Code.BAD_OUTBOX),
        ({"outbox_count": 1 << 30, "outbox_root": bytes(32)}, Code.BAD_OUTBOX),
        ({"outbox_root": bytes(32)}, Code.BAD_OUTBOX),
        ({"bond_uusd": -1}, Code.BAD_AMOUNT),
        ({"bond_uusd": CASH_MOVE_LIMIT}, Code.BAD_AMOUNT),
    ],
)
def test_a_wrong_header_field_is_refused(changes: dict[str, Any], code: Code) -> None:
    world = world_with_blocks()
    assert refused(world, world.batch(**changes)) == code


def test_a_stranger_posts_no_batch_even_under_the_provers_name() -> None:
    world = world_with_blocks()
    assert world.code(world.sign(world.alice, world.batch())) == Code.NOT_A_PROVER
    post = world.batch(prover=world.alice.public)
    assert world.code(world.sign(world.alice, post)) == Code.NOT_A_PROVER


def test_a_batch_settles_once() -> None:
    world = world_with_blocks()
    post = world.batch()
    assert world.code(world.sign(world.prover, post)) == Code.OK
    assert refused(world, post) == Code.WRONG_BATCH_NUMBER


def test_blocks_that_do_not_continue_the_log_are_refused() -> None:
    world = world_with_blocks()
    first, second, third = world.log.blocks
    foreign = OrderedBlock(msgspec.structs.replace(first.header, time_ms=5), first.payload)
    other_log = OrderedBlock(
        msgspec.structs.replace(first.header, chain_id=bytes(32)), first.payload
    )
    payload = OrderedBlock(third.header, b"")
    for blocks in (
        [foreign, second, third],
        [other_log, second, third],
        [first, second, payload],
        [first, third, second],
        [first, second, second],
    ):
        data = pack_blocks(blocks)
        assert refused(world, world.batch(data=data)) == Code.BAD_BATCH_DATA
    longer = pack_blocks([first, second])
    assert refused(world, world.batch(data=longer)) == Code.BAD_BATCH_DATA


def test_data_in_another_encoding_is_refused() -> None:
    world = world_with_blocks()
    right = pack_blocks(world.log.blocks)
    for data in (
        b"",
        b"no data",
        right[:-1],
        right + b"x",
        b"\x02" + right[1:],
        zlib.compress(encode(world.log.blocks)),
    ):
        assert refused(world, world.batch(data=data)) == Code.BAD_BATCH_DATA


def test_a_certificate_without_a_quorum_is_refused() -> None:
    world = world_with_blocks()
    assert refused(world, world.batch(signers=2)) == Code.BAD_CERTIFICATE
    assert world.code(world.sign(world.prover, world.batch(signers=3))) == Code.OK


def test_the_certificate_of_another_block_is_refused() -> None:
    world = world_with_blocks()
    post = world.batch()
    wrong = world.log.certificate(world.log.blocks[0].header)
    post = msgspec.structs.replace(post, certificate=wrong)
    assert refused(world, post) == Code.BAD_CERTIFICATE


def test_the_inbox_height_is_monotone_and_not_above_the_ledger() -> None:
    world = LedgerWorld()
    world.block(world.deposit(world.bob, 1))
    world.log.append(2)
    assert refused(world, world.batch()) == Code.BAD_INBOX_CURSOR
    world = LedgerWorld()
    world.block(world.deposit(world.bob, 1))
    world.log.append(1)
    assert world.code(world.sign(world.prover, world.batch())) == Code.OK
    world.log.append(0)
    assert refused(world, world.batch()) == Code.BAD_INBOX_CURSOR


def test_a_payload_that_does_not_decode_is_refused() -> None:
    world = LedgerWorld()
    world.log.append(0)
    block = world.log.blocks.pop()
    bad = b"\xc1"
    parent = world.log._genesis
    world.log.blocks.append(OrderedBlock(world.log._child(parent, bad), bad))
    post = world.batch(blocks=[OrderedBlock(block.header, block.payload)])
    world.log.blocks[0] = OrderedBlock(world.log._child(parent, bad), bad)
    last = world.log.blocks[0].header
    post = PostBatch(
        msgspec.structs.replace(
            post.header,
            last_block_id=last.block_id(),
            data_root=batches.list_root([encode(world.log.blocks[0])]),
        ),
        pack_blocks(world.log.blocks),
        world.log.certificate(last),
    )
    assert refused(world, post) == Code.BAD_BATCH_DATA


def test_a_backlog_of_the_inbox_is_taken_in_within_the_limit_per_block() -> None:
    alice = key_of("alice")
    chain = make_chain([(alice, 100, 1)], limits=Limits(inbox_per_block=2))
    world = LedgerWorld(chain)
    for _ in range(6):
        world.block(world.deposit(alice, 1))
    world.log.append(6)
    world.log.append()
    assert refused(world, world.batch(inbox_cursor=7)) == Code.BAD_INBOX_CURSOR
    assert world.code(world.sign(world.prover, world.batch(inbox_cursor=4))) == Code.OK
    world.log.append(6)
    world.log.append(6)
    assert world.code(world.sign(world.prover, world.batch(inbox_cursor=7))) == Code.OK


def test_the_cursor_never_falls_and_an_empty_payload_keeps_the_height() -> None:
    assert next_cursor(5, 3, 10) == 5
    assert next_cursor(5, 9, 3) == 8
    assert next_cursor(5, 6, 3) == 6
    assert block_inbox_height(b"", 7) == 7
    with pytest.raises(Rejected):
        block_inbox_height(b"\xc1", 7)


# --- payouts


def outbox(world: LedgerWorld, *amounts: int, first: int = 0) -> list[OutboxEntry]:
    return [
        OutboxEntry(number, 16, world.bob.address, amount)
        for number, amount in enumerate(amounts, first)
    ]


def test_a_payout_pays_each_entry_once_whoever_sends_it() -> None:
    world = LedgerWorld()
    world.settle(outbox(world, 100, 40, 1))
    before = world.ledger.account(world.bob.address).balance_uusd
    assert world.code(world.sign(world.alice, world.payout(1, 1))) == Code.OK
    assert world.ledger.account(world.bob.address).balance_uusd == before + 40
    assert world.ledger.shard_leaf().funds_uusd == 460
    assert world.code(world.sign(world.alice, world.payout(1, 1))) == Code.ALREADY_PAID
    assert world.code(world.sign(world.bob, world.payout(1, 1))) == Code.ALREADY_PAID
    assert world.code(world.sign(world.bob, world.payout(1, 0))) == Code.OK
    account = world.ledger.account(world.bob.address)
    assert (account.balance_uusd, account.nonce) == (before + 140, 2)


def test_outbox_numbers_run_on_over_batches() -> None:
    world = LedgerWorld()
    world.settle(outbox(world, 10, 20))
    world.settle()
    header = world.settle(outbox(world, 30, first=2))
    assert (header.outbox_first, world.ledger.shard_leaf().outbox_next) == (2, 3)
    assert world.code(world.sign(world.bob, world.payout(3, 0))) == Code.OK
    assert world.ledger.batch(2) is not None
    assert world.settle().outbox_root == EMPTY_LIST_ROOT


def test_payouts_that_are_not_proven_are_refused() -> None:
    world = LedgerWorld()
    world.settle(outbox(world, 10, 20, 30))
    right = world.payout(1, 1)
    replace = msgspec.structs.replace
    for wrong, code in (
        (replace(right, batch=2), Code.UNKNOWN_BATCH),
        (replace(right, batch=-1), Code.UNKNOWN_BATCH),
        (replace(right, entry=replace(right.entry, amount_uusd=21)), Code.BAD_PROOF),
        (replace(right, entry=replace(right.entry, number=2)), Code.BAD_PROOF),
        (replace(right, entry=replace(right.entry, address=world.alice.address)), Code.BAD_PROOF),
        (replace(right, path=right.path[:-1]), Code.BAD_PROOF),
        (replace(right, path=[*right.path, bytes(32)]), Code.BAD_PROOF),
    ):
        assert world.code(world.sign(world.alice, wrong)) == code
    assert world.code(world.sign(world.alice, right)) == Code.OK


def test_proven_entries_that_make_no_sense_are_refused() -> None:
    world = LedgerWorld()
    entries = [*outbox(world, 0, -5, CASH_MOVE_LIMIT), OutboxEntry(3, 16, b"short", 5)]
    world.settle(entries)
    codes = [world.code(world.sign(world.bob, world.payout(1, index))) for index in range(4)]
    assert codes == [Code.BAD_AMOUNT, Code.BAD_AMOUNT, Code.BAD_AMOUNT, Code.WRONG_TYPE]


def test_the_bridge_never_pays_more_than_it_holds() -> None:
    world = LedgerWorld()
    world.settle(outbox(world, 400, 101))
    assert world.code(world.sign(world.bob, world.payout(1, 0))) == Code.OK
    assert world.code(world.sign(world.bob, world.payout(1, 1))) == Code.INSUFFICIENT_BALANCE
    assert world.ledger.counters.underfunded_payouts == 1
    assert world.code(world.deposit(world.bob, 1)) == Code.OK
    assert world.code(world.sign(world.bob, world.payout(1, 1))) == Code.OK
    assert world.ledger.shard_leaf().funds_uusd == 0
