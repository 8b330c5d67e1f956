"""Admission, ordering and execution of stress runs: the bounds hold, the pool is the real one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from protocol.actions import ActionBatch, Cancel, OraclePrice, Order, SignedBatch
from protocol.ordering import decode_payload
from sequencer.lanes import Lane
from sequencer.pool import PAYLOAD_MARGIN_BYTES, BatchPool
from sim.random import SplitMix64
from sim.stress_queue import (
    BLOCK_MS,
    FILLER_ACTIONS,
    LEAD_MS,
    NO_BOUNDS,
    NO_COSTS,
    Bounds,
    Costs,
    Ordered,
    Pipeline,
    Policy,
    Sent,
)

T0 = 1_000_000


def sent(number: int, at_ms: int, lane: Lane = Lane.OTHER, size: int = 100) -> Sent:
    return Sent(1, number, lane, number.to_bytes(4, "big") * (size // 4), 1, at_ms, at_ms)


def numbers(block: Ordered) -> list[int]:
    return [one.nonce_ms for one in block.sent]


ORACLE = bytes(31) + b"\x01"
OPENED = {
    lane: (SignedBatch(1, ORACLE, b"", b""), ActionBatch(account, 1, 0, [action]))
    for lane, account, action in (
        (Lane.ORACLE, 0, OraclePrice(0, 1)),
        (Lane.REDUCING, 16, Cancel(0, 1)),
        (Lane.OTHER, 17, Order(0, 0, 1, 1, 0, 0, 0, 0)),
    )
}


@pytest.mark.parametrize("seed", range(10))
def test_blocks_are_filled_as_the_sequencers_pool_fills_them(seed: int) -> None:
    """Random batches, offered and ordered in turns: the same batches in the same blocks."""
    print(f"seed {seed}")
    rng = SplitMix64(seed)
    payload = 32 * 1024
    pool = BatchPool(payload, 256, 0, 0, 0, committee=[ORACLE])
    pipeline = Pipeline(
        Policy.RESERVED, NO_COSTS, NO_BOUNDS._replace(block_bytes=payload - PAYLOAD_MARGIN_BYTES)
    )
    now, number = T0, 0
    for height in range(1, 61):
        batches = []
        for _ in range(rng.below(120)):
            number += 1
            lane = Lane(min(rng.below(12), 2))
            batches.append(sent(number, now, lane, rng.between(1, 250) * 4))
        for one in batches:
            pool.add(one.raw, one.raw, *OPENED[one.lane])
        assert not pipeline.offer(batches, 0, now, now + BLOCK_MS)
        ordered = pipeline.order(now, now + BLOCK_MS)
        raw = pool.propose([], now)
        expected = decode_payload(raw).batches if raw else []
        assert [one.raw for one in ordered.sent] == expected
        for one in expected:
            pool.remember(one, height)
        now += BLOCK_MS
    assert pipeline.waiting == len(pool)
    block: Any = SimpleNamespace(header=SimpleNamespace(height=1, time_ms=now), payload=b"")
    pool.commit(block, block)


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("filler", [0, 100, 1_500, 12_000])
def test_filler_is_refused_ordered_or_waits(policy: Policy, filler: int) -> None:
    pipeline = Pipeline(policy)
    now = T0
    for step in range(200):
        pipeline.offer([], filler, now, now + 100)
        pipeline.execute(pipeline.order(now, now + 100), 0, 0, 0)
        now += 100
        offered = filler * (step + 1)
        assert pipeline.refused_filler + pipeline.ordered_filler + pipeline.waiting == offered
    assert pipeline.waiting <= pipeline.bounds.pool_batches
    assert bool(pipeline.refused_filler) == (
        filler == 12_000 or (filler == 1_500 and policy == Policy.RESERVED)
    )


def test_under_overload_fifo_lets_the_log_grow_and_reserved_does_not() -> None:
    behind = {}
    for policy in Policy:
        pipeline = Pipeline(policy)
        now = T0
        for _ in range(300):
            pipeline.offer([], 2_000, now, now + 100)
            pipeline.execute(pipeline.order(now, now + 100), 0, 0, 0)
            now += 100
        behind[policy] = pipeline.behind_ms(now)
    assert behind[Policy.FIFO] > 60_000
    assert behind[Policy.RESERVED] <= LEAD_MS + 100


def test_where_capacity_is_reserved_prices_and_cancels_pass_a_flood() -> None:
    for policy, late in ((Policy.FIFO, True), (Policy.RESERVED, False)):
        pipeline = Pipeline(policy, bounds=Bounds(block_batches=50))
        now = T0
        for _ in range(50):
            pipeline.offer([], 2_000, now, now + 100)
            pipeline.order(now, now + 100)
            now += 100
        batches = [sent(1, now, Lane.ORACLE), sent(2, now, Lane.OTHER)]
        pipeline.offer(batches, 0, now, now + 100)
        ordered = pipeline.order(now, now + 100)
        assert (1 in numbers(ordered)) != late
        assert 2 not in numbers(ordered)


def test_prices_pass_however_late_execution_is() -> None:
    pipeline = Pipeline(Policy.RESERVED)
    pipeline.execute(Ordered(T0, T0 + 100, [], 100_000), 0, 0, 0)
    assert pipeline.behind_ms(T0 + 100) > 10_000
    batches = [sent(1, T0 + 100, Lane.ORACLE), sent(2, T0 + 100, Lane.REDUCING)]
    pipeline.offer(batches, 0, T0 + 100, T0 + 200)
    assert numbers(pipeline.order(T0 + 100, T0 + 200)) == [1]


def test_neither_cancels_nor_the_rest_take_all_of_a_block() -> None:
    """Half of a block is for what reduces risk, and it takes what the others leave."""
    pipeline = Pipeline(Policy.RESERVED, NO_COSTS, NO_BOUNDS._replace(block_batches=10))
    batches = [sent(n, T0, Lane.REDUCING) for n in range(20)]
    batches += [sent(n, T0, Lane.OTHER) for n in range(20, 23)]
    pipeline.offer(batches, 0, T0, T0 + BLOCK_MS)
    assert numbers(pipeline.order(T0, T0 + BLOCK_MS)) == [0, 1, 2, 3, 4, 20, 21, 22, 5, 6]


def test_admission_is_a_core_with_a_bounded_queue() -> None:
    costs = Costs(admit_batch_ns=10_000_000, admit_action_ns=0)
    pipeline = Pipeline(Policy.FIFO, costs, Bounds(admission_ms=50))
    batches = [sent(n, T0) for n in range(8)]
    refused = pipeline.offer(batches, 0, T0, T0 + 20)
    assert [one.nonce_ms for one in refused] == [5, 6, 7]
    assert numbers(pipeline.order(T0, T0 + 20)) == [0, 1]
    assert numbers(pipeline.order(T0 + 20, T0 + 60)) == [2, 3, 4]


def test_execution_works_blocks_off_one_after_the_other() -> None:
    costs = Costs(batch_ns=1_000_000, action_ns=500_000, mark_ns=3_000_000, ordering_ms=12)
    pipeline = Pipeline(Policy.FIFO, costs)
    block = Ordered(T0, T0 + BLOCK_MS, [sent(1, T0), sent(2, T0)], 0)
    assert pipeline.execute(block, 0, 0, 0) == T0 + BLOCK_MS + 12 + 3
    # The next one waits: 1,000 filler batches of 20 actions take 11 ms each.
    heavy = Ordered(T0 + 20, T0 + 40, [], 1_000)
    assert pipeline.execute(heavy, 0, 0, 0) == T0 + 52 + 11_000
    assert pipeline.execute(Ordered(T0 + 40, T0 + 60, [], 0), 1, 0, 0) == T0 + 52 + 11_003
    assert FILLER_ACTIONS * 500_000 + 1_000_000 == 11_000_000


def test_a_step_of_many_blocks_is_no_delay_of_its_own() -> None:
    """Of 500 ms of load at half of capacity the last block is done soon after its end."""
    costs = Costs()
    filler = 500_000_000 // (costs.batch_ns + FILLER_ACTIONS * costs.action_ns) // 2
    pipeline = Pipeline(Policy.FIFO, costs)
    done = pipeline.execute(Ordered(T0, T0 + 500, [], filler), 0, 0, 0)
    assert T0 + 512 <= done <= T0 + 500 + 12 + 11


def test_an_account_that_waits_has_its_turn_in_every_block_of_a_step() -> None:
    costs = NO_COSTS._replace(visit_ns=1_000_000, move_ns=1_000)
    done = Pipeline(Policy.FIFO, costs).execute(Ordered(T0, T0 + 100, [], 0), 0, 100, 1_000)
    assert done == T0 + 501


def test_the_ideal_exchange_has_no_delay() -> None:
    pipeline = Pipeline(Policy.FIFO, NO_COSTS, NO_BOUNDS)
    assert not pipeline.offer([sent(n, T0) for n in range(100_000)], 0, T0, T0 + 20)
    ordered = pipeline.order(T0, T0 + 20)
    assert len(ordered.sent) == 100_000
    assert pipeline.execute(ordered, 5, 5, 5) == T0 + 20
