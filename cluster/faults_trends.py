"""Whether something grows without end: its slopes over whole lives and halves, between jumps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf, sqrt
from operator import itemgetter
from statistics import median

import msgspec
from msgspec.structs import replace

HOUR_S = 3_600.0

JUMP_SAMPLES = 24
JUMP_DEVIATIONS = 4.0
"""A life jumps where the means of so many looks before and after a moment differ by this many
deviations more than they do at other moments."""

FLAT, GROWS, UNDECIDED = "flat", "grows", "undecided"


class Slope(msgspec.Struct, frozen=True):
    """Growth per hour by least squares; the true one lies within `bound` of it (two standard
    errors, widened for noise that hangs together). `bound` is negative where nothing tells. `jumps`
    is what jumps between the pieces add, per hour."""

    per_hour: float
    bound: float
    jumps: float = 0.0

    @property
    def least(self) -> float:
        """The lower end, between jumps."""
        return self.per_hour - self.bound

    @property
    def most(self) -> float:
        """The upper end, or with the jumps where these are more."""
        return self.per_hour + max(self.bound, self.jumps)

    def verdict(self, limit: float) -> str:
        """flat, grows, or undecided, where nothing but this slope is known."""
        if self.bound < 0:
            return UNDECIDED
        return GROWS if self.least > limit else FLAT if self.most <= limit else UNDECIDED


NOTHING = Slope(0.0, -1.0)


class Trend(msgspec.Struct, frozen=True):
    """Growth over whole lives, and over the earlier and the later half of each. What leaks grows
    in both; a window that fills slows down, and a high-water mark rises once."""

    whole: Slope
    earlier: Slope
    later: Slope

    @property
    def lasting(self) -> float:
        """The growth per hour that would go on: the earlier half's where it did not slow down,
        otherwise that of one more half, slower again by as much."""
        return min(self.earlier.per_hour, 2 * self.later.per_hour - self.earlier.per_hour)

    def verdict(self, limit: float) -> str:
        """flat, grows, or undecided: what was seen does not tell one from the other."""
        if min(self.whole.bound, self.earlier.bound, self.later.bound) < 0:
            return UNDECIDED
        if self.whole.least > limit and self.lasting > limit:
            return GROWS
        calm = self.later.most <= limit or (self.whole.most <= limit and self.later.least <= limit)
        return FLAT if calm else UNDECIDED


Life = Sequence[tuple[float, float]]
"""(seconds, value) in order of time."""


def slope(lives: Sequence[Life], floor: float = 0.0) -> Slope:
    """The common growth of several lives, each from a level of its own; the bound is at least
    `floor`, per hour."""
    squares = products = 0.0
    centred: list[list[tuple[float, float]]] = []
    for life in lives:
        middle_s = sum(at_s for at_s, _ in life) / len(life)
        middle = sum(value for _, value in life) / len(life)
        points = [(at_s - middle_s, value - middle) for at_s, value in life]
        squares += sum(at_s * at_s for at_s, _ in points)
        products += sum(at_s * value for at_s, value in points)
        centred.append(points)
    free = sum(len(life) for life in lives) - len(lives) - 1
    if free < 1 or not squares:
        return NOTHING
    steep = products / squares
    left = [[value - steep * at_s for at_s, value in points] for points in centred]
    noise = sum(one * one for rest in left for one in rest)
    follows = sum(a * b for rest in left for a, b in pairwise(rest))
    together = min(0.98, max(0.0, follows / noise)) if noise else 0.0
    error = sqrt(noise / free / squares) * sqrt((1 + together) / (1 - together))
    return Slope(steep * HOUR_S, max(2 * error * HOUR_S, floor))


def jumps(values: Sequence[float], least: float) -> list[tuple[int, float]]:
    """Where a life goes to another level, as the place of its first value there, and by how much.
    A steady growth has no jumps: what counts is how much a moment differs from the others."""
    wide = JUMP_SAMPLES
    if len(values) < 4 * wide:
        return []
    sums = [0.0, *accumulate(values)]
    rises = {
        place: (sums[place + wide] - 2 * sums[place] + sums[place - wide]) / wide
        for place in range(wide, len(values) - wide + 1)
    }
    usual = median(rises.values())
    apart = {place: rise - usual for place, rise in rises.items()}
    deviation = 1.4826 * median(map(abs, apart.values()))  # of what is normal, from the median
    bound = max(least, JUMP_DEVIATIONS * deviation)
    left = [place for place in apart if abs(apart[place]) > bound]
    found: dict[int, float] = {}
    while left:
        highest = max(left, key=lambda place: abs(apart[place]))
        edge = _edge(sums, highest - wide, highest + wide)
        found[edge] = found.get(edge, 0.0) + rises[highest]
        # A burst goes up and soon down again: only what goes the same way is the same jump.
        left = [
            place
            for place in left
            if abs(place - highest) >= wide or apart[place] * apart[highest] < 0
        ]
    return sorted(found.items())


def _edge(sums: Sequence[float], begin: int, end: int) -> int:
    """The place between that parts the values into two levels best, by least squares."""

    def gap(place: int) -> float:
        before, after = place - begin, end - place
        apart = (sums[end] - sums[place]) / after - (sums[place] - sums[begin]) / before
        return apart * apart * before * after

    return max(range(begin + 1, end), key=gap)


def trend(lives: Sequence[Life], step: float, jump: float = inf) -> Trend:
    """The growth of several lives: of what lies between jumps of at least `jump`, each piece from a
    level of its own. A growth of `step` over all of them is within the bounds. Slopes alone would
    hide a leak behind a fall, as memory falls where a process gives it back after a burst."""
    halves: tuple[list[Life], list[Life]] = ([], [])
    jumped = [0.0, 0.0]
    whole: list[Life] = []
    for life in lives:
        middle_s = (life[0][0] + life[-1][0]) / 2
        found = jumps([value for _, value in life], jump) if jump < inf else []
        for place, rise in found:
            jumped[life[place][0] >= middle_s] += rise
        for begin, end in pairwise([0, *(place for place, _ in found), len(life)]):
            piece = life[begin:end]
            whole.append(piece)
            cut = bisect_left(piece, middle_s, key=itemgetter(0))
            for half, part in zip(halves, (piece[:cut], piece[cut:]), strict=True):
                if part:
                    half.append(part)
    hours = sum(life[-1][0] - life[0][0] for life in lives) / HOUR_S
    if not hours:
        return Trend(NOTHING, NOTHING, NOTHING)
    earlier, later = (
        replace(slope(half, step / hours), jumps=rise * 2 / hours)
        for half, rise in zip(halves, jumped, strict=True)
    )
    return Trend(replace(slope(whole, step / hours), jumps=sum(jumped) / hours), earlier, later)
