"""Files and directories that must survive a crash, a lock so that one process owns a directory, and
the standard files.

All functions block; they belong into shells. A path that cannot be used is a `ConfigError`; a disk
that refuses for a while (full, read-only) is a `DiskRefuses`, after which a new start may succeed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from protocol.errors import ConfigError
from store.faults import disk

LOCK_NAME = "LOCK"
"""Name of the lock file inside an owned directory; it holds the owner's process id."""


REMEDIES = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within its quota",
    errno.EROFS: "mount its file system for writing",
    errno.EIO: "check its disk",
}
"""What to do about a disk that refuses. The process itself can do nothing, but a later one can."""


class DiskRefuses(OSError):
    """The disk took no bytes; nothing that waited for them counts as done."""

    def __init__(self, number: int, path: Path | str, text: str = "") -> None:
        super().__init__(number, text or os.strerror(number), str(path))

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.errno or 0, REMEDIES[errno.EIO])
        return (
            f"cannot write {self.filename}: {self.strerror}; {remedy}, and this process goes on "
            "where it stopped when it is started again"
        )


def refusal(error: OSError, path: Path | str) -> OSError:
    """The error as a `DiskRefuses` where it is the disk's, otherwise as it is."""
    if isinstance(error, DiskRefuses) or error.errno not in REMEDIES:
        return error
    return DiskRefuses(error.errno, path, error.strerror or "")


def path_of(descriptor: int) -> Path:
    """Where an open file lies, as far as the system tells."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return Path(f"file {descriptor}")


def sync_file(descriptor: int) -> None:
    """Make an open file's bytes and its length durable; raises `OSError`."""
    if disk.active:
        disk.sync()
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        raise refusal(error, path_of(descriptor)) from error


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names of a directory durable; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise refusal(error, path) from error
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data`, however short the single writes come out; raises `OSError`."""
    view = memoryview(data)
    try:
        if disk.active:
            disk.write(path_of(descriptor))
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise refusal(error, path_of(descriptor)) from error


def cut_file(descriptor: int, size: int) -> None:
    """Cut an open file to `size` bytes; raises `OSError`."""
    try:
        if disk.active and disk.read_only:
            disk.write(path_of(descriptor))
        os.ftruncate(descriptor, size)
    except OSError as error:
        raise refusal(error, path_of(descriptor)) from error


def create_file(path: Path, mode: int = 0o644) -> int:
    """The descriptor of an empty file at `path`, for writing; raises `OSError`."""
    try:
        if disk.active:
            disk.write(path)
        # No link: who may write in the folder must not lead root to another file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, mode)
    except OSError as error:
        raise refusal(error, path) from error


def write_atomic(
    path: Path, data: bytes, mode: int | None = None, owner: tuple[int, int] | None = None
) -> None:
    """Replace `path` by `data` so that after a crash either the old or the new content stands.

    Temporary file in the same directory, fsync, rename, fsync of the directory. Without a `mode`
    the file keeps that of the one it replaces; a new one is readable as far as the umask allows.
    It belongs to the user and group of `owner` from the start, or to us. Raises `OSError`, which
    names `path`.
    """
    try:
        _write_beside(path, data, mode, owner)
    except OSError as error:
        # Nobody asked for the temporary file, and it is gone.
        error.filename = str(path)
        del error.filename2
        raise
    sync_directory(path.parent)


def _write_beside(path: Path, data: bytes, mode: int | None, owner: tuple[int, int] | None) -> None:
    wanted = _mode_of(path) if mode is None else mode
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = create_file(temporary, 0o644 if wanted is None else wanted)
    try:
        try:
            if owner is not None:
                os.fchown(descriptor, *owner)
            if wanted is not None:
                os.fchmod(descriptor, wanted)
            write_all(descriptor, data)
            sync_file(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _mode_of(path: Path) -> int | None:
    """The permissions of a file; None where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def ensure_directory(path: Path) -> None:
    """Create the directory (and parents) when missing and check that it can be written.

    Raises `ConfigError` when the path is no directory, or nothing can be created in it, and
    `DiskRefuses` when that is the disk's fault.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path} is not a directory; move the file or choose another") from None
    except OSError as error:
        _raise_refusal(error, path)
        raise ConfigError(f"cannot create the directory {path}: {error.strerror}") from None
    probe = path / f".probe.{os.getpid()}"
    try:
        os.close(create_file(probe, 0o600))
        os.unlink(probe)
    except OSError as error:
        _raise_refusal(error, path)
        raise ConfigError(
            f"cannot write in the directory {path}: {error.strerror}; "
            "check its owner, its mode and the disk"
        ) from None


def _raise_refusal(error: OSError, path: Path) -> None:
    refused = refusal(error, path)
    if isinstance(refused, DiskRefuses):
        raise refused from error


def open_standard_files() -> None:
    """Put /dev/null in the place of every standard file that is closed.

    What is opened next would take its number, and the event loop aborts on such a descriptor.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class DirectoryLock:
    """A held lock; `close` (or the death of the process) releases it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Release the lock; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_directory(path: Path) -> DirectoryLock:
    """Take the exclusive lock of a directory (flock on its file `LOCK`).

    Raises `ConfigError` naming the owner's process id when another process holds it, and
    `DiskRefuses` when the disk is full or read-only.
    """
    ensure_directory(path)
    lock = path / LOCK_NAME
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        _raise_refusal(error, lock)
        raise ConfigError(f"cannot open the lock file {lock}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"the directory {path} is in use by another process (pid {owner})"
        ) from None
    # The file stays when the lock is released: unlinking it would let two processes lock two files.
    try:
        cut_file(descriptor, 0)
        write_all(descriptor, f"{os.getpid()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return DirectoryLock(descriptor)
