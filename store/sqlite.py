"""SQLite databases for what must not be lost: WAL, ``synchronous=FULL``, explicit transactions.

In WAL mode with FULL every commit is synced, so a returned commit survives a power loss. There is
no implicit transaction: single statements commit by themselves, groups go through `transaction`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import ConfigError, SafetyViolation

BUSY_TIMEOUT_MS = 5000
"""How long a statement waits for another connection's lock before it fails."""


def open_database(path: Path, schema: str, version: int) -> sqlite3.Connection:
    """Open or create a database whose ``user_version`` is `version` (1 or more).

    A new file gets `schema` (an SQL script without transaction statements) and the version in one
    transaction. The connection may be handed to another thread, but used by one at a time.
    Raises `ConfigError` when the file is no database, is of another version or cannot be opened.
    """
    if version < 1:
        raise SafetyViolation("a schema version counts from 1; 0 marks a file without a schema")
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigError(f"cannot open the database {path}: {error}") from None
    try:
        _prepare(connection, path, schema, version)
    except sqlite3.Error as error:
        connection.close()
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
        raise ConfigError(
            f"the database {path} has schema version {found}, this program needs {version}; "
            "use the release that wrote it, or start with an empty directory"
        )
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{schema}\n;PRAGMA user_version={version};\nCOMMIT;"
        )
    except sqlite3.Error:
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
