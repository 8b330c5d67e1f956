"""The committee's median, and when a jump of it is believed."""

from __future__ import annotations

import random

import pytest

from margin.oracle import (
    NEVER_MS,
    Level,
    Median,
    Observation,
    beyond,
    committee_median,
    follow,
    least_members,
)

NOW = 1_000_000


def seen(ticks: int, stake: int = 1, age_ms: int = 0, confidence_ppm: int = 0) -> Observation:
    return Observation(ticks, confidence_ppm, NOW - age_ms, stake)


def median(
    *prices: Observation, of: int, age_ms: int = 0, confidence_ppm: int = 0, now: int = NOW
) -> int:
    return committee_median(prices, of, 1, now, age_ms, confidence_ppm).price_ticks


def test_more_than_half_of_the_stake_must_count() -> None:
    assert median(of=0) == 0
    assert median(of=3) == 0
    assert median(seen(5), of=1) == 5
    assert median(seen(5), of=2) == 0
    assert median(seen(9), seen(5), of=3) == 5
    assert median(seen(5, 50), of=100) == 0
    assert median(seen(5, 51), of=100) == 5


def test_a_member_with_more_than_half_of_the_stake_is_not_enough() -> None:
    prices = [seen(5, 3), seen(9), seen(9)]
    assert committee_median(prices, 5, 2, NOW, 0, 0).price_ticks == 5
    assert committee_median(prices[:2], 5, 2, NOW, 0, 0).price_ticks == 5
    assert committee_median(prices[:1], 5, 2, NOW, 0, 0) == Median(0, NEVER_MS)
    assert committee_median(prices[:1], 5, 1, NOW, 0, 0).price_ticks == 5
    # Who is too old or too vague is not there.
    old = [seen(5, 3), seen(9, age_ms=11), seen(9, confidence_ppm=8)]
    assert committee_median(old, 5, 2, NOW, 10, 7) == Median(0, NEVER_MS)
    assert [least_members(count) for count in (1, 2, 3, 4)] == [1, 1, 2, 2]


def test_equal_stakes_give_the_lower_median() -> None:
    assert median(seen(9), seen(1), seen(5), of=3) == 5
    assert median(seen(9), seen(1), seen(5), seen(7), of=4) == 5


def test_stake_decides_and_not_the_number_of_members() -> None:
    crowd = [seen(1), seen(2), seen(3), seen(4)]
    assert median(*crowd, seen(100, 5), of=9) == 100
    assert median(*crowd, seen(100, 4), of=8) == 4
    assert median(*crowd, seen(100, 3), of=7) == 4


def test_the_order_of_the_reports_changes_nothing() -> None:
    rng = random.Random(7)
    prices = [seen(rng.randint(1, 9), rng.randint(1, 5)) for _ in range(9)]
    total = sum(price.stake for price in prices)
    found = median(*prices, of=total)
    for _ in range(50):
        rng.shuffle(prices)
        assert median(*prices, of=total) == found


def test_a_price_counts_up_to_its_age() -> None:
    prices = [seen(5, age_ms=3_000), seen(7, age_ms=1_000), seen(9)]
    assert median(*prices, of=3, age_ms=3_000) == 7
    assert median(*prices, of=3, age_ms=2_999) == 7
    assert median(*prices[:2], of=3, age_ms=3_000) == 5
    assert median(*prices[:2], of=3, age_ms=2_999) == 0
    assert median(seen(5, age_ms=NOW), of=1) == 5, "no limit: prices do not age"


def test_the_median_stands_until_the_first_price_is_too_old() -> None:
    prices = [seen(5, age_ms=300), seen(7, age_ms=100), seen(9)]
    found = committee_median(prices, 3, 1, NOW, 1_000, 0)
    assert found == Median(7, NOW + 700)
    assert committee_median(prices, 3, 1, NOW + 700, 1_000, 0).price_ticks == 7
    # The oldest is gone: of 7 and 9 the lower one.
    assert committee_median(prices, 3, 1, NOW + 701, 1_000, 0) == Median(7, NOW + 900)
    assert committee_median(prices, 3, 1, NOW + 901, 1_000, 0) == Median(0, NEVER_MS)
    assert committee_median(prices, 3, 1, NOW, 0, 0).until_ms == NEVER_MS


def test_a_vague_price_does_not_count() -> None:
    prices = [seen(5, confidence_ppm=101), seen(7, confidence_ppm=100), seen(9)]
    assert median(*prices, of=3, confidence_ppm=100) == 7
    assert median(*prices, of=3, confidence_ppm=99) == 0
    assert median(*prices, of=3) == 7


