"""Archives of stores: whole or refused, without voting states, restored into empty directories."""

from __future__ import annotations

import io
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from protocol.errors import ConfigError
from store.backup import (
    BackupDamaged,
    Manifest,
    copy_database,
    copy_log,
    pack,
    read_manifest,
    restore,
)
from store.files import lock_directory
from store.ownership import UNFINISHED, UNSIGNING, mark_restore, restored_as
from store.segment_file import StoreDamaged
from store.segments import SegmentLog

PLACES = 400


def manifest(role: str = "execution", **changes: object) -> Manifest:
    fields: dict[str, object] = {
        "archive_format": 1, "role": role, "name": "one", "member": "", "chain_id": "00",
        "version": "0.1.0", "store_format": 1, "made_ms": 1, "heights": {"log": 3},
    }  # fmt: skip
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def archive(path: Path, role: str = "execution", **changes: object) -> Path:
    staging = path.with_name("staging")
    (staging / "log").mkdir(parents=True, exist_ok=True)
    (staging / "log" / "a.seg").write_bytes(bytes(range(256)) * 8)
    (staging / "OWNER").write_bytes(b"execution - 00\n")
    with path.open("wb") as out:
        pack(staging, manifest(role, **changes), out)
    return path


# --- logs


def test_a_log_is_copied_while_it_is_written_to(tmp_path: Path) -> None:
    source = SegmentLog(tmp_path / "source", segment_bytes=2_000)
    for number in range(100):
        source.append(b"%d" % number * 40)
    source.sync()
    source.append(b"not synced")
    source.flush()
    assert copy_log(tmp_path / "source", tmp_path / "copy") == 101
    source.append(b"later")
    source.close()
    copy = SegmentLog(tmp_path / "copy")
    assert [raw for _, raw in copy.iterate(99)] == [b"99" * 40, b"not synced"]
    copy.close()


@pytest.mark.parametrize("cut", [1, 7, 8, 20])
def test_a_copy_ends_with_a_whole_record(tmp_path: Path, cut: int) -> None:
    source = SegmentLog(tmp_path / "source")
    source.append(b"whole")
    source.sync()
    source.append(b"x" * 50)
    source.flush()
    (path,) = (tmp_path / "source").glob("*.seg")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    assert copy_log(tmp_path / "source", tmp_path / "copy") == 1


def test_a_damaged_log_is_named_and_not_its_copy(tmp_path: Path) -> None:
    source = SegmentLog(tmp_path / "source", segment_bytes=200)
    for number in range(20):
        source.append(b"%02d" % number * 30)
    source.sync()
    source.close()
    first = min((tmp_path / "source").glob("*.seg"))
    with first.open("r+b") as file:
        file.seek(60)
        file.write(b"not what was written")
    with pytest.raises(StoreDamaged, match="is damaged at offset") as refused:
        copy_log(tmp_path / "source", tmp_path / "copy")
    assert refused.value.path == first and str(first) in str(refused.value)


