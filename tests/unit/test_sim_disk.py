"""The simulated disk: what a sync promised stays, what it did not may go."""

from __future__ import annotations

from sim.disk import DAMAGED, Disk, DiskRule
from sim.kernel import Kernel


def make(**rule: int) -> tuple[Kernel, Disk]:
    kernel = Kernel(5)
    return kernel, Disk(kernel, "n0", DiskRule(**rule))


def test_unsynced_writes_are_lost_and_synced_ones_are_not() -> None:
    kernel, disk = make(sync_us=100, keep_ppm=0)
    disk.append("log", 1)
    disk.put("key", "old")
    disk.sync(lambda: None)
    kernel.run(100)
    disk.append("log", 2)
    disk.put("key", "new")
    disk.put("other", 1)
    disk.delete("key")
    assert disk.dirty and disk.get("key") is None
    disk.crash()
    assert (disk.log("log"), disk.get("key"), disk.get("other")) == ([1], "old", None)
    assert disk.bit == {"unsynced_lost": 1}


def test_a_sync_takes_its_time_and_covers_only_what_was_written_before() -> None:
    kernel, disk = make(sync_us=100, write_us=10, keep_ppm=0)
    done: list[int] = []
    disk.append("log", 1)
    disk.append("log", 2)
    disk.sync(lambda: done.append(kernel.now_us))
    disk.append("log", 3)
    kernel.run(119)
    assert done == []
    kernel.run(120)
    assert done == [120]
    disk.crash()
    assert disk.log("log") == [1, 2]


def test_a_crash_within_a_sync_calls_nobody() -> None:
    kernel, disk = make(sync_us=100, keep_ppm=0)
    disk.append("log", 1)
    disk.sync(fail_test)
    kernel.run(50)
    disk.crash()
    kernel.run(1_000)
    assert disk.log("log") == []


def fail_test() -> None:
    raise AssertionError("the sync completed after the crash")


def test_a_prefix_of_the_unsynced_writes_survives() -> None:
    lengths = set()
    for seed in range(40):
        disk = Disk(Kernel(seed), "n0")
        for number in range(5):
            disk.append("log", number)
        disk.crash()
        kept = disk.log("log")
        assert kept == list(range(len(kept)))
        lengths.add(len(kept))
    assert {0, 1, 2} <= lengths


def test_a_torn_record_stands_at_the_end_and_can_be_cut() -> None:
    _, disk = make(keep_ppm=0, tear_ppm=1_000_000)
    disk.append("log", 1)
    disk.sync_now()
    disk.append("log", 2)
    disk.append("log", 3)
    disk.crash()
    assert disk.log("log") == [1, DAMAGED]
    disk.truncate("log", 1)
    disk.crash()
    assert disk.log("log") == [1]
    assert disk.bit["torn"] == 1


def test_a_bad_sector_damages_what_was_durable() -> None:
    _, disk = make()
    assert not disk.corrupt("log")
    disk.append("log", 1)
    disk.append("log", 2)
    disk.put("key", 1)
    disk.sync_now()
    assert disk.corrupt("log", 0) and disk.corrupt_value("key")
    assert not disk.corrupt_value("absent")
    assert (disk.log("log"), disk.get("key")) == ([DAMAGED, 2], DAMAGED)


def test_a_backup_brings_the_past_back() -> None:
    _, disk = make()
    disk.append("log", 1)
    backup = disk.copy()
    disk.append("log", 2)
    disk.put("key", 1)
    disk.restore(backup)
    assert (disk.log("log"), disk.get("key")) == ([1], None)
