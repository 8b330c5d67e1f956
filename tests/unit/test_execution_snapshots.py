"""A snapshot is used only as it was written, and never ahead of the history."""

from __future__ import annotations

from pathlib import Path

from execution.store import BlockRecord, ExecutionStore, Snapshot


def snapshot(height: int) -> Snapshot:
    return Snapshot(
        b"c" * 32, height, b"b" * 32, 5, 0, 0, 9, [(b"key", b"value"), (b"kez", b"v")], [b"part"]
    )


def store_with_history(path: Path, blocks: int) -> ExecutionStore:
    store = ExecutionStore(path)
    for height in range(1, blocks + 1):
        store.append(BlockRecord(height, b"b" * 32, height, height + 1, b"", b""))
    return store


def test_a_snapshot_comes_back_as_it_was_and_the_newest_comes_first(tmp_path: Path) -> None:
    store = store_with_history(tmp_path, 4)
    for height in (2, 3, 4):
        store.write_snapshot(snapshot(height))
    assert list(store.snapshots()) == [snapshot(4), snapshot(3)]


def test_a_snapshot_ahead_of_the_history_waits(tmp_path: Path) -> None:
    store = store_with_history(tmp_path, 3)
    store.write_snapshot(snapshot(3))
    store.write_snapshot(snapshot(4))
    assert list(store.snapshots()) == [snapshot(3)]


def test_a_snapshot_with_any_bit_flipped_or_cut_is_skipped(tmp_path: Path) -> None:
    store = store_with_history(tmp_path, 4)
    store.write_snapshot(snapshot(3))
    store.write_snapshot(snapshot(4))
    newest = max(tmp_path.glob("snapshots/*.snapshot"))
    good = newest.read_bytes()
    for at in range(len(good)):
        newest.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
        assert list(store.snapshots()) == [snapshot(3)], f"byte {at} was not missed"
    for length in (0, 31, 32, len(good) - 1):
        newest.write_bytes(good[:length])
        assert list(store.snapshots()) == [snapshot(3)]
    newest.write_bytes(good)
    assert list(store.snapshots()) == [snapshot(4), snapshot(3)]
