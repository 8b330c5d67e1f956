"""Realised profit: what counts by hour and is forgotten when, and what each account counts for."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from engine_world import START_MS, make_chain, market

from execution import leaves as lv
from execution.realised import Realised
from execution.state import State
from margin.account import Account
from margin.deleveraging import HOUR_MS
from protocol.genesis import Limits
from protocol.settlement import account_number, master_of

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


# -- shares


def family_state(rng: random.Random) -> tuple[State, dict[int, int]]:
    """A state in which accounts of three masters, and one alone, have positions: their lots."""
    state = State(CHAIN)
    lots: dict[int, int] = {}
    for master in (16, 17, 18, 19):
        subs = [] if master == 19 else [account_number(master, n) for n in (1, 2, 3, 5)]
        for number in [master, *subs, account_number(master, 1, 0)][: 1 if master == 19 else 6]:
            account = state.accounts[number] = Account(number, b"")
            lots[number] = rng.choice((0, 1, -1, rng.randint(-50, 50)))
            account.exposure(0).size_lots = lots[number]
    return state, lots


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_of_a_side_sum_up_to_what_the_master_realised(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    state, lots = family_state(rng)
    realised = Realised(state)
    whole = {
        master: rng.choice((0, 1, -1, rng.randint(-(10**9), 10**9))) for master in range(16, 20)
    }
    for master, amount in whole.items():
        state.realised_uusd[master, 0] = amount
    for master, amount in whole.items():
        for sign in (1, -1):
            side = {n: abs(size) for n, size in lots.items()
                    if master_of(n) == master and size * sign > 0}  # fmt: skip
            parts = {n: realised.share_uusd(n, 0) for n in side}
            if side:
                assert sum(parts.values()) == amount
            for number, part in parts.items():
                assert abs(part - Fraction(amount * side[number], sum(side.values()))) < 1


def test_an_account_alone_counts_all_of_it_and_one_without_a_position_nothing() -> None:
    state, lots = family_state(random.Random(1))
    realised = Realised(state)
    sub = account_number(16, 1)
    state.realised_uusd[16, 0] = state.realised_uusd[19, 0] = 77
    state.accounts[19].exposure(0).size_lots = 5
    assert realised.share_uusd(19, 0) == 77
    state.accounts[sub].exposure(0).size_lots = 0
    assert realised.share_uusd(sub, 0) == 0
    assert lots and realised.family(19) == [19]
    assert realised.family(sub) == realised.family(16)
    assert realised.family(16) == sorted(n for n in lots if master_of(n) == 16)


def test_an_account_that_begins_belongs_to_the_family_from_the_next_block_on() -> None:
    state = State(CHAIN)
    state.accounts[16] = Account(16, b"")
    realised = Realised(state)
    assert realised.family(16) == [16]
    for index in (2, 1):
        number = account_number(16, index)
        state.begin(state.height + 1, START_MS)
        state.accounts[number] = account = Account(number, b"")
        state.dirty_accounts[account] = None
        realised.fold()
        state.commit()
    assert realised.family(16) == [16, account_number(16, 1), account_number(16, 2)]
