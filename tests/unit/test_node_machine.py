"""The validator's machine around its replica: keys and numbers, epochs, offences, the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consensus import (
    Broadcast,
    Effect,
    EpochBegan,
    FellBehind,
    MemberSet,
    Misbehaviour,
    Received,
    Send,
    Start,
    Tick,
    Work,
)
from node import machine as module
from node import peer_numbers
from node.app import ExecutedBlock, LedgerApplication
from node.machine import Validator
from node.neighbours import MAX_CANDIDATES, neighbours
from node.peer import SnapshotOffer, SnapshotRequest, TransactionGossip
from node.peer_numbers import OUTSIDER_FIRST, PeerNumbers
from node.rounds import FromPeer, Outgoing, Round
from protocol.chain import BlocksRequest, Member, Vote
from protocol.errors import Code, Rejected
from protocol.evidence import DoubleVote, Evidence, evidence_id
from protocol.genesis import Genesis, Identity, Pace, Staking
from protocol.keys import Key
from protocol.ledger_leaves import (
    Account,
    EpochMember,
    Unbonding,
    ValidatorLeaf,
    offence_key,
    validator_key,
)
from protocol.settlement import (
    ReportEvidence,
    decode_signed_transaction,
    decode_transaction,
    transaction_id,
)

CHAIN_ID = b"c" * 32
STAKE = 100
KEYS = [Key(bytes([i]) * 32) for i in range(1, 8)]
REQUEST = BlocksRequest(b"", 0, 1)


def member_set(numbers: Iterable[int], epoch: int) -> MemberSet:
    return MemberSet(CHAIN_ID, [Member(KEYS[n].public, STAKE) for n in numbers], epoch)


def evidence(member: int, view: int = 5) -> Evidence:
    votes = [Vote(CHAIN_ID, 0, view, 4, bytes([i]) * 32, member, bytes(64)) for i in (1, 2)]
    return DoubleVote(*votes)


class FakeReplica:
    """Gives the effects that a test asks for, and remembers what it was stepped with."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.stepped: list[Any] = []
        self.react: Callable[[Any], list[Effect]] = lambda event: []
        self.deadline_ms: int | None = None
        self.beat_ms: int | None = None
        self.committed_height = 0
        self.committed_block = SimpleNamespace(header=SimpleNamespace(time_ms=1_000, height=0))

    def step(self, event: Any, now_ms: int) -> list[Effect]:
        self.stepped.append(event)
        return self.react(event)

    def next_deadline_ms(self) -> int | None:
        return self.deadline_ms


class FakeApp:
    """Pool and ledger as far as the machine looks at them."""

    def __init__(self) -> None:
        self.nonces: dict[bytes, int] = {}
        self.waiting: dict[bytes, bytes] = {}
        self.executed: list[ExecutedBlock] = []
        self.refuse: Code | None = None
        self.beats: Callable[[int], tuple[int | None, int | None]] = lambda now_ms: (None, None)
        self.mempool = cast(Any, self)
        self.ledger = SimpleNamespace(
            account=lambda address: Account(0, self.nonces.get(address, 0)), height=0
        )

    def epoch(self) -> MemberSet | None:
        return None

    def submit(self, raw: bytes, now_ms: int) -> tuple[bytes, bool]:
        if self.refuse is not None:
            raise Rejected(self.refuse)
        nonce = opened(raw)[0]
        if any(opened(other)[0] == nonce for other in self.waiting.values() if other != raw):
            raise Rejected(Code.BAD_LEDGER_NONCE)
        identity = transaction_id(raw)
        new = identity not in self.waiting
        self.waiting[identity] = raw
        return identity, new

    def get(self, identity: bytes) -> Any:
        raw = self.waiting.get(identity)
        return None if raw is None else SimpleNamespace(raw=raw)

    def expire(self, now_ms: int) -> list[bytes]:
        return []

    def take_displaced(self) -> list[Any]:
        return []

    def beat(self, now_ms: int) -> tuple[int | None, int | None]:
        return self.beats(now_ms)

    def take_executed(self) -> list[ExecutedBlock]:
        executed, self.executed = self.executed, []
        return executed

    def execute(self, codes: dict[bytes, Code], changes: dict[bytes, bytes]) -> None:
        """A block with these transactions was executed."""
        results = [SimpleNamespace(id=one, code=code, text="") for one, code in codes.items()]
        for one in codes:
            self.waiting.pop(one, None)
        header = SimpleNamespace(height=1)
        outcome = SimpleNamespace(results=results, changes=changes)
        block = SimpleNamespace(block=SimpleNamespace(header=header), outcome=outcome, outdated=[])
        self.executed.append(cast(ExecutedBlock, block))


