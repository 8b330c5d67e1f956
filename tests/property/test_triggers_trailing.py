"""Trailing stops against a plain list in which everybody remembers its own best level."""

from __future__ import annotations

import os
import random

import pytest

from execution.trailing import Heir, Trail

RUNS = int(os.environ.get("TRILEMMA_TRAILING_RUNS", "60"))


class Plain:
    """The same stops, each with its own best; and the records that a state would hold."""

    def __init__(self) -> None:
        self.stops: dict[int, list[int]] = {}
        """Place: [id, distance, best]."""
        self.records: dict[int, int] = {}
        """Best level on record by id."""

    def write(self, heirs: list[Heir]) -> None:
        self.records.update(heirs)

    def follow(self, level: int) -> None:
        for stop in self.stops.values():
            stop[2] = max(stop[2], level)

    def due(self, level: int) -> list[int]:
        return sorted(
            one for one, distance, best in self.stops.values() if level <= best - distance
        )

    def restored(self) -> Trail:
        trail = Trail()
        for place in sorted(self.stops):
            trigger_id, distance, _ = self.stops[place]
            trail.arm(place, trigger_id, distance, self.records[trigger_id])
        return trail


def step(rng: random.Random, trail: Trail, plain: Plain, level: int, trigger_id: int) -> None:
    kind = rng.random()
    if kind < 0.35:
        distance, place = rng.choice((rng.randint(1, 9), rng.randint(1, 300))), trail.next_place()
        trail.arm(place, trigger_id, distance, level)
        plain.stops[place] = [trigger_id, distance, level]
        plain.records[trigger_id] = level
    elif kind < 0.5 and plain.stops:
        # Often the newest, whose record somebody must take over.
        place = rng.choice((max(plain.stops), rng.choice(list(plain.stops))))
        plain.write(trail.remove(place))
        del plain.records[plain.stops.pop(place)[0]]
    else:
        newest = trail.follow(level)
        if newest:
            plain.write([(newest, level)])
        plain.follow(level)
        expected = plain.due(level)
        found, heirs = trail.due(level)
        assert sorted(found) == expected
        plain.write(heirs)
        plain.stops = {place: one for place, one in plain.stops.items() if one[0] not in expected}
        for one in expected:
            plain.records.pop(one)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_trail_is_a_list_of_stops_with_their_own_best_levels(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    trail, plain, level = Trail(), Plain(), rng.choice((1_000, -1_000))
    width = rng.choice((2, 10, 60))
    for number in range(1, 250):
        if rng.random() < 0.6:
            level += rng.randint(-width, width)
            newest = trail.follow(level)
            plain.write([(newest, level)] if newest else [])
            plain.follow(level)
        step(rng, trail, plain, level, number)
        assert len(trail) == len(plain.stops)
        assert plain.records.keys() == {one for one, _, _ in plain.stops.values()}
        for place, (_, _, best) in plain.stops.items():
            assert trail.best(place) == best
        if rng.random() < 0.1:
            trail = plain.restored()


def test_a_rally_under_many_stops_touches_few() -> None:
    trail = Trail()
    for place in range(1, 10_001):
        trail.arm(place, place, 5_000_000 + place, 0)
    for level in range(1, 10_001):
        assert trail.follow(level) == 10_000
    # One group, whatever the level: nothing is walked over.
    assert len(trail._groups) == 1 and trail.best(1) == 10_000
