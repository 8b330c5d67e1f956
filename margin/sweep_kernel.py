"""The compiled part of the sweep: 64-bit integers only, so it is exact and alike everywhere.

Loaded by `margin.sweep_arrays`, which keeps every number in the range in which nothing overflows.
"""

from __future__ import annotations

import numba
import numpy as np

MARKET_FIELDS = 6
MOST_LOTS, UNIT_UUSD, INDEX, BAND_PPM, DIRECT_UUSD, RATE_PPM = range(MARKET_FIELDS)
"""Rows of the market table: lots up to which positions are valued here (-1: none); micro-dollars of
one lot at the mark or settlement price; funding index; band (0: not stale); notional up to which
maintenance is `RATE_PPM` of it and no band counts (-1: none)."""

TIER_FIELDS = 4
ABOVE_UUSD, TIER_PPM, WHOLE, REST = range(TIER_FIELDS)
"""A maintenance tier, the highest first: notional above which it holds (`FLAT`: any), rate, and
its deduction in whole millions of uUSD x ppm and the rest."""
FLAT = -1

DIRECT_BOUND = 1 << 42
"""Notionals below this times a rate fit 63 bits."""

_PPM = 1_000_000
_INDEX_UNIT = 1_000
_FUNDING = 1 << 31
"""Index changes below this times a size fit 63 bits; larger ones are asked about."""
_MOST_FUNDING = 1 << 62

_ints = numba.int64[::1]
_halves = numba.int32[::1]
_table = numba.int64[:, ::1]
_signature = numba.int64(
    _ints, _ints, _ints, _ints, _halves, _halves, _ints, _table, numba.int64[:, :, ::1], _table
)  # fmt: skip


@numba.njit(_signature, error_model="numpy")
def scan_rows(
    rows: np.ndarray,
    cash: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    markets: np.ndarray,
    sizes: np.ndarray,
    indices: np.ndarray,
    table: np.ndarray,
    tiers: np.ndarray,
    out: np.ndarray,
) -> int:
    """Write (row, TV, MM) of the rows with TV < MM, and (row, 0, -1) of those that cannot be valued
    here; returns how many were written. Indices are unsigned: that is a third faster."""
    most, units, index = table[MOST_LOTS], table[UNIT_UUSD], table[INDEX]
    bands, direct, rates = table[BAND_PPM], table[DIRECT_UUSD], table[RATE_PPM]
    found = 0
    for at in range(rows.shape[0]):
        row = np.uint64(rows[np.uint64(at)])
        tv = cash[row]
        mm = 0
        first = np.uint64(starts[row])
        for slot in range(first, first + np.uint64(counts[row])):
            size = np.int64(sizes[slot])
            market = np.uint64(markets[slot])
            lots = abs(size)
            if lots > most[market]:
                mm = -1
                break
            value = size * units[market]
            notional = abs(value)
            tv += value
            change = index[market] - indices[slot]
            if change != 0:
                if not -_FUNDING < change < _FUNDING and abs(change) > _MOST_FUNDING // lots:
                    mm = -1
                    break
                tv += (-size * change) // _INDEX_UNIT
            if notional <= direct[market]:
                mm += (notional * rates[market] + (_PPM - 1)) // _PPM
            else:
                whole = notional // _PPM
                part = notional - whole * _PPM
                tv += whole * bands[market] + part * bands[market] // _PPM
                tier = 0
                while notional <= tiers[market, tier, ABOVE_UUSD]:
                    tier += 1
                rate = tiers[market, tier, TIER_PPM]
                mm += whole * rate - tiers[market, tier, WHOLE]
                mm -= (tiers[market, tier, REST] - part * rate) // _PPM
        if mm < 0:
            out[found, 0] = row
            out[found, 1] = 0
            out[found, 2] = -1
            found += 1
        elif tv < mm:
            out[found, 0] = row
            out[found, 1] = tv
            out[found, 2] = mm
            found += 1
    return found
