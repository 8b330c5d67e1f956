"""True prices for stress runs: candles, refined by Brownian bridges, and synthetic crashes.

Everything is integer arithmetic from a seed, so a path is the same on every machine. Inside a
candle the path starts at the open, touches high and low, never leaves them, and ends at the close.
Its variance is Parkinson's estimate from the candle's range ("The extreme value method for
estimating the variance of the rate of return", 1980).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

from protocol.errors import ConfigError
from sim.random import PPM, SplitMix64, derive_seed

FINE = 256
"""Bridges are computed in 1/256 of a tick."""
PARKINSON = (1_000, 2_773)
"""Variance of a candle as a part of its squared range: 1 / (4 ln 2)."""
NORMAL_SD = 37_837
"""Standard deviation of the sum of four 16-bit uniform numbers, which stands for a normal one."""
ACTIVITY_MAX_PPM = 20 * PPM
"""Load follows volatility up to twenty times that of a usual candle."""
VOLATILITY_STEPS = 30
"""Steps that present volatility is the mean absolute change of."""


class Candle(NamedTuple):
    """A candle: start in milliseconds since the epoch, prices in micro-dollars."""

    time_ms: int
    open_uusd: int
    high_uusd: int
    low_uusd: int
    close_uusd: int


class Path(NamedTuple):
    """Prices in ticks every `step_ms` from `start_ms` on.

    `activity_ppm`: the candle's range against a usual one; `volatility_ppb`: mean absolute change
    per step over the last `VOLATILITY_STEPS`, in parts per billion of the price.
    """

    start_ms: int
    step_ms: int
    ticks: list[int]
    activity_ppm: list[int]
    volatility_ppb: list[int]

    def step_at(self, time_ms: int) -> int:
        """Step of a time, the first or last one outside the path."""
        return min(max((time_ms - self.start_ms) // self.step_ms, 0), len(self.ticks) - 1)


def check_candles(candles: Sequence[Candle]) -> int:
    """The candles' length in milliseconds; raises `ConfigError` for what is not a series."""
    if len(candles) < 2:
        raise ConfigError("a series of prices needs two candles at least")
    length_ms = min(after.time_ms - before.time_ms for before, after in pairwise(candles))
    if length_ms <= 0:
        raise ConfigError("the candles are not in ascending order of time")
    for candle in candles:
        low, high = candle.low_uusd, candle.high_uusd
        if not 0 < low <= min(candle.open_uusd, candle.close_uusd) or not high >= max(
            candle.open_uusd, candle.close_uusd
        ):
            raise ConfigError(f"the candle at {candle.time_ms} ms has its prices out of order")
    return length_ms


