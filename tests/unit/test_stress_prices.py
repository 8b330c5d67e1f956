"""True prices of stress runs: bridges stay in their candles, and hang on the seed alone."""

from __future__ import annotations

from itertools import pairwise

import pytest

from protocol.errors import ConfigError
from sim.random import SplitMix64
from sim.stress_prices import (
    ACTIVITY_MAX_PPM,
    Candle,
    check_candles,
    refine,
    synthetic_candles,
    usual_range_ppm,
)

TICK = 100_000
MINUTE = 60_000
DOLLAR = 1_000_000


def candles(*prices: tuple[int, int, int, int]) -> list[Candle]:
    return [
        Candle(number * MINUTE, *(price * DOLLAR for price in four))
        for number, four in enumerate(prices)
    ]


def random_candles(seed: int, count: int) -> list[Candle]:
    rng = SplitMix64(seed)
    found = []
    for _ in range(count):
        low = rng.between(100, 10_000)
        high = low + rng.pick((0, 1, 5, 300))
        found.append((rng.between(low, high), high, low, rng.between(low, high)))
    return candles(*found)


@pytest.mark.parametrize("seed", range(8))
def test_a_path_starts_at_the_open_touches_high_and_low_and_ends_at_the_close(seed: int) -> None:
    print(f"seed {seed}")
    series = random_candles(seed, 40)
    path = refine(series, MINUTE, 500, TICK, 1_000, seed)
    steps = MINUTE // 500
    assert len(path.ticks) == steps * len(series)
    for number, candle in enumerate(series):
        part = path.ticks[number * steps : (number + 1) * steps]
        first, high, low, last = (price // TICK for price in candle[1:])
        assert (part[0], max(part), min(part), part[-1]) == (first, high, low, last)


def test_a_path_hangs_on_its_seed_alone() -> None:
    series = random_candles(1, 5)
    one, same, other = (refine(series, MINUTE, 100, TICK, 1_000, seed) for seed in (7, 7, 8))
    assert one == same
    assert one.ticks != other.ticks
    # Written down, so that a change of the arithmetic or of the platform's shows.
    assert sum(number * ticks for number, ticks in enumerate(one.ticks)) == 228_628_127_057


def test_the_way_between_is_as_rough_as_the_range_says() -> None:
    """The mean squared change per step is near Parkinson's estimate."""
    rough = candles(*[(1_000, 1_100, 900, 1_000)] * 200)
    ticks = refine(rough, MINUTE, 100, TICK, 1_000, 3).ticks
    changes = [(b - a) ** 2 for a, b in pairwise(ticks)]
    expected = 2_000**2 * 1_000 / 2_773 / 600
    assert 0.5 < sum(changes) / len(changes) / expected < 2


def test_activity_follows_the_range_and_is_bounded() -> None:
    series = candles((100, 101, 100, 101), (101, 103, 101, 103), (103, 150, 90, 103))
    path = refine(series, MINUTE, 1_000, TICK, 10_000, 1)
    calm, livelier, wild = (path.activity_ppm[number * 60] for number in range(3))
    assert (calm, livelier, wild) == (1_000_000, 1_980_100, ACTIVITY_MAX_PPM)
    assert usual_range_ppm(series) == 19_801


def test_volatility_is_the_mean_change_of_the_last_steps() -> None:
    flat = candles((100, 100, 100, 100), (100, 100, 100, 100))
    assert set(refine(flat, MINUTE, 1_000, TICK, 1, 1).volatility_ppb) == {0}
    moving = refine(candles((100, 120, 80, 100)), MINUTE, 1_000, TICK, 1, 1)
    last = moving.ticks[-31:]
    mean = sum(abs(b - a) * 1_000_000_000 // a for a, b in pairwise(last)) // 30
    assert abs(moving.volatility_ppb[-1] - mean) <= 1


def test_times_outside_a_path_are_its_ends() -> None:
    path = refine(candles((1, 1, 1, 1), (2, 2, 2, 2)), MINUTE, 1_000, TICK, 1, 1)
    assert [path.step_at(ms) for ms in (-5, 0, 999, 1_000, 119_999, 10**9)] == [
        0, 0, 0, 1, 119, 119,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("series", "says"),
    [
        ([Candle(0, 1, 1, 1, 1)], "two candles"),
        ([Candle(0, 1, 1, 1, 1), Candle(0, 1, 1, 1, 1)], "ascending"),
        ([Candle(0, 1, 1, 1, 1), Candle(5, 3, 2, 1, 2)], "out of order"),
        ([Candle(0, 0, 0, 0, 0), Candle(5, 1, 1, 1, 1)], "out of order"),
    ],
)
def test_what_is_not_a_series_is_refused(series: list[Candle], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_candles(series)


def test_a_candle_must_divide_into_steps() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        refine(candles((1, 1, 1, 1)), MINUTE, 7_000, TICK, 1, 1)


def test_the_synthetic_crash_falls_by_a_fifth_and_comes_back() -> None:
    series = synthetic_candles(1, 10, MINUTE, 0, 50_000 * DOLLAR)
    assert check_candles(series) == MINUTE
    before, low = series[9].close_uusd, min(candle.low_uusd for candle in series)
    assert 0.76 < low / before < 0.84
    assert series[-1].close_uusd > low * 1.05
