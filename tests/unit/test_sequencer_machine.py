"""Admission, receipts, durable acceptance and recovery of the sequencer, as a pure machine."""

from __future__ import annotations

import msgspec
import pytest
from ledger_world import GENESIS_MS, key_of, make_chain

import sequencer.machine as machine_module
import sequencer.pool as pool_module
from consensus import (
    Committed,
    MemberSet,
    Persist,
    PersistBlock,
    RecoveredState,
    verify_certificate,
)
from protocol.actions import (
    NONCE_FUTURE_MS,
    NONCE_PAST_MS,
    ActionBatch,
    batch_id,
    sign_batch,
)
from protocol.actions import Order as LimitOrder
from protocol.chain import Block, CommitCertificate
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import Pace, parse_genesis
from protocol.keys import Key
from protocol.ordering import OrderedPayload, decode_payload, verify_receipt
from sequencer.machine import (
    Accept,
    Order,
    PersistBatches,
    RecoveredSequencer,
    Sequencer,
    SequencerEffect,
)

ALICE = key_of("alice")
SILENT = Pace(20, 0, 0, 1_500, 10_000, 1 << 20)
"""No heartbeat: with nothing to order the sequencer comes to rest."""

NOTHING = RecoveredSequencer(RecoveredState(None, None, None, []), [], [], 0, 0)


