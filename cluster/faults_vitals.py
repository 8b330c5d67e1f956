"""What processes take of their machine over a long run, and whether that grows."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf, sqrt
from operator import itemgetter
from pathlib import Path
from statistics import median

import msgspec
from msgspec.structs import replace

from store.segment_file import SUFFIX

WARM_S = 60.0
WARM_SHARE = 1 / 3
"""A process may fill its caches and windows after its start, for so long or for this share of the
run, whichever is longer; trends of memory begin then, those of descriptors after `WARM_S`."""

LEAST_SAMPLES = 6
HOUR_S = 3_600.0
RSS_LIMIT = 16 * 1024 * 1024
"""Growth in bytes an hour that is called flat: midway between none and the leak of 32 MiB an hour
that an hour has to show."""

RSS_STEP = 2 * 1024 * 1024
"""Allocators take and return whole arenas of 1 MiB: so much more or less over a run, one in each
half, means nothing."""

DESCRIPTOR_LIMIT = 3.0
"""The same for open descriptors, of which a leak opens six an hour."""

DESCRIPTOR_STEP = 2.0
"""Sessions come and go: so many descriptors more or less over a run, one in each half, mean
nothing."""

SEGMENTS_HELD = 5
"""A log keeps so many of its segments open: the one that it writes and four that it read."""

JUMP_SAMPLES = 24
JUMP_DEVIATIONS = 4.0
JUMP_LEAST = 4 * 1024 * 1024
"""Memory jumps where the means of so many looks before and after a moment differ by this many
deviations more than they do at other moments, and by at least so many bytes."""

FLAT, GROWS, UNDECIDED = "flat", "grows", "undecided"


class Vitals(msgspec.Struct, frozen=True):
    """A process at one moment (seconds of the run); `pid` changes with every start. `segments` are
    those of its descriptors that are a log's segments, up to `SEGMENTS_HELD` of each log."""

    name: str
    pid: int
    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int
    segments: int = 0


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


class Growth(msgspec.Struct, frozen=True):
    """One process of a run, over all its starts. `lives` counts those that lasted long enough."""

    name: str
    role: str
    starts: int
    lives: int
    samples: int
    rss_bytes: int
    rss_most_bytes: int
    rss: Trend
    descriptors: int
    descriptors_most: int
    descriptor: Trend
    threads_most: int

    @property
    def verdict(self) -> str:
        """The worse of memory's and descriptors'."""
        found = {self.rss.verdict(RSS_LIMIT), self.descriptor.verdict(DESCRIPTOR_LIMIT)}
        return next(word for word in (GROWS, UNDECIDED, FLAT) if word in found)


def read_vitals(name: str, pid: int, at_s: float) -> Vitals | None:
    """A process of this machine now; None where it is gone, or the system does not tell."""
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        opened = os.listdir(folder / "fd")
        threads = len(os.listdir(folder / "task"))
    except (OSError, IndexError, ValueError):
        return None
    if not pages:
        return None
    rss_bytes = pages * os.sysconf("SC_PAGE_SIZE")
    logs: Counter[str] = Counter()
    for descriptor in opened:
        try:
            path = os.readlink(folder / "fd" / descriptor)
        except OSError:  # closed since
            continue
        if path.endswith(SUFFIX):
            logs[os.path.dirname(path)] += 1
    segments = sum(min(held, SEGMENTS_HELD) for held in logs.values())
    return Vitals(name, pid, at_s, rss_bytes, len(opened), threads, segments)


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


def warm_s(duration_s: float) -> float:
    """How long after its start a process may grow in a run of `duration_s`."""
    return max(WARM_S, duration_s * WARM_SHARE)


def growth(name: str, role: str, seen: Sequence[Vitals], warmth_s: float = WARM_S) -> Growth:
    """What became of a process; `seen` in order of time, with at least one look. The trend of its
    memory begins `warmth_s` after each start, that of its descriptors `WARM_S` after."""
    by_pid: dict[int, list[Vitals]] = {}
    for one in seen:
        by_pid.setdefault(one.pid, []).append(one)

    def lives_after(age_s: float) -> list[list[Vitals]]:
        warm = ([one for one in life if one.at_s - life[0].at_s >= age_s]
                for life in by_pid.values())  # fmt: skip
        return [life for life in warm if len(life) >= LEAST_SAMPLES]

    lives, longer = lives_after(warmth_s), lives_after(WARM_S)
    used = [one for life in lives for one in life] or list(seen)
    return Growth(
        name=name,
        role=role,
        starts=len(by_pid),
        lives=len(lives),
        samples=sum(map(len, lives)),
        rss_bytes=round(sum(one.rss_bytes for one in used) / len(used)),
        rss_most_bytes=max(one.rss_bytes for one in seen),
        rss=trend(
            [[(one.at_s, float(one.rss_bytes)) for one in life] for life in lives],
            RSS_STEP,
            JUMP_LEAST,
        ),
        descriptors=round(sum(one.descriptors for one in used) / len(used)),
        descriptors_most=max(one.descriptors for one in seen),
        descriptor=trend(
            [
                [(one.at_s, float(one.descriptors - one.segments)) for one in life]
                for life in longer
            ],
            DESCRIPTOR_STEP,
        ),
        threads_most=max(one.threads for one in seen),
    )


class Drift(msgspec.Struct, frozen=True):
    """Latency to executed in the first and in the last quarter of the load, in milliseconds: the
    middle of each second's median, and of its 99th percentile."""

    first_p50: float
    first_p99: float
    last_p50: float
    last_p99: float

    @property
    def ratio(self) -> float:
        """Of the medians, the last quarter's to the first's; infinite where one has none."""
        return self.last_p50 / self.first_p50 if self.first_p50 and self.last_p50 else inf


def drift(looks: Sequence[tuple[float, float, float]], duration_s: float) -> Drift:
    """The drift of (seconds, median, 99th percentile), one a second; zeros where nothing was."""
    first = [look for look in looks if look[0] <= duration_s / 4]
    last = [look for look in looks if duration_s * 3 / 4 <= look[0] <= duration_s]
    return Drift(*(_middle([look[n] for look in part]) for part in (first, last) for n in (1, 2)))


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
