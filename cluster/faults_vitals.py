"""What processes take of their machine over a long run, and whether that grows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from math import inf
from pathlib import Path

import msgspec

from cluster.faults_trends import (
    FLAT,
    GROWS,
    HOUR_S,
    NOTHING,
    UNDECIDED,
    Slope,
    Trend,
    slope,
    trend,
)
from store.segment_file import SUFFIX

WARM_S = 60.0
"""Trends of descriptors begin so long after a start."""

FILL_S = 1_200.0
FILL_SHARE = 1 / 3
"""A process may fill its caches and windows after its start, for so long or for this share of the
run, whichever is longer; trends of memory begin then."""

LEAST_SAMPLES = 6
STARTS_LEAST = 6
"""So many starts after the first show whether a process starts with more each time."""

RSS_LIMIT = 16 * 1024 * 1024
"""Growth in bytes an hour that is called flat: midway between none and the leak of 32 MiB an hour
that an hour has to show."""

RSS_STEP = 2 * 1024 * 1024
"""Allocators take and return whole arenas of 1 MiB: so much more or less over a run, one in each
half, means nothing."""

DESCRIPTOR_LIMIT = 3.0
"""The same for open descriptors, of which a leak opens six an hour."""

JUMP_LEAST = 4 * 1024 * 1024
"""Memory that is so much more or less from a moment on may have jumped."""

DESCRIPTOR_STEP = 2.0
"""Sessions come and go: so many descriptors more or less over a run, one in each half, mean
nothing."""

DESCRIPTOR_JUMP = 4.0
"""So many more or less from a moment on may be a jump: who followed a validator that ended follows
another one."""

SEGMENTS_HELD = 5
"""A log keeps so many of its segments open: the one that it writes and four that it read."""


class Vitals(msgspec.Struct, frozen=True):
    """A process at one moment (seconds of the run); `pid` changes with every start. `segments` are
    those of its descriptors that are a log's segments, up to `SEGMENTS_HELD` of each log, `sockets`
    those that are connections and listeners."""

    name: str
    pid: int
    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int
    segments: int = 0
    sockets: int = 0


class Growth(msgspec.Struct, frozen=True):
    """One process of a run, over all its starts. `lives` counts those that lasted long enough;
    `starts_rss` is the growth from start to start, of one that lived too short."""

    name: str
    role: str
    starts: int
    lives: int
    samples: int
    rss_bytes: int
    rss_most_bytes: int
    rss: Trend
    starts_rss: Slope
    descriptors: int
    descriptors_most: int
    descriptor: Trend
    threads_most: int

    @property
    def verdict(self) -> str:
        """The worse of memory's and descriptors'."""
        found = {self._memory, self.descriptor.verdict(DESCRIPTOR_LIMIT)}
        return next(word for word in (GROWS, UNDECIDED, FLAT) if word in found)

    @property
    def _memory(self) -> str:
        if self.rss.whole.bound >= 0:
            return self.rss.verdict(RSS_LIMIT)
        return self.starts_rss.verdict(RSS_LIMIT)


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
    sockets = 0
    for descriptor in opened:
        try:
            path = os.readlink(folder / "fd" / descriptor)
        except OSError:  # closed since
            continue
        if path.endswith(SUFFIX):
            logs[os.path.dirname(path)] += 1
        sockets += path.startswith("socket:")
    segments = sum(min(held, SEGMENTS_HELD) for held in logs.values())
    return Vitals(name, pid, at_s, rss_bytes, len(opened), threads, segments, sockets)


def warm_s(duration_s: float) -> float:
    """How long after its start a process may grow in a run of `duration_s`."""
    return max(FILL_S, duration_s * FILL_SHARE)


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
        starts_rss=starts_slope(list(by_pid.values())[1:]),
        descriptors=round(sum(one.descriptors for one in used) / len(used)),
        descriptors_most=max(one.descriptors for one in seen),
        descriptor=trend(
            [
                [(one.at_s, float(one.descriptors - one.segments)) for one in life]
                for life in longer
            ],
            DESCRIPTOR_STEP,
            DESCRIPTOR_JUMP,
        ),
        threads_most=max(one.threads for one in seen),
    )


def starts_slope(lives: Sequence[Sequence[Vitals]]) -> Slope:
    """Growth of the memory that a process has in the second half of its first minute, from start to
    start. What it gathers in a longer life only others of its role show."""
    levels: list[tuple[float, float]] = []
    for life in lives:
        began_s = life[0].at_s
        if life[-1].at_s - began_s >= WARM_S:
            aged = [one for one in life if WARM_S / 2 <= one.at_s - began_s <= WARM_S]
            levels.append((began_s, sum(one.rss_bytes for one in aged) / max(1, len(aged))))
    if len(levels) < STARTS_LEAST:
        return NOTHING
    return slope([levels], RSS_STEP / (levels[-1][0] - levels[0][0]) * HOUR_S)


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
