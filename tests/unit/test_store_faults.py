"""A disk that is slow, full or read-only: what was not written does not count, and errors help."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.faults import disk
from store.files import DiskRefuses, ensure_directory, lock_directory, refusal, write_atomic
from store.segments import SegmentLog
from store.sqlite import open_database, transaction

SCHEMA = "CREATE TABLE kept (id INTEGER PRIMARY KEY);"
FAULTS = [
    ({"full": True}, errno.ENOSPC, "make room on its disk"),
    ({"read_only": True}, errno.EROFS, "mount its file system for writing"),
]


@pytest.fixture(autouse=True)
def sound_disk() -> Iterator[None]:
    """No fault before and after."""
    disk.order()
    yield
    disk.order()


@pytest.mark.parametrize(("fault", "number", "remedy"), FAULTS)
def test_a_log_takes_nothing_and_keeps_what_was_synced(
    tmp_path: Path, fault: dict[str, bool], number: int, remedy: str
) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"kept")
    log.sync()
    log.append(b"refused")
    disk.order(**fault)
    with pytest.raises(DiskRefuses, match=remedy) as caught:
        log.sync()
    assert caught.value.errno == number and str(tmp_path) in str(caught.value)
    assert log.synced_index == 1
    with pytest.raises(OSError, match=remedy):
        log.append(b"later")
    log.close()
    with pytest.raises(DiskRefuses):
        SegmentLog(tmp_path)
    disk.order()
    log = SegmentLog(tmp_path)
    assert [payload for _, payload in log.iterate(0)] == [b"kept"]
    log.append(b"again")
    log.sync()
    log.close()


@pytest.mark.parametrize(("fault", "number", "remedy"), FAULTS)
def test_a_database_takes_nothing_and_stays_usable(
    tmp_path: Path, fault: dict[str, bool], number: int, remedy: str
) -> None:
    path = tmp_path / "kept.sqlite"
    database = open_database(path, SCHEMA, 1)
    database.execute("INSERT INTO kept VALUES (1)")
    disk.order(**fault)
    for refused in (
        lambda: database.execute("INSERT INTO kept VALUES (2)"),
        lambda: database.executemany("INSERT INTO kept VALUES (?)", [(3,), (4,)]),
        lambda: in_transaction(database),
        lambda: open_database(tmp_path / "new.sqlite", SCHEMA, 1),
    ):
        with pytest.raises(DiskRefuses, match=remedy) as caught:
            refused()
        assert caught.value.errno == number
    assert database.execute("SELECT id FROM kept").fetchall() == [(1,)]
    disk.order()
    in_transaction(database)
    assert len(database.execute("SELECT id FROM kept").fetchall()) == 2


def in_transaction(database: sqlite3.Connection) -> None:
    with transaction(database):
        database.execute("INSERT INTO kept VALUES (5)")


def test_a_commit_that_is_refused_is_rolled_back(tmp_path: Path) -> None:
    database = open_database(tmp_path / "kept.sqlite", SCHEMA, 1)
    with pytest.raises(DiskRefuses), transaction(database):
        database.execute("INSERT INTO kept VALUES (1)")
        disk.order(full=True)
    assert not database.in_transaction
    assert database.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_what_sqlite_itself_says_of_a_full_disk_is_told_alike(tmp_path: Path) -> None:
    database = open_database(tmp_path / "kept.sqlite", SCHEMA, 1)
    database.execute("CREATE TABLE large (body BLOB)")
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(DiskRefuses, match=r"kept\.sqlite.*make room"), transaction(database):
        database.execute("INSERT INTO large VALUES (zeroblob(100000))")
    database.execute("PRAGMA query_only=1")
    with pytest.raises(DiskRefuses, match="for writing"):
        database.execute("INSERT INTO kept VALUES (1)")
    with pytest.raises(sqlite3.OperationalError, match="incomplete"):
        database.execute("INSERT INTO")


@pytest.mark.parametrize(("fault", "number", "remedy"), FAULTS)
def test_files_and_directories_stay_as_they_were(
    tmp_path: Path, fault: dict[str, bool], number: int, remedy: str
) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"old")
    disk.order(**fault)
    with pytest.raises(DiskRefuses, match=remedy):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    for refused in (ensure_directory, lock_directory):
        with pytest.raises(DiskRefuses, match=remedy) as caught:
            refused(tmp_path)
        assert caught.value.errno == number
    disk.order()
    lock_directory(tmp_path).close()


def test_a_slow_sync_ends_when_the_disk_is_quick_again(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path)
    log.append(b"x")
    disk.order(10_000)
    before = disk.delayed_syncs
    syncing = threading.Thread(target=log.sync)
    syncing.start()
    while disk.delayed_syncs == before:
        pass
    disk.order()
    syncing.join()
    assert log.synced_index == 1
    log.close()


def test_only_faults_of_the_disk_are_the_disks(tmp_path: Path) -> None:
    other = FileNotFoundError(errno.ENOENT, "no such file")
    assert refusal(other, tmp_path) is other
    once = refusal(OSError(errno.EIO, "input/output error"), tmp_path)
    assert isinstance(once, DiskRefuses) and "check its disk" in str(once)
    assert refusal(once, tmp_path / "elsewhere") is once