@pytest.mark.parametrize("seed", range(5))
def test_the_median_against_a_list_of_single_stakes(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        prices = [
            seen(rng.randint(1, 20), rng.randint(1, 6), rng.randint(0, 9), rng.randint(0, 9))
            for _ in range(rng.randint(0, 7))
        ]
        total = sum(p.stake for p in prices) + rng.randint(0, 3)
        age, confidence = rng.randint(0, 9), rng.randint(0, 9)
        single = sorted(
            p.price_ticks
            for p in prices
            for _ in range(p.stake)
            if not (age and NOW - p.time_ms > age)
            and not (confidence and p.confidence_ppm > confidence)
        )
        expected = single[(len(single) - 1) // 2] if 2 * len(single) > total else 0
        assert median(*prices, of=total, age_ms=age, confidence_ppm=confidence) == expected


def test_less_than_half_of_what_counts_cannot_leave_the_range_of_the_others() -> None:
    rng = random.Random(3)
    for _ in range(300):
        honest = [seen(rng.randint(990, 1_010), rng.randint(1, 9)) for _ in range(5)]
        stake = sum(p.stake for p in honest)
        liar = seen(rng.choice((1, 10**9)), rng.randint(1, stake - 1))
        found = median(*honest, liar, of=stake + liar.stake)
        assert 990 <= found <= 1_010


# -- jumps


def test_at_the_bound_a_price_is_not_beyond() -> None:
    assert not beyond(1_100, 1_000, 100_000)
    assert beyond(1_101, 1_000, 100_000)
    assert not beyond(900, 1_000, 100_000)
    assert beyond(899, 1_000, 100_000)


def step(level: Level, ticks: int, now: int, hold_ms: int = 1_000) -> Level:
    return follow(level, ticks, now, 100_000, hold_ms)


def test_a_price_near_the_last_is_accepted_at_once() -> None:
    level = step(Level(0), 1_000, 1)
    assert level == Level(1_000), "the first price has nothing to deviate from"
    assert step(level, 1_100, 2) == Level(1_100, 0, 0, 2, 1_000)
    assert follow(Level(1_000), 9_999, 2, 0, 1_000) == Level(9_999), "no bound"


def test_many_small_moves_are_held_to_the_bound_together() -> None:
    level = step(Level(1_000), 1_060, 5_000)
    level = step(level, 1_100, 5_020)
    assert level == Level(1_100, 0, 0, 5_000, 1_000)
    level = step(level, 1_101, 5_040)
    assert level == Level(1_100, 5_040, 1_101, 5_000, 1_000), "one tick beyond in two blocks"
    assert step(level, 1_100, 5_060) == Level(1_100, 0, 0, 5_000, 1_000)
    assert step(level, 901, 5_060) == Level(901, 0, 0, 5_000, 1_000)
    assert step(level, 1_150, 5_999) == level
    # A hold time after the first move the next one begins, from the price that stands.
    assert step(level, 1_150, 6_000) == Level(1_150, 0, 0, 6_000, 1_100)


def test_a_hold_time_begins_with_a_move() -> None:
    level = step(Level(1_000), 1_050, 5_000)
    for now in (5_500, 6_000, 9_990):
        level = step(level, 1_050, now)
    assert level == Level(1_050, 0, 0, 5_000, 1_000), "nothing to write while the price stands"
    level = step(level, 1_150, 10_000)
    assert level == Level(1_150, 0, 0, 10_000, 1_050)
    assert step(level, 1_156, 10_020).wild_ms == 10_020


@pytest.mark.parametrize("seed", range(4))
def test_no_walk_leaves_the_bound_faster_than_it_may(seed: int) -> None:
    """Medians that push up in every block: within a hold time the accepted price rises by two
    bounds at most, and in the long run by one for each hold time."""
    print("seed", seed)
    rng = random.Random(seed)
    level, now, seen = Level(1_000_000), 10_000, []
    for _ in range(2_000):
        now += rng.choice((0, 20, 20, 90))
        push = rng.choice((1, 1_000, 20_000, 99_000))
        level = step(level, level.price_ticks * (1_000_000 + push) // 1_000_000, now)
        seen.append((now, level.price_ticks))
    for start, (since, before) in enumerate(seen):
        inside = [ticks for at, ticks in seen[start:] if at < since + 1_000]
        assert max(inside) * 100 <= before * 121
    held = (seen[-1][0] - seen[0][0]) // 1_000 + 2
    assert level.price_ticks <= 1_000_000 * 1.1**held


def test_a_jump_is_accepted_after_it_has_held() -> None:
    level = step(Level(1_000), 1_200, 10)
    assert level == Level(1_000, 10, 1_200, 10, 1_000)
    level = step(level, 1_250, 500)
    assert level == Level(1_000, 10, 1_200, 10, 1_000), "near where it jumped to: the same jump"
    assert step(level, 1_300, 1_009) == level
    assert step(level, 1_300, 1_010) == Level(1_300)


def test_after_a_jump_the_bound_is_measured_from_there() -> None:
    level = step(step(Level(1_000), 1_300, 10), 1_300, 1_010)
    assert step(level, 1_430, 1_020) == Level(1_430, 0, 0, 1_020, 1_300)
    assert step(level, 1_431, 1_020).wild_ms == 1_020


def test_a_jump_back_ends_it() -> None:
    level = step(Level(1_000), 1_200, 10)
    assert step(level, 1_050, 20) == Level(1_050, 0, 0, 10, 1_000)
    assert step(level, 1_000, 20) == Level(1_000, 0, 0, 10, 1_000)


def test_a_jump_elsewhere_begins_anew() -> None:
    level = step(Level(1_000), 1_200, 10)
    level = step(level, 800, 900)
    assert level[:3] == (1_000, 900, 800)
    level = step(level, 800, 1_899)
    assert level[:3] == (1_000, 900, 800)
    assert step(level, 800, 1_900) == Level(800)


def test_an_unknown_price_interrupts_the_wait_and_keeps_the_last() -> None:
    level = step(Level(1_000), 1_200, 10)
    level = step(level, 0, 500)
    assert level == Level(1_000, 0, 0, 10, 1_000)
    assert step(level, 1_200, 1_010)[:3] == (1_000, 1_010, 1_200)


def test_without_a_wait_a_jump_is_accepted_at_once() -> None:
    assert step(Level(1_000), 5_000, 10, hold_ms=0) == Level(5_000)
