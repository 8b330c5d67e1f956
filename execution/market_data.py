"""Market data of a shard, derived from its events: trades, candles, 24 h figures.

Never under the state root: it can be made again from the log, and is kept with snapshots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from execution.market_data_candles import Candles, CandlesState, Day
from protocol.codec import Wire
from protocol.errors import SafetyViolation
from protocol.events import Fill
from protocol.messages_market_data import TRADES_MAX, Candle

Trade = tuple[int, int, int, int, int]
"""(event number, time_ms, price_ticks, size_lots, taker's side)."""


class MarketDataState(Wire, frozen=True):
    """What `MarketData` carries of a market: trades, oldest first, and candles."""

    market: int
    trades: list[Trade]
    candles: CandlesState


class MarketData:
    """Trades and candles of every market. `value_uusd`: micro-dollars of a tick x lot in each."""

    __slots__ = ("_candles", "_trades", "_value_uusd", "fills")

    def __init__(self, value_uusd: Sequence[int]) -> None:
        self.fills = 0
        """Fills seen by this object."""
        self._value_uusd = list(value_uusd)
        self._candles = [Candles() for _ in self._value_uusd]
        self._trades: list[deque[Trade]] = [deque(maxlen=TRADES_MAX) for _ in self._value_uusd]

    def restore(self, state: MarketDataState) -> None:
        """Put back what `frozen` gave of a market; raises `SafetyViolation` where it is none."""
        if not 0 <= state.market < len(self._value_uusd):
            raise SafetyViolation(f"kept market data is of market {state.market}")
        self._trades[state.market].extend(state.trades)
        self._candles[state.market] = Candles(state.candles)

    def frozen(self) -> list[MarketDataState]:
        """Everything as it stands now, by market; it does not change any more."""
        return [
            MarketDataState(number, list(trades), candles.state())
            for number, (trades, candles) in enumerate(
                zip(self._trades, self._candles, strict=True)
            )
        ]

    def fill(self, seq: int, time_ms: int, event: Fill) -> None:
        """Take in event `seq` of a block at `time_ms`."""
        market, ticks, lots = event.market, event.price_ticks, event.size_lots
        self.fills += 1
        self._trades[market].append((seq, time_ms, ticks, lots, event.taker_side))
        self._candles[market].add(time_ms, ticks, lots, ticks * lots * self._value_uusd[market])

    def trades(self, market: int, limit: int) -> list[Trade]:
        """The newest `limit` trades, newest first."""
        return list(islice(reversed(self._trades[market]), limit))

    def candles(self, market: int, interval_ms: int, from_ms: int, limit: int) -> list[Candle]:
        """As `Candles.view`."""
        return self._candles[market].view(interval_ms, from_ms, limit)

    def day(self, market: int, time_ms: int) -> Day:
        """The last 24 hours of a market."""
        return self._candles[market].day(time_ms)

    def last_trade_ms(self, market: int) -> int:
        """Time of the newest trade (0: none)."""
        trades = self._trades[market]
        return trades[-1][1] if trades else 0