class World:
    """A sequencer, its clock, and a disk that takes what the effects say, in their order."""

    def __init__(self) -> None:
        genesis = make_chain([(ALICE, 0, 0)], sequencers=1).genesis
        self.chain = parse_genesis(
            msgspec.json.encode(msgspec.structs.replace(genesis, sequencer_pace=SILENT))
        )
        self.now_ms = GENESIS_MS + 1_000
        self.nonce_ms = self.now_ms
        self.pooled: list[bytes] = []
        self.voting: Persist | None = None
        self.uncommitted: list[Block] = []
        self.log: list[tuple[Block, CommitCertificate]] = []
        self.accepts: list[Accept] = []
        self.orders: list[Order] = []
        self.machine = self.start(NOTHING)

    def start(self, recovered: RecoveredSequencer) -> Sequencer:
        key = key_of("sequencer-0")
        self.machine = Sequencer(self.chain, 0, key, recovered, self.stored)
        self.take(self.machine.start(self.now_ms))
        self.take(self.machine.note_settled(0, self.now_ms))
        return self.machine

    def stored(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        if not 1 <= height <= len(self.log):
            return None
        block, certificate = self.log[height - 1]
        return block, certificate if certificate.qc.height == height else None

    def restart(self) -> Sequencer:
        """A new machine from what is on the disk."""
        tip = self.log[-1] if self.log else (None, None)
        height = len(self.log)
        state = RecoveredState(
            None if self.voting is None else self.voting.state, tip[0], tip[1],
            [block for block in self.uncommitted if block.header.height > height],
        )  # fmt: skip
        recent = [block for block, _ in self.log]
        pool = self.machine.pool
        recovered = RecoveredSequencer(
            state, list(self.pooled), recent, pool.inbox_height, pool.inbox_cursor
        )
        return self.start(recovered)

    def take(self, effects: list[SequencerEffect]) -> list[SequencerEffect]:
        """Carry effects out; every promise must stand behind what makes it true."""
        for effect in effects:
            if isinstance(effect, PersistBatches):
                self.pooled += effect.batches
            elif isinstance(effect, PersistBlock):
                self.uncommitted.append(effect.block)
            elif isinstance(effect, Persist):
                self.voting = effect
            elif isinstance(effect, Committed):
                assert effect.block.header.height == len(self.log) + 1
                self.log.append((effect.block, effect.certificate))
            elif isinstance(effect, Accept):
                assert effect.receipt.batch_id in {batch_id(raw) for raw in self.pooled}
                self.accepts.append(effect)
            elif isinstance(effect, Order):
                assert effect.height <= len(self.log)
                self.orders.append(effect)
        return effects

    def batch(self, key: Key = ALICE, nonce_ms: int | None = None, actions: int = 1) -> bytes:
        self.nonce_ms += 1
        nonce_ms = self.nonce_ms if nonce_ms is None else nonce_ms
        batch = ActionBatch(16, nonce_ms, 0, [LimitOrder(0, 0, 600_000, 1)] * actions)
        return sign_batch(key, self.chain.chain_id, 0, batch)

    def submit(self, raw: bytes, ticket: tuple[int, int] = (1, 1)) -> None:
        self.machine.submit(ticket, raw, {ALICE.public}, self.now_ms)

    def pool_of(self, key: Key) -> int:
        return self.machine.pool.of_signer(key.public)

    def flush(self) -> list[SequencerEffect]:
        return self.take(self.machine.flush(self.now_ms))

    def run(self) -> None:
        """Let time pass until nothing is due."""
        for _ in range(10_000):
            due_ms = self.machine.replica.next_deadline_ms()
            if due_ms is None or due_ms > self.now_ms + 60_000:
                return
            self.now_ms = max(self.now_ms, due_ms)
            self.take(self.machine.tick(self.now_ms))
        raise AssertionError("the sequencer never comes to rest")

    def ordered(self) -> list[bytes]:
        """All batches in the log, in order."""
        payloads = [block.payload for block, _ in self.log if block.payload]
        return [raw for payload in payloads for raw in decode_payload(payload).batches]


def refused(world: World, raw: bytes, code: Code) -> None:
    with pytest.raises(Rejected) as caught:
        world.submit(raw)
    assert caught.value.code == code, caught.value
    assert not world.machine.flush(world.now_ms) and not len(world.machine.pool)


def test_a_batch_is_accepted_ordered_and_committed() -> None:
    world = World()
    raws = [world.batch() for _ in range(5)]
    for request_id, raw in enumerate(raws):
        world.submit(raw, (9, request_id))
    assert not world.accepts
    world.flush()
    world.run()
    assert [accept.ticket for accept in world.accepts] == [(9, n) for n in range(5)]
    assert [order.ticket for order in world.orders] == [(9, n) for n in range(5)]
    assert world.ordered() == raws
    block = world.log[world.orders[0].height - 1][0]
    assert world.orders[0].time_ms == block.header.time_ms
    assert not len(world.machine.pool) and world.machine.pool.size_bytes == 0
    members = MemberSet(
        world.chain.log_id, [one.member() for one in world.chain.genesis.sequencers]
    )
    for block, certificate in world.log:
        if certificate.qc.height == block.header.height:
            verify_certificate(members, block.header, certificate)


def test_receipts_verify_and_bind_their_batch() -> None:
    world = World()
    raws = [world.batch() for _ in range(7)]
    for number, raw in enumerate(raws):
        world.submit(raw, (1, number))
    world.flush()
    public = key_of("sequencer-0").public
    receipts = [accept.receipt for accept in world.accepts]
    assert len({receipt.signature for receipt in receipts}) == 1, "one signature for all"
    for raw, receipt in zip(raws, receipts, strict=True):
        assert receipt.batch_id == batch_id(raw) and receipt.size == 7
        verify_receipt(world.chain.chain_id, public, receipt)
        for change in (
            {"batch_id": batch_id(b"another")}, {"index": receipt.index ^ 1},
            {"time_ms": receipt.time_ms + 1}, {"root": b"\x01" * 32}, {"path": []},
        ):  # fmt: skip
            with pytest.raises(Rejected):
                forged = msgspec.structs.replace(receipt, **change)
                verify_receipt(world.chain.chain_id, public, forged)
        with pytest.raises(Rejected):
            verify_receipt(world.chain.log_id, public, receipt)


def test_what_is_not_admitted_leaves_nothing_behind() -> None:
    world = World()
    now_ms = world.now_ms
    refused(world, b"\xc1", Code.MALFORMED)
    refused(world, world.batch(key_of("bob")), Code.SESSION_NOT_PROVEN)
    refused(world, world.batch(nonce_ms=now_ms - NONCE_PAST_MS), Code.NONCE_EXPIRED)
    refused(world, world.batch(nonce_ms=now_ms + NONCE_FUTURE_MS), Code.NONCE_TOO_NEW)
    refused(world, world.batch(actions=101), Code.TOO_MANY_ACTIONS)
    refused(world, world.batch(actions=0), Code.TOO_MANY_ACTIONS)
    refused(world, world.batch() + b"\x00", Code.MALFORMED)
    for nonce_ms in (now_ms - NONCE_PAST_MS + 1, now_ms + NONCE_FUTURE_MS - 1):
        world.submit(world.batch(nonce_ms=nonce_ms))
    world.flush()
    assert len(world.accepts) == 2


def test_nothing_is_promised_before_it_is_to_be_stored() -> None:
    world = World()
    world.submit(world.batch(), (1, 1))
    world.submit(world.batch(), (1, 2))
    effects = world.flush()
    kinds = [type(effect) for effect in effects]
    assert kinds.count(Accept) == 2
    assert kinds.index(PersistBatches) < kinds.index(Accept)
    for kind in (Persist, PersistBlock, Committed):
        if kind in kinds:
            last = len(kinds) - 1 - kinds[::-1].index(kind)
            assert last < kinds.index(Accept), "one sync stands before all answers"
    if Order in kinds:
        last_accept = len(kinds) - 1 - kinds[::-1].index(Accept)
        assert last_accept < kinds.index(Order)


def test_a_repeated_batch_gets_a_receipt_and_its_place_but_no_second_one() -> None:
    world = World()
    raw = world.batch()
    world.submit(raw, (1, 1))
    world.submit(raw, (2, 5))
    world.flush()
    world.submit(raw, (3, 7))
    world.flush()
    world.run()
    world.submit(raw, (4, 9))
    world.flush()
    world.run()
    tickets = [(1, 1), (2, 5), (3, 7), (4, 9)]
    assert [accept.ticket for accept in world.accepts] == tickets
    assert sorted(order.ticket for order in world.orders) == tickets
    assert len({order.height for order in world.orders}) == 1
    assert world.ordered() == [raw] and world.pooled == [raw]


def test_a_session_that_is_gone_is_told_nothing() -> None:
    world = World()
    world.submit(world.batch(), (1, 1))
    world.submit(world.batch(), (2, 1))
    world.machine.forget(1)
    world.flush()
    world.machine.forget(2)
    world.run()
    assert [accept.ticket for accept in world.accepts] == [(2, 1)]
    assert {order.ticket for order in world.orders} <= {(2, 1)}
    assert len(world.ordered()) == 2, "what was taken is ordered all the same"


def test_what_the_only_session_sent_before_it_went_is_ordered_all_the_same() -> None:
    world = World()
    raw = world.batch()
    world.submit(raw)
    world.machine.forget(1)
    world.flush()
    world.run()
    assert world.ordered() == world.pooled == [raw], "now, not when somebody else submits"
    assert not world.accepts and not world.orders


def test_one_session_cannot_fill_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "SESSION_OPEN_MAX", 3)
    world = World()
    for number in range(3):
        world.submit(world.batch(), (1, number))
    with pytest.raises(Rejected) as caught:
        world.submit(world.batch(), (1, 4))
    assert caught.value.code == Code.RATE_LIMITED
    world.submit(world.batch(), (2, 1))
    world.flush()
    world.run()
    world.submit(world.batch(), (1, 5))


