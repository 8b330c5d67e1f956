"""What one of four sequencers that lies, or whose links fail, can do to the others."""

from __future__ import annotations

from collections import Counter, deque

import msgspec
import pytest
from ledger_world import key_of
from shared_world import ALICE, COUNT, Member, SharedWorld

import sequencer.pool as pool_module
import sequencer.taking as taking_module
from consensus import Misbehaviour
from consensus.evidence import verify_evidence
from protocol.actions import (
    NONCE_PAST_MS,
    ActionBatch,
    Cancel,
    OraclePrice,
    SignedBatch,
    batch_id,
    open_batch,
    sign_batch,
)
from protocol.chain import Block, Proposal, Vote, payload_hash, proposal_digest
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import Capacity, parse_genesis
from protocol.keys import Key
from protocol.ordering import OrderedPayload
from sequencer.lanes import OWN, Lane
from sequencer.machine import Sequencer
from sequencer.peer import PassedBatches, PeerMessage

ORACLE = key_of("oracle")


def price(world: SharedWorld, *, signed: bool = True, key: Key = ORACLE) -> bytes:
    """A batch in the oracle's name; not `signed`: by somebody else."""
    world.nonce_ms += 1
    batch = ActionBatch(0, world.nonce_ms, 0, [OraclePrice(0, 600_000)])
    raw = sign_batch(key, world.chain.chain_id, 0, batch)
    return raw if signed else raw[:-1] + bytes([raw[-1] ^ 1])


def passed(world: SharedWorld, batches: list[bytes], sender: int = 1) -> Member:
    """Member 0, after another one has passed batches on to it."""
    member = world.members[0]
    member.take(member.machine.receive([(sender, PassedBatches(batches))], world.now_ms))
    return member


