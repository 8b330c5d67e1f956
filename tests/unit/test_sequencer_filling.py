"""How a block is shared between what different sequencers passed on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from protocol.actions import ActionBatch, Cancel, Order, SignedBatch, batch_id, open_batch
from protocol.chain import EMPTY_HASH, Block, CommitCertificate, genesis_header, genesis_qc
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import Capacity
from protocol.ordering import decode_payload
from sequencer.lanes import OWN, Lane
from sequencer.pool import BatchPool
from sim.random import SplitMix64

LIAR, HONEST, ANOTHER = 1, 2, 3
PEERS = 3
BATCH_US = 100
CAPACITY = Capacity(busy_ppm=1_000_000, batch_us=BATCH_US, action_us=0, burst_ms=1_000)
FALSE = bytes(63) + b"\x01"
BUY, CANCEL = Order(0, 0, 1_000, 5), Cancel(0, 1)


GENESIS = genesis_header(bytes(32), 0, EMPTY_HASH)
JUSTIFY = genesis_qc(GENESIS)


def numbers_in(block: Block) -> list[int]:
    batches = decode_payload(block.payload).batches if block.payload else []
    return [open_batch(one)[1].nonce_ms for one in batches]


class World:
    """A pool of one of four sequencers; every batch has a number, which is its nonce."""

    def __init__(self, capacity: Capacity = CAPACITY) -> None:
        self.pool = BatchPool(
            1 << 20, 256, 0, 0, 0, 0, capacity, (), PEERS, self.require_signature
        )  # fmt: skip
        self.origins: dict[int, int] = {}
        self.identities: dict[int, bytes] = {}
        self.checks = 0

    def require_signature(self, signed: SignedBatch) -> None:
        self.checks += 1
        if signed.signature == FALSE:
            raise Rejected(Code.BAD_SIGNATURE, "false")

    def add(
        self,
        origin: int,
        action: Any = BUY,
        *,
        hand: int = 0,
        actions: int = 1,
        false: bool = False,
    ) -> int:
        number = len(self.origins) + 1
        body = encode(ActionBatch(16 + hand, number, 0, [action] * actions))
        raw = encode(SignedBatch(1, bytes([hand] * 32), body, FALSE if false else bytes(64)))
        identity = batch_id(raw)
        self.pool.add(identity, raw, *open_batch(raw), origin=origin)
        self.origins[number], self.identities[number] = origin, identity
        return number

    def propose(self, batches: int, *ancestors: Block) -> Block:
        """A block, on uncommitted ones, for so many batches of one action."""
        parent_ms = ancestors[-1].header.time_ms if ancestors else self.pool._time_ms
        time_ms = parent_ms + batches * BATCH_US // 1_000
        payload = self.pool.propose(ancestors, time_ms)
        height = self.pool._height + len(ancestors) + 1
        header = msgspec.structs.replace(GENESIS, height=height, time_ms=time_ms)
        return Block(header, payload, JUSTIFY, None)

    def commit(self, block: Block) -> list[int]:
        """The numbers in a block that is final now."""
        self.pool.commit(block, CommitCertificate(JUSTIFY, block.header, JUSTIFY))
        return numbers_in(block)

    def block(self, batches: int) -> list[int]:
        """The numbers in a block for so many batches of one action, which commits."""
        return self.commit(self.propose(batches))

    def served(self, batches: int) -> Counter[int]:
        return Counter(self.origins[number] for number in self.block(batches))


@pytest.mark.parametrize("action", [BUY, CANCEL])
def test_what_one_passes_on_without_end_delays_nobody_who_asks_for_less(action: Any) -> None:
    world = World()
    for _ in range(700):
        world.add(LIAR, action, hand=9)
    mine = [world.add(OWN, action, hand=1) for _ in range(20)]
    theirs = [world.add(HONEST, action, hand=2) for _ in range(10)]
    chosen = world.block(120)
    assert {*mine, *theirs} <= set(chosen)
    assert len(chosen) == 120, "what nobody else wants the first one gets"


def test_a_block_is_shared_like_the_pool() -> None:
    world = World()
    for origin in (LIAR, HONEST, ANOTHER, OWN):
        for _ in range(600):
            world.add(origin, hand=origin + 1)
    assert world.served(120) == {OWN: 60, LIAR: 20, HONEST: 20, ANOTHER: 20}
    world = World()
    for origin in (LIAR, OWN):
        for _ in range(600):
            world.add(origin, hand=origin + 1)
    assert world.served(120) == {OWN: 90, LIAR: 30}


def test_it_is_work_that_is_shared() -> None:
    world = World(Capacity(1_000_000, BATCH_US // 2, BATCH_US // 2, 1_000))
    for _ in range(200):
        world.add(LIAR, hand=1, actions=19)
        world.add(HONEST, hand=2)
    served = world.served(200)
    assert served[HONEST] == 100 and served[LIAR] == 10


def test_what_does_not_fit_ends_the_turn_of_whoever_passed_it_on() -> None:
    world = World(Capacity(1_000_000, 0, BATCH_US, 1_000))
    world.add(LIAR, hand=1, actions=100)
    mine = [world.add(OWN, hand=2) for _ in range(10)]
    assert world.block(20) == mine


def test_blocks_of_one_batch_serve_everybody() -> None:
    world = World()
    for origin in (LIAR, HONEST, ANOTHER, OWN):
        for _ in range(20):
            world.add(origin, hand=origin + 1)
    served: Counter[int] = Counter()
    for _ in range(20):
        served += world.served(0)
    assert len(served) == 4 and min(served.values()) >= 4, served


def test_a_cancel_over_another_sequencer_stays_behind_its_order() -> None:
    world = World()
    for _ in range(100):
        world.add(HONEST, hand=9)
    orders = [world.add(HONEST, hand=1) for _ in range(5)]
    later = [world.add(ANOTHER, CANCEL, hand=1), world.add(ANOTHER, BUY, hand=1)]
    stranger = world.add(ANOTHER, hand=2)
    first = world.block(100)
    assert stranger in first and not {*orders, *later} & set(first)
    rest = [number for number in world.block(100) + world.block(100) if number > 100]
    assert rest == [*orders, *later], "and what came behind the cancel stays behind it"


@pytest.mark.parametrize("later", [OWN, ANOTHER])
def test_what_replaces_over_another_sequencer_stays_behind_what_it_replaces(later: int) -> None:
    """A client that fails over sends its newest quotes where its last ones only wait as passed."""
    world = World()
    for _ in range(100):
        world.add(HONEST, hand=9)
    before = world.add(HONEST, hand=1)
    after = world.add(later, hand=1)
    assert not {before, after} & set(world.block(100))
    rest = world.block(100)
    assert rest.index(before) < rest.index(after)


def test_shares_hold_for_all_lanes_together() -> None:
    world = World()
    for _ in range(300):
        world.add(LIAR, CANCEL, hand=8)
        world.add(LIAR, hand=9)
        world.add(OWN, hand=1)
    assert world.served(120)[OWN] >= 60


def test_orders_that_nobody_signed_hold_no_cancel_back_in_a_block() -> None:
    world = World()
    for _ in range(100):
        world.add(LIAR, hand=9)
    true = world.add(HONEST, hand=1)
    for _ in range(50):
        world.add(LIAR, hand=1, false=True)
    cancel = world.add(ANOTHER, CANCEL, hand=1)
    assert world.pool._waiting.lane(world.identities[cancel]) == Lane.OTHER
    checks = world.checks
    chosen = world.block(30) + world.block(30)
    assert chosen.index(true) < chosen.index(cancel)
    assert world.checks == checks + 1, "one of them is looked at"


def test_without_other_sequencers_nothing_is_looked_at_twice() -> None:
    world = World()
    for _ in range(200):
        world.add(HONEST, BUY, hand=1)
        world.add(HONEST, CANCEL, hand=1)
    assert world.checks == 1
    chosen = world.block(300)
    assert chosen == sorted(chosen) and len(chosen) == 300 and world.checks == 1


def test_an_order_waits_for_what_its_hand_cancelled_before() -> None:
    """Else a cancel of everything would take it out again."""
    world = World()
    for _ in range(30):
        world.add(OWN, CANCEL, hand=9)
    cancel = world.add(OWN, CANCEL, hand=1)
    order, other = world.add(OWN, BUY, hand=1), world.add(OWN, BUY, hand=2)
    first = world.block(20)
    assert other in first and not {cancel, order} & set(first)
    rest = world.block(20) + world.block(20)
    assert rest.index(cancel) < rest.index(order)


def test_what_another_sequencer_says_was_cancelled_holds_no_order_back() -> None:
    world = World()
    for _ in range(30):
        world.add(LIAR, CANCEL, hand=1, false=True)
    order = world.add(OWN, BUY, hand=1)
    assert order in world.block(20)


# --- more work than a block has time for

BY_ACTIONS = Capacity(1_000_000, 0, BATCH_US, 1_000)
"""A batch of n actions is n times `BATCH_US`; `block(10)` has 1 ms, the time of ten actions."""


@pytest.mark.parametrize("action", [BUY, CANCEL])
@pytest.mark.parametrize("origin", [OWN, HONEST])
def test_a_batch_that_is_more_work_than_a_block_has_time_for_is_not_passed_over_for_ever(
    origin: int, action: Any
) -> None:
    world = World(BY_ACTIONS)
    heavy = world.add(origin, action, hand=1, actions=50)
    behind = world.add(origin, action, hand=1)
    blocks: list[list[int]] = [[]]
    while heavy not in blocks[-1] and len(blocks) < 60:
        for one in (ANOTHER, LIAR):
            world.add(one, BUY, hand=5 + one)
            world.add(one, CANCEL, hand=10 + one)
        blocks.append(world.block(10))
    del blocks[0]
    assert blocks[-1] == [heavy], "more than one batch its time would not allow"
    assert 20 <= len(blocks) <= 22, "four times its work, and the block that passed it over"
    assert all(blocks), "meanwhile the others go on"
    assert behind in world.block(10)


def test_what_takes_risk_off_leaves_room_for_a_batch_of_more_than_half_a_block() -> None:
    world = World(BY_ACTIONS)
    wide = world.add(OWN, BUY, hand=1, actions=6)
    blocks: list[list[int]] = [[]]
    while wide not in blocks[-1] and len(blocks) < 60:
        for hand in range(10):
            world.add(OWN, CANCEL, hand=10 + hand)
        blocks.append(world.block(10))
    assert 3 < len(blocks) < 7 and len(blocks[-1]) == 5, "it leaves room for four cancels"


def test_heavy_batches_of_all_take_a_quarter_of_the_time() -> None:
    world = World(BY_ACTIONS)
    origins = [OWN, LIAR, HONEST, ANOTHER] * 20
    heavy = {world.add(origin, hand=origin + 1, actions=50) for origin in origins}
    served: Counter[int] = Counter()
    for _ in range(400):
        for origin in (OWN, LIAR, HONEST, ANOTHER):
            world.add(origin, CANCEL, hand=origin + 11)
        chosen = world.block(10)
        served.update(world.origins[one] for one in chosen if one in heavy)
    assert 18 <= sum(served.values()) <= 20, "5 ms of work each, in 400 ms"
    assert len(served) == 4 and min(served.values()) >= 4, served


def test_what_comes_before_an_overdue_batch_in_its_queue_goes_first_and_in_its_own_time() -> None:
    """It had to wait for something when the other was the head, and has to no more."""
    world = World(BY_ACTIONS)
    before = [world.add(LIAR, hand=1, actions=50) for _ in range(3)]
    last = world.add(LIAR, hand=2, actions=50)
    world.pool._passed_over.note(world.identities[last], 50 * BATCH_US, 0)
    world.pool._time_ms = 100
    blocks: list[list[int]] = [[]]
    while last not in blocks[-1] and len(blocks) < 120:
        world.add(OWN, hand=3)
        blocks.append(world.block(10))
    places = [blocks.index([one]) for one in (*before, last)]
    apart = [later - earlier for earlier, later in zip([0, *places[:-1]], places, strict=True)]
    assert min(apart) >= 20, "four times the work of each"


def test_one_overdue_batch_brings_no_other_before_its_block_is_committed() -> None:
    world = World(BY_ACTIONS)
    heavy, after = (world.add(HONEST, hand=1, actions=50) for _ in range(2))
    world.pool._passed_over.note(world.identities[heavy], 50 * BATCH_US, 0)
    light = [world.add(OWN, hand=2) for _ in range(20)]
    world.pool._time_ms = 20
    first = world.propose(10)
    assert numbers_in(first) == [heavy]
    second = world.propose(10, first)
    third = world.propose(10, first, second)
    assert numbers_in(second) + numbers_in(third) == light
    for block in (first, second, third):
        world.commit(block)
    blocks: list[list[int]] = [[]]
    while after not in blocks[-1] and len(blocks) < 60:
        world.add(OWN, hand=2)
        blocks.append(world.block(10))
    assert 18 <= len(blocks) < 60, "four times its work after the one before"


def test_nobody_stays_overdue_with_a_batch_that_may_not_come_yet() -> None:
    """Reducing batches in the name of somebody who signed neither put a heavy one off for ever."""
    world = World(BY_ACTIONS)
    pinned = world.add(LIAR, hand=1, actions=50, false=True)
    others = {world.add(LIAR, hand=9, actions=50) for _ in range(40)}
    honest = [world.add(HONEST, hand=2, actions=50) for _ in range(3)]
    served: list[int] = []
    for _ in range(140):
        mine = world.add(OWN, BUY, hand=3)
        served += (chosen := world.block(10))
        assert mine in chosen or len(chosen) == 1, "only what goes alone keeps it waiting"
        world.add(LIAR, CANCEL, hand=1, false=True)
    assert set(honest) <= set(served)
    assert len(others & set(served)) <= 4, "5 ms of work each, in 140 ms with three more of them"
    for _ in range(50):
        world.add(OWN, BUY, hand=3)
        served += world.block(10)
    assert pinned in served


@pytest.mark.parametrize("same", ["nothing", "time", "payload"])
def test_what_was_asked_early_and_is_not_proposed_passes_nothing_over(same: str) -> None:
    """Shortly after its parent a block has room for nothing, so that every batch is heavy."""
    world = World(BY_ACTIONS)
    cancels = [world.add(OWN, CANCEL, hand=1) for _ in range(60)]
    wide = world.add(HONEST, hand=2, actions=20)
    early = world.propose(10)
    assert wide not in numbers_in(early)
    if same == "time":  # of what another one proposed
        world.commit(msgspec.structs.replace(early, payload=b""))
    elif same == "payload":
        header = msgspec.structs.replace(early.header, time_ms=10)
        cancels = cancels[len(world.commit(msgspec.structs.replace(early, header=header))) :]
    chosen = world.block(100)
    assert chosen[0] == cancels[0] and wide in chosen, "in its turn"


def test_a_block_passes_over_from_its_time_on_once_it_is_committed() -> None:
    world = World(BY_ACTIONS)
    heavy = world.add(HONEST, hand=1, actions=50)
    for _ in range(12):
        world.add(OWN, hand=2)
    first = world.propose(10)
    world.propose(1, first)  # asked early
    second = world.propose(10, first)
    due_ms = first.header.time_ms + 20
    assert world.pool._passed_over.due(due_ms) is None
    world.commit(first)
    assert world.pool._passed_over.due(due_ms - 1) is None
    assert world.pool._passed_over.due(due_ms) == world.identities[heavy]
    world.commit(second)
    assert world.pool._passed_over.due(due_ms) == world.identities[heavy], "since the first one"
    assert not world.pool._passed_over._asked, "what is committed is not kept"


@pytest.mark.parametrize("seed", range(20))
def test_nobody_overtakes_itself_and_everything_gets_its_place(seed: int) -> None:
    """Random batches of some hands over all sequencers, blocks of any size in between."""
    print(f"seed {seed}")
    random = SplitMix64(seed)
    world = World()
    hands: dict[int, tuple[int, Any, bool]] = {}
    ordered: list[int] = []
    for _ in range(60):
        for _ in range(random.below(40)):
            origin, hand = random.below(PEERS + 1) - 1, random.below(4)
            action = BUY if random.below(2) else CANCEL
            false = origin == LIAR and random.below(2) == 0
            number = world.add(origin, action, hand=hand, false=false)
            hands[number] = hand, action, origin != LIAR
        ordered += world.block(random.below(30))
    for _ in range(2_000):
        if not len(world.pool):
            break
        ordered += world.block(20)
    assert sorted(ordered) == sorted(hands), "each once"
    overtaken = held = 0
    for at, number in enumerate(ordered):
        hand, action, honest = hands[number]
        for earlier in ordered[at + 1 :]:
            same = hands[earlier][0] == hand and earlier < number
            if same and honest and hands[earlier][2]:
                assert hands[earlier][1] is not BUY, (earlier, number)
                assert world.origins[earlier] != world.origins[number], (earlier, number)
            overtaken += same
        held += action is CANCEL
    assert overtaken and held, "nothing was put to the test"
