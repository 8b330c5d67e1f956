"""The newest values are kept, within their bytes whatever their number."""

from __future__ import annotations

from random import Random

from store.newest import Newest


def test_old_ones_leave_when_the_bytes_are_used_up() -> None:
    kept: Newest[str] = Newest(100)
    for number in range(1, 6):
        kept.put(number, f"value {number}", 30)
    assert [kept.get(number) for number in range(1, 7)] == [
        None, None, "value 3", "value 4", "value 5", None,
    ]  # fmt: skip
    kept.put(6, "large", 90)
    assert (len(kept), kept.size_bytes, kept.get(6)) == (1, 90, "large")
    kept.put(7, "too large", 101)
    assert (len(kept), kept.size_bytes, kept.get(7)) == (0, 0, None)


def test_old_ones_leave_when_they_are_too_many() -> None:
    kept: Newest[int] = Newest(100, 3)
    for number in range(1, 6):
        kept.put(number, number, 1)
    assert [kept.get(number) for number in range(1, 6)] == [None, None, 3, 4, 5]
    kept.put(6, 6, 98)
    assert (len(kept), kept.size_bytes, kept.get(4), kept.get(5)) == (3, 100, 4, 5)
    kept.put(7, 7, 50)
    assert (len(kept), kept.size_bytes, kept.get(7)) == (1, 50, 7)


def test_any_sizes_stay_within_the_bound_and_keep_all_that_fits() -> None:
    seed = Random().randrange(1 << 32)
    print("seed", seed)
    random = Random(seed)
    kept: Newest[int] = Newest(1_000)
    sizes = [random.choice((1, 10, 300, 2_000)) for _ in range(400)]
    for number, size in enumerate(sizes):
        kept.put(number, number, size)
        fitting = number + 1
        while fitting and sum(sizes[fitting - 1 : number + 1]) <= 1_000:
            fitting -= 1
        found = [one for one in range(number + 1) if kept.get(one) is not None]
        assert found == list(range(fitting, number + 1))
        assert kept.size_bytes == sum(sizes[fitting : number + 1])
