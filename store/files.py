"""Files and directories that must survive a crash, and a lock so that one process owns a directory.

All functions block; they belong into shells. A path that cannot be used is a `ConfigError`.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from protocol.errors import ConfigError

LOCK_NAME = "LOCK"
"""Name of the lock file inside an owned directory; it holds the owner's process id."""


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data`, however short the single writes come out; raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that after a crash either the old or the new content stands.

    Temporary file in the same directory, fsync, rename, fsync of the directory. Raises `OSError`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def ensure_directory(path: Path) -> None:
    """Create the directory (and parents) when missing and check that it can be written.

    Raises `ConfigError` when the path is no directory, or nothing can be created in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{path} is not a directory; move the file or choose another") from None
    except OSError as error:
        raise ConfigError(f"cannot create the directory {path}: {error.strerror}") from None
    probe = path / f".probe.{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise ConfigError(
            f"cannot write in the directory {path}: {error.strerror}; "
            "check its owner, its mode and the disk"
        ) from None


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

    Raises `ConfigError` naming the owner's process id when another process holds it.
    """
    ensure_directory(path)
    lock = path / LOCK_NAME
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
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
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return DirectoryLock(descriptor)
