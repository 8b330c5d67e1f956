"""Funding of perpetuals: premium, rate and the global index.

Rates are parts per billion. The index counts thousandths of a micro-dollar that one long lot has
paid since genesis; positions are settled against it when their account is next touched.
Source: the funding rate of Binance and BitMEX, F = P + clamp(interest - P, +-0.05 %).
"""

from __future__ import annotations

from margin.linear import FUNDING_INDEX_UNIT
from margin.mark import Impact, within
from protocol.markets import FUNDING_PERIOD_MS

PPB = 1_000_000_000
INTEREST_BAND_PPB = 500_000
"""The rate is the interest rate while the premium is no further from it."""
INDEX_LIMIT = 1 << 62


def premium_ppb(impact: Impact, oracle_ticks: int) -> int:
    """(max(0, impact bid - oracle) - max(0, oracle - impact ask)) / oracle, rounded towards 0.

    0 where the book says nothing; one sample counts at most 100 %, so that sums stay in range.
    """
    bid, ask = impact
    if not bid:
        return 0
    ahead = max(0, bid - oracle_ticks) - max(0, oracle_ticks - ask)
    return within(_towards_zero(ahead * PPB, oracle_ticks), PPB)


def average_ppb(sum_ppb: int, samples: int) -> int:
    """Average premium, rounded towards 0; 0 without samples."""
    return _towards_zero(sum_ppb, samples) if samples else 0


def rate_8h_ppb(premium: int, interest: int, cap: int) -> int:
    """F8h = clamp(P + clamp(interest - P, +-0.05 %), +-cap)."""
    return within(premium + within(interest - premium, INTEREST_BAND_PPB), cap)


def interval_rate_ppb(rate_8h: int, interval_ms: int) -> int:
    """The part of an eight-hour rate that one payment carries, rounded towards 0."""
    return _towards_zero(rate_8h * interval_ms, FUNDING_PERIOD_MS)


def index_after(index: int, lot_uusd: int, rate_ppb: int) -> int:
    """The index after a payment of `rate_ppb` of `lot_uusd`, the notional of a lot at the oracle
    price. The move is rounded towards 0; at the end of its range the index stays there."""
    move = _towards_zero(lot_uusd * rate_ppb * FUNDING_INDEX_UNIT, PPB)
    return within(index + move, INDEX_LIMIT - 1)


def boundary_after(time_ms: int, step_ms: int) -> int:
    """The next multiple of a step, counted from the epoch, after a time."""
    return (time_ms // step_ms + 1) * step_ms


def _towards_zero(number: int, divisor: int) -> int:
    return number // divisor if number >= 0 else -(-number // divisor)
