"""Consistent copies of stores that may be written meanwhile, and the archive that holds them.

The archive is a tar file, so that standard tools can look into it: ``SHA256SUMS`` first, in the
form of ``sha256sum``, with a line for every other file; ``manifest.json``; the stores below
``data/``. Neither keys nor voting states are ever in one: what is copied is named, not found.
"""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import IO

import msgspec

from protocol.errors import ConfigError, TrilemmaError
from store.config import PEER_ROLES, Role
from store.files import create_file, lock_directory, sync_directory, sync_file, write_all
from store.migrations import FORMAT
from store.ownership import UNFINISHED, UNSIGNING, forget_restore, mark_restore
from store.segment_file import SUFFIX, StoreDamaged
from store.segments import SegmentLog

SUMS_NAME = "SHA256SUMS"
MANIFEST_NAME = "manifest.json"
DATA_PREFIX = "data/"
ARCHIVE_FORMAT = 1
ATTEMPTS = 5
"""A log whose oldest segments go while it is copied is begun anew so often."""

_UNREADABLE = (tarfile.TarError, EOFError, ValueError)
_PIECE_BYTES = 1 << 20
_SUMS_BYTES = 16 * 1024 * 1024
_ALLOWED = frozenset(("LOCK", "lost+found"))
"""What a directory may hold and still count as empty."""


class BackupDamaged(TrilemmaError):
    """An archive is not what was written (exit 1); the text names it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the backup {path} is damaged: {reason}; use another one")


class Manifest(msgspec.Struct, frozen=True):
    """What an archive holds. `member` is the key of the process (hex, empty for execution nodes),
    `version` the release that made it, `store_format` that of the data directory, `heights` how far
    each store goes."""

    archive_format: int
    role: Role
    name: str
    member: str
    chain_id: str
    version: str
    store_format: int
    made_ms: int
    heights: dict[str, int]


# --- copies of stores


def copy_database(source: Path, target: Path, forget: Sequence[str] = ()) -> None:
    """A database as it stands at one moment, without the rows of the tables in `forget`.

    Its writer is not held up. Raises `ConfigError` where there is none, or it cannot be read.
    """
    if not source.is_file():
        raise ConfigError(f"there is no database {source}; has this process ever run?")
    try:
        with closing(sqlite3.connect(source)) as found, closing(sqlite3.connect(target)) as copy:
            found.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("PRAGMA secure_delete=ON")  # what is forgotten leaves no bytes behind
            with copy:
                for table in forget:
                    copy.execute(f"DELETE FROM {table}")
            if copy.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise ConfigError(f"the database {source} is damaged; it cannot be backed up")
    except sqlite3.Error as error:
        raise ConfigError(f"the database {source} cannot be copied: {error}") from None


def copy_log(source: Path, target: Path) -> int:
    """A segment log up to its last whole record; the number of the record to come.

    Raises `StoreDamaged`, of a file in `source`, where the log is damaged, `FileNotFoundError`
    where it changes all too fast.
    """
    for attempt in range(ATTEMPTS):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        try:
            for path in sorted(source.glob(f"*{SUFFIX}")):
                shutil.copyfile(path, target / path.name)
            log = SegmentLog(target)
            log.close()
        except (FileNotFoundError, StoreDamaged) as error:
            # Its writer drops old segments, and may have cut the newest.
            if attempt < ATTEMPTS - 1:
                continue
            if isinstance(error, StoreDamaged):
                # The copy is gone when this is read.
                place = source / error.path.relative_to(target)
                raise StoreDamaged(place, error.offset, error.reason) from None
            raise
        return log.next_index
    return 0


def copy_files(source: Path, target: Path, pattern: str) -> None:
    """Files that are only ever replaced as a whole; one that goes meanwhile is left out."""
    for path in sorted(source.glob(pattern)):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, place)
        except FileNotFoundError:
            continue


# --- the archive


def pack(staging: Path, manifest: Manifest, out: IO[bytes]) -> None:
    """Write the archive of a folder of copies."""
    names = sorted(
        path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()
    )
    described = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    sums = [f"{sha256(described).hexdigest()}  {MANIFEST_NAME}\n"]
    for name in names:
        with (staging / name).open("rb") as file:
            sums.append(f"{_digest(file)}  {DATA_PREFIX}{name}\n")
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, raw in ((SUMS_NAME, "".join(sums).encode()), (MANIFEST_NAME, described)):
            _add(archive, name, raw)
        for name in names:
            entry = _entry(DATA_PREFIX + name, (staging / name).stat().st_size)
            with (staging / name).open("rb") as file:
                archive.addfile(entry, file)


def _add(archive: tarfile.TarFile, name: str, raw: bytes) -> None:
    archive.addfile(_entry(name, len(raw)), io.BytesIO(raw))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def read_manifest(path: Path) -> Manifest:
    """Check every byte of an archive; what it holds.

    Raises `BackupDamaged`, and `ConfigError` where it cannot be read or is of a newer release.
    """
    manifest: Manifest | None = None
    for name, file in _members(path):
        if name == MANIFEST_NAME:
            manifest = _decode_manifest(path, file.read(_SUMS_BYTES))
        while file.read(_PIECE_BYTES):
            pass
    if manifest is None:
        raise BackupDamaged(path, f"it has no {MANIFEST_NAME}")
    return manifest


def _decode_manifest(path: Path, raw: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BackupDamaged(path, f"its manifest is malformed ({error})") from None
    if manifest.archive_format > ARCHIVE_FORMAT or manifest.store_format > FORMAT:
        raise ConfigError(
            f"the backup {path} was made by a newer version, {manifest.version}; use that one"
        )
    return manifest


class _Checked:
    """A file of an archive that is hashed as it is read; its end raises where the sum differs."""

    def __init__(self, path: Path, name: str, file: IO[bytes], wanted: str) -> None:
        self._path, self._name, self._file, self._wanted = path, name, file, wanted
        self._sum = sha256()
        self.finished = False

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end, where the sum is right."""
        try:
            raw = self._file.read(size)
        except _UNREADABLE as error:
            raise BackupDamaged(self._path, f"it is no whole archive ({error})") from None
        self._sum.update(raw)
        if not raw and not self.finished:
            self.finished = True
            if self._sum.hexdigest() != self._wanted:
                raise BackupDamaged(self._path, f"{self._name} is not what was written")
        return raw