def opened(raw: bytes) -> tuple[int, Any]:
    transaction = decode_transaction(decode_signed_transaction(raw).payload)
    return transaction.nonce, transaction.action


class World:
    """One machine, that of member `own` of members 0 to 3."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own: int = 0, **options: Any) -> None:
        monkeypatch.setattr(module, "Replica", FakeReplica)
        identities = [Identity(f"v{i}", KEYS[i].public.hex(), STAKE, "") for i in range(4)]
        genesis = SimpleNamespace(
            validators=identities, ledger_pace=Pace(20, 5, 0, 400, 2_000, 1 << 20), time_ms=0,
            staking=Staking(),
        )  # fmt: skip
        chain = SimpleNamespace(genesis=cast(Genesis, genesis), chain_id=CHAIN_ID)
        self.app = FakeApp()
        self.machine = Validator(
            cast(Any, chain), KEYS[own], cast(LedgerApplication, self.app), bytes(32), **options
        )
        self.replica = cast(FakeReplica, self.machine.replica)
        self.now_ms = 10_000
        self.run()

    def run(self, *events: FromPeer, later_ms: int = 0) -> Round:
        self.now_ms += later_ms
        return self.machine.run(events, self.now_ms)

    def see(self, *effects: Effect) -> Round:
        """The replica answers the next message with these effects."""
        self.replica.react = lambda event: list(effects) if isinstance(event, Received) else []
        try:
            return self.run(FromPeer(KEYS[1].public, REQUEST))
        finally:
            self.replica.react = lambda event: []


def reports(done: Round) -> list[bytes]:
    return [
        raw
        for one in done.messages
        if isinstance(one.message, TransactionGossip)
        for raw in one.message.transactions
        if isinstance(opened(raw)[1], ReportEvidence)
    ]


# --- keys and numbers


def test_messages_are_numbered_by_the_epoch_in_force_at_their_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    following = member_set([4, 2, 1], 1)

    def react(event: Any) -> list[Effect]:
        if not isinstance(event, Received):
            return []
        switch: list[Effect] = [EpochBegan(following)] if event.peer == 3 else []
        return [*switch, Send(1, REQUEST), Send(event.peer, REQUEST), Broadcast(REQUEST)]

    world.replica.react = react
    done = world.run(*[FromPeer(KEYS[i].public, REQUEST) for i in (2, 4, 3, 3, 2)])
    received = [one.peer for one in world.replica.stepped if isinstance(one, Received)]
    # Before the switch 4 is an outsider; behind it 3 is one, and 2 has another index.
    assert received == [2, OUTSIDER_FIRST, 3, OUTSIDER_FIRST + 1, 1]
    assert [one.to for one in done.messages] == [
        KEYS[1].public, KEYS[2].public, None,
        KEYS[1].public, KEYS[4].public, None,
        KEYS[2].public, None,  # number 3 of the old epoch means nobody in the new one
        KEYS[2].public, KEYS[3].public, None,
        KEYS[2].public, KEYS[2].public, None,
    ]  # fmt: skip
    assert world.machine.counters["unaddressed"] == 1
    assert done.epoch_began is following and done.peers_changed
    assert not world.machine.is_member


def test_outsiders_keep_their_number_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_numbers, "MAX_OUTSIDERS", 3)
    numbers = PeerNumbers(member_set([0, 1], 0))
    keys = [bytes([9, i]) * 16 for i in range(5)]
    first = [numbers.number(key) for key in keys[:3]]
    assert [numbers.number(key) for key in keys[:3]] == first
    numbers.number(keys[0])
    fourth = numbers.number(keys[3])
    assert fourth not in first and numbers.key(first[1]) is None
    assert numbers.key(first[0]) == keys[0] and numbers.key(fourth) == keys[3]
    again = numbers.number(keys[1])
    assert again not in (*first, fourth) and numbers.key(again) == keys[1]
    assert numbers.key(1) == KEYS[1].public and numbers.key(2) is None


# --- events


def test_the_first_round_starts_the_replica_and_work_and_time_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    assert [type(one) for one in world.replica.stepped] == [Start]
    raw = report_of(world, 3)
    assert world.machine.next_deadline_ms() == world.now_ms + module.HOUSEKEEPING_MS
    _, messages = world.machine.submit(raw, world.now_ms)
    assert messages == [Outgoing(None, TransactionGossip([raw]))]
    assert world.machine.next_deadline_ms() <= world.now_ms
    assert world.machine.submit(raw, world.now_ms)[1] == []
    world.replica.deadline_ms = world.now_ms + 7
    world.run()
    world.run(later_ms=7)
    assert [type(one) for one in world.replica.stepped] == [Start, Work, Tick]
    other = report_of(world, 2, nonce=1)
    gossip = TransactionGossip([raw, other, b"garbage"])
    assert world.machine.gossip(gossip, world.now_ms) == [other], "what is new, and no more"
    assert world.machine.gossip(gossip, world.now_ms) == []
    world.run()
    assert type(world.replica.stepped[-2]) is Work


def test_the_ledgers_pace_reaches_the_replica_and_the_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    due_ms = world.now_ms + 300
    world.app.beats = lambda now_ms: (20, None) if now_ms >= due_ms else (1_000, due_ms)
    world.run()
    assert world.replica.beat_ms == 1_000
    assert world.machine.next_deadline_ms() == due_ms
    world.run(later_ms=300)
    assert world.replica.beat_ms == 20
    world.app.beats = lambda now_ms: (None, None)
    world.run()
    assert world.replica.beat_ms is None


def report_of(world: World, member: int, nonce: int = 0) -> bytes:
    from protocol.settlement import Transaction, sign_transaction

    transaction = Transaction(nonce, ReportEvidence(evidence(member)))
    return sign_transaction(KEYS[6], CHAIN_ID, transaction)


def test_changes_of_validators_are_told_to_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.app.execute({}, {b"\x01" + bytes(20): b""})
    monkeypatch.setattr(world.replica, "react", lambda event: [committed(1)])
    assert not world.run(FromPeer(KEYS[1].public, REQUEST)).peers_changed
    world.app.execute({}, {validator_key(bytes(20)): b""})
    assert world.run(FromPeer(KEYS[1].public, REQUEST)).peers_changed


def committed(height: int) -> Any:
    from consensus import Committed

    block = SimpleNamespace(header=SimpleNamespace(height=height))
    return Committed(cast(Any, block), cast(Any, None))


# --- offences


def test_the_member_behind_the_accused_reports_first_and_the_next_one_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, own=3)
    (raw,) = reports(world.see(Misbehaviour(evidence(2))))
    nonce, action = opened(raw)
    assert (nonce, action.evidence) == (0, evidence(2))
    assert decode_signed_transaction(raw).signer == KEYS[3].public
    assert reports(world.see(Misbehaviour(evidence(2)))) == []
    later = World(monkeypatch, own=0)
    assert reports(later.see(Misbehaviour(evidence(2)))) == []
    assert reports(later.run(later_ms=500)) == []
    assert len(reports(later.run(later_ms=500))) == 1


def test_an_offence_that_was_punished_meanwhile_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, own=0)
    world.see(Misbehaviour(evidence(2)))
    world.app.execute({}, {offence_key(evidence_id(CHAIN_ID, evidence(2))): b""})
    world.see(committed(1))
    assert reports(world.run(later_ms=60_000)) == []
    assert reports(world.see(Misbehaviour(evidence(2)))) == []


def test_a_report_that_lost_its_nonce_or_was_dropped_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, own=3)
    (first,) = reports(world.see(Misbehaviour(evidence(2))))
    # Something else of this key took the nonce: the report is in a block without effect.
    world.app.nonces[KEYS[3].address] = 1
    world.app.execute({transaction_id(first): Code.BAD_LEDGER_NONCE}, {})
    world.see(committed(1))
    (second,) = reports(world.run(later_ms=3_000))
    assert opened(second)[0] == 1
    world.run(later_ms=3_000)
    assert world.machine.counters["offences_reported"] == 2, "it still waits"
    world.app.waiting.clear()
    assert reports(world.run(later_ms=3_000)) == [second]
    assert world.machine.counters["offences_reported"] == 3
    world.app.execute({transaction_id(second): Code.OK}, {})
    world.see(committed(1))
    world.app.waiting.clear()
    assert reports(world.run(later_ms=60_000)) == []


def test_a_report_stands_behind_other_transactions_of_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, own=3)
    for nonce in (0, 1):
        world.app.submit(report_of(world, 1, nonce), 0)
    (raw,) = reports(world.see(Misbehaviour(evidence(2))))
    assert opened(raw)[0] == 2


def test_reports_that_cannot_succeed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, own=3)
    world.app.refuse = Code.EVIDENCE_EXPIRED
    world.see(Misbehaviour(evidence(2)))
    world.app.refuse = None
    assert reports(world.run(later_ms=60_000)) == []
    world.app.refuse = Code.BUSY
    world.see(Misbehaviour(evidence(2, view=6)))
    for _ in range(100):
        world.run(later_ms=5_000)
    world.app.refuse = None
    assert reports(world.run(later_ms=5_000)) == []


def test_offences_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, own=3)
    world.app.refuse = Code.BUSY
    done = world.see(*[Misbehaviour(evidence(2, view)) for view in range(1_000)])
    assert reports(done) == []
    world.app.refuse = None
    made = reports(world.run(later_ms=3_000))
    assert 0 < len(made) <= 64


# --- catching up by snapshot


def test_who_fell_behind_asks_the_members_for_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    done = world.see(FellBehind(1, 500))
    asked = [one for one in done.messages if isinstance(one.message, SnapshotRequest)]
    assert sorted(one.to or b"" for one in asked) == sorted(KEYS[i].public for i in (1, 2, 3))
    world.see(FellBehind(2, 900))
    assert world.machine.counters["fell_behind"] == 2
    for i in (1, 2, 3):
        world.run(FromPeer(KEYS[i].public, SnapshotOffer(0, [], None)), later_ms=10)
    for _ in range(100):
        world.run(later_ms=2_000)
    assert world.machine.counters["snapshots_missed"] == 1 and world.machine.snapshot_failure
    again = world.see(FellBehind(1, 1_000)).messages
    assert any(isinstance(one.message, SnapshotRequest) for one in again)
    world.app.execute({}, {})
    monkeypatch.setattr(world.replica, "react", lambda event: [committed(1)])
    world.run(FromPeer(KEYS[1].public, REQUEST))
    assert not world.machine.snapshot_failure, "it caught up block by block"


# --- whom to have links with


def leaf(number: int, stake: int, unbonding: int = 0, address: str = "h:1") -> ValidatorLeaf:
    out = [Unbonding(unbonding, 5)] if unbonding else []
    return ValidatorLeaf(bytes([number]) * 32, stake, b"leaf%d" % number, address, 0, out)


def test_neighbours_are_members_now_and_next_and_the_highest_candidates() -> None:
    now = [EpochMember(bytes([i]) * 32, 5, b"now%d" % i, "") for i in (1, 2)]
    following = [EpochMember(bytes([i]) * 32, 5, b"next%d" % i, "h:9") for i in (2, 3)]
    leaves = [leaf(1, 5, address=""), leaf(2, 5, address="h:2"), leaf(4, 0, 7), leaf(5, 0)]
    found = {one.public_key[0]: one for one in neighbours(now, following, leaves)}
    assert sorted(found) == [1, 2, 3, 4]
    assert found[1].certificates == [b"now1", b"leaf1"] and found[1].address == ""
    assert found[2].certificates == [b"now2", b"next2", b"leaf2"] and found[2].address == "h:2"
    many = [leaf(10 + i, 100 + i) for i in range(MAX_CANDIDATES + 5)]
    chosen = [one.public_key[0] for one in neighbours([], [], many)]
    assert sorted(chosen) == [10 + i for i in range(5, MAX_CANDIDATES + 5)]
