"""Messages of the public port of execution: market data and liquidation receipts.

Sums that may outgrow 64 bits travel as big-endian bytes without leading zeros (`big_sum`).
"""

from __future__ import annotations

from protocol.codec import Wire
from protocol.events import BadDebt, LiquidationBegun, LiquidationEnded, Receipt

DEPTH_MAX = 1_000
"""Most levels of a side in a `BookView`."""
TRADES_MAX = 1_000
"""Most trades in a `TradesView`, and kept per market."""
CANDLES_MAX = 1_500
"""Most candles in a `CandlesView`."""
LIQUIDATIONS_MAX = 500
"""Most entries of a `LiquidationsView`."""

CANDLE_INTERVALS_MS = {
    "1s": 1_000,
    "1m": 60_000,
    "5m": 300_000,
    "15m": 900_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "1d": 86_400_000,
}
"""Candles begin at multiples of their interval since 1970 (UTC). Each divides the next."""

DAY_MS = 86_400_000


def big_sum(value: int) -> bytes:
    """A sum of at least 0, of any size, as the wire carries it."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def read_sum(raw: bytes) -> int:
    """The sum that `big_sum` wrote."""
    return int.from_bytes(raw, "big")


# --- requests


class BookRequest(Wire, frozen=True, tag=13):
    """Ask for the best `depth` levels of a market's book."""

    request_id: int
    market: int
    depth: int


class CandlesRequest(Wire, frozen=True, tag=16):
    """Ask for up to `limit` candles of a market that begin at `from_ms` or later, oldest first;
    with `from_ms` 0 for the newest `limit`. `interval_ms`: see `CANDLE_INTERVALS_MS`."""

    request_id: int
    market: int
    interval_ms: int
    from_ms: int
    limit: int


class StatsRequest(Wire, frozen=True, tag=17):
    """Ask for prices and 24 h figures of a market, or of all (`ALL_MARKETS`)."""

    request_id: int
    market: int


class TradesRequest(Wire, frozen=True, tag=18):
    """Ask for the newest `limit` trades of a market."""

    request_id: int
    market: int
    limit: int


class LiquidationsRequest(Wire, frozen=True, tag=32):
    """Ask for up to `limit` entries of the liquidation feed: from event `from_seq` on, or where
    that is 0 from the receipt `from_number` on."""

    request_id: int
    from_seq: int
    from_number: int
    limit: int


class SubscribeLiquidations(Wire, frozen=True, tag=33):
    """Push `LiquidationsView` for the feed, from where `LiquidationsRequest` would begin."""

    request_id: int
    from_seq: int
    from_number: int


class ReceiptRequest(Wire, frozen=True, tag=34):
    """Ask for a liquidation receipt and its path in the tree of the first `count` receipts (0: of
    all there are)."""

    request_id: int
    number: int
    count: int


# --- answers and pushes


class BookView(Wire, frozen=True, tag=73):
    """Best levels, best first: (price_ticks, size_lots, orders), with the block and sequence.

    `checksum`: `protocol.depth.depth_checksum` of the best levels, whatever depth was asked for.
    """

    request_id: int
    market: int
    height: int
    next_seq: int
    mark_ticks: int
    bids: list[tuple[int, int, int]]
    asks: list[tuple[int, int, int]]
    checksum: int = 0


class Candle(Wire, frozen=True):
    """Trades of one interval that begins at `begin_ms`; an interval without trades has none.

    `volume_lots` and `notional_uusd` are `big_sum`s.
    """

    begin_ms: int
    open_ticks: int
    high_ticks: int
    low_ticks: int
    close_ticks: int
    volume_lots: bytes
    notional_uusd: bytes
    trades: int


class CandlesView(Wire, frozen=True, tag=76):
    """Candles, oldest first; the last one may still be growing."""

    request_id: int
    market: int
    interval_ms: int
    height: int
    candles: list[Candle]


class MarketStats(Wire, frozen=True):
    """A market now, and its trades of the last 24 hours (1,440 minutes, the present one included).

    Prices in ticks, 0: none yet. `open_ticks`: price before the 24 hours, or of their first trade;
    `volume_lots` and `notional_uusd` are `big_sum`s. `mode`: see `protocol.actions`.
    Funding rates are those of one payment, the last one and what would be paid now.
    """

    market: int
    mode: int
    stale: bool
    mark_ticks: int
    oracle_ticks: int
    last_ticks: int
    last_trade_ms: int
    open_ticks: int
    high_ticks: int
    low_ticks: int
    volume_lots: bytes
    notional_uusd: bytes
    trades: int
    open_interest_lots: int
    funding_rate_ppb: int
    predicted_rate_ppb: int
    next_funding_ms: int


class StatsView(Wire, frozen=True, tag=77):
    """Answer to `StatsRequest`."""

    request_id: int
    height: int
    time_ms: int
    markets: list[MarketStats]


class TradesView(Wire, frozen=True, tag=78):
    """Trades, newest first: (event number, time_ms, price_ticks, size_lots, taker's side)."""

    request_id: int
    market: int
    height: int
    trades: list[tuple[int, int, int, int, int]]


LiquidationEvent = LiquidationBegun | LiquidationEnded | Receipt | BadDebt


class LiquidationEntry(Wire, frozen=True):
    """An entry of the liquidation feed: an event, its number and its block."""

    seq: int
    height: int
    time_ms: int
    event: LiquidationEvent


class LiquidationsView(Wire, frozen=True, tag=91):
    """Entries in order; ask on from event `next_seq`. `receipts`: how many there are in all."""

    request_id: int
    next_seq: int
    receipts: int
    entries: list[LiquidationEntry]


class ReceiptView(Wire, frozen=True, tag=92):
    """A receipt and its audit path, from the leaf up, in the RFC 6962 tree of the first `count`
    receipts."""

    request_id: int
    count: int
    receipt: Receipt
    path: list[bytes]
