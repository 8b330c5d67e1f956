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
    """The accepted price, and a level that the median jumped to since `wild_ms` (0: none).

    `from_ticks` is what the price was before it moved at `from_ms`; how far it may go within a hold
    time from then is measured from there.
    """

    price_ticks: int
    wild_ms: int = 0
    wild_ticks: int = 0
    from_ms: int = 0
    from_ticks: int = 0


def committee_median(
    observations: Iterable[Observation],
    committee_stake: int,
    least_members: int,
    time_ms: int,
    age_ms: int,
    confidence_ppm: int,
) -> Median:
    """Stake-weighted lower median of the observations that count.

    One counts up to `age_ms` after its time and up to `confidence_ppm` (0: however old or vague).
    The price is known once those that count hold more than half of the committee's stake and are
    `least_members` or more, so that neither a minority nor one large member sets it alone. It is
    the lowest price that half of the counting stake does not
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
    if 2 * stake <= committee_stake or len(counting) < least_members:
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

    Without bound or hold time every median is accepted. One within `deviation_ppm` of where the
    accepted price came from is. That is the price before the first move of the present hold time,
    which begins with a move, so that the bound holds for all moves of a hold time together, however
    many blocks they take. A further median is wild: it is accepted when it has stayed within the
    same bound of where it jumped to for `hold_ms`, in all blocks; a jump elsewhere or a block
    without median begins the wait anew.
    """
    accepted, wild_ms, wild_ticks, from_ms, from_ticks = level
    if not median_ticks:
        return Level(accepted, 0, 0, from_ms, from_ticks)
    if not (accepted and deviation_ppm and hold_ms):
        return Level(median_ticks)
    if median_ticks != accepted and (not from_ticks or time_ms - from_ms >= hold_ms):
        from_ms, from_ticks = time_ms, accepted
    if median_ticks == accepted or not beyond(median_ticks, from_ticks, deviation_ppm):
        return Level(median_ticks, 0, 0, from_ms, from_ticks)
    if not wild_ms or beyond(median_ticks, wild_ticks, deviation_ppm):
        wild_ms, wild_ticks = time_ms, median_ticks
    if time_ms - wild_ms >= hold_ms:
        return Level(median_ticks)
    return Level(accepted, wild_ms, wild_ticks, from_ms, from_ticks)


def least_members(committee: int) -> int:
    """How many members of a committee of so many must count: two, where it has three or more."""
    return 2 if committee >= 3 else 1


def committee_median_ticks(prices_ticks: Collection[int], committee: int) -> int:
    """Median of the members' latest prices, each with equal weight; 0 while unknown.

    Known once more than half of the `committee` reported, so that no minority sets a price alone.
    Of an even number the lower middle is taken: a median is always a price that somebody signed.
    """
    count = len(prices_ticks)
    if 2 * count <= committee:
        return 0
    return sorted(prices_ticks)[(count - 1) // 2]