def usual_range_ppm(candles: Sequence[Candle]) -> int:
    """Median range of candles, in parts per million of the open, at least 1."""
    ranges = sorted((c.high_uusd - c.low_uusd) * PPM // c.open_uusd for c in candles)
    return max(ranges[len(ranges) // 2], 1)


def refine(
    candles: Sequence[Candle],
    length_ms: int,
    step_ms: int,
    tick_uusd: int,
    usual_ppm: int,
    seed: int,
) -> Path:
    """The path through candles without gaps, each `length_ms` long, in steps of `step_ms`."""
    steps = length_ms // step_ms
    if steps < 4 or length_ms % step_ms:
        raise ConfigError(f"a candle of {length_ms} ms does not divide into steps of {step_ms} ms")
    rng = SplitMix64(derive_seed(seed, "prices"))
    ticks: list[int] = []
    activity: list[int] = []
    for candle in candles:
        ticks += _bridge(candle, steps, tick_uusd, rng)
        range_ppm = (candle.high_uusd - candle.low_uusd) * PPM // candle.open_uusd
        activity += [min(range_ppm * PPM // usual_ppm, ACTIVITY_MAX_PPM)] * steps
    return Path(candles[0].time_ms, step_ms, ticks, activity, _volatility_ppb(ticks))


def _volatility_ppb(ticks: list[int]) -> list[int]:
    found: list[int] = []
    changes = [0] * VOLATILITY_STEPS
    total = 0
    before = ticks[0]
    for step, now in enumerate(ticks):
        change = abs(now - before) * 1_000_000_000 // before
        total += change - changes[step % VOLATILITY_STEPS]
        changes[step % VOLATILITY_STEPS] = change
        found.append(total // min(step + 1, VOLATILITY_STEPS))
        before = now
    return found


def _bridge(candle: Candle, steps: int, tick_uusd: int, rng: SplitMix64) -> list[int]:
    first, high, low, last = (max(price // tick_uusd, 1) * FINE for price in candle[1:])
    spread = high - low
    if not spread:
        return [low // FINE] * steps
    # The shorter way over both extremes is the more probable one.
    high_first = (high - first) + (last - low)
    low_first = (first - low) + (high - last)
    over_high, over_low = (spread + low_first) ** 4, (spread + high_first) ** 4
    extremes = [high, low] if rng.below(over_high + over_low) < over_high else [low, high]
    # Each of the three ways takes a tenth of the time at least: the range is not one jump.
    least = max(steps // 10, 1)
    spare = steps - 1 - 3 * least
    early, late = sorted((rng.between(0, spare), rng.between(0, spare)))
    pins = [(0, first), (steps - 1, last)]
    if extremes[0] != first:
        pins.insert(1, (early + least, extremes[0]))
    if extremes[1] != last:
        pins.insert(-1, (late + 2 * least, extremes[1]))
    path = [0] * steps
    for place, price in pins:
        path[place] = price
    scale, part = PARKINSON
    variance = (spread * spread * scale, part * steps)
    for (left, _), (right, _) in pairwise(pins):
        _fill(path, left, right, variance, (low, high), rng)
    return [max(price // FINE, 1) for price in path]


def _fill(
    path: list[int],
    left: int,
    right: int,
    variance: tuple[int, int],
    bounds: tuple[int, int],
    rng: SplitMix64,
) -> None:
    """Bisect: each midpoint is normal around the line between its neighbours."""
    low, high = bounds
    numerator, denominator = variance
    waiting = [(left, right)]
    while waiting:
        left, right = waiting.pop()
        middle = (left + right) // 2
        if middle == left:
            continue
        length = right - left
        mean = (path[left] * (right - middle) + path[right] * (middle - left)) // length
        share = (middle - left) * (right - middle)
        sd = isqrt(numerator * share // (denominator * length))
        price = mean + sd * _normal(rng) // NORMAL_SD
        # Reflected once, then cut: what leaves the candle did not happen.
        if price < low:
            price = 2 * low - price
        elif price > high:
            price = 2 * high - price
        path[middle] = min(max(price, low), high)
        waiting += [(left, middle), (middle, right)]


def _normal(rng: SplitMix64) -> int:
    """About normal with mean 0 and standard deviation `NORMAL_SD` (Irwin and Hall, n = 4)."""
    bits = rng.next()
    parts = (bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48)
    return parts - 2 * 0xFFFF


def synthetic_candles(
    seed: int, calm: int, length_ms: int, start_ms: int, price_uusd: int, calm_ppm: int = 800
) -> list[Candle]:
    """`calm` candles that change by about `calm_ppm`, then a fall of a fifth within eight candles,
    half of which comes back in the next eight."""
    rng = SplitMix64(derive_seed(seed, "candles"))
    changes_ppm = [_normal(rng) * calm_ppm // NORMAL_SD for _ in range(calm)]
    changes_ppm += [-6_000, -15_000, -22_000, -40_000, -70_000, -45_000, 9_000, -30_000]
    changes_ppm += [40_000, 20_000, -10_000, 25_000, 5_000, 15_000, -5_000, 10_000]
    candles = []
    price = price_uusd
    for number, change_ppm in enumerate(changes_ppm):
        close = price + price * change_ppm // PPM
        wick_ppm = 300 + abs(change_ppm) // 3
        high = max(price, close) + price * rng.below(wick_ppm) // PPM
        low = min(price, close) - price * rng.below(wick_ppm) // PPM
        candles.append(Candle(start_ms + number * length_ms, price, high, low, close))
        price = close
    return candles
