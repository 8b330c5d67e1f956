"""Bounds of the numbers in leaves of a state that somebody shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from execution import leaves as lv
from protocol.codec import Decoder
from protocol.errors import Code, Rejected
from protocol.genesis import CASH_LIMIT, PRICE_LIMIT, SIZE_LIMIT

_decode_any: Decoder[Any] = Decoder(Any)


def require_bounds(leaves: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise `Rejected(bad_witness)` for numbers that no state has: where the engine is compiled,
    some are machine words, and all ledgers must see the same thing happen on made-up ones too."""
    for key, value in leaves:
        numbers = [_decode_any(value)]
        for one in numbers:
            if isinstance(one, list):
                numbers.extend(one)
            elif isinstance(one, int) and not -CASH_LIMIT < one < CASH_LIMIT:
                raise _bad(f"leaf {key.hex()} has a number out of range")
        kind = key[:1]
        if kind == lv.ORDER:
            _, _, price_ticks, order_id = lv.parse_order_key(key)
            lots = lv.decode_order(value).remaining_lots
            fits = 0 < price_ticks < PRICE_LIMIT and 0 < lots < SIZE_LIMIT
            if not fits or not 0 < order_id < CASH_LIMIT:
                raise _bad(f"order {key.hex()} is out of range")
        elif kind == lv.MARKET:
            market = lv.decode_market(value)
            prices = (market.mark_ticks, market.oracle_ticks, market.last_ticks)
            if not all(0 <= one < PRICE_LIMIT for one in prices):
                raise _bad(f"market {key.hex()} has a price out of range")


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_WITNESS, text)