def test_one_signer_cannot_fill_the_pool_over_many_sessions() -> None:
    world = World()
    world.machine.signer_batches_max = 3
    for number in range(3):
        world.submit(world.batch(), (number, 1))
    again = world.pool_of(ALICE)
    with pytest.raises(Rejected) as error:
        world.submit(world.batch(), (9, 1))
    assert (error.value.code, again) == (Code.RATE_LIMITED, 3)
    bob = world.batch(key_of("bob"))
    world.machine.submit((9, 2), bob, {key_of("bob").public}, world.now_ms)
    world.flush()
    world.run()
    assert world.pool_of(ALICE) == world.pool_of(key_of("bob")) == 0
    world.submit(world.batch(), (9, 3))


def test_a_full_pool_says_busy_and_has_room_again_after_a_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 4)  # half of it is for orders
    world = World()
    first = [world.batch(), world.batch()]
    for raw in first:
        world.submit(raw)
    third = world.batch()
    with pytest.raises(Rejected) as caught:
        world.submit(third)
    assert caught.value.code == Code.BUSY
    world.submit(first[0], (5, 5))  # a repetition needs no room
    world.flush()
    world.run()
    world.submit(third)
    monkeypatch.setattr(pool_module, "POOL_BYTES_MAX", 2 * len(third) - 10)
    with pytest.raises(Rejected):
        world.submit(world.batch())
    world.flush()
    world.run()
    assert world.ordered() == [*first, third]