def _members(path: Path) -> Iterator[tuple[str, _Checked]]:
    """The files of an archive one after the other, each to be read to its end."""
    sums: dict[str, str] = {}
    try:
        with tarfile.open(path, mode="r|") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None:
                    raise BackupDamaged(path, f"{entry.name!r} is no plain file")
                if not sums:
                    sums = _read_sums(path, entry.name, file.read(_SUMS_BYTES))
                    continue
                if entry.name not in sums:
                    raise BackupDamaged(path, f"{entry.name!r} is not in its {SUMS_NAME}")
                checked = _Checked(path, entry.name, file, sums.pop(entry.name))
                yield entry.name, checked
                while checked.read(_PIECE_BYTES):
                    pass
    except _UNREADABLE as error:
        raise BackupDamaged(path, f"it is no whole archive ({error})") from None
    except OSError as error:
        raise ConfigError(f"cannot read the backup {path}: {error.strerror or error}") from None
    if sums:
        raise BackupDamaged(path, f"{min(sums)} is missing in it")


def _read_sums(path: Path, name: str, raw: bytes) -> dict[str, str]:
    if name != SUMS_NAME:
        raise BackupDamaged(path, f"it does not begin with {SUMS_NAME}")
    sums: dict[str, str] = {}
    for line in raw.decode("utf-8").splitlines():
        digest, _, file = line.partition("  ")
        inside = file == MANIFEST_NAME or file.startswith(DATA_PREFIX)
        if len(digest) != 64 or not inside or ".." in Path(file).parts:
            raise BackupDamaged(path, f"its {SUMS_NAME} is malformed")
        sums[file] = digest
    if not sums:
        raise BackupDamaged(path, f"its {SUMS_NAME} is empty")
    return sums


def _digest(file: IO[bytes]) -> str:
    total = sha256()
    while piece := file.read(_PIECE_BYTES):
        total.update(piece)
    return total.hexdigest()


# --- restoring


def restore(path: Path, directory: Path) -> Manifest:
    """Put the stores of an archive into an empty directory, durably; what they are.

    Until all is there, and for a member of a consensus for ever, a file in it says so: see
    `store.ownership`. Raises `BackupDamaged`, and `ConfigError` where the directory is not empty.
    """
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is not a directory")
    if directory.exists() and any(one.name not in _ALLOWED for one in directory.iterdir()):
        raise ConfigError(f"{directory} is not empty; restore into a new or empty directory")
    manifest = read_manifest(path)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_directory(directory):
        mark_restore(directory, UNFINISHED)
        for name, file in _members(path):
            if name != MANIFEST_NAME:
                _write(directory / name.removeprefix(DATA_PREFIX), file)
        for folder in sorted({one.parent for one in directory.rglob("*")}):
            sync_directory(folder)
        if manifest.role in PEER_ROLES:
            mark_restore(directory, UNSIGNING)
        else:
            forget_restore(directory)
    return manifest


def _write(place: Path, file: _Checked) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = create_file(place, 0o600)
    try:
        while piece := file.read(_PIECE_BYTES):
            write_all(descriptor, piece)
        sync_file(descriptor)
    finally:
        os.close(descriptor)
