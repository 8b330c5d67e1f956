"""Atomic files, directory locks and databases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import ConfigError, SafetyViolation
from store.files import ensure_directory, lock_directory, write_atomic
from store.sqlite import open_database, transaction

SCHEMA = "CREATE TABLE entry (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT"


def test_write_atomic_replaces_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o644])
def test_write_atomic_keeps_the_mode_of_what_it_replaces(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_is_as_open_as_the_umask_allows(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", b"new")
        write_atomic(tmp_path / "secret", b"new", 0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_write_atomic_follows_no_link_in_place_of_its_temporary_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(other)
    with pytest.raises(OSError, match="symbolic link"):
        write_atomic(tmp_path / "file", b"new")
    assert other.read_bytes() == b"mine" and not (tmp_path / "file").exists()


def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(source: object, target: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(OSError, match="no space"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["open", "write", "fdatasync", "rename"])
def test_a_failed_write_names_the_file_that_was_meant(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> object:
        raise OSError(28, "no space left", *(["a", None, "b"] if step == "rename" else []))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="no space left") as caught:
            write_atomic(tmp_path / "file", b"new")
    assert caught.value.filename == str(tmp_path / "file")
    assert ".tmp" not in str(caught.value) and "->" not in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "none" / "file", b"new")
    assert caught.value.filename == str(tmp_path / "none" / "file")


def test_a_second_process_cannot_take_the_lock(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from store.files import lock_directory\n"
        "held = lock_directory(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=rf"in use by another process \(pid {other.pid}\)"):
            lock_directory(tmp_path)
        other.kill()
        other.wait()
    with lock_directory(tmp_path):
        pass
    lock_directory(tmp_path).close()


def test_a_path_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        ensure_directory(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot create the directory"):
        ensure_directory(tmp_path / "file" / "below")
    ensure_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot write in the directory"):
        ensure_directory(tmp_path)
    tmp_path.chmod(0o700)


def test_a_database_is_durable_and_versioned(tmp_path: Path) -> None:
    path = tmp_path / "db"
    connection = open_database(path, SCHEMA, 3)
    pragmas = [
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
    ]
    assert pragmas == ["wal", 2, 1, 3]
    connection.execute("INSERT INTO entry VALUES ('a', 1)")
    connection.close()
    connection = open_database(path, SCHEMA, 3)
    assert connection.execute("SELECT * FROM entry").fetchall() == [("a", 1)]
    connection.close()
    with pytest.raises(ConfigError, match="schema version 3, this program needs 4"):
        open_database(path, SCHEMA, 4)


def test_other_files_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, though it is long enough " * 100)
    with pytest.raises(ConfigError, match="cannot use the database"):
        open_database(tmp_path / "text", SCHEMA, 1)
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE x (y)")
    foreign.close()
    with pytest.raises(ConfigError, match="schema version 0"):
        open_database(tmp_path / "foreign", SCHEMA, 1)


def test_a_broken_schema_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        open_database(tmp_path / "db", SCHEMA + "; CREATE TABLE broken (", 1)
    open_database(tmp_path / "db", SCHEMA, 1).close()


def test_a_transaction_rolls_back_as_a_whole(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "db", SCHEMA, 1)
    with transaction(connection):
        connection.execute("INSERT INTO entry VALUES ('kept', 1)")
    with pytest.raises(sqlite3.IntegrityError), transaction(connection):
        connection.execute("INSERT INTO entry VALUES ('lost', 2)")
        connection.execute("INSERT INTO entry VALUES ('kept', 3)")
    with pytest.raises(KeyError), transaction(connection):
        connection.execute("DELETE FROM entry")
        raise KeyError("stop")
    assert connection.execute("SELECT * FROM entry").fetchall() == [("kept", 1)]
    assert not connection.in_transaction
    with pytest.raises(SafetyViolation), transaction(connection), transaction(connection):
        pass
    other = open_database(tmp_path / "db", SCHEMA, 1)
    assert other.execute("SELECT * FROM entry").fetchall() == [("kept", 1)]
