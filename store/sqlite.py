"""SQLite databases for what must not be lost: WAL, ``synchronous=FULL``, explicit transactions.

In WAL mode with FULL every commit is synced, so a returned commit survives a power loss. There is
no implicit transaction: single statements commit by themselves, groups go through `transaction`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocol.errors import ConfigError, SafetyViolation
from store.faults import disk
from store.files import DiskRefuses, refusal

BUSY_TIMEOUT_MS = 5000
"""How long a statement waits for another connection's lock before it fails."""


DISK_CODES = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
}
"""What SQLite says of a disk that refuses, in the system's terms."""

FULL_BYTES = 128 * 1024
"""A disk with less room is full: SQLite's index of its log grows by 32 KiB at once."""

READING = ("SELECT", "PRAGMA", "BEGIN", "ROLLBACK")


class Database(sqlite3.Connection):
    """A connection that raises `DiskRefuses` where the disk takes no bytes; `path` is its file."""

    path: Path = Path(":memory:")

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """One statement."""
        try:
            if disk.active:
                self._suffer(sql)
            return super().execute(sql, parameters)
        except (sqlite3.OperationalError, OSError) as error:
            raise self.refusal(error) from error

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """One statement for each row of parameters."""
        try:
            if disk.active:
                self._suffer(sql)
            return super().executemany(sql, parameters)
        except (sqlite3.OperationalError, OSError) as error:
            raise self.refusal(error) from error

    def executescript(self, sql: str, /) -> sqlite3.Cursor:
        """Statements that write."""
        try:
            if disk.active:
                disk.write(self.path)
            return super().executescript(sql)
        except (sqlite3.OperationalError, OSError) as error:
            raise self.refusal(error) from error

    def _suffer(self, sql: str) -> None:
        """What was ordered to happen to the disk, happens."""
        word = sql.lstrip().partition(" ")[0].upper()
        if word in READING:
            return
        disk.write(self.path)
        if word == "COMMIT" or not self.in_transaction:
            disk.sync()

    def refusal(self, error: sqlite3.Error | OSError) -> Exception:
        """The error as a `DiskRefuses` where it is the disk's, otherwise as it is."""
        if isinstance(error, OSError):
            return refusal(error, self.path)
        number = DISK_CODES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if number == errno.EIO:
            number = _cause(self.path.parent)
        return error if number is None else DiskRefuses(number, self.path)


def _cause(directory: Path) -> int:
    """Why input and output fail: SQLite says so of some files, too, that find no room."""
    try:
        room = os.statvfs(directory)
    except OSError:
        return errno.EIO
    if room.f_flag & os.ST_RDONLY:
        return errno.EROFS
    return errno.ENOSPC if room.f_bavail * room.f_frsize < FULL_BYTES else errno.EIO


def open_database(path: Path, schema: str, version: int) -> Database:
    """Open or create a database whose ``user_version`` is `version` (1 or more).

    A new file gets `schema` (an SQL script without transaction statements) and the version in one
    transaction. The connection may be handed to another thread, but used by one at a time.
    Raises `ConfigError` when the file is no database, is of another version or cannot be opened,
    `DiskRefuses` when the disk is full or read-only.
    """
    if version < 1:
        raise SafetyViolation("a schema version counts from 1; 0 marks a file without a schema")
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, factory=Database
        )
    except sqlite3.Error as error:
        raise ConfigError(f"cannot open the database {path}: {error}") from None
    connection.path = path
    try:
        _prepare(connection, path, schema, version)
    except sqlite3.Error as error:
        connection.close()
        refused = connection.refusal(error)
        if isinstance(refused, DiskRefuses):
            raise refused from error
        raise ConfigError(f"cannot use the database {path}: {error}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, schema: str, version: int) -> None:
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal" and str(path) != ":memory:":
        raise ConfigError(f"the file system of {path} does not support SQLite's WAL mode")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == version:
        return
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if found != 0 or tables != 0:
        newer = found > version
        raise ConfigError(
            f"the database {path} has schema version {found}, this program needs {version}; "
            + ("it was made by a newer version, use that one" if newer else
               "use the release that wrote it, or start with an empty directory")
        )  # fmt: skip
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{schema}\n;PRAGMA user_version={version};\nCOMMIT;"
        )
    except (sqlite3.Error, OSError):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One write transaction: committed (and synced) at the end, rolled back on any exception.

    Raises `SafetyViolation` when a transaction is open already: nesting would commit too early.
    """
    if connection.in_transaction:
        raise SafetyViolation("a database transaction was opened inside another one")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
