"""Realised profit by hour: what counts, and what is forgotten when."""

from __future__ import annotations

import random

from engine_world import START_MS, make_chain, market

from execution import leaves as lv
from execution.realised import Realised
from execution.state import State
from margin.deleveraging import HOUR_MS
from protocol.genesis import Limits

CHAIN = make_chain([market(0), market(1)], Limits(expiries_per_block=2))


def fold(state: State, realised: Realised, time_ms: int, **amounts: int) -> None:
    """A block at a time in which accounts realise profit in market 0 (a16=5)."""
    state.begin(state.height + 1, time_ms)
    for name, amount in amounts.items():
        state.realised_uusd[int(name[1:]), 0] = amount
    realised.fold()
    state.commit()


def test_it_counts_for_a_day_and_the_running_block() -> None:
    state = State(CHAIN)
    realised = Realised(state)
    fold(state, realised, START_MS, a16=100)
    fold(state, realised, START_MS + HOUR_MS, a16=-30)
    assert realised.within_day_uusd(16, 0) == 70
    state.begin(state.height + 1, START_MS + HOUR_MS)
    state.realised_uusd[16, 0] = 5
    assert realised.within_day_uusd(16, 0) == 75
    assert realised.within_day_uusd(16, 1) == realised.within_day_uusd(17, 0) == 0
    fold(state, realised, START_MS + 24 * HOUR_MS)
    assert realised.within_day_uusd(16, 0) == 75 - 5
    fold(state, realised, START_MS + 25 * HOUR_MS)
    assert realised.within_day_uusd(16, 0) == -30
    fold(state, realised, START_MS + 26 * HOUR_MS)
    assert realised.within_day_uusd(16, 0) == 0
    assert not state.realised.rows


def test_a_row_holds_a_day_at_most() -> None:
    state = State(CHAIN)
    realised = Realised(state)
    for hour in range(60):
        fold(state, realised, START_MS + hour * HOUR_MS, a16=1)
        assert realised.within_day_uusd(16, 0) == min(hour + 1, 25)
    assert len(state.realised.rows[lv.realised_key(16, 0)].hours) == 25


def test_old_rows_go_a_few_in_each_block_and_alike_after_a_restart() -> None:
    rng = random.Random(4)
    state = State(CHAIN)
    realised = Realised(state)
    time_ms = START_MS
    for _ in range(300):
        time_ms += rng.choice((0, 10, HOUR_MS // 2, 3 * HOUR_MS, 30 * HOUR_MS))
        amounts = {f"a{rng.randint(16, 30)}": rng.randint(-5, 5) for _ in range(rng.randint(0, 3))}
        before = len(state.realised.rows)
        fold(state, realised, time_ms, **amounts)
        assert len(state.realised.rows) >= before - 2
        if rng.random() < 0.2:
            leaves = state.leaves()
            state = State.restore(CHAIN, reversed(leaves.items()))
            realised = Realised(state)
            assert state.leaves() == leaves
    for _ in range(30):
        time_ms += 30 * HOUR_MS
        fold(state, realised, time_ms)
    assert not state.realised.rows


def test_nothing_realised_writes_nothing() -> None:
    state = State(CHAIN)
    fold(state, Realised(state), START_MS, a16=0)
    assert not state.realised.rows