def count_checks(machine: Sequencer, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The signatures that the pool of this sequencer checks from now on."""
    checked: list[bytes] = []

    def count(signed: SignedBatch) -> None:
        checked.append(signed.signature)
        machine.require_signature(signed)

    monkeypatch.setattr(machine.pool, "_require_signature", count)
    return checked


def cut_off() -> SharedWorld:
    world = SharedWorld()
    assert ORACLE.public.hex() in world.chain.genesis.oracles
    world.drop = lambda *_: True
    return world


# --- prices


def test_false_prices_of_another_sequencer_take_no_room() -> None:
    world = cut_off()
    false = [price(world, signed=False) for _ in range(300)]
    member = passed(world, [*false, world.batch()])
    assert not len(member.machine.pool) and not member.pooled
    assert member.machine.counters == {"passed_refused_bad_signature": 1}, "it reads no further"
    true = price(world)
    passed(world, [true, world.batch()], sender=2)
    assert batch_id(true) in member.machine.pool and len(member.machine.pool) == 2


def test_false_prices_use_up_what_a_sequencer_may_pass_on() -> None:
    world = cut_off()
    messages = [PassedBatches([price(world, signed=False)]) for _ in range(200)]
    member = world.members[0]
    member.take(member.machine.receive([(1, one) for one in messages], world.now_ms))
    counters = member.machine.counters
    checked = counters["passed_refused_bad_signature"]
    most = taking_module.PEER_BYTES_PER_S // taking_module.FALSE_PRICE_COST_BYTES
    assert 0 < checked <= most, "each is a signature that had to be checked"
    assert counters["passed_refused_rate_limited"] == 200 - checked
    assert len(passed(world, [world.batch()], sender=2).machine.pool) == 1, "others go on"
    world.now_ms += 2_000
    assert len(passed(world, [price(world)]).machine.pool) == 2, "and so does this one, later"


def test_repeated_true_prices_use_it_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_module, "PEER_BYTES_PER_S", 8 * (17 << 10))
    world = cut_off()
    for _ in range(3):
        member = passed(world, [price(world) for _ in range(4)])
    assert member.machine.counters["passed_refused_rate_limited"] == 1


def test_a_false_price_is_refused_here_however_busy_the_sequencer_is() -> None:
    world = cut_off()
    member = world.members[0]
    for _ in range(70):  # more than there is time to check the signatures of
        member.submit(world.batch())
    with pytest.raises(Rejected) as refusal:
        member.machine.submit((1, 1), price(world, signed=False), {ORACLE.public}, world.now_ms)
    assert refusal.value.code == Code.BAD_SIGNATURE
    member.machine.submit((1, 1), price(world), {ORACLE.public}, world.now_ms)


def block_with(world: SharedWorld, batches: list[bytes]) -> Block:
    tip = world.members[0].log[-1][0]
    header = msgspec.structs.replace(
        tip.header, height=tip.header.height + 1, time_ms=tip.header.time_ms + 20
    )
    return msgspec.structs.replace(tip, header=header, payload=encode(OrderedPayload(0, batches)))


def refusal_of(world: SharedWorld, batches: list[bytes]) -> Code | None:
    try:
        world.members[0].machine.pool.check(block_with(world, batches), [])
    except Rejected as error:
        return error.code
    return None


def test_voters_refuse_false_prices_and_more_than_may_be_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = SharedWorld()
    world.members[0].submit(world.batch())
    world.run(500)
    false = price(world, signed=False)
    assert refusal_of(world, [price(world), world.batch()]) is None
    assert refusal_of(world, [world.batch(), false]) == Code.BAD_SIGNATURE
    monkeypatch.setattr(pool_module, "BLOCK_PRICES_MAX", 3)
    prices = [price(world) for _ in range(4)]
    assert refusal_of(world, [*prices[1:], world.batch()]) is None
    assert refusal_of(world, prices) == Code.TOO_MANY_ACTIONS
    pool = world.members[0].machine.pool
    for raw in prices:
        pool.add(batch_id(raw), raw, *open_batch(raw))
    waiting = prices[::-1]
    assert refusal_of(world, waiting) == Code.TOO_MANY_ACTIONS, "also of those that wait here"
    chosen = pool.propose([], world.now_ms)
    assert pool.contents(chosen).batches == prices[:3], "and so none are proposed"


def test_a_block_that_is_sent_again_and_again_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = SharedWorld()
    leader = world.members[0].machine.replica.leader or 0
    voter = world.members[(leader + 1) % COUNT].machine
    checked = count_checks(voter, monkeypatch)
    world.drop = lambda *_: True
    world.members[leader].submit(world.batch())
    good = next(one[2].block for one in world.sent if isinstance(one[2], Proposal))
    payload = encode(OrderedPayload(0, [*(price(world) for _ in range(5)), price(world)[:-1]]))
    header = msgspec.structs.replace(good.header, payload_hash=payload_hash(payload))
    signature = key_of(f"sequencer-{leader}").sign(proposal_digest(header.block_id()))
    bad = Proposal(msgspec.structs.replace(good, header=header, payload=payload), signature)
    voter.receive([(leader, bad) for _ in range(20)], world.now_ms)
    assert voter.replica.counters["rejected_malformed"] == 1
    assert len(checked) == 5


def test_what_is_ordered_again_later_does_not_keep_older_places_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "RECENT_MAX", 30)
    monkeypatch.setattr(pool_module, "REPEAT_BLOCKS", 4)
    pool = cut_off().members[0].machine.pool
    for height in range(1, 200):
        old = [one for one, before in pool._recent.items() if before < height - 4]
        for identity in old[:1]:  # voters let it pass
            pool.remember(identity, height)
        for place in range(3):
            pool.remember(batch_id(b"%d/%d" % (height, place)), height)
    assert len(pool._recent) == 30
    assert pool.committed_at(batch_id(b"195/0")) == 195


def test_guardians_are_of_the_committee_too() -> None:
    world = cut_off()
    guardian = key_of("guardian")
    genesis = msgspec.structs.replace(world.chain.genesis, guardians=[guardian.public.hex()])
    world.chain = parse_genesis(msgspec.json.encode(genesis))
    world.members[0] = Member(world, 0)
    world.members[0].start()
    member = passed(world, [price(world, key=guardian, signed=False)])
    assert member.machine.counters == {"passed_refused_bad_signature": 1}
    assert len(passed(world, [price(world, key=guardian)], sender=2).machine.pool) == 1


# --- what is said to be somebody's


def in_name_of_alice(world: SharedWorld) -> bytes:
    """An order that Alice never signed."""
    raw = world.batch()
    return raw[:-1] + bytes([raw[-1] ^ 1])


def cancel(world: SharedWorld) -> bytes:
    world.nonce_ms += 1
    batch = ActionBatch(16, world.nonce_ms, 0, [Cancel(0, 1)])
    return sign_batch(ALICE, world.chain.chain_id, 0, batch)


def lane_in(member: Member, raw: bytes) -> Lane:
    return member.machine.pool._waiting.lane(batch_id(raw))


@pytest.mark.parametrize("restarted", [False, True])
def test_orders_that_somebody_never_signed_do_not_hold_its_cancels_back(
    restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = cut_off()
    false = [in_name_of_alice(world) for _ in range(5)]
    member = passed(world, false)
    if restarted:
        member.restart()
    checked = count_checks(member.machine, monkeypatch)
    first, second = cancel(world), cancel(world)
    member.submit(first)
    assert lane_in(member, first) == Lane.REDUCING
    assert len(member.machine.pool) == 6, "whoever passed them on may have promised them"
    assert len(checked) == 1, "one of them tells enough"
    passed(world, [second], sender=2)
    assert lane_in(member, second) == Lane.REDUCING
    assert len(checked) == 1
    passed(world, [world.batch()])
    for raw in (*false, first, second):
        member.machine.pool.remember(batch_id(raw), 9)
    assert len(member.machine.pool) == 1


@pytest.mark.parametrize("here", [False, True])
def test_orders_that_somebody_did_sign_keep_its_cancels_behind_them(here: bool) -> None:
    world = cut_off()
    order, later = world.batch(), cancel(world)
    passed(world, [in_name_of_alice(world)])
    member = passed(world, [order], sender=3)
    if here:
        member.submit(later)
    else:
        passed(world, [later], sender=2)
    assert lane_in(member, later) == Lane.OTHER
    for raw in (order, later):
        member.machine.pool.remember(batch_id(raw), 9)
    after = cancel(world)
    member.submit(after)
    assert lane_in(member, after) == Lane.REDUCING


def test_what_was_sent_here_too_holds_back_whatever_else_was_said_of_its_hand() -> None:
    """A client that leaves a liar sends its order again; the liar had passed it on, after a false
    one in its name."""
    world = cut_off()
    order = world.batch()
    member = passed(world, [in_name_of_alice(world), order])
    member.submit(order)
    later = cancel(world)
    member.submit(later)
    assert lane_in(member, later) == Lane.OTHER


def test_one_signature_is_checked_for_a_cancel_however_many_orders_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = cut_off()
    member = passed(world, [world.batch() for _ in range(30)])
    checked = count_checks(member.machine, monkeypatch)
    for _ in range(10):
        passed(world, [cancel(world)], sender=2)
    assert len(checked) == 1


def test_no_client_uses_up_what_its_sequencer_may_pass_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy sequencer cannot help passing on what its client signed falsely."""
    monkeypatch.setattr(taking_module, "PEER_BYTES_PER_S", 4 << 16)
    world = cut_off()
    member = passed(world, [in_name_of_alice(world) for _ in range(20)])
    checked = count_checks(member.machine, monkeypatch)
    for _ in range(5):
        member.submit(cancel(world))
        passed(world, [in_name_of_alice(world) for _ in range(5)])
    assert "passed_refused_rate_limited" not in member.machine.counters
    assert len(checked) == 5, "one for a cancel"


def test_what_one_passes_on_takes_the_room_of_no_other_while_the_log_goes_on() -> None:
    """Everybody would repeat what waits long, and it would count as theirs."""
    world = SharedWorld(Capacity(busy_ppm=1_000, batch_us=1_000))  # one batch a block
    member = passed(world, [world.batch() for _ in range(1_000)])
    world.sent.clear()

    def said() -> bool:
        return any(one[0] == 0 and isinstance(one[2], PassedBatches) for one in world.sent)

    for _ in range(30):
        world.members[2].submit(world.batch())
        world.run(500)
    assert len(member.machine.pool) > 100 and not said(), "they wait longer than that"
    world.drop = lambda *_: True
    world.run(15_000)
    assert said(), "the log stands still"


# --- what was ordered long ago


def ordered_world(monkeypatch: pytest.MonkeyPatch) -> tuple[SharedWorld, list[bytes]]:
    """A log of 60 orders, a block each, of which sequencers remember the last 20."""
    monkeypatch.setattr(pool_module, "RECENT_MAX", 20)
    monkeypatch.setattr(pool_module, "REPEAT_BLOCKS", 4)
    monkeypatch.setattr(pool_module, "DATED_BLOCKS", 2)
    world = SharedWorld()
    orders = []
    for turn in range(60):
        world.nonce_ms = world.now_ms + 500  # the client's clock is ahead
        orders.append(world.batch())
        world.members[turn % COUNT].submit(orders[-1])
        world.run(100)
    assert world.members[0].ordered() == orders
    world.nonce_ms = world.now_ms
    world.drop = lambda *_: True
    return world, orders


@pytest.mark.parametrize("restarted", [False, True])
def test_old_orders_that_are_repeated_hold_no_cancel_back(
    restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, orders = ordered_world(monkeypatch)
    if restarted:
        world.members[0].restart()
    old = [raw for raw in orders if not world.members[0].machine.knows(batch_id(raw))]
    assert len(old) == 40
    member = passed(world, old)
    assert len(member.machine.pool) == 40, "one of them may be late, and promised"
    checked = count_checks(member.machine, monkeypatch)
    later = cancel(world)
    passed(world, [later], sender=2)
    assert lane_in(member, later) == Lane.REDUCING and not checked
    for turn in range(2):
        behind = cancel(world)
        passed(world, [behind])
        assert lane_in(member, behind) == Lane.OTHER, "over the same one they keep their order"
        later = cancel(world)
        passed(world, [later], sender=2)
        assert lane_in(member, later) == Lane.REDUCING, turn
    fresh, later = world.batch(), cancel(world)
    passed(world, [fresh], sender=2)
    passed(world, [later], sender=3)
    assert lane_in(member, later) == Lane.OTHER, "what is new still does"
    for raw in (*old, fresh, later):
        member.machine.pool.remember(batch_id(raw), 99)
    assert not member.machine.pool._waiting._ordinary


def test_what_was_left_out_at_a_start_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    world, orders = ordered_world(monkeypatch)
    member = world.members[0]
    read_back = [block for block, _ in member.log][-6:]
    member.machine.pool._old_ms = 0
    member.machine.pool._recent.clear()
    member.machine.pool.recall(read_back)
    passed(world, orders[-9:])
    later = cancel(world)
    member.submit(later)
    assert lane_in(member, later) == Lane.REDUCING
    first = SharedWorld().members[0].machine.pool
    first.recall(block for block, _ in world.members[1].log[:5])
    assert not first._old_ms, "the log began with these"


def test_times_are_remembered_no_longer_than_places(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = ordered_world(monkeypatch)
    for member in world.members:
        assert len(member.machine.pool._recent) == 20
        assert len(member.machine.pool._dates) <= 20


def signed_at(world: SharedWorld, nonce_ms: int, expires_ms: int = 0) -> bytes:
    batch = ActionBatch(16, nonce_ms, expires_ms, [Cancel(0, 1)])
    return sign_batch(ALICE, world.chain.chain_id, 0, batch)


def test_what_no_block_can_take_any_more_is_not_taken_from_others() -> None:
    world = SharedWorld()
    world.members[0].submit(world.batch())
    world.run(500)
    world.drop = lambda *_: True
    now_ms = world.members[0].log[-1][0].header.time_ms
    alive = [signed_at(world, now_ms - NONCE_PAST_MS + 1), signed_at(world, now_ms, now_ms + 1)]
    dead = [signed_at(world, now_ms - NONCE_PAST_MS), signed_at(world, now_ms, now_ms)]
    member = passed(world, [*dead, *alive])
    assert {raw: batch_id(raw) in member.machine.pool for raw in (*dead, *alive)} == {
        **dict.fromkeys(dead, False), **dict.fromkeys(alive, True)
    }  # fmt: skip
    assert member.machine.counters == {
        "passed_refused_nonce_expired": 1, "passed_refused_action_expired": 1
    }  # fmt: skip
    member.submit(dead[1])
    member.restart()
    assert batch_id(dead[1]) in member.machine.pool, "what was promised here is ordered"


# --- after a restart


def test_what_others_passed_on_is_theirs_also_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 48)
    world = cut_off()
    theirs = [world.batch() for _ in range(4)]
    member = passed(world, theirs)
    passed(world, [world.batch() for _ in range(4)], sender=2)
    own = world.batch()
    member.submit(own)
    member.submit(theirs[0])  # promised here, too
    member.restart()
    machine = member.machine
    assert len(machine.pool) == 9 and machine.pool.of_signer(ALICE.public) == 2
    assert [batch_id(raw) in machine._own for raw in (own, *theirs)] == [True, True] + [False] * 3
    assert len(machine._others) == 7
    for _ in range(10):  # half of the pool, and half of that for orders: 12
        member.submit(world.batch())
    with pytest.raises(Rejected, match="pool is full"):
        member.submit(world.batch())
    assert passed(world, [world.batch()]).machine.counters["passed_refused_busy"] == 0
    passed(world, [world.batch()])
    assert machine.counters["passed_refused_busy"] == 1, "one has its own place again"
    assert machine.pool._waiting.get(batch_id(theirs[1])).origin == 1  # type: ignore[union-attr]
    assert machine.pool._waiting.get(batch_id(own)).origin == OWN  # type: ignore[union-attr]


def test_what_others_passed_on_is_said_again_after_a_restart_but_not_at_once() -> None:
    world = cut_off()
    theirs, own = world.batch(), world.batch()
    member = passed(world, [theirs])
    member.submit(own)
    member.restart()
    world.sent.clear()

    def said() -> Counter[bytes]:
        found = [one[2] for one in world.sent if one[:2] == (0, 3)]
        return Counter(
            raw for one in found if isinstance(one, PassedBatches) for raw in one.batches
        )

    world.run(5_000)
    assert said()[own] >= 2 and not said()[theirs]
    world.run(10_000)
    assert said()[theirs] >= 1, "whoever passed it on may be gone"


def test_a_false_price_that_was_let_in_once_is_not_taken_up_again() -> None:
    world = cut_off()
    member = world.members[0]
    member.pooled += [price(world, signed=False), world.batch()]
    member.restart()
    assert len(member.machine.pool) == 1


# --- links that lose what is oldest


class NarrowWorld(SharedWorld):
    """Links to `slow` members hold few messages; while one does not read, the oldest are lost."""

    def __init__(self, slow: set[int]) -> None:
        self.slow: set[int] = set()
        self.lost: Counter[type] = Counter()
        self._queues: dict[tuple[int, int], deque[PeerMessage]] = {}
        super().__init__()
        self.slow = slow

    def post(self, sender: int, receiver: int, message: PeerMessage) -> None:
        if receiver not in self.slow:
            super().post(sender, receiver, message)
            return
        queue = self._queues.setdefault((sender, receiver), deque())
        queue.append(message)
        if len(queue) > 4:
            self.lost[type(queue.popleft())] += 1

    def read_again(self) -> None:
        self.slow = set()
        for (sender, receiver), queue in self._queues.items():
            for message in queue:
                super().post(sender, receiver, message)
        self._queues.clear()


@pytest.mark.parametrize("slow", [{2}, {1, 3}, set(range(COUNT))])
def test_what_full_links_lost_is_repaired(slow: set[int]) -> None:
    world = NarrowWorld(slow)
    sent = []
    for turn in range(12):
        for member in world.members:
            raw = world.batch()
            sent.append(raw)
            member.submit(raw, (1, turn + 1))
        world.run(250)
    assert world.lost[PassedBatches] and len(world.lost) > 1, world.lost
    world.read_again()
    world.run(20_000)
    assert world.logs() == {tuple(world.members[0].ordered())}
    assert sorted(world.members[0].ordered()) == sorted(sent)
    assert all(len(member.orders) == 12 for member in world.members)


# --- two blocks in one view


def test_two_blocks_of_one_leader_are_evidence_that_anybody_can_judge() -> None:
    world = SharedWorld()
    leader = world.members[0].machine.replica.leader or 0
    world.drop = lambda *one: isinstance(one[2], Vote)  # the view goes on
    world.members[leader].submit(world.batch())
    world.run(0)
    proposal = next(one[2] for one in world.sent if isinstance(one[2], Proposal))
    header = msgspec.structs.replace(
        proposal.block.header, time_ms=proposal.block.header.time_ms + 1
    )
    signature = key_of(f"sequencer-{leader}").sign(proposal_digest(header.block_id()))
    other = Proposal(msgspec.structs.replace(proposal.block, header=header), signature)
    found: list[Misbehaviour] = []
    for member in world.members:
        if member.index != leader:
            effects = member.take(member.machine.receive([(leader, other)], world.now_ms))
            found += [one for one in effects if isinstance(one, Misbehaviour)]
    assert len(found) == COUNT - 1
    for one in found:
        assert one.evidence.member == leader
        verify_evidence(world.members[0].machine.members, one.evidence)
