"""What a prover keeps on disk: the leaves of the state, its position, and the outbox.

One SQLite transaction per batch, before it is posted: after a crash the prover knows exactly which
batch it built last, and posts that one again or goes on behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from protocol.settlement import decode_outbox_entry
from prover.batcher import Batch, Position
from store.sqlite import open_database, transaction

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE leaves (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE position (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL, block INTEGER NOT NULL, block_id BLOB NOT NULL,
    state_root BLOB NOT NULL, inbox_cursor INTEGER NOT NULL, outbox_next INTEGER NOT NULL
);
CREATE TABLE posting (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER, body BLOB NOT NULL);
CREATE TABLE outbox (number INTEGER PRIMARY KEY, batch INTEGER NOT NULL, entry BLOB NOT NULL);
CREATE INDEX outbox_batch ON outbox (batch, number);
"""


class ProverStore:
    """The prover's database; synchronous, used by the shell alone."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "prover.sqlite"
        self._db: sqlite3.Connection = open_database(self._path, SCHEMA, SCHEMA_VERSION)

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk, the write-ahead log included."""
        return sum(path.stat().st_size for path in self._path.parent.glob(f"{self._path.name}*"))

    def position(self) -> Position | None:
        """Where the last built batch ended; None in a new database."""
        row = self._db.execute(
            "SELECT number, block, block_id, state_root, inbox_cursor, outbox_next FROM position"
        ).fetchone()
        return None if row is None else Position(*row)

    def leaves(self) -> Iterator[tuple[bytes, bytes]]:
        """All leaves in key order."""
        yield from self._db.execute("SELECT key, value FROM leaves ORDER BY key")

    def posting(self) -> bytes | None:
        """The encoded `PostBatch` of the last batch built, while it is not known to be settled."""
        row = self._db.execute("SELECT body FROM posting").fetchone()
        return None if row is None else row[0]

    def begin(self, position: Position, leaves: list[tuple[bytes, bytes]]) -> None:
        """Start a new database with the genesis state."""
        with transaction(self._db):
            self._db.executemany("INSERT INTO leaves VALUES (?, ?)", leaves)
            self._write_position(position)

    def write(self, batch: Batch, position: Position, posting: bytes | None) -> None:
        """A built batch: its leaves, its outbox, and what is to be posted (None: settled)."""
        written = [(key, value) for key, value in batch.changes.items() if value is not None]
        removed = [(key,) for key, value in batch.changes.items() if value is None]
        with transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO leaves VALUES (?, ?)", written)
            self._db.executemany("DELETE FROM leaves WHERE key = ?", removed)
            self._db.executemany(
                "INSERT OR REPLACE INTO outbox VALUES (?, ?, ?)",
                [(decode_outbox_entry(raw).number, position.number, raw) for raw in batch.outbox],
            )
            self._write_position(position)
            self._db.execute("DELETE FROM posting")
            if posting is not None:
                self._db.execute("INSERT INTO posting VALUES (1, ?, ?)", (position.number, posting))

    def settled(self) -> None:
        """The last batch built is settled."""
        with transaction(self._db):
            self._db.execute("DELETE FROM posting")

    def _write_position(self, position: Position) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO position VALUES (1, ?, ?, ?, ?, ?, ?)",
            (
                position.number, position.block, position.block_id, position.state_root,
                position.inbox_cursor, position.outbox_next,
            ),
        )  # fmt: skip

    def withdrawal(self, number: int) -> tuple[int, list[bytes]] | None:
        """Batch of an outbox entry, and all encoded entries of that batch in order."""
        row = self._db.execute("SELECT batch FROM outbox WHERE number = ?", (number,)).fetchone()
        if row is None:
            return None
        entries = self._db.execute(
            "SELECT entry FROM outbox WHERE batch = ? ORDER BY number", (row[0],)
        ).fetchall()
        return row[0], [entry for (entry,) in entries]

    def close(self) -> None:
        """Close the database."""
        self._db.close()
