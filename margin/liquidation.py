"""When an account is liquidated, and at which prices: exact integers, no state.

TV is the account's equity, MM its maintenance margin and MM' that margin once a part of a position
is closed. Closing at the *zero price* leaves TV/MM as it was, so it harms neither the account nor
whoever takes the position; what a fill gains over it may be charged as liquidation fee. Source:
the close-out rules of dYdX v4 and of Paradex, with the margin ratio kept instead of the price of
bankruptcy.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.actions import SELL
from protocol.genesis import PPM

SAFE = 0
ORDERS = 2
BACKSTOP = 3
DELEVERAGED = 4
"""Stages of an account: not below maintenance; sold in the book; taken by the backstop; closed by
the insurance fund and deleveraging. (1, below initial margin, only narrows what orders may do.)"""


def stage(tv_uusd: int, mm_uusd: int) -> int:
    """The stage of an account with this equity and maintenance margin."""
    if tv_uusd >= mm_uusd:
        return SAFE
    if tv_uusd <= 0:
        return DELEVERAGED
    if 3 * tv_uusd < 2 * mm_uusd:
        return BACKSTOP
    return ORDERS


def kept_uusd(tv_uusd: int, mm_uusd: int, mm_after_uusd: int) -> int:
    """Equity after a close-out at the zero price: TV x MM'/MM, rounded against the account."""
    return tv_uusd * mm_after_uusd // mm_uusd


def zero_ticks(
    side: int, mark_ticks: int, tv_uusd: int, mm_uusd: int, mm_after_uusd: int, tick_uusd: int
) -> int:
    """Zero price of an order of `side` that closes a part of a position; at least 1.

    `tick_uusd`: what one tick of price is worth on the lots closed. mark -+ TV x (MM - MM') /
    (MM x tick), rounded up for sells and down for buys: never worse for the account than exact.
    """
    distance = tv_uusd * (mm_uusd - mm_after_uusd) // (mm_uusd * tick_uusd)
    if side == SELL:
        return max(mark_ticks - distance, 1)
    return max(mark_ticks + distance, 1)


def better_than(side: int, price_ticks: int, zero: int) -> int:
    """Ticks by which a price beats the zero price for an order of `side`; negative: worse."""
    return price_ticks - zero if side == SELL else zero - price_ticks


def fee_uusd(notional_uusd: int, improvement_uusd: int, cap_ppm: int) -> int:
    """Liquidation fee of a fill: its improvement over the zero price, up to the cap.

    As the zero price is rounded for the account, TV/MM after the fee is at least what it was.
    """
    return max(min(notional_uusd * cap_ppm // PPM, improvement_uusd), 0)


def first_part_lots(lots: int, part_ppm: int) -> int:
    """The part of a large position that is sold first, rounded up."""
    return -(-lots * part_ppm // PPM)


def largest(lots: int, accepted: Callable[[int], bool]) -> int:
    """The most of `lots` (0: none) that is accepted, where less than an accepted size is accepted.

    Where rounding breaks that rule, what is returned is accepted still.
    """
    return lots if lots > 0 and accepted(lots) else largest_below(lots, accepted)


def largest_below(lots: int, accepted: Callable[[int], bool]) -> int:
    """As `largest`, where `lots` themselves are known not to be accepted."""
    if lots <= 1 or not accepted(1):
        return 0
    low, high = 1, lots
    while high - low > 1:
        middle = (low + high) // 2
        if accepted(middle):
            low = middle
        else:
            high = middle
    return low
