"""Verdicts on growth, over drawn lives: leaks, jumps, bursts, windows that fill, restarts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp
from pathlib import Path
from random import Random

import pytest

from cluster.faults_trends import FLAT, GROWS, HOUR_S, UNDECIDED, jumps
from cluster.faults_vitals import (
    DESCRIPTOR_LIMIT,
    RSS_LIMIT,
    SEGMENTS_HELD,
    WARM_S,
    Vitals,
    growth,
    read_vitals,
    warm_s,
)
from store.segments import SegmentLog

MIB = 1 << 20
SEEDS = 20
MOST = SEEDS * 17 // 20
LOOK_S = 5

Curve = Callable[[float], float]
"""From the seconds since the start of a process, or of the run, to MiB or descriptors."""

Make = Callable[[Random], Curve]


def leak(per_hour: float) -> Make:
    return lambda rng: lambda age_s: per_hour * age_s / HOUR_S


def late_leak(per_hour: float, from_s: float) -> Make:
    return lambda rng: lambda age_s: per_hour * max(0.0, age_s - from_s) / HOUR_S


def falls_then_leaks(per_hour: float, turn_s: float) -> Make:
    return lambda rng: lambda age_s: per_hour * abs(age_s - turn_s) / HOUR_S


def stairs(size: float, every_s: float) -> Make:
    """A leak in pieces, as allocators take memory and as descriptors are counted."""

    def make(rng: Random) -> Curve:
        begun_s = rng.uniform(0, every_s)
        return lambda age_s: size * ((age_s + begun_s) // every_s)

    return make


def fills(level: float, tau_s: float) -> Make:
    return lambda rng: lambda age_s: level * (1 - exp(-age_s / tau_s))


def fills_evenly(level: float, full_s: float) -> Make:
    return lambda rng: lambda age_s: level * min(1.0, age_s / full_s)


def goes(*sizes: float, from_s: float = 1_300, until_s: float = 3_500) -> Make:
    """To another level, by each of these at a moment of its own."""

    def make(rng: Random) -> Curve:
        moments = [(rng.uniform(from_s, until_s), size) for size in sizes]
        return lambda at_s: sum(size for moment_s, size in moments if at_s >= moment_s)

    return make


def bursts(every_s: float, for_s: float, size: float) -> Make:
    def make(rng: Random) -> Curve:
        begins = []
        at_s = 0.0
        while at_s < HOUR_S:
            at_s += rng.expovariate(1 / every_s)
            begins.append(at_s)
        return lambda at_s: size * sum(begin <= at_s < begin + for_s for begin in begins)

    return make


def both(*makes: Make) -> Make:
    def make(rng: Random) -> Curve:
        curves = [one(rng) for one in makes]
        return lambda age_s: sum(curve(age_s) for curve in curves)

    return make


FLAT_LIFE = leak(0)


def an_hour(
    rng: Random, memory: Make, noise: float, starts: Sequence[int] = (0,), follows: float = 0.0
) -> list[Vitals]:
    """A process that starts at these seconds; noise in MiB, `follows` from one look to the next."""
    curve = memory(rng)
    rest = rng.gauss(0, noise)
    found = []
    for pid, (begin, end) in enumerate(pairwise([*starts, int(HOUR_S)])):
        level = 100 + rng.uniform(-5, 5)
        for at_s in range(begin, end, LOOK_S):
            age_s = at_s - begin
            rest = follows * rest + rng.gauss(0, noise * (1 - follows**2) ** 0.5)
            mib = level - 30 * exp(-age_s / 10) + curve(age_s) + rest
            found.append(Vitals("p-0", pid, float(at_s), round(mib * MIB), 30, 4))
    return found


def held(rng: Random, descriptors: Make, starts: Sequence[int] = (0,)) -> list[Vitals]:
    """A process with so many descriptors open, by the second of the run."""
    curve = descriptors(rng)
    return [
        Vitals("p-0", sum(at_s >= one for one in starts), float(at_s), 90 * MIB,
               30 + int(curve(at_s)), 4)
        for at_s in range(0, int(HOUR_S), LOOK_S)
    ]  # fmt: skip


def memory_verdicts(
    memory: Make, noise: float, *, starts: Sequence[int] = (0,), follows: float = 0.0,
    warmth_s: float | None = None,
) -> Counter[str]:  # fmt: skip
    """How often each verdict came."""
    warmth_s = warm_s(HOUR_S) if warmth_s is None else warmth_s
    found: Counter[str] = Counter()
    for seed in range(SEEDS):
        seen = an_hour(Random(seed), memory, noise, starts, follows)
        found[growth("p-0", "prover", seen, warmth_s).rss.verdict(RSS_LIMIT)] += 1
    print(f"seeds 0 to {SEEDS - 1}: {dict(found)}")
    return found


def descriptor_verdicts(descriptors: Make, *starts: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(SEEDS):
        seen = held(Random(seed), descriptors, (0, *starts))
        grown = growth("p-0", "prover", seen, warm_s(HOUR_S))
        found[grown.descriptor.verdict(DESCRIPTOR_LIMIT)] += 1
    print(f"seeds 0 to {SEEDS - 1}: {dict(found)}")
    return found


LEAKS: dict[str, tuple[Make, float]] = {
    "in noise": (leak(32), 5),
    "in arenas of a mebibyte": (stairs(1, HOUR_S / 32), 0.5),
    "behind a fall": (both(leak(32), goes(-15)), 0.5),
    "behind two falls": (both(leak(32), goes(-10, -10)), 0.5),
    "behind a fall in noise": (both(leak(32), goes(-15)), 5),
    "beside a jump": (both(leak(32), goes(10)), 5),
    "beside a window that filled": (both(leak(32), fills(40, 600)), 0.5),
    "with bursts": (both(leak(32), bursts(900, 60, 20)), 0.5),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_grows(name: str) -> None:
    found = memory_verdicts(*LEAKS[name])
    assert not found[FLAT] and found[GROWS] >= MOST


@pytest.mark.parametrize(
    ("starts", "follows", "warmth_s"),
    [((0, 480, 960), 0.0, None), ((0,), 0.9, None), (range(0, 3_600, 600), 0.0, WARM_S)],
)
def test_a_leak_is_never_called_flat_where_lives_are_short_or_noise_hangs_together(
    starts: Sequence[int], follows: float, warmth_s: float | None
) -> None:
    found = memory_verdicts(leak(32), 5, starts=starts, follows=follows, warmth_s=warmth_s)
    assert not found[FLAT] and found[GROWS] >= SEEDS // 4
    still = memory_verdicts(FLAT_LIFE, 5, starts=starts, follows=follows, warmth_s=warmth_s)
    assert not still[GROWS] and still[FLAT] >= SEEDS // 4


FLAT_LIVES: dict[str, tuple[Make, float]] = {
    "in noise": (FLAT_LIFE, 5),
    "little": (leak(8), 0.5),
    "a jump": (goes(8), 0.5),
    "a jump in noise": (goes(8), 5),
    "a jump that is given back": (goes(10, -10), 0.5),
    "bursts": (bursts(900, 60, 20), 0.5),
    "a window of ten minutes": (fills(60, 600), 0.5),
    "a window of ten minutes in noise": (fills(60, 600), 5),
    "a window that is full at once": (fills_evenly(40, 2_400), 0.5),
}


@pytest.mark.parametrize("name", FLAT_LIVES)
def test_what_does_not_grow_without_end_is_flat(name: str) -> None:
    found = memory_verdicts(*FLAT_LIVES[name])
    assert not found[GROWS] and found[FLAT] >= MOST


UNCLEAR: dict[str, tuple[Make, float]] = {
    "jumps in both halves": (both(goes(8, until_s=2_200), goes(8, from_s=2_600)), 0.5),
    "a leak in large pieces": (stairs(8, 900), 0.5),
    "a window that still fills": (fills(60, 1_200), 0.5),
    "a larger window that still fills": (fills(80, 1_200), 0.5),
    "a fall, then a leak": (falls_then_leaks(32, 2_400), 5),
    "a leak that began late": (late_leak(64, 2_400), 0.5),
    "half a leak": (leak(16), 5),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_an_hour_cannot_tell_is_undecided(name: str) -> None:
    assert memory_verdicts(*UNCLEAR[name])[UNDECIDED] >= MOST


def test_a_jump_is_found_where_it_is_and_a_steady_growth_has_none() -> None:
    rng = Random(1)
    noise = [rng.gauss(0, 1) for _ in range(400)]
    steep = [place / 4 + one for place, one in enumerate(noise)]
    assert jumps(steep, 4) == []
    [(place, rise)] = jumps([one + 20 * (at >= 150) for at, one in enumerate(steep)], 4)
    assert abs(place - 150) <= 1 and 20 < rise < 20 + 24 / 4 + 3, "with what grows besides"
    up, down = jumps([one + 20 * (150 <= at < 160) for at, one in enumerate(noise)], 4)
    assert abs(up[0] - 150) <= 1 and abs(down[0] - 160) <= 1
    assert abs(up[1] + down[1]) < 3, "nothing is left of a burst"


SESSIONS = bursts(40, 10, 2)


def test_a_leak_of_descriptors_grows() -> None:
    for sessions in (FLAT_LIFE, SESSIONS):
        found = descriptor_verdicts(both(stairs(1, 600), sessions))
        assert not found[FLAT] and found[GROWS] >= MOST
    found = descriptor_verdicts(both(stairs(1, 600), SESSIONS), 480, 960)
    assert not found[FLAT] and found[GROWS] >= MOST


def test_sessions_that_come_and_go_and_some_that_stay_are_no_leak() -> None:
    for sessions in (FLAT_LIFE, SESSIONS, goes(1, 1, -2, from_s=60), goes(5, until_s=1_500)):
        found = descriptor_verdicts(sessions)
        assert not found[GROWS] and found[FLAT] >= SEEDS // 2


def test_segments_of_a_log_are_a_window_up_to_its_bound() -> None:
    def opened(at_s: int, more: int) -> Vitals:
        segments = min(SEGMENTS_HELD, at_s // 600)
        return Vitals("p-0", 1, float(at_s), 90 * MIB, 20 + segments + more, 4, segments)

    window = [opened(at_s, 0) for at_s in range(0, 3_600, LOOK_S)]
    assert growth("p-0", "execution", window).verdict == FLAT
    beside = [opened(at_s, at_s // 300) for at_s in range(0, 3_600, LOOK_S)]
    assert growth("p-0", "execution", beside).verdict == GROWS


def test_a_log_that_was_read_all_over_holds_as_many_segments_as_it_may(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "log", 200)
    for number in range(1, 41):
        log.append(bytes([number]) * 100)
    for index in range(log.first_index, log.next_index):
        log.read(index)
    before = read_vitals("me", os.getpid(), 1.0)
    with next(iter(sorted((tmp_path / "log").iterdir()))).open("rb"):
        after = read_vitals("me", os.getpid(), 2.0)
    log.close()
    closed = read_vitals("me", os.getpid(), 3.0)
    assert before is not None and after is not None and closed is not None
    # Other tests' logs may stand open.
    assert before.segments == closed.segments + SEGMENTS_HELD
    assert closed.descriptors == before.descriptors - SEGMENTS_HELD
    assert (after.segments, after.descriptors) == (before.segments, before.descriptors + 1), (
        "what is held beyond the bound counts"
    )
