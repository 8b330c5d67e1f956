"""How a block is shared between what different sequencers passed on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from protocol.actions import ActionBatch, Cancel, Order, SignedBatch, batch_id, open_batch
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


class World:
    """A pool of one of four sequencers; every batch has a number, which is its nonce."""

    def __init__(self, capacity: Capacity = CAPACITY) -> None:
        self.pool = BatchPool(
            1 << 20, 256, 0, 0, 0, 0, capacity, (), PEERS, self.require_signature
        )  # fmt: skip
        self.origins: dict[int, int] = {}
        self.identities: dict[int, bytes] = {}
        self.checks = 0
        self.height = 0

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

    def block(self, batches: int, *, commits: bool = True) -> list[int]:
        """The numbers in a block for so many batches of one action."""
        raw = self.pool.propose([], batches * BATCH_US // 1_000)
        numbers = (
            [open_batch(one)[1].nonce_ms for one in decode_payload(raw).batches] if raw else []
        )
        if commits:
            self.height += 1
            self.pool._height = self.height
            for number in numbers:
                self.pool.remember(self.identities[number], self.height)
        return numbers

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
            overtaken += same
        held += action is CANCEL
    assert overtaken and held, "nothing was put to the test"
