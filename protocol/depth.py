"""A checksum over the best levels of a book, by which a client proves its copy of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from struct import Struct
from zlib import crc32

CHECKED_LEVELS = 10

_counts = Struct(">BB")
_level = Struct(">IQ")


def depth_checksum(
    bids: Iterable[tuple[int, int, int]], asks: Iterable[tuple[int, int, int]]
) -> int:
    """CRC-32 (that of zlib, unsigned) over the best 10 levels of each side.

    Levels are (price_ticks, size_lots, orders), best first; the number of orders is not checked.
    Bytes: the number of bid levels and of ask levels (1 byte each), then for every bid and then
    for every ask the price (4 bytes) and the size of the level (8 bytes), all big-endian.
    """
    best_bids = list(islice(bids, CHECKED_LEVELS))
    best_asks = list(islice(asks, CHECKED_LEVELS))
    parts = [_counts.pack(len(best_bids), len(best_asks))]
    parts += [_level.pack(price, lots) for price, lots, _ in best_bids]
    parts += [_level.pack(price, lots) for price, lots, _ in best_asks]
    return crc32(b"".join(parts))
