"""The pool under fees: order, replacement, eviction, and what balances no longer cover."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from ledger_world import LedgerWorld, key_of, make_chain
from staking_world import StakingWorld

from node.app import LedgerApplication, decode_ledger_payload
from node.mempool import MAX_VICTIMS, MempoolLimits
from protocol.chain import EMPTY_HASH, Block, Header, genesis_header, genesis_qc
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import Fees
from protocol.keys import Key
from protocol.settlement import Deposit, ReportEvidence

NAMES = ("alice", "bob", "carol", "dave")
SIZE = 200


class PoolWorld(LedgerWorld):
    """Four senders with 100,000 uusd each, on a chain without a least fee."""

    def __init__(self, limits: MempoolLimits | None = None, payload_bytes: int = 100_000) -> None:
        super().__init__(make_chain([(key_of(name), 100_000, 0) for name in NAMES], fees=Fees(1)))
        self.app = LedgerApplication(self.ledger, payload_bytes, limits)
        self.pool = self.app.mempool

    def tx(self, name: str, fee_uusd: int, nonce: int = 0, amount_uusd: int = 1) -> bytes:
        key = key_of(name)
        return self.sign(key, Deposit(key.address, amount_uusd), nonce, fee_uusd)

    def add(self, *raws: bytes) -> list[bytes]:
        return [self.app.submit(raw, 0)[0] for raw in raws]

    def code(self, raw: bytes) -> Code:  # type: ignore[override]
        with pytest.raises(Rejected) as refused:
            self.app.submit(raw, 0)
        return refused.value.code

    def propose(self, *ancestors: Block) -> list[bytes]:
        return decode_ledger_payload(self.app.propose(ancestors, 0))

    def commit(self, *raws: bytes) -> None:
        outcome = self.block(*raws)
        codes = {one.code for one in outcome.results}
        assert codes <= {Code.OK, Code.INSUFFICIENT_BALANCE}, "no fee or no turn in a block"
        senders = [self.ledger.envelopes.open(raw).address for raw in raws]
        self.pool.settle([one.id for one in outcome.results], senders)

    def displaced(self) -> list[tuple[bytes, Code]]:
        return [(one.id, one.code) for one in self.app.take_displaced()]


def test_higher_fees_for_their_size_come_first_and_equals_in_turn() -> None:
    world = PoolWorld()
    raws = [world.tx(name, fee) for name, fee in zip(NAMES, (50, 400, 50, 90), strict=True)]
    world.add(*raws)
    assert world.propose() == [raws[1], raws[3], raws[0], raws[2]]


def test_fees_count_by_the_byte() -> None:
    world = PoolWorld()
    long, short = world.tx("bob", 210, 0, 70_000), world.tx("alice", 209)
    world.add(long, short)
    assert len(long) > len(short)
    assert world.propose() == [short, long]


def test_a_sender_is_served_in_nonce_order_whatever_its_later_fees() -> None:
    world = PoolWorld()
    first, second, third = world.tx("alice", 5), world.tx("alice", 900, 1), world.tx("alice", 2, 2)
    other = world.tx("bob", 10)
    world.add(second, third, first, other)
    assert world.propose() == [other, first, second, third]


def test_a_sender_that_was_served_goes_behind_its_equals() -> None:
    world = PoolWorld()
    mine = [world.tx("alice", 7, nonce) for nonce in range(3)]
    other = world.tx("bob", 7)
    world.add(*mine, other)
    assert world.propose() == [*mine, other]
    world.commit(mine[0])
    assert world.propose() == [other, *mine[1:]]


@pytest.mark.parametrize(("fee", "taken"), [(100, False), (109, False), (110, True), (500, True)])
def test_a_replacement_pays_a_tenth_more(fee: int, taken: bool) -> None:
    world = PoolWorld()
    old, new = world.tx("alice", 100), world.tx("alice", fee, 0, 2)
    [identity] = world.add(old)
    if not taken:
        assert world.code(new) == Code.FEE_TOO_LOW
        assert world.propose() == [old] and world.displaced() == []
        return
    world.add(new)
    assert world.propose() == [new]
    assert world.displaced() == [(identity, Code.BAD_LEDGER_NONCE)]
    assert (len(world.pool), world.pool.total_bytes) == (1, len(new))
    assert world.displaced() == []


def test_a_replaced_one_frees_its_fee_and_its_room() -> None:
    world = PoolWorld(MempoolLimits(transactions=4))
    world.add(world.tx("alice", 60_000), world.tx("bob", 1), world.tx("carol", 1))
    world.add(world.tx("alice", 99_000))
    assert len(world.pool) == 3


def test_a_full_pool_gives_up_what_pays_least() -> None:
    world = PoolWorld(MempoolLimits(transactions=4))
    ids = world.add(world.tx("alice", 50), world.tx("bob", 10), world.tx("carol", 30))
    assert world.code(world.tx("dave", 10)) == Code.BUSY
    world.add(world.tx("dave", 11))
    assert world.displaced() == [(ids[1], Code.BUSY)]
    assert len(world.pool) == 3 and ids[1] not in world.pool
    assert world.code(world.tx("bob", 10)) == Code.BUSY


def test_the_last_of_a_sender_leaves_first_and_a_dear_one_does_not_shield_cheap_ones() -> None:
    world = PoolWorld(MempoolLimits(transactions=4))
    ids = world.add(world.tx("alice", 2), world.tx("alice", 9_000, 1), world.tx("bob", 20))
    world.add(world.tx("carol", 10))
    assert world.displaced() == [(ids[1], Code.BUSY)]
    world.add(world.tx("dave", 11))
    assert world.displaced() == [(ids[0], Code.BUSY)]


def test_a_dear_one_behind_a_cheap_one_makes_no_room() -> None:
    world = PoolWorld(MempoolLimits(transactions=4))
    world.add(world.tx("alice", 2), world.tx("bob", 20), world.tx("carol", 20))
    assert world.code(world.tx("alice", 50_000, 1)) == Code.BUSY
    assert world.displaced() == []


def test_what_cannot_run_yet_makes_no_room() -> None:
    world = PoolWorld(MempoolLimits(transactions=4))
    world.add(world.tx("alice", 2), world.tx("bob", 2), world.tx("carol", 2))
    assert world.code(world.tx("dave", 50_000, 1)) == Code.BUSY


def test_a_large_one_displaces_only_so_many() -> None:
    size = len(PoolWorld().tx("alice", 200))
    count = MAX_VICTIMS + 8
    limits = MempoolLimits(total_bytes=4 * size * count // 3, per_sender=count)
    world = PoolWorld(limits)
    world.add(*(world.tx("alice", 200, nonce) for nonce in range(count)))
    key = key_of("bob")
    bulk = world.sign(key, Deposit(bytes(size * MAX_VICTIMS), 1), 0, 90_000)
    pool, opened = world.pool, world.ledger.envelopes.open(bulk)
    with pytest.raises(Rejected) as refused:
        pool.add(bulk, opened, 0)
    assert refused.value.code == Code.BUSY and len(pool) == count
    less = world.sign(key, Deposit(bytes(size * (MAX_VICTIMS - 2)), 1), 0, 90_000)
    assert pool.add(less, world.ledger.envelopes.open(less), 0)
    assert len(world.displaced()) in (MAX_VICTIMS - 1, MAX_VICTIMS)


def test_batches_come_first_and_are_never_evicted() -> None:
    world = PoolWorld(MempoolLimits(transactions=4))
    world.chain = make_chain(
        [(key_of(name), 100_000, 0) for name in (*NAMES, "prover")], fees=Fees(1)
    )
    LedgerWorld.__init__(world, world.chain)
    world.app = LedgerApplication(world.ledger, 100_000, MempoolLimits(transactions=4))
    world.pool = world.app.mempool
    world.log.append()
    batch = world.sign(world.prover, world.batch())
    dear = [world.tx(name, 5_000) for name in NAMES[:2]]
    world.add(batch, *dear)
    assert world.propose()[0] == batch
    world.add(world.tx("carol", 6_000))
    assert world.propose()[0] == batch
    assert len(world.displaced()) == 1


def test_evidence_comes_first_though_it_is_free() -> None:
    world = StakingWorld(fees=Fees(10))
    app = LedgerApplication(world.ledger, 100_000)
    app.submit(world.deposit(world.alice, 1), 0)
    report = world.sign(key_of("poor"), ReportEvidence(world.double_vote(1)), fee_uusd=0)
    app.submit(report, 0)
    assert decode_ledger_payload(app.propose([], 0))[0] == report


def test_all_fees_that_wait_are_covered() -> None:
    world = PoolWorld()
    world.add(world.tx("alice", 60_000))
    assert world.code(world.tx("alice", 40_001, 1)) == Code.INSUFFICIENT_BALANCE
    world.add(world.tx("alice", 40_000, 1))


def test_what_a_balance_no_longer_covers_leaves_the_pool() -> None:
    world = PoolWorld()
    spender = world.tx("alice", 10, 0, 99_000)
    ids = world.add(spender, world.tx("alice", 600, 1), world.tx("alice", 600, 2))
    world.commit(spender)
    assert world.displaced() == [(ids[2], Code.INSUFFICIENT_BALANCE)]
    assert world.app.has_work() and len(world.propose()) == 1


def test_nothing_is_proposed_whose_fee_may_be_gone_by_then() -> None:
    world = PoolWorld()
    spender, late = world.tx("alice", 10, 0, 99_900), world.tx("alice", 600, 1)
    world.add(spender, late)
    assert world.propose() == [spender]
    header = Header(
        world.chain.chain_id, 0, 1, 1, EMPTY_HASH, 0, 0, 0, EMPTY_HASH, EMPTY_HASH, 0, EMPTY_HASH
    )
    justify = genesis_qc(genesis_header(world.chain.chain_id, 0, EMPTY_HASH))
    assert world.propose(Block(header, encode([spender]), justify, None)) == []
    world.commit(spender)
    assert world.propose() == [] and not world.app.has_work()


def test_a_pool_under_random_traffic_stays_consistent() -> None:
    seed = 20_240_611
    chance = random.Random(seed)
    limits = MempoolLimits(transactions=24, per_sender=8)
    world = PoolWorld(limits, payload_bytes=3_000)
    keys = {name: key_of(name) for name in NAMES}
    for step in range(600):
        name = chance.choice(NAMES)
        next_nonce = world.ledger.account(keys[name].address).nonce
        raw = world.tx(name, chance.randint(1, 3_000), next_nonce + chance.randint(0, 5),
                       chance.choice((1, 2, 4_000)))  # fmt: skip
        with suppress(Rejected):
            world.app.submit(raw, step)
        if chance.random() < 0.2:
            chosen = world.propose()
            if chosen:
                world.commit(*chosen[: chance.randint(1, len(chosen))])
        if chance.random() < 0.05:
            world.pool.expire(step + limits.wait_ms - 20)
        _check(world, keys, seed)
    assert world.ledger.counters.applied > 30


def _check(world: PoolWorld, keys: dict[str, Key], seed: int) -> None:
    """The pool against its own contents counted anew."""
    pool = world.pool
    waiting = {identity: pool.get(identity) for sender in pool._senders.values()
               for identity in sender.ids.values()}  # fmt: skip
    assert len(waiting) == len(pool), seed
    assert pool.total_bytes == sum(one.opened.size_bytes for one in waiting.values() if one)
    assert 4 * len(pool) <= 3 * 24
    for key in keys.values():
        sender = pool._senders.get(key.address)
        nonce = world.ledger.account(key.address).nonce
        here = sender is not None and nonce in sender.ids
        assert (key.address in pool._ready) == here, seed
        if sender is not None:
            assert min(sender.ids) >= nonce
            assert sender.fees_uusd <= world.ledger.account(key.address).balance_uusd
            assert sender.place in pool._places
    assert len(pool._places) == len(pool._senders), seed
