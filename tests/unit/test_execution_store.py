"""History and snapshots of an execution node: what is found again, by height and by number."""

from __future__ import annotations

from pathlib import Path

import pytest
from object_sizes import memory_of

from execution import store as store_module
from execution.store import RECORD_BYTES, BlockRecord, ExecutionStore, Snapshot

COUNTS = [3, 0, 0, 5, 1, 0]
"""Events of the blocks 1 to 6."""


def record(height: int) -> BlockRecord:
    first = 1 + sum(COUNTS[: height - 1])
    return BlockRecord(
        height, bytes([height]) * 32, first, first + COUNTS[height - 1], b"events %d" % height,
        b"diff %d" % height,
    )  # fmt: skip


def filled(path: Path) -> ExecutionStore:
    store = ExecutionStore(path)
    for height in range(1, len(COUNTS) + 1):
        store.append(record(height))
    return store


def snapshot(height: int) -> Snapshot:
    return Snapshot(b"\x01" * 32, height, b"\x02" * 32, 5, 1, 2, 3, [(b"key", b"%d" % height)], [])


def test_an_empty_history(tmp_path: Path) -> None:
    store = ExecutionStore(tmp_path)
    assert (store.height, store.first_height, list(store.snapshots())) == (0, 1, [])
    assert store.height_of(1) == 1, "the height to come"
    store.close()


def test_blocks_are_found_after_reopening(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.close()
    store = ExecutionStore(tmp_path)
    assert store.height == len(COUNTS)
    assert [store.record(height) for height in range(1, 7)] == [record(n) for n in range(1, 7)]
    with pytest.raises(IndexError):
        store.record(7)
    assert store.stored_bytes > 0
    store.close()


def test_the_blocks_in_memory_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a log gets slower its blocks grow: so many of them would be no bound."""
    monkeypatch.setattr(store_module, "CACHED_BYTES", 100_000)
    store = ExecutionStore(tmp_path)
    records = [
        BlockRecord(height, bytes(32), 1, 1, b"e" * 20 * height, b"d" * 10 * height)
        for height in range(1, 301)
    ]
    for record in records:
        store.append(record)
        assert store._newest.size_bytes <= 100_000
    assert store._newest.get(300) is records[-1] and 8 <= len(store._newest) <= 12
    assert [store.record(height) for height in range(1, 301)] == records
    small = BlockRecord(10**6, bytes(range(32)), 10**7, 10**7 + 1, b"", b"")
    assert memory_of(small) <= RECORD_BYTES <= 2 * memory_of(small)
    store.close()


def test_the_block_of_an_event(tmp_path: Path) -> None:
    store = filled(tmp_path)
    found = {seq: store.height_of(seq) for seq in range(1, 12)}
    for seq, height in found.items():
        if seq <= sum(COUNTS):
            assert record(height).first_seq <= seq < record(height).next_seq
        else:
            assert height == len(COUNTS) + 1
    assert [found[seq] for seq in (1, 3, 4, 8, 9, 10)] == [1, 1, 4, 4, 5, 7]
    store.close()


def test_the_newest_usable_snapshot_comes_first(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for height in (2, 4, 6):
        store.write_snapshot(snapshot(height))
    assert list(store.snapshots()) == [snapshot(6), snapshot(4)], "two are kept"
    newest = tmp_path / "snapshots" / "000000000006.snapshot"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert list(store.snapshots()) == [snapshot(4)], "a damaged one is passed over"
    store.close()


def test_a_snapshot_above_the_history_is_of_no_use(tmp_path: Path) -> None:
    """The history behind it was lost: its events could not be streamed."""
    store = filled(tmp_path)
    store.write_snapshot(snapshot(5))
    store.write_snapshot(snapshot(7))
    assert list(store.snapshots()) == [snapshot(5)]
    store.close()
