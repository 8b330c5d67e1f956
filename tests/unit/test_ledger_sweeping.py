"""What the ledger forgets: old final batches that owe nobody anything, and what they took in."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from ledger_world import STATE_ROOT, LedgerWorld, key_of, make_chain

from execution.inbox import VerifiedInbox
from node import sweeping
from node.genesis import genesis_ledger
from node.ledger import Ledger
from node.queries import LedgerQueries
from protocol.chain import QC, Block, CommitCertificate
from protocol.errors import Code, ConfigError, Rejected
from protocol.ledger_leaves import BATCH_KIND, ENTRY_KIND, PAID_KIND
from protocol.messages import ProofRequest
from protocol.settlement import Deposit, OutboxEntry, Payout
from protocol.tree_proof import decode_tree_proof, verify_proof
from protocol.windows import SettlementRules, check_settlement

KEEP = 3


def make_world(keep: int = KEEP, window_ms: int = 0) -> LedgerWorld:
    rules = SettlementRules(keep_batches=keep, window_ms=window_ms)
    chain = make_chain(
        [(key_of("alice"), 100_000, 500), (key_of("bob"), 50, 0), (key_of("prover"), 1_000, 0)],
        settlement=rules,
    )
    return LedgerWorld(chain)


def outbox(world: LedgerWorld, *amounts_uusd: int) -> list[OutboxEntry]:
    first = world.ledger.shard_leaf().outbox_next
    return [
        OutboxEntry(first + place, 16, world.bob.address, amount_uusd)
        for place, amount_uusd in enumerate(amounts_uusd)
    ]


def settle(world: LedgerWorld, *amounts_uusd: int) -> int:
    """A batch that takes the whole inbox in; its number."""
    world.log.append(world.ledger.height)
    post = world.batch(outbox(world, *amounts_uusd))
    assert world.code(world.sign(world.prover, post)) == Code.OK
    return post.header.number


def numbers(world: LedgerWorld, kind: bytes) -> list[int]:
    return [int.from_bytes(key[3:11], "big") for key in world.ledger.keys_of(kind)]


def pay(world: LedgerWorld, payout: Payout) -> Code:
    return world.code(world.sign(world.alice, payout))


def test_old_batches_without_withdrawals_are_forgotten() -> None:
    world = make_world()
    for _ in range(10):
        settle(world)
    world.block()
    assert numbers(world, BATCH_KIND) == [8, 9, 10]
    assert world.ledger.swept().batch == 7
    assert world.ledger.batch(7) is None and world.ledger.batch(8) is not None
    world.ledger.require_conserved()


def test_without_the_rule_nothing_is_forgotten_and_nothing_more_is_written() -> None:
    world = make_world(0)
    for _ in range(8):
        settle(world, 1)
    assert pay(world, world.payout(1, 0)) == Code.OK
    world.block()
    assert numbers(world, BATCH_KIND) == [*range(1, 9)]
    settled = world.ledger.batch(1)
    assert settled is not None and settled.paid == 0
    assert not world.block().changes.keys() & set(world.ledger.keys_of(BATCH_KIND))


def test_a_batch_that_is_not_final_is_never_forgotten() -> None:
    world = make_world(1, window_ms=60_000)
    for _ in range(6):
        settle(world)
    world.block()
    assert world.ledger.final().batch == 0
    assert numbers(world, BATCH_KIND) == [1, 2, 3, 4, 5, 6]
    for _ in range(120):
        world.block(step_ms=1_000)
    assert numbers(world, BATCH_KIND) == [6]


def test_a_batch_stays_until_its_last_withdrawal_is_paid_and_nothing_is_paid_twice() -> None:
    world = make_world()
    number = settle(world, 3, 4)
    for _ in range(8):
        settle(world)
    world.block()
    assert numbers(world, BATCH_KIND) == [number, 7, 8, 9]
    assert pay(world, world.payout(number, 1)) == Code.OK
    assert numbers(world, PAID_KIND) == [1]
    assert pay(world, world.payout(number, 1)) == Code.ALREADY_PAID
    assert world.ledger.account(world.bob.address).balance_uusd == 54
    assert pay(world, world.payout(number, 0)) == Code.OK
    assert numbers(world, BATCH_KIND) == [7, 8, 9] and numbers(world, PAID_KIND) == []
    for index in (0, 1):
        assert pay(world, world.payout(number, index)) == Code.ALREADY_PAID
    assert world.ledger.account(world.bob.address).balance_uusd == 57


def test_payouts_of_a_young_batch_are_remembered_until_it_goes() -> None:
    world = make_world()
    number = settle(world, 3, 4)
    assert pay(world, world.payout(number, 0)) == Code.OK
    assert pay(world, world.payout(number, 1)) == Code.OK
    assert numbers(world, BATCH_KIND) == [number] and numbers(world, PAID_KIND) == [0, 1]
    for _ in range(KEEP + 1):
        settle(world)
    world.block()
    assert number not in numbers(world, BATCH_KIND) and numbers(world, PAID_KIND) == []
    assert pay(world, world.payout(number, 0)) == Code.ALREADY_PAID


def test_inbox_entries_go_with_the_batches_that_took_them_in() -> None:
    world = make_world()
    count = 6
    for _ in range(count):
        world.block(world.deposit(world.alice, 7))
        settle(world)
    for _ in range(KEEP):
        settle(world)
    world.block()
    # One entry of genesis, then the deposits; the last of those taken in says what came so far.
    assert numbers(world, ENTRY_KIND) == [count]
    assert world.ledger.deposited_uusd(count + 1) == 500 + 7 * count
    assert world.ledger.inbox().count == count + 1
    with pytest.raises(Rejected) as refused:
        world.ledger.entries(0, 10, world.ledger.height)
    assert refused.value.code == Code.NOT_RETAINED
    assert world.ledger.placed_entry(0) is None
    height = world.ledger.height
    world.block(world.deposit(world.alice, 9))
    assert world.ledger.entries_at(height) == count + 1
    assert world.ledger.entries_at(height + 1) == count + 2
    assert [entry.index for _, entry in world.ledger.entries(count + 1, 10, height + 1)] == [7]


class Stored:
    """A validator's store: all blocks of a world, certified."""

    def __init__(self, world: LedgerWorld) -> None:
        self._world = world

    def block(self, height: int) -> tuple[Block, CommitCertificate]:
        header = self._world.headers[height - 1]
        qc = QC(header.chain_id, 0, header.view, height, header.block_id(), [])
        return Block(header, b"", qc, None), CommitCertificate(qc, header, qc)


