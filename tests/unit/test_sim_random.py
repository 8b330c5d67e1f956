"""The simulator's generator: known numbers, bounds, independent streams."""

from __future__ import annotations

from sim.kernel import Kernel
from sim.random import PPM, SplitMix64, derive_seed


def test_numbers_are_those_of_the_published_generator() -> None:
    random = SplitMix64(1234567)
    assert [random.next() for _ in range(3)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip


def test_draws_stay_in_their_bounds_and_reach_them() -> None:
    random = SplitMix64(1)
    assert {random.below(5) for _ in range(200)} == set(range(5))
    assert {random.between(-2, 2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    assert sorted(random.shuffled(range(9))) == list(range(9))
    assert len(set(random.sample(range(9), 4))) == 4


def test_a_chance_comes_true_as_often_as_it_says() -> None:
    random = SplitMix64(2)
    hits = sum(random.chance(PPM // 4) for _ in range(10_000))
    assert 2_300 < hits < 2_700
    assert not any(random.chance(0) for _ in range(100))


def test_a_stream_does_not_shift_another() -> None:
    quiet, busy = Kernel(9), Kernel(9)
    for _ in range(50):
        busy.stream("noise").next()
    assert quiet.stream("a").next() == busy.stream("a").next()
    assert derive_seed(9, "a") != derive_seed(9, "b") != derive_seed(10, "b")
