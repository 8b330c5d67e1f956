"""Capacity that is kept for prices and for what reduces risk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import sequencer.pool as pool_module
from protocol.actions import (
    GTC,
    REDUCE_ONLY,
    ActionBatch,
    Cancel,
    MarketOrder,
    OraclePrice,
    Order,
    SignedBatch,
    Transfer,
    batch_id,
    open_batch,
)
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.genesis import Capacity
from protocol.ordering import OrderedPayload, decode_payload
from sequencer.lanes import Lane, Lanes, Waiting, lane_of
from sequencer.pool import BatchPool

ORACLE, TRADER = bytes(31) + b"\x01", bytes(31) + b"\x02"
CAPACITY = Capacity(busy_ppm=1_000_000, batch_us=100, action_us=10, burst_ms=100)


def order(flags: int = 0) -> Order:
    return Order(0, 0, 1_000, 5, GTC, 0, flags, 0)


def batch(account: int, nonce: int, *actions: Any, signer: bytes = TRADER) -> bytes:
    body = encode(ActionBatch(account, nonce, 0, list(actions)))
    return encode(SignedBatch(1, signer, body, bytes(64)))


class World:
    """A pool and the last block's time."""

    def __init__(self, capacity: Capacity = CAPACITY) -> None:
        self.pool = BatchPool(1 << 20, 256, 0, 0, 0, 1_000, capacity, {ORACLE})
        self.nonce = 0

    def add(self, account: int, *actions: Any, signer: bytes = TRADER) -> int:
        """Number of the batch, which is its nonce."""
        self.nonce += 1
        raw = batch(account, self.nonce, *actions, signer=signer)
        self.pool.add(batch_id(raw), raw, *open_batch(raw))
        return self.nonce

    def propose(self, since_ms: int = 20) -> list[int]:
        raw = self.pool.propose([], 1_000 + since_ms)
        return [open_batch(one)[1].nonce_ms for one in decode_payload(raw).batches] if raw else []

    def check(self, numbers: list[bytes], since_ms: int = 20) -> None:
        header: Any = SimpleNamespace(time_ms=1_000 + since_ms)
        payload = encode(OrderedPayload(0, numbers))
        self.pool.check(SimpleNamespace(header=header, payload=payload), [])  # type: ignore[arg-type]


def test_a_stranger_who_names_an_account_does_not_hold_its_cancels_back() -> None:
    world, stranger = World(), bytes(31) + b"\x03"
    for _ in range(20):
        world.add(16, order(), signer=stranger)  # execution will refuse these
    cancel = world.add(16, Cancel(0, 1))
    assert world.propose()[0] == cancel


def test_what_stands_in_which_lane() -> None:
    cases: list[tuple[Lane, int, bytes, list[Any]]] = [
        (Lane.ORACLE, 0, ORACLE, [OraclePrice(0, 5)]),
        (Lane.OTHER, 0, TRADER, [OraclePrice(0, 5)]),
        (Lane.OTHER, 16, ORACLE, [order()]),
        (Lane.REDUCING, 16, TRADER, [Cancel(0, 1), Transfer(17, 5), order(REDUCE_ONLY)]),
        (Lane.REDUCING, 16, TRADER, [MarketOrder(0, 0, 5, 0, 0, REDUCE_ONLY)]),
        (Lane.OTHER, 16, TRADER, [Cancel(0, 1), order()]),
    ]
    for lane, account, signer, actions in cases:
        assert lane_of(ActionBatch(account, 1, 0, actions), signer, {ORACLE}) == lane


def test_prices_and_cancels_overtake_orders_of_others() -> None:
    world = World()
    orders = [world.add(16 + n, order()) for n in range(5)]
    cancel = world.add(90, Cancel(0, 1))
    price = world.add(0, OraclePrice(0, 5), signer=ORACLE)
    assert world.propose() == [price, cancel, *orders]


def test_batches_of_one_account_keep_their_order() -> None:
    world = World()
    numbers = [world.add(16, order()), world.add(16, Cancel(0, 1)), world.add(17, Cancel(0, 2))]
    assert world.propose() == [numbers[2], numbers[0], numbers[1]]


def test_a_block_holds_no_more_work_than_its_time_allows_and_half_of_it_is_kept() -> None:
    world = World()
    # 110 us each: 9 fit a millisecond, 4 of them cancels before the orders.
    cancels = [world.add(100 + n, Cancel(0, 1)) for n in range(20)]
    orders = [world.add(200 + n, order()) for n in range(20)]
    assert world.propose(1) == cancels[:4] + orders[:5]
    assert world.propose(2) == cancels[:9] + orders[:9]
    assert len(world.propose(1_000_000)) == 40


def test_prices_fit_a_block_however_little_time_has_passed_and_one_batch_does() -> None:
    world = World()
    prices = [world.add(0, OraclePrice(0, 5 + n), signer=ORACLE) for n in range(9)]
    orders = [world.add(16, *[order()] * 100) for _ in range(3)]
    assert world.propose(1) == [*prices, orders[0]]
    assert world.propose(0) == [*prices, orders[0]]


def test_blocks_with_more_work_than_their_time_allows_get_no_vote() -> None:
    world = World()
    mine = [batch(16, n, order()) for n in range(1, 10)]
    world.pool.add(batch_id(mine[0]), mine[0], *open_batch(mine[0]))
    world.check(mine, 1)
    mine.append(batch(16, 10, order()))
    with pytest.raises(Rejected, match="us of work") as caught:
        world.check(mine, 1)
    assert caught.value.code == Code.TOO_MANY_ACTIONS
    world.check(mine, 2)
    prices = [batch(0, n, OraclePrice(0, 5), signer=ORACLE) for n in range(200)]
    world.check(mine[:9] + prices, 1)
    world.check([batch(16, 1, *[order()] * 100)], 0)


def test_no_bound_where_genesis_names_none() -> None:
    world = World(Capacity())
    orders = [world.add(16, *[order()] * 100) for _ in range(500)]
    assert world.propose(0) == orders


def test_each_lane_has_a_share_that_others_cannot_take() -> None:
    lanes = Lanes()
    taken = dict.fromkeys(Lane, 0)
    for number in range(1_000):
        lane = (Lane.OTHER, Lane.REDUCING, Lane.ORACLE)[number // 334]
        try:
            lanes.add(number.to_bytes(4, "big"), lane, Waiting(b"x", number, 1, 1), 100, 1 << 20)
            taken[lane] += 1
        except Rejected as error:
            assert error.code == Code.BUSY
    assert taken == {Lane.ORACLE: 5, Lane.REDUCING: 45, Lane.OTHER: 50}
    assert lanes.size_bytes == len(lanes) == 100
    for number in range(1_000):
        lanes.pop(number.to_bytes(4, "big"))
    assert lanes.size_bytes == len(lanes) == 0


def test_what_was_accepted_before_a_restart_is_taken_back_beyond_every_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "POOL_BATCHES_MAX", 2)
    world = World()
    for number in range(50):
        raw = batch(16, number, order())
        world.pool.add(batch_id(raw), raw, *open_batch(raw), bounded=False)
    assert len(world.pool) == 50
    raw = batch(16, 50, order())
    with pytest.raises(Rejected):
        world.pool.add(batch_id(raw), raw, *open_batch(raw))
