"""Decimals at the edge, integers inside.

People write prices, sizes and dollars as decimal text; everything behind this module counts in
ticks, lots and micro-dollars. A conversion is exact or refused: nothing is rounded on the way in.
"""

from __future__ import annotations

import re
import time

from protocol.errors import ConfigError
from protocol.genesis import PPM, MarketConfig

MICRO_DIGITS = 6
"""Decimal places of a micro-dollar and of a millionth of a base unit."""

MAX_WHOLE_DIGITS = 15
"""Longest whole part that is read; every limit of the engine is far below it."""

_DECIMAL = re.compile(rf"([+-]?)(\d{{1,{MAX_WHOLE_DIGITS}}})(?:\.(\d+))?", re.ASCII)


class UnitError(ConfigError):
    """A decimal cannot be expressed in whole ticks, lots or micro-dollars (exit 2)."""


def parse_micro(text: str, what: str) -> int:
    """Millionths in decimal `text`; raises `UnitError` naming `what`."""
    match = _DECIMAL.fullmatch(text.strip().replace("_", ""))
    if match is None:
        raise UnitError(f"{what} {text!r} is not a decimal number such as 12.5, or too large")
    sign, whole, fraction = match.group(1), match.group(2), (match.group(3) or "").rstrip("0")
    if len(fraction) > MICRO_DIGITS:
        raise UnitError(f"{what} {text!r} has more than {MICRO_DIGITS} decimal places")
    micro = int(whole) * PPM + int(fraction.ljust(MICRO_DIGITS, "0"))
    return -micro if sign == "-" else micro


def format_micro(micro: int) -> str:
    """Decimal text of a count of millionths, without trailing zeros."""
    whole, fraction = divmod(abs(micro), PPM)
    text = f"{whole}.{fraction:06d}".rstrip("0").rstrip(".")
    return f"-{text}" if micro < 0 else text


def _positive(micro: int, text: str, what: str) -> int:
    if micro <= 0:
        raise UnitError(f"{what} {text!r} must be above zero")
    return micro


def price_to_ticks(market: MarketConfig, text: str) -> int:
    """Ticks of a dollar price; raises `UnitError` unless positive and a whole number of ticks."""
    micro = _positive(parse_micro(text, "price"), text, "price")
    ticks, rest = divmod(micro, market.tick_uusd)
    if rest:
        raise UnitError(
            f"price {text!r} is not a multiple of {format_micro(market.tick_uusd)}, "
            f"the tick of {market.symbol}"
        )
    return ticks


def size_to_lots(market: MarketConfig, text: str) -> int:
    """Lots of a size in base units; raises `UnitError` unless positive and whole lots."""
    micro = _positive(parse_micro(text, "size"), text, "size")
    lots, rest = divmod(micro, market.lot_micro)
    if rest:
        raise UnitError(
            f"size {text!r} is not a multiple of {format_micro(market.lot_micro)}, "
            f"the lot of {market.symbol}"
        )
    return lots


def usd_to_uusd(text: str) -> int:
    """Micro-dollars of a positive dollar amount; raises `UnitError`."""
    return _positive(parse_micro(text, "amount"), text, "amount")


def percent_to_ppm(text: str) -> int:
    """Parts per million of a percentage such as ``0.5``; raises `UnitError` below zero."""
    micro = parse_micro(text, "percentage")
    if micro < 0 or micro % 100:
        raise UnitError(f"percentage {text!r} must be at least 0, in steps of 0.0001")
    return micro // 100


def ticks_to_price(market: MarketConfig, price_ticks: int) -> str:
    """Dollar text of a price in ticks."""
    return format_micro(price_ticks * market.tick_uusd)


def lots_to_size(market: MarketConfig, size_lots: int) -> str:
    """Base-unit text of a size in lots."""
    return format_micro(size_lots * market.lot_micro)


_SPANS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000))


def duration(span_ms: int) -> str:
    """A length of time for people: its two largest units, such as ``8 days 2 hours``."""
    parts = []
    rest_ms = abs(span_ms)
    for name, unit_ms in _SPANS:
        count, rest_ms = divmod(rest_ms, unit_ms)
        if count:
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
        elif parts:
            break
    return " ".join(parts[:2]) or f"{rest_ms} ms"


_UUSD = re.compile(r"(?<![\w.])(-?\d{1,30}) u(?:usd|USD)\b", re.ASCII)
_MS = re.compile(r"(?<![\w.])(\d{4,20}) ms\b", re.ASCII)


def readable(text: str) -> str:
    """A process's sentence for people: micro-dollars as dollars, milliseconds as days or hours."""
    text = _UUSD.sub(lambda found: f"{uusd_to_usd(int(found[1]))} dollars", text)
    return _MS.sub(lambda found: duration(int(found[1])), text)


def utc(time_ms: int) -> str:
    """A time for people, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms / 1000))


def uusd_to_usd(amount_uusd: int) -> str:
    """Dollar text of micro-dollars."""
    return format_micro(amount_uusd)
