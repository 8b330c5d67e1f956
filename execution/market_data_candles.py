"""Candles of one market over seven intervals, and the figures of the last 24 hours.

A fill touches the candle of its second alone. A candle that is over goes into the next longer one,
so that all intervals together cost little more per fill than one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from protocol.codec import Wire
from protocol.messages_market_data import CANDLE_INTERVALS_MS, DAY_MS, Candle, big_sum, read_sum

INTERVALS_MS = tuple(CANDLE_INTERVALS_MS.values())
KEPT = (3_600, 2_880, 2_016, 1_344, 1_080, 1_080, 1_080)
"""Candles kept of each interval: an hour, 2 days, 7, 14, 45, 180 days, 3 years, or longer where
some intervals had no trades."""
MINUTE = 1
MINUTE_MS = INTERVALS_MS[MINUTE]


class Row:
    """A candle that grows: sums as plain integers."""

    __slots__ = ("begin_ms", "close", "high", "lots", "low", "notional_uusd", "open", "trades")

    def __init__(self, begin_ms: int, ticks: int) -> None:
        self.begin_ms = begin_ms
        self.open = self.high = self.low = self.close = ticks
        self.lots = 0
        self.notional_uusd = 0
        self.trades = 0

    def join(self, later: Candle) -> None:
        """Take in a candle of a later part of the interval."""
        if later.high_ticks > self.high:
            self.high = later.high_ticks
        if later.low_ticks < self.low:
            self.low = later.low_ticks
        self.close = later.close_ticks
        self.lots += read_sum(later.volume_lots)
        self.notional_uusd += read_sum(later.notional_uusd)
        self.trades += later.trades

    def view(self) -> Candle:
        """As it is kept, and as the wire carries it."""
        return Candle(
            self.begin_ms, self.open, self.high, self.low, self.close,
            big_sum(self.lots), big_sum(self.notional_uusd), self.trades,
        )  # fmt: skip


def _join(candles: Iterable[Candle], begin_ms: int = 0) -> Row | None:
    """All candles as one; None where there are none."""
    total: Row | None = None
    for candle in candles:
        if total is None:
            total = Row(begin_ms, candle.open_ticks)
        total.join(candle)
    return total


class CandlesState(Wire, frozen=True):
    """Everything that `Candles` carries: finished candles of each interval, and the growing one
    without the parts that shorter intervals still hold."""

    finished: list[list[Candle]]
    growing: list[Candle | None]


class Day(NamedTuple):
    """Trades of the last 24 hours; all 0 where there were none. `open_ticks`: the price before
    them, or of the first where nothing older is known."""

    open_ticks: int
    high_ticks: int
    low_ticks: int
    lots: int
    notional_uusd: int
    trades: int


class Candles:
    """Candles of one market. Times never go back."""

    __slots__ = ("_day", "_day_of", "_finished", "_growing", "_second", "_second_end_ms")

    def __init__(self, state: CandlesState | None = None) -> None:
        self._finished: list[list[Candle]] = [[] for _ in INTERVALS_MS]
        self._growing: list[Row | None] = [None] * len(INTERVALS_MS)
        if state is not None:
            self._finished = [list(candles) for candles in state.finished]
            self._growing = [
                None if one is None else _join((one,), one.begin_ms) for one in state.growing
            ]
        self._second = self._growing[0]
        self._second_end_ms = 0 if self._second is None else self._second.begin_ms + INTERVALS_MS[0]
        self._day_of = (-1, -1)
        self._day: Candle | None = None

    def state(self) -> CandlesState:
        """What `Candles` can be made from again."""
        return CandlesState(
            [list(candles) for candles in self._finished],
            [None if row is None else row.view() for row in self._growing],
        )

    def add(self, time_ms: int, ticks: int, lots: int, notional_uusd: int) -> None:
        """Take in a fill."""
        row = self._second
        if row is None or time_ms >= self._second_end_ms:
            row = self._begin(time_ms, ticks)
        elif ticks > row.high:
            row.high = ticks
        elif ticks < row.low:
            row.low = ticks
        row.close = ticks
        row.lots += lots
        row.notional_uusd += notional_uusd
        row.trades += 1

    def _begin(self, time_ms: int, ticks: int) -> Row:
        self._finish(0)
        begin_ms = time_ms - time_ms % INTERVALS_MS[0]
        row = self._second = self._growing[0] = Row(begin_ms, ticks)
        self._second_end_ms = begin_ms + INTERVALS_MS[0]
        return row

    def _finish(self, place: int) -> None:
        """The growing candle of an interval is over: keep it, and join it to the next longer."""
        row = self._growing[place]
        if row is None:
            return
        self._growing[place] = None
        candle = row.view()
        kept = self._finished[place]
        kept.append(candle)
        # Cut in large steps: dropping the first of a list moves all others.
        if len(kept) >= KEPT[place] + KEPT[place] // 4:
            del kept[: len(kept) - KEPT[place]]
        if place + 1 == len(INTERVALS_MS):
            return
        begin_ms = row.begin_ms - row.begin_ms % INTERVALS_MS[place + 1]
        longer = self._growing[place + 1]
        if longer is not None and longer.begin_ms != begin_ms:
            self._finish(place + 1)
            longer = None
        if longer is None:
            longer = self._growing[place + 1] = Row(begin_ms, candle.open_ticks)
        longer.join(candle)

    def _unfinished(self, place: int) -> list[Candle]:
        """Candles of an interval that are not finished, as the growing parts make them up."""
        rows: list[Row] = []
        for part in reversed(self._growing[: place + 1]):
            if part is None:
                continue
            begin_ms = part.begin_ms - part.begin_ms % INTERVALS_MS[place]
            if not rows or rows[-1].begin_ms != begin_ms:
                rows.append(Row(begin_ms, part.open))
            rows[-1].join(part.view())
        return [row.view() for row in rows]

    def view(self, interval_ms: int, from_ms: int, limit: int) -> list[Candle]:
        """Up to `limit` candles that begin at `from_ms` or later, oldest first; the newest ones
        where `from_ms` is 0. Raises `ValueError` for an interval that there is not."""
        place = INTERVALS_MS.index(interval_ms)
        kept, rest = self._finished[place], self._unfinished(place)
        if not from_ms:
            return (kept[-limit:] + rest)[-limit:]
        found = kept[bisect_left(kept, from_ms, key=_begin_ms) :][:limit]
        return (found + [candle for candle in rest if candle.begin_ms >= from_ms])[:limit]

    def day(self, time_ms: int) -> Day:
        """The last 1,440 minutes, the one of `time_ms` included."""
        first_ms = time_ms - time_ms % MINUTE_MS - DAY_MS + MINUTE_MS
        minutes = self._finished[MINUTE]
        begin = bisect_left(minutes, first_ms, key=_begin_ms)
        whole = self._whole(minutes, begin, first_ms)
        before = minutes[begin - 1].close_ticks if begin else 0
        candles = [] if whole is None else [whole]
        for candle in self._unfinished(MINUTE):
            if candle.begin_ms < first_ms:
                before = candle.close_ticks
            else:
                candles.append(candle)
        total = _join(candles)
        if total is None:
            return Day(before, 0, 0, 0, 0, 0)
        return Day(
            before or total.open, total.high, total.low, total.lots, total.notional_uusd,
            total.trades,
        )  # fmt: skip

    def _whole(self, minutes: list[Candle], begin: int, first_ms: int) -> Candle | None:
        """The finished minutes from `begin` on as one candle, added up once a minute."""
        of = (first_ms, minutes[-1].begin_ms if minutes else -1)
        if self._day_of != of:
            total = _join(islice(minutes, begin, None))
            self._day_of, self._day = of, None if total is None else total.view()
        return self._day


def _begin_ms(candle: Candle) -> int:
    return candle.begin_ms
