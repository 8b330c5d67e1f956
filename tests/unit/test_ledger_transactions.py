"""Deposits, envelopes, nonces and genesis money on the ledger."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import LedgerWorld, key_of, make_chain

from node.ledger import Ledger
from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.genesis import CASH_LIMIT, CASH_MOVE_LIMIT
from protocol.ledger_leaves import (
    SYSTEM_KEY,
    InboxLeaf,
    account_key,
    decode_inbox_leaf,
    inbox_key,
    paid_key,
)
from protocol.settlement import (
    EMPTY_INBOX_HASH,
    Deposit,
    InboxDeposit,
    OutboxEntry,
    SignedTransaction,
    decode_signed_transaction,
    extend_inbox_hash,
)
from prover.tree import verify_proof


def test_genesis_gives_balances_account_numbers_and_inbox_entries_in_order() -> None:
    alice, bob, carol = key_of("alice"), key_of("bob"), key_of("carol")
    world = LedgerWorld(make_chain([(alice, 7, 100), (bob, 5, 0), (carol, 0, 30)]))
    ledger = world.ledger
    assert ledger.account(alice.address).balance_uusd == 7
    assert [ledger.account_number(key.address) for key in (alice, bob, carol)] == [16, 0, 17]
    expected = [InboxDeposit(0, 16, alice.address, 100), InboxDeposit(1, 17, carol.address, 30)]
    assert ledger.entries(0, 10, 0) == [(0, entry) for entry in expected]
    running = EMPTY_INBOX_HASH
    for entry in expected:
        running = extend_inbox_hash(running, 0, entry)
    assert ledger.inbox() == InboxLeaf(2, running)
    assert ledger.shard_leaf().funds_uusd == 130
    assert ledger.system().supply_uusd == 142 + 1  # and the validator's stake


def test_a_genesis_deposit_above_one_movement_is_split() -> None:
    alice = key_of("alice")
    world = LedgerWorld(make_chain([(alice, 0, 2 * CASH_MOVE_LIMIT)]))
    amounts = [entry.amount_uusd for _, entry in world.ledger.entries(0, 10, 0)]
    assert amounts == [CASH_MOVE_LIMIT - 1, CASH_MOVE_LIMIT - 1, 2]
    assert {entry.account for _, entry in world.ledger.entries(0, 10, 0)} == {16}


def test_genesis_with_more_money_than_the_ledger_counts_is_refused() -> None:
    with pytest.raises(ConfigError, match="all money"):
        LedgerWorld(make_chain([(key_of("alice"), CASH_LIMIT, 0)]))


def test_a_deposit_moves_money_to_the_bridge_and_into_the_inbox() -> None:
    world = LedgerWorld()
    outcome = world.block(world.deposit(world.bob, 20))
    assert outcome.results[0].code == Code.OK
    assert outcome.entries == [InboxDeposit(1, 17, world.bob.address, 20)]
    account = world.ledger.account(world.bob.address)
    assert (account.balance_uusd, account.nonce) == (30, 1)
    assert world.ledger.shard_leaf().funds_uusd == 520
    assert world.ledger.entries_at(0) == 1
    assert world.ledger.entries_at(1) == 2
    assert outcome.root == world.ledger.root


def test_a_deposit_for_another_address_gives_that_address_the_account() -> None:
    world = LedgerWorld()
    carol = key_of("carol")
    world.block(world.deposit(world.alice, 5, carol.address))
    assert world.ledger.account_number(carol.address) == 17
    again = world.block(world.deposit(world.bob, 5, carol.address))
    assert again.entries[0].account == 17


@pytest.mark.parametrize("amount", [0, -1, CASH_MOVE_LIMIT])
def test_a_deposit_out_of_range_is_refused(amount: int) -> None:
    world = LedgerWorld(make_chain([(key_of("alice"), 2 * CASH_MOVE_LIMIT, 0)]))
    assert world.code(world.deposit(world.alice, amount)) == Code.BAD_AMOUNT


def test_a_deposit_above_the_balance_is_refused_and_takes_the_nonce_alone() -> None:
    world = LedgerWorld()
    outcome = world.block(world.deposit(world.bob, 51))
    assert outcome.results[0].code == Code.INSUFFICIENT_BALANCE
    assert set(outcome.changes) == {account_key(world.bob.address), SYSTEM_KEY}
    assert outcome.changes[account_key(world.bob.address)] == encode((50, 1))
    assert outcome.entries == []


def test_a_deposit_to_a_malformed_address_is_refused() -> None:
    world = LedgerWorld()
    assert world.code(world.sign(world.alice, Deposit(b"short", 5))) == Code.WRONG_TYPE


@pytest.mark.parametrize("nonce", [1, 7])
def test_a_nonce_that_is_not_the_next_is_refused(nonce: int) -> None:
    world = LedgerWorld()
    deposit = Deposit(world.bob.address, 1)
    assert world.code(world.sign(world.bob, deposit, nonce)) == Code.BAD_LEDGER_NONCE


def test_a_repeated_transaction_takes_effect_once() -> None:
    world = LedgerWorld()
    raw = world.deposit(world.bob, 20)
    assert world.code(raw) == Code.OK
    assert world.code(raw) == Code.BAD_LEDGER_NONCE
    assert world.ledger.account(world.bob.address).balance_uusd == 30


def test_a_failed_transaction_can_never_take_effect_later() -> None:
    world = LedgerWorld()
    raw = world.deposit(world.bob, 60)
    assert world.code(raw) == Code.INSUFFICIENT_BALANCE
    entry = OutboxEntry(0, 16, world.bob.address, 100)
    world.settle([entry])
    assert world.code(world.sign(world.alice, world.payout(1, 0))) == Code.OK
    assert world.ledger.account(world.bob.address).balance_uusd == 150
    assert world.code(raw) == Code.BAD_LEDGER_NONCE
    assert world.ledger.account(world.bob.address).balance_uusd == 150


def test_a_transaction_before_its_turn_is_not_used_up() -> None:
    world = LedgerWorld()
    first, second = (world.sign(world.bob, Deposit(world.bob.address, 5), n) for n in range(2))
    assert [one.code for one in world.block(second, first, second).results] == [
        Code.BAD_LEDGER_NONCE, Code.OK, Code.OK,
    ]  # fmt: skip


def test_transactions_of_one_sender_work_in_one_block() -> None:
    world = LedgerWorld()
    raws = [world.sign(world.bob, Deposit(world.bob.address, 10), nonce) for nonce in range(3)]
    assert [one.code for one in world.block(*raws).results] == [Code.OK] * 3
    assert world.ledger.inbox().count == 4


def test_envelopes_are_checked_and_refused_with_their_code() -> None:
    world = LedgerWorld()
    raw = world.deposit(world.bob, 1)
    signed = decode_signed_transaction(raw)
    forged = SignedTransaction(1, world.alice.public, signed.payload, signed.signature)
    scheme = SignedTransaction(9, signed.signer, signed.payload, signed.signature)
    short = SignedTransaction(1, signed.signer[:5], signed.payload, signed.signature)
    other_chain = LedgerWorld(make_chain([(world.bob, 5, 0)])).deposit(world.bob, 1)
    codes = [
        one.code
        for one in world.block(
            b"\xc1", encode((1, 2)), encode(forged), encode(scheme), encode(short), other_chain
        ).results
    ]
    assert codes == [
        Code.MALFORMED, Code.WRONG_TYPE, Code.BAD_SIGNATURE, Code.SCHEME_UNKNOWN, Code.WRONG_TYPE,
        Code.BAD_SIGNATURE,
    ]  # fmt: skip
    assert world.code(world.sign(world.bob, Deposit(world.bob.address, 1), -1)) == Code.WRONG_TYPE


def test_a_block_out_of_order_stops_the_ledger() -> None:
    world = LedgerWorld()
    with pytest.raises(SafetyViolation):
        world.ledger.apply_block(msgspec.structs.replace(world.next_header(), height=2), [])


def test_leaves_restore_the_same_ledger() -> None:
    world = LedgerWorld()
    world.block(world.deposit(world.bob, 20))
    world.settle()
    copy = Ledger(world.chain, world.ledger.leaves(), world.ledger.height)
    assert copy.root == world.ledger.root
    assert copy.entries_at(0) == 1 and copy.entries_at(1) == 2
    raw = world.deposit(world.bob, 10)
    header = world.next_header()
    assert copy.apply_block(header, [raw]).root == world.ledger.apply_block(header, [raw]).root


def test_leaves_that_do_not_add_up_are_a_safety_violation() -> None:
    world = LedgerWorld()
    leaves = dict(world.ledger.leaves())
    leaves[account_key(world.bob.address)] = encode((51, 0))
    with pytest.raises(SafetyViolation, match="supply"):
        Ledger(world.chain, leaves.items(), 0)


def test_proofs_hold_under_the_root_of_a_recent_height() -> None:
    world = LedgerWorld()
    roots = {0: world.ledger.root}
    for amount in (3, 4, 5):
        outcome = world.block(world.deposit(world.bob, amount))
        roots[outcome.height] = outcome.root
    keys = [inbox_key(0), account_key(world.bob.address), paid_key(0, 3)]
    for height, count in ((0, 1), (1, 2), (2, 3), (3, 4)):
        proof = world.ledger.prove_at(height, roots[height], keys)
        values = verify_proof(roots[height], proof, keys)
        leaf = values[inbox_key(0)]
        assert leaf is not None and decode_inbox_leaf(leaf).count == count
        assert values[paid_key(0, 3)] is None
        assert world.ledger.root == roots[3]


def test_proofs_of_forgotten_and_future_heights_are_refused() -> None:
    world = LedgerWorld()
    for _ in range(3):
        world.block(world.deposit(world.bob, 1))
    world.ledger.forget_undo(1)
    for height in (0, 4):
        with pytest.raises(Rejected) as refused:
            world.ledger.prove_at(height, bytes(32), [inbox_key(0)])
        assert refused.value.code == Code.NOT_RETAINED
    with pytest.raises(SafetyViolation):
        world.ledger.prove_at(1, bytes(32), [inbox_key(0)])
    assert world.code(world.deposit(world.bob, 1)) == Code.OK
