"""Candles, 24 h figures and trades follow from fills exactly, also over restarts."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import NamedTuple

import pytest
from engine_world import make_chain, market

from execution.derived import Derived
from execution.market_data import MarketData
from execution.market_data_candles import INTERVALS_MS, KEPT, Candles
from protocol.codec import encode
from protocol.errors import SafetyViolation
from protocol.events import Fill
from protocol.messages_market_data import (
    CANDLE_INTERVALS_MS,
    DAY_MS,
    TRADES_MAX,
    Candle,
    big_sum,
    read_sum,
)

BEGIN_MS = 1_700_000_000_000 - 1_700_000_000_000 % DAY_MS


class Traded(NamedTuple):
    time_ms: int
    ticks: int
    lots: int

    @property
    def worth(self) -> int:
        return self.ticks * self.lots * 7


def naive(trades: list[Traded], interval_ms: int) -> list[Candle]:
    """All candles, from the trades sorted into intervals."""
    found: dict[int, list[Traded]] = {}
    for one in trades:
        found.setdefault(one.time_ms // interval_ms * interval_ms, []).append(one)
    return [
        Candle(
            begin_ms, some[0].ticks, max(t.ticks for t in some), min(t.ticks for t in some),
            some[-1].ticks, big_sum(sum(t.lots for t in some)), big_sum(sum(t.worth for t in some)),
            len(some),
        )
        for begin_ms, some in sorted(found.items())
    ]  # fmt: skip


def random_trades(rng: random.Random, count: int) -> list[Traded]:
    """Bursts within a second, and pauses of up to two days."""
    time_ms, trades = BEGIN_MS + rng.randrange(DAY_MS), []
    for _ in range(count):
        span = rng.choice((1, 30, 1_000, 60_000, 900_000, 4 * 3_600_000, 2 * DAY_MS))
        time_ms += rng.randrange(span)
        trades.append(Traded(time_ms, rng.randint(900, 1_100), rng.randint(1, 50)))
    return trades


def filled(trades: list[Traded]) -> Candles:
    candles = Candles()
    for one in trades:
        candles.add(one.time_ms, one.ticks, one.lots, one.worth)
    return candles


def test_the_intervals_divide_each_other() -> None:
    assert list(CANDLE_INTERVALS_MS) == ["1s", "1m", "5m", "15m", "1h", "4h", "1d"]
    assert all(after % before == 0 for before, after in pairwise(INTERVALS_MS))


@pytest.mark.parametrize("seed", range(8))
def test_candles_are_those_of_the_sorted_trades_at_every_moment(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    trades = random_trades(rng, 400)
    candles = Candles()
    for count, one in enumerate(trades, 1):
        candles.add(one.time_ms, one.ticks, one.lots, one.worth)
        if rng.random() < 0.1 or count == len(trades):
            if rng.random() < 0.3:
                candles = Candles(candles.state())
            for interval_ms in INTERVALS_MS:
                wanted = naive(trades[:count], interval_ms)
                assert candles.view(interval_ms, 0, 10_000) == wanted
                assert candles.view(interval_ms, 0, 3) == wanted[-3:]
                from_ms = rng.choice(trades).time_ms
                later = [candle for candle in wanted if candle.begin_ms >= from_ms]
                assert candles.view(interval_ms, from_ms, 4) == later[:4]


@pytest.mark.parametrize("seed", range(8))
def test_the_day_is_the_last_1440_minutes(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    trades = random_trades(rng, 300)
    candles = Candles()
    for count, one in enumerate(trades, 1):
        candles.add(one.time_ms, one.ticks, one.lots, one.worth)
        now_ms = one.time_ms + rng.choice((0, 0, 1, 90_000, DAY_MS - 60_000, DAY_MS))
        if count < len(trades) and now_ms > trades[count].time_ms:
            continue
        first_ms = now_ms // 60_000 * 60_000 - 1_439 * 60_000
        inside = [t for t in trades[:count] if t.time_ms >= first_ms]
        before = [t for t in trades[:count] if t.time_ms < first_ms]
        day = candles.day(now_ms)
        assert (day.trades, day.lots) == (len(inside), sum(t.lots for t in inside))
        assert day.notional_uusd == sum(t.worth for t in inside)
        assert day.high_ticks == max((t.ticks for t in inside), default=0)
        assert day.low_ticks == min((t.ticks for t in inside), default=0)
        assert day.open_ticks == (before[-1].ticks if before else inside[0].ticks)


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    candles, seconds = Candles(), 3 * KEPT[0]
    trades = [Traded(BEGIN_MS + 1_000 * n, 1_000 + n, 1) for n in range(seconds)]
    for one in trades:
        candles.add(one.time_ms, one.ticks, one.lots, one.worth)
    kept = candles.view(1_000, 0, 10**6)
    assert KEPT[0] <= len(kept) <= KEPT[0] * 5 // 4 + 1
    assert kept == naive(trades, 1_000)[-len(kept) :]
    assert candles.view(60_000, 0, 10**6) == naive(trades, 60_000), "longer ones lose nothing"


def test_an_unknown_interval_is_refused() -> None:
    with pytest.raises(ValueError):
        Candles().view(2_000, 0, 1)


def test_nothing_traded_is_nothing() -> None:
    assert Candles().view(1_000, 0, 5) == []
    assert Candles().day(BEGIN_MS) == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("value", [0, 1, 255, 256, 2**63, 2**64 - 1, 2**64, 2**200 + 1])
def test_sums_of_any_size_travel(value: int) -> None:
    assert read_sum(big_sum(value)) == value


def test_sums_beyond_64_bits_are_told_exactly() -> None:
    """As many and as large fills as a day holds would not fit an integer of MessagePack."""
    candles, largest = Candles(), (1 << 62) - 1
    for _ in range(9):
        candles.add(BEGIN_MS, 1, largest, largest)
    (candle,) = candles.view(86_400_000, 0, 1)
    assert read_sum(candle.volume_lots) == read_sum(candle.notional_uusd) == 9 * largest
    assert len(encode(candle)) < 80
    assert candles.day(BEGIN_MS).lots == 9 * largest
    assert Candles(candles.state()).day(BEGIN_MS) == candles.day(BEGIN_MS)


# --- all markets


def fill(market: int, ticks: int, lots: int, side: int = 0) -> Fill:
    return Fill(market, ticks, lots, 20, 1, 21, 2, side, 0, 0)


def test_trades_are_kept_newest_first_by_market() -> None:
    data = MarketData([3, 5])
    for n in range(TRADES_MAX + 20):
        data.fill(n, BEGIN_MS + n, fill(n % 2, 1_000 + n, 1, n % 2))
    last = TRADES_MAX + 19
    assert data.trades(1, 2) == [
        (last, BEGIN_MS + last, 1_000 + last, 1, 1),
        (last - 2, BEGIN_MS + last - 2, 998 + last, 1, 1),
    ]
    assert data.last_trade_ms(1) == BEGIN_MS + last and data.fills == TRADES_MAX + 20
    for n in range(TRADES_MAX):
        data.fill(n, BEGIN_MS + last + n, fill(0, 7, 1))
    assert len(data.trades(0, 10**6)) == TRADES_MAX
    assert {price for _, _, price, _, _ in data.trades(0, 10**6)} == {7}


def test_the_notional_counts_the_value_of_a_market() -> None:
    data = MarketData([3, 5])
    data.fill(1, BEGIN_MS, fill(1, 10, 2))
    assert data.day(1, BEGIN_MS).notional_uusd == 100 and data.day(0, BEGIN_MS).trades == 0


def test_market_data_goes_on_after_a_restart() -> None:
    data = MarketData([3, 5])
    for n in range(50):
        data.fill(n, BEGIN_MS + 700 * n, fill(n % 2, 1_000 + n, 1))
    again = MarketData([3, 5])
    for part in data.frozen():
        again.restore(part)
    for n in range(50, 90):
        for one in (data, again):
            one.fill(n, BEGIN_MS + 700 * n, fill(n % 2, 1_000 + n, 1))
    assert again.frozen() == data.frozen()
    with pytest.raises(SafetyViolation):
        MarketData([3]).restore(data.frozen()[1])


def test_what_was_frozen_does_not_change_any_more() -> None:
    derived = Derived(make_chain([market(0)]))
    derived.take(1, BEGIN_MS, 1, [fill(0, 5, 1)], [])
    frozen, copy = derived.freeze(), list(derived.freeze())
    derived.take(2, BEGIN_MS + 1, 2, [fill(0, 6, 1)], [])
    assert list(frozen) == copy != list(derived.freeze())
