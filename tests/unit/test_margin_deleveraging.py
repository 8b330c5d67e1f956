"""Exact division, ranks and haircuts, against a naive allocation."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from margin.deleveraging import (
    HOUR_MS,
    Opposite,
    Ranking,
    allocate,
    divide_lots,
    divide_shortfall,
    haircut_room_uusd,
    rank_key,
    realised_uusd,
)


def naive_level(total: int, weights: list[int], caps: list[int]) -> list[Fraction]:
    """Proportional shares under caps as fractions: raise a common level until all is given."""
    level = Fraction(0)
    given = Fraction(0)
    open_ones = {i for i, weight in enumerate(weights) if weight and caps[i]}
    while open_ones and given < total:
        speed = sum(weights[i] for i in open_ones)
        reach = min(Fraction(caps[i], weights[i]) for i in open_ones)
        step = min(reach - level, Fraction(total - given, 1) / speed)
        level += step
        given += step * speed
        open_ones = {i for i in open_ones if level * weights[i] < caps[i]}
    return [min(level * weight, Fraction(cap)) for weight, cap in zip(weights, caps, strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_a_division_is_exact_and_within_a_unit_of_the_fractions(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        count = rng.randint(1, 12)
        scale = 10 ** rng.randint(0, 12)
        weights = [rng.choice((0, 1, rng.randint(0, scale))) for _ in range(count)]
        caps = [rng.choice((0, 1, rng.randint(0, scale), 10**15)) for _ in range(count)]
        total = rng.choice((0, 1, count, rng.randint(0, 3 * scale), sum(caps)))
        parts = allocate(total, weights, caps)
        most = sum(cap for weight, cap in zip(weights, caps, strict=True) if weight)
        assert sum(parts) == min(total, most), (seed, total, weights, caps)
        exact = naive_level(total, weights, caps)
        for part, share, weight, cap in zip(parts, exact, weights, caps, strict=True):
            assert 0 <= part <= cap
            assert part == 0 or weight
            assert abs(part - share) < 1, (seed, total, weights, caps)


def test_odd_units_go_to_the_largest_remainders_then_by_rank() -> None:
    assert allocate(10, [1, 1, 1], [99] * 3) == [4, 3, 3]
    assert allocate(5, [1, 2, 1], [99] * 3) == [1, 3, 1]
    assert allocate(2, [1, 1, 1], [99] * 3) == [1, 1, 0]
    assert allocate(10, [8, 1, 1], [4, 99, 99]) == [4, 3, 3]
    assert allocate(10, [1, 1], [2, 3]) == [2, 3]
    assert allocate(10, [0, 0], [20, 20]) == [0, 0]
    assert allocate(10, [], []) == []


def test_negative_numbers_are_refused() -> None:
    for total, weights, caps in ((-1, [1], [1]), (1, [-1], [1]), (1, [1], [-1])):
        with pytest.raises(ValueError, match="negative"):
            allocate(total, weights, caps)


def test_lots_go_by_profit_then_by_size() -> None:
    profitable = [Opposite(1, 300, 50), Opposite(2, 100, 50)]
    others = [Opposite(3, 0, 30), Opposite(4, -9, 10)]
    assert divide_lots(40, profitable + others) == [30, 10, 0, 0]
    # The first is capped by its size, the second takes over.
    assert divide_lots(80, profitable + others) == [50, 30, 0, 0]
    # Beyond those with a profit: three parts to one, by size.
    assert divide_lots(120, profitable + others) == [50, 50, 15, 5]
    assert divide_lots(500, profitable + others) == [50, 50, 30, 10]
    assert divide_lots(5, []) == []


def test_haircuts_stop_where_maintenance_would_be_broken() -> None:
    assert haircut_room_uusd(100, 60) == 40
    assert haircut_room_uusd(60, 100) == 0
    assert divide_shortfall(90, [1, 2], [1_000, 1_000]) == [30, 60]
    assert divide_shortfall(90, [1, 2], [1_000, 40]) == [50, 40]
    assert divide_shortfall(90, [1, 2], [10, 40]) == [10, 40]


def test_realised_profit_counts_for_a_day() -> None:
    now = 500_000 * HOUR_MS + 1_234
    hours = [(500_000 - 25, 1), (500_000 - 24, 10), (499_999, 100), (500_000, -1_000)]
    assert realised_uusd(hours, now) == 10 + 100 - 1_000
    assert realised_uusd([], now) == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_ranking_gives_what_sorting_would(seed: int) -> None:
    rng = random.Random(seed)

    def some(account: int) -> Opposite:
        return Opposite(account, rng.randint(-5, 5), rng.randint(1, 6))

    present = {account: some(account) for account in range(40)}
    ranked = sorted(present.values(), key=rank_key)
    ghosts = {account for account in present if rng.random() < 0.1}
    for ghost in ghosts:
        del present[ghost]
    ranking = Ranking(lambda count: ranked[:count], lambda account: account not in ghosts)
    for _ in range(300):
        kind = rng.randrange(4)
        if kind == 0:
            change = some(rng.randrange(50))
            present[change.account] = change
            ranking.put(change)
        elif kind == 1:
            gone = rng.randrange(50)
            present.pop(gone, None)
            ranking.put(Opposite(gone, 3, 0))
        else:
            count = rng.randint(0, 6)
            taken = ranking.take(count)
            assert taken == sorted(present.values(), key=rank_key)[:count]
            for opposite in taken:
                if rng.random() < 0.7:
                    ranking.put(opposite)
                else:
                    del present[opposite.account]
    assert ranking.take(1_000) == sorted(present.values(), key=rank_key)
    assert ranking.take(1) == []
