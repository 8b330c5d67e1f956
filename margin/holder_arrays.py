"""The first of many holders by rank, selected by numpy over exact 64-bit integers."""

from __future__ import annotations

from array import array

import numpy as np

from margin.deleveraging import Opposite

Ints = np.ndarray


def first(
    accounts: array[int], sizes: array[int], gains: array[int], unit_uusd: int, longs: bool,
    count: int,
) -> list[Opposite]:  # fmt: skip
    """The first `count` of a side in their rank (see `rank_key`); `unit_uusd` is a lot's worth.
    Every size x unit and every gain is below 2^61."""
    size = np.frombuffer(sizes, np.int64)
    rows = np.flatnonzero(size > 0 if longs else size < 0)
    account = np.frombuffer(accounts, np.int64)[rows]
    profit = size[rows] * unit_uusd + np.frombuffer(gains, np.int64)[rows]
    lots = np.abs(size[rows])
    winners = np.flatnonzero(profit > 0)
    chosen = winners[_largest(profit[winners], account[winners], count)]
    if len(chosen) < count:
        others = np.flatnonzero(profit <= 0)
        more = others[_largest(lots[others], account[others], count - len(chosen))]
        chosen = np.concatenate((chosen, more))
    columns = account[chosen].tolist(), profit[chosen].tolist(), lots[chosen].tolist()
    return [Opposite(*row) for row in zip(*columns, strict=True)]


def _largest(values: Ints, accounts: Ints, count: int) -> Ints:
    """Places of the `count` largest values in their order, of equal ones the lowest account
    first."""
    places = np.arange(len(values))
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        left = count - len(above)
        equal = equal[np.argpartition(accounts[equal], left - 1)[:left]]
        places = np.concatenate((above, equal))
    return places[np.lexsort((accounts[places], -values[places]))]