def test_accepted_batches_survive_a_crash_before_they_are_ordered() -> None:
    world = World()
    raws = [world.batch() for _ in range(3)]
    for raw in raws:
        world.submit(raw)
    # The crash comes after the sync of the pool and before anything was proposed.
    effects = world.machine.flush(world.now_ms)
    world.take([effect for effect in effects if isinstance(effect, PersistBatches)])
    world.restart()
    world.run()
    assert world.ordered() == raws
    world.submit(raws[1], (7, 7))
    world.flush()
    assert world.orders[-1].ticket == (7, 7)


def test_a_crash_between_block_and_commit_orders_nothing_twice() -> None:
    world = World()
    raws = [world.batch() for _ in range(3)]
    for raw in raws:
        world.submit(raw)
    for effect in world.machine.flush(world.now_ms):
        if isinstance(effect, Committed):
            break
        world.take([effect])
    world.restart()
    world.run()
    world.submit(world.batch())
    world.flush()
    world.run()
    assert world.ordered()[:3] == raws and len(world.ordered()) == 4


def test_a_restart_after_the_commit_remembers_where_batches_are() -> None:
    world = World()
    raw = world.batch()
    world.submit(raw, (1, 1))
    world.flush()
    world.run()
    height = world.orders[-1].height
    world.restart()
    world.submit(raw, (2, 2))
    world.flush()
    world.run()
    assert world.orders[-1].ticket == (2, 2) and world.orders[-1].height == height
    assert world.ordered() == [raw]


def test_blocks_are_made_until_the_inbox_is_taken_in_and_then_silence() -> None:
    world = World()
    limit = world.chain.genesis.limits.inbox_per_block
    world.take(world.machine.note_ledger(0, 2 * limit + 1, world.now_ms))
    world.run()
    assert world.machine.pool.inbox_cursor == 2 * limit + 1
    height = len(world.log)
    assert height >= 3 and not world.ordered()
    world.take(world.machine.note_ledger(5, 2 * limit + 1, world.now_ms))
    world.run()
    assert len(world.log) == height, "a higher ledger with nothing new is no reason for a block"
    world.take(world.machine.note_ledger(9, 2 * limit + 3, world.now_ms))
    world.run()
    assert world.machine.pool.inbox_height == 9
    assert world.machine.pool.inbox_cursor == 2 * limit + 3


def test_a_block_must_not_name_a_ledger_height_that_is_unknown_or_falls() -> None:
    world = World()
    world.take(world.machine.note_ledger(4, 3, world.now_ms))
    world.run()
    pool = world.machine.pool
    assert pool.inbox_height == 4
    header = world.log[-1][0]
    for inbox_height in (3, 5):
        payload = encode(OrderedPayload(inbox_height, []))
        with pytest.raises(Rejected) as caught:
            pool.check(msgspec.structs.replace(header, payload=payload), [])
        assert caught.value.code == Code.BAD_INBOX_CURSOR
    payload = encode(OrderedPayload(4, [b"no batch"]))
    with pytest.raises(Rejected):
        pool.check(msgspec.structs.replace(header, payload=payload), [])


def test_a_false_signature_is_refused_while_there_is_time_to_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    raw = world.batch()
    forged = raw[:-1] + bytes([raw[-1] ^ 1])
    with pytest.raises(Rejected) as caught:
        world.machine.submit((1, 1), forged, {ALICE.public}, world.now_ms)
    assert caught.value.code == Code.BAD_SIGNATURE
    monkeypatch.setattr(machine_module, "SIGNATURES_CHECKED_BELOW", 0)
    world.machine.submit((1, 1), forged, {ALICE.public}, world.now_ms)
    assert len(world.machine.pool) == 1, "a busy sequencer leaves it to execution"
