"""Oracle prices: the committee's median, and when it is believed.

Prices are ticks, stakes any positive weights, rates parts per million, times block time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from protocol.markets import PPM

NEVER_MS = 1 << 62
"""A time that no block reaches."""


class Observation(NamedTuple):
    """A member's latest price. `time_ms`: when it was observed, or taken into a block if that came
    first, so that nobody dates a price ahead."""

    price_ticks: int
    confidence_ppm: int
    time_ms: int
    stake: int


class Median(NamedTuple):
    """The committee's price (0: unknown), and until when it stands if nobody reports anew."""

    price_ticks: int
    until_ms: int


class Level(NamedTuple):
    """The accepted price, and a level that the median jumped to since `wild_ms` (0: none)."""

    price_ticks: int
    wild_ms: int
    wild_ticks: int


def committee_median(
    observations: Iterable[Observation],
    committee_stake: int,
    time_ms: int,
    age_ms: int,
    confidence_ppm: int,
) -> Median:
    """Stake-weighted lower median of the observations that count.

    One counts up to `age_ms` after its time and up to `confidence_ppm` (0: however old or vague).
    The price is known once those that count hold more than half of the committee's stake, so that
    no minority sets it alone. It is the lowest price that half of the counting stake does not
    exceed: always one that somebody signed, and between honest ones while the others hold less
    than half of what counts.
    """
    counting = []
    stake = 0
    until_ms = NEVER_MS
    for price in observations:
        if age_ms and time_ms - price.time_ms > age_ms:
            continue
        if confidence_ppm and price.confidence_ppm > confidence_ppm:
            continue
        counting.append((price.price_ticks, price.stake))
        stake += price.stake
        if age_ms:
            until_ms = min(until_ms, price.time_ms + age_ms)
    if 2 * stake <= committee_stake:
        return Median(0, NEVER_MS)
    counting.sort()
    below = 0
    for price_ticks, weight in counting:
        below += weight
        if 2 * below >= stake:
            return Median(price_ticks, until_ms)
    return Median(0, NEVER_MS)


def beyond(price_ticks: int, from_ticks: int, deviation_ppm: int) -> bool:
    """Whether a price lies further than `deviation_ppm` from another; at the bound it does not."""
    return abs(price_ticks - from_ticks) * PPM > from_ticks * deviation_ppm


def follow(
    level: Level, median_ticks: int, time_ms: int, deviation_ppm: int, hold_ms: int
) -> Level:
    """The level after a block with this median (0: unknown).

    A median within `deviation_ppm` (0: any) of the accepted price is accepted. A further one is
    wild: it is accepted when it has stayed within the same bound of where it jumped to for
    `hold_ms`, in all blocks; a jump elsewhere or a block without median begins the wait anew.
    """
    accepted, wild_ms, wild_ticks = level
    if not median_ticks:
        return Level(accepted, 0, 0)
    if not (accepted and deviation_ppm and beyond(median_ticks, accepted, deviation_ppm)):
        return Level(median_ticks, 0, 0)
    if not wild_ms or beyond(median_ticks, wild_ticks, deviation_ppm):
        wild_ms, wild_ticks = time_ms, median_ticks
    if time_ms - wild_ms >= hold_ms:
        return Level(median_ticks, 0, 0)
    return Level(accepted, wild_ms, wild_ticks)


def committee_median_ticks(prices_ticks: Collection[int], committee: int) -> int:
    """Median of the members' latest prices, each with equal weight; 0 while unknown.

    Known once more than half of the `committee` reported, so that no minority sets a price alone.
    Of an even number the lower middle is taken: a median is always a price that somebody signed.
    """
    count = len(prices_ticks)
    if 2 * count <= committee:
        return 0
    return sorted(prices_ticks)[(count - 1) // 2]
