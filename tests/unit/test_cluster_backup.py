"""What a backup holds, beside another one of the same process, and where it finds no room."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.backup import SPARE_BYTES, STAGING_PREFIX, write_backup, write_backup_file
from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from prover.process_challenger import WINDOW_NAME
from store.backup import copy_log, restore
from store.config import ProcessConfig, load_chain, load_config, load_process_key
from store.files import LOCK_NAME, lock_directory
from store.migrations import ensure_format
from store.ownership import claim_directory
from store.segments import SegmentLog

RECORD = b"x" * 200_000


@pytest.fixture
def config(tmp_path: Path) -> ProcessConfig:
    """A sequencer that has run: logs, a voting state, and evidence against another one."""
    testnet = create_testnet(tmp_path / "net", TestnetOptions(validators=1, traders=0))
    found = load_config(testnet.config_path("sequencer-0"))
    chain = load_chain(found)
    found.data.mkdir(parents=True)
    claim_directory(found, chain, load_process_key(found, chain))
    ensure_format(found.data, print, new=True)
    for name in ("pool", "log", "consensus"):
        log = SegmentLog(found.data / name)
        log.append(RECORD)
        log.close()
    (found.data / "evidence").mkdir()
    (found.data / "evidence" / "2.evidence").write_bytes(b"signed twice")
    (tmp_path / "out").mkdir()
    return found


class Disk(NamedTuple):
    """What `shutil.disk_usage` gives."""

    total: int
    used: int
    free: int


def stored_in(archive: Path) -> set[str]:
    """Folders and files at the top of an archive's data."""
    with tarfile.open(archive) as tar:
        return {name.split("/")[1] for name in tar.getnames() if name.startswith("data/")}


def test_a_sequencers_evidence_is_kept_and_its_votes_are_not(
    config: ProcessConfig, tmp_path: Path
) -> None:
    write_backup_file(config, tmp_path / "out" / "a")
    assert stored_in(tmp_path / "out" / "a") == {"OWNER", "FORMAT", "pool", "log", "evidence"}
    restore(tmp_path / "out" / "a", tmp_path / "new")
    assert (tmp_path / "new" / "evidence" / "2.evidence").read_bytes() == b"signed twice"


def test_a_backup_that_begins_beside_another_leaves_it_whole(
    config: ProcessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    begun: list[Path] = []

    def copying(source: Path, target: Path) -> int:
        begun.append(source)
        if len(begun) == 2:  # the pool is copied; now the log
            write_backup_file(config, out / "second")
        return copy_log(source, target)

    monkeypatch.setattr("cluster.backup.copy_log", copying)
    write_backup_file(config, out / "first")
    for name in ("first", "second"):
        assert {"pool", "log"} <= stored_in(out / name), name
    assert sorted(path.name for path in out.iterdir()) == ["first", "second"]


def test_what_a_killed_backup_left_goes(config: ProcessConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = (f"{STAGING_PREFIX}sequencer-0.dead", f"{STAGING_PREFIX}sequencer-1.other")
    for name in names:
        (out / name).mkdir()
        (out / name / "half").write_bytes(b"half")
        (out / name / LOCK_NAME).touch()
    write_backup_file(config, out / "a")
    assert sorted(path.name for path in out.iterdir()) == sorted(["a", names[1]])


def test_a_folder_that_is_just_being_made_stays(config: ProcessConfig, tmp_path: Path) -> None:
    """Between its making and its lock it is nobody's leftover."""
    young = tmp_path / "out" / f"{STAGING_PREFIX}sequencer-0.young"
    young.mkdir()
    write_backup_file(config, tmp_path / "out" / "a")
    assert young.is_dir() and not list(young.iterdir())


def test_a_folder_is_locked_until_it_is_gone(
    config: ProcessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another backup that removed it at the same time would have the first one fail."""
    refused: list[Path] = []
    clean = tempfile.TemporaryDirectory.cleanup

    def cleaning(folder: tempfile.TemporaryDirectory[str]) -> None:
        with pytest.raises(ConfigError, match="in use"), lock_directory(Path(folder.name)):
            pass
        refused.append(Path(folder.name))
        clean(folder)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", cleaning)
    write_backup_file(config, tmp_path / "out" / "a")
    assert len(refused) == 1 and not refused[0].exists()


def test_what_no_backup_holds_needs_no_room(
    config: ProcessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (WINDOW_NAME, f"{STAGING_PREFIX}sequencer-1.other"):
        (config.data / name).mkdir()
        (config.data / name / "much").write_bytes(10 * RECORD)
    disk = Disk(0, 0, SPARE_BYTES + 4 * len(RECORD))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    assert write_backup(config, io.BytesIO(), config.data).heights == {"log": 1}


def test_a_backup_without_room_is_refused_before_it_fills_the_disk(
    config: ProcessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three logs count: what is measured is what may be there."""
    stored = 3 * len(RECORD)

    def free(of_stored: float) -> None:
        disk = Disk(0, 0, SPARE_BYTES + int(of_stored * stored))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)

    free(1.5)
    with pytest.raises(ConfigError, match=r"sequencer-0 needs [\d,]+ bytes in .*out, and .* free"):
        write_backup_file(config, tmp_path / "out" / "a")
    assert not list((tmp_path / "out").iterdir())
    assert write_backup(config, io.BytesIO(), config.data).heights == {"log": 1}
    free(0.5)
    with pytest.raises(ConfigError, match="make room"):
        write_backup(config, io.BytesIO(), config.data)
    assert not list(config.data.glob(f"{STAGING_PREFIX}*"))
