"""What processes take of their machine over a long run, and whether that grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from math import inf, sqrt
from pathlib import Path

import msgspec

WARM_S = 60.0
WARM_SHARE = 1 / 3
"""A process may fill its caches and windows after its start, for so long or for this share of the
run, whichever is longer; slopes of memory begin then, those of descriptors after `WARM_S`."""

LEAST_SAMPLES = 6
HOUR_S = 3_600.0
RSS_LIMIT = 32 * 1024 * 1024
"""Growth in bytes per hour that is called flat."""

DESCRIPTOR_LIMIT = 6.0
"""Growth in open descriptors per hour that is called flat."""

DESCRIPTOR_STEP = 4.0
"""Sessions come and go: so many descriptors more or less at the end mean nothing."""

FLAT, GROWS, UNDECIDED = "flat", "grows", "undecided"


class Vitals(msgspec.Struct, frozen=True):
    """A process at one moment (seconds of the run); `pid` changes with every start."""

    name: str
    pid: int
    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int


class Slope(msgspec.Struct, frozen=True):
    """Growth per hour by least squares; the true one lies within `bound` of it (two standard
    errors, widened for noise that hangs together). `bound` is negative where nothing tells."""

    per_hour: float
    bound: float

    def verdict(self, limit: float) -> str:
        """flat, grows, or undecided: the run was too short to tell one from the other."""
        if self.bound < 0:
            return UNDECIDED
        if self.per_hour - self.bound > limit:
            return GROWS
        return FLAT if self.per_hour + self.bound <= limit else UNDECIDED


class Growth(msgspec.Struct, frozen=True):
    """One process of a run, over all its starts. `lives` counts those that lasted long enough."""

    name: str
    role: str
    starts: int
    lives: int
    samples: int
    rss_bytes: int
    rss_most_bytes: int
    rss: Slope
    descriptors: int
    descriptors_most: int
    descriptor: Slope
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
        descriptors = len(os.listdir(folder / "fd"))
        threads = len(os.listdir(folder / "task"))
    except (OSError, IndexError, ValueError):
        return None
    if not pages:
        return None
    return Vitals(name, pid, at_s, pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads)


def slope(lives: Sequence[Sequence[tuple[float, float]]], step: float = 0.0) -> Slope:
    """The common growth of several lives, each (seconds, value) from a level of its own; a growth
    of `step` over all of them is within the bound."""
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
        return Slope(0.0, -1.0)
    steep = products / squares
    left = [[value - steep * at_s for at_s, value in points] for points in centred]
    noise = sum(one * one for rest in left for one in rest)
    follows = sum(a * b for rest in left for a, b in pairwise(rest))
    together = min(0.98, max(0.0, follows / noise)) if noise else 0.0
    error = sqrt(noise / free / squares) * sqrt((1 + together) / (1 - together))
    spanned_s = sum(life[-1][0] - life[0][0] for life in lives)
    return Slope(steep * HOUR_S, max(2 * error, step / spanned_s) * HOUR_S)


def warm_s(duration_s: float) -> float:
    """How long after its start a process may grow in a run of `duration_s`."""
    return max(WARM_S, duration_s * WARM_SHARE)


def growth(name: str, role: str, seen: Sequence[Vitals], warmth_s: float = WARM_S) -> Growth:
    """What became of a process; `seen` in order of time, with at least one look. The slope of its
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
        rss=slope([[(one.at_s, float(one.rss_bytes)) for one in life] for life in lives]),
        descriptors=round(sum(one.descriptors for one in used) / len(used)),
        descriptors_most=max(one.descriptors for one in seen),
        descriptor=slope(
            [[(one.at_s, float(one.descriptors)) for one in life] for life in longer],
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