def test_a_log_that_drops_segments_meanwhile_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SegmentLog(tmp_path / "source", segment_bytes=200)
    for number in range(20):
        source.append(b"%02d" % number * 30)
    source.sync()
    import shutil

    real, calls = shutil.copyfile, []

    def copying(path: Path, target: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            source.truncate_before(10)
        real(path, target)

    monkeypatch.setattr("store.backup.shutil.copyfile", copying)
    assert copy_log(tmp_path / "source", tmp_path / "copy") == 20
    copy = SegmentLog(tmp_path / "copy")
    assert copy.first_index == source.first_index > 0
    copy.close()
    source.close()


# --- databases


def test_a_database_is_copied_beside_its_writer_and_forgets_votes(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE voting (state BLOB)")
        writer.execute("CREATE TABLE blocks (height INTEGER)")
        writer.execute("PRAGMA user_version=2")
        writer.execute("INSERT INTO voting VALUES (?)", (b"very secret vote",))
        writer.execute("INSERT INTO blocks VALUES (7)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO blocks VALUES (8)")  # not committed yet
        copy_database(path, tmp_path / "copy.sqlite", forget=("voting",))
        writer.execute("COMMIT")
        assert writer.execute("SELECT count(*) FROM voting").fetchone() == (1,)
    assert b"very secret vote" not in (tmp_path / "copy.sqlite").read_bytes()
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        assert copy.execute("SELECT height FROM blocks").fetchall() == [(7,)]
        assert copy.execute("SELECT count(*) FROM voting").fetchone() == (0,)
        assert copy.execute("PRAGMA user_version").fetchone() == (2,)


def test_what_is_no_database_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no database .*gone"):
        copy_database(tmp_path / "gone", tmp_path / "copy")
    (tmp_path / "bad").write_bytes(b"nonsense" * 1000)
    with pytest.raises(ConfigError, match="bad cannot be copied"):
        copy_database(tmp_path / "bad", tmp_path / "copy")


# --- archives


def test_what_was_packed_comes_back(tmp_path: Path) -> None:
    path = archive(tmp_path / "one.backup")
    assert read_manifest(path) == manifest()
    assert restore(path, tmp_path / "new") == manifest()
    found = {
        one.relative_to(tmp_path / "new").as_posix()
        for one in (tmp_path / "new").rglob("*") if one.is_file()
    }  # fmt: skip
    assert found == {"LOCK", "OWNER", "log/a.seg"}
    assert (tmp_path / "new/log/a.seg").read_bytes() == bytes(range(256)) * 8
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new/log/a.seg").stat().st_mode & 0o777 == 0o600


def test_standard_tools_can_check_an_archive(tmp_path: Path) -> None:
    import hashlib

    with tarfile.open(archive(tmp_path / "one.backup")) as tar:
        sums = tar.extractfile("SHA256SUMS").read().decode()  # type: ignore[union-attr]
        for line in sums.splitlines():
            digest, name = line.split("  ")
            raw = tar.extractfile(name).read()  # type: ignore[union-attr]
            assert hashlib.sha256(raw).hexdigest() == digest
        assert {line.split("  ")[1] for line in sums.splitlines()} == set(tar.getnames()[1:])


def test_a_changed_byte_anywhere_is_refused_and_the_file_named(tmp_path: Path) -> None:
    """Only the padding of a tar file says nothing; a change there may pass, with all as it was."""
    path = archive(tmp_path / "one.backup")
    good = path.read_bytes()
    seed = 5
    rng = Random(seed)
    passed = 0
    for place in rng.sample(range(len(good)), PLACES):
        raw = bytearray(good)
        raw[place] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        try:
            read_manifest(path)
        except (BackupDamaged, ConfigError) as error:
            assert str(path) in str(error), (seed, place)
        else:
            passed += 1
            target = tmp_path / f"new-{place}"
            restore(path, target)
            assert (target / "log/a.seg").read_bytes() == bytes(range(256)) * 8, (seed, place)
            assert (target / "OWNER").read_bytes() == b"execution - 00\n", (seed, place)
    assert passed < PLACES


@pytest.mark.parametrize("keep", [0, 100, 600, 2_000, 4_000])
def test_an_archive_that_was_cut_is_refused(tmp_path: Path, keep: int) -> None:
    path = archive(tmp_path / "one.backup")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BackupDamaged, match=r"one\.backup is damaged"):
        restore(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_archive_cannot_reach_out_of_its_directory(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "evil.backup"
    raw = b"gotcha"
    for name in ("data/../../evil", "/etc/evil", "data/a/../../../evil"):
        sums = f"{hashlib.sha256(raw).hexdigest()}  {name}\n".encode()
        with tarfile.open(path, "w") as tar:
            for each, content in (("SHA256SUMS", sums), (name, raw)):
                entry = tarfile.TarInfo(each)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        with pytest.raises(BackupDamaged, match="SHA256SUMS is malformed"):
            restore(path, tmp_path / "new")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("what", [{"archive_format": 2}, {"store_format": 99}])
def test_an_archive_of_a_newer_version_is_refused(tmp_path: Path, what: dict[str, int]) -> None:
    path = archive(tmp_path / "one.backup", version="9.0", **what)
    with pytest.raises(ConfigError, match=r"made by a newer version, 9\.0"):
        restore(path, tmp_path / "new")


# --- directories


def test_only_an_empty_directory_is_restored_into(tmp_path: Path) -> None:
    path = archive(tmp_path / "one.backup")
    target = tmp_path / "new"
    target.mkdir()
    lock_directory(target).close()  # a volume that was used once, and emptied
    (target / "something").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        restore(path, target)
    (target / "something").unlink()
    restore(path, target)
    with pytest.raises(ConfigError, match="is not empty"):
        restore(path, target)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        restore(path, tmp_path / "file")
    with pytest.raises(ConfigError, match=r"cannot read the backup .*gone"):
        restore(tmp_path / "gone", tmp_path / "other")


@pytest.mark.parametrize("role", ["node", "sequencer"])
def test_a_member_that_was_restored_signs_nothing(tmp_path: Path, role: str) -> None:
    restore(archive(tmp_path / "one.backup", role), tmp_path / "new")
    assert restored_as(tmp_path / "new") == UNSIGNING


def test_an_interrupted_restore_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "one.backup")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.backup._write", full)
    with pytest.raises((OSError, ConfigError)):
        restore(path, tmp_path / "new")
    assert restored_as(tmp_path / "new") == UNFINISHED
    mark_restore(tmp_path / "new", UNFINISHED)
    with pytest.raises(ConfigError, match="is not empty"):
        restore(path, tmp_path / "new")