def follow(queries: LedgerQueries, inbox: VerifiedInbox) -> bool:
    """Have an inbox take up what a validator says; whether it began behind what is forgotten."""
    began = False
    while True:
        try:
            view = queries.inbox(inbox.request(1))
        except Rejected as refused:
            assert refused.code == Code.NOT_RETAINED
            key = inbox.forgotten_key
            proven = queries.proof(ProofRequest(1, [key]))
            proof = decode_tree_proof(proven.proof)
            inbox.begin_behind(verify_proof(proven.header.app_root, proof, [key])[key])
            began = True
            continue
        if inbox.take(view):
            return began


@pytest.mark.parametrize("seed", range(4))
def test_whoever_follows_the_inbox_begins_behind_what_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Also while every block forgets more than the root that it is proven under."""
    print(f"seed {seed}")
    random = Random(seed)
    monkeypatch.setattr(sweeping, "SWEPT_PER_BLOCK", random.choice([1, 3, 64]))
    world = make_world(1)
    everything = {0: world.ledger.entries(0, 9, 0)[0]}
    world.block()
    stored: Any = Stored(world)
    queries = LedgerQueries(world.ledger, stored)
    old, began, ahead = VerifiedInbox(0), 0, 0
    for _ in range(50):
        count = random.choice([0, 1, 1, 5])
        nonce = world.ledger.account(world.alice.address).nonce
        deposit = Deposit(world.alice.address, 1)
        outcome = world.block(
            *[world.sign(world.alice, deposit, nonce + n, 0) for n in range(count)]
        )
        everything |= {one.index: (outcome.height, one) for one in outcome.entries}
        if random.random() < 0.6:
            settle(world)
        queries.set_tip()
        follow(queries, old)
        fresh = VerifiedInbox(0, None)
        began += follow(queries, fresh)
        first = fresh._base
        ahead += world.ledger.swept().entries > first
        assert (fresh.count, fresh.covered_height) == (old.count, old.covered_height)
        assert fresh._running_hash == old._running_hash
        assert fresh._entries == [everything[index] for index in range(first, fresh.count)]
    assert began > 20 and ahead, "the ledger was never ahead of its certified root"


def test_a_ledger_that_is_loaded_again_goes_on_alike() -> None:
    world = make_world()
    for _ in range(7):
        world.block(world.deposit(world.alice, 7))
        settle(world, 1)
    world.block()
    copy = Ledger(world.chain, world.ledger.leaves(), world.ledger.height)
    assert copy.root == world.ledger.root and copy.swept() == world.ledger.swept()
    heights = range(world.ledger.height + 1)
    oldest = world.ledger.swept().entries
    assert oldest > 1
    assert [copy.entries_at(h) for h in heights] == [world.ledger.entries_at(h) for h in heights]
    raws = [world.sign(world.alice, Deposit(world.alice.address, 5))]
    header = world.next_header()
    assert copy.apply_block(header, raws).root == world.ledger.apply_block(header, raws).root


def test_work_per_block_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(1)
    monkeypatch.setattr(sweeping, "SWEPT_PER_BLOCK", 2)
    for _ in range(3):
        nonce = world.ledger.account(world.alice.address).nonce
        deposit = Deposit(world.alice.address, 1)
        world.block(*[world.sign(world.alice, deposit, nonce + n, 0) for n in range(9)])
        settle(world)
    settle(world)
    entries = len(numbers(world, ENTRY_KIND))
    assert entries > 20
    while entries > 1:
        world.block()
        now = len(numbers(world, ENTRY_KIND))
        assert now == max(1, entries - 2)
        entries = now


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_all_withdrawals_are_paid_once(seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    world = make_world(random.randrange(1, 4), window_ms=random.choice([0, 700]))
    open_payouts: list[tuple[int, int]] = []
    paid: list[tuple[int, int]] = []
    owed_uusd = 50
    for _ in range(60):
        draw = random.random()
        if draw < 0.4:
            count = random.choice([0, 0, 1, 3])
            number = settle(world, *[random.randrange(1, 4) for _ in range(count)])
            open_payouts += [(number, index) for index in range(count)]
        elif draw < 0.6:
            world.block(world.deposit(world.alice, random.randrange(1, 9)))
        elif draw < 0.9 and open_payouts:
            one = random.choice(open_payouts)
            if world.ledger.final().batch < one[0]:
                assert pay(world, world.payout(*one)) == Code.NOT_FINAL
                continue
            assert pay(world, world.payout(*one)) == Code.OK
            owed_uusd += world.payout(*one).entry.amount_uusd
            open_payouts.remove(one)
            paid.append(one)
        elif paid:
            assert pay(world, world.payout(*random.choice(paid))) == Code.ALREADY_PAID
        world.block()
        assert world.ledger.account(world.bob.address).balance_uusd == owed_uusd
    for _ in range(20):
        world.block()
    world.ledger.require_conserved()
    keep = world.chain.genesis.settlement.keep_batches
    waiting = {number for number, _ in open_payouts}
    final = world.ledger.final().batch
    assert numbers(world, BATCH_KIND) == [
        number
        for number in range(1, world.ledger.shard_leaf().batch + 1)
        if number > final - keep or number in waiting
    ]
    for one in paid:
        assert pay(world, world.payout(*one)) == Code.ALREADY_PAID


def test_the_rule_is_checked() -> None:
    with pytest.raises(ConfigError, match="keep_batches"):
        check_settlement(SettlementRules(keep_batches=-1))
    assert genesis_ledger(make_world().chain, STATE_ROOT).swept().batch == 0
