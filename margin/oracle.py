"""Oracle prices of the committee."""

from __future__ import annotations

from collections.abc import Collection


def committee_median_ticks(prices_ticks: Collection[int], committee: int) -> int:
    """Median of the members' latest prices, each with equal weight; 0 while unknown.

    Known once more than half of the `committee` reported, so that no minority sets a price alone.
    Of an even number the lower middle is taken: a median is always a price that somebody signed.
    """
    count = len(prices_ticks)
    if 2 * count <= committee:
        return 0
    return sorted(prices_ticks)[(count - 1) // 2]
