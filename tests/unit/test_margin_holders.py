"""The first holders of a side by rank, against sorting all of them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from margin_world import config

from margin import Market, holders
from margin.deleveraging import Opposite, rank_key
from margin.holders import Holders

HUGE = 1 << 70


def ranked(present: dict[int, tuple[int, int]], market: Market, longs: bool) -> list[Opposite]:
    """All holders of a side, sorted."""
    found = []
    for account, (size, gain) in present.items():
        if size and (size > 0) == longs:
            profit = size * market.mark_ticks * market.config.value_uusd + gain
            found.append(Opposite(account, profit, abs(size)))
    return sorted(found, key=rank_key)


@pytest.mark.parametrize("least", [0, 20, 10**9])
@pytest.mark.parametrize("seed", range(6))
def test_the_first_are_what_sorting_gives(
    seed: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {seed}")
    monkeypatch.setattr(holders, "LEAST_IN_ARRAYS", least)
    rng = random.Random(seed)
    market = Market(config(0))
    rows, present = Holders(), {}
    spread = rng.choice((0, 3, 10**6))
    for _ in range(120):
        for _ in range(rng.randint(1, 8)):
            account = rng.randrange(60) | rng.randrange(2) << rng.choice((40, 62))
            size = rng.choice((0, rng.randint(-4, 4), rng.randint(-(1 << 31), 1 << 31)))
            gain = rng.randint(-spread, spread) - rng.choice((0, size * 1_000 * 1_000))
            rows.put(account, size, gain)
            present[account] = size, gain
            if not size:
                del present[account]
        market.mark_ticks = rng.choice((1, 1_000, 1_000, 1_001, (1 << 31) - 1))
        assert sorted(rows.accounts()) == sorted(present)
        for longs in (False, True):
            expected = ranked(present, market, longs)
            for count in (1, rng.randint(1, 60), 1_000):
                assert rows.first(market, longs, count) == expected[:count]


@pytest.mark.parametrize("gain", [holders.GAIN_BOUND, -HUGE, HUGE])
def test_gains_beyond_machine_words_are_exact(gain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "LEAST_IN_ARRAYS", 0)
    market, rows = Market(config(0)), Holders()
    present = {16: (5, gain), 17: (5, 0), 18: (7, gain + 1), 19: (-7, -gain)}
    for account, row in present.items():
        rows.put(account, *row)
    for longs in (False, True):
        assert rows.first(market, longs, 9) == ranked(present, market, longs)
    # It comes back among the others.
    for account in (16, 18, 19):
        size = present[account][0]
        present[account] = size, -account
        rows.put(account, size, -account)
    for longs in (False, True):
        assert rows.first(market, longs, 9) == ranked(present, market, longs)


def test_many_with_the_same_profit_stand_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "LEAST_IN_ARRAYS", 0)
    market, rows = Market(config(0)), Holders()
    numbers = list(range(100, 400))
    random.Random(3).shuffle(numbers)
    for account in numbers:
        rows.put(account, 1, -1_000_000 if account % 3 else 0)
    rows.put(50, 2, -2_000_000)
    found = [opposite.account for opposite in rows.first(market, True, 106)]
    winners = [number for number in range(100, 400) if number % 3 == 0]
    assert found == [*winners, 50, 100, 101, 103, 104, 106]
