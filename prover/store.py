"""What a prover keeps on disk: the leaves of the state, its position, and the outbox.

One SQLite transaction per batch, before it is posted: after a crash the prover knows exactly which
batch it built last, and posts that one again or goes on behind it. Of batches that can still be
removed the header is kept, and what takes the leaves back to the state before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from protocol.codec import Decoder, encode
from protocol.errors import SafetyViolation
from protocol.settlement import (
    BatchHeader,
    PostBatch,
    decode_batch_header,
    decode_outbox_entry,
)
from prover.batcher import Batch, Position
from store.sqlite import open_database, transaction

SCHEMA_VERSION = 2
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
CREATE TABLE removable (
    number INTEGER PRIMARY KEY, header BLOB NOT NULL, undo BLOB NOT NULL,
    block INTEGER NOT NULL, block_id BLOB NOT NULL,
    state_root BLOB NOT NULL, inbox_cursor INTEGER NOT NULL, outbox_next INTEGER NOT NULL
);
CREATE TABLE ledger (id INTEGER PRIMARY KEY CHECK (id = 1), height INTEGER NOT NULL);
"""

_decode_posting: Decoder[PostBatch] = Decoder(PostBatch)
_decode_undo: Decoder[list[tuple[bytes, bytes | None]]] = Decoder(list[tuple[bytes, bytes | None]])


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

    def posting(self) -> PostBatch | None:
        """What is posted of the last batch built, while it is not known to be settled."""
        row = self._db.execute("SELECT body FROM posting").fetchone()
        return None if row is None else _decode_posting(row[0])

    def unsettled(self) -> int | None:
        """Number of the batch that is posted and not known to be settled, None for none."""
        row = self._db.execute("SELECT number FROM posting").fetchone()
        return None if row is None else int(row[0])

    def begin(self, position: Position, leaves: list[tuple[bytes, bytes]]) -> None:
        """Start a new database with the genesis state."""
        with transaction(self._db):
            self._db.executemany("INSERT INTO leaves VALUES (?, ?)", leaves)
            self._write_position(position)

    def write(self, batch: Batch, position: Position, posting: PostBatch | None) -> None:
        """A built batch: its leaves, its outbox, and what is to be posted (None: settled)."""
        with transaction(self._db):
            self._write_leaves(batch.changes)
            self._db.executemany(
                "INSERT OR REPLACE INTO outbox VALUES (?, ?, ?)",
                [(decode_outbox_entry(raw).number, position.number, raw) for raw in batch.outbox],
            )
            self._write_position(position)
            self._db.execute("DELETE FROM posting")
            if posting is not None:
                row = (position.number, encode(posting))
                self._db.execute("INSERT INTO posting VALUES (1, ?, ?)", row)
            if batch.undo is not None:
                before = batch.before
                self._db.execute(
                    "INSERT OR REPLACE INTO removable VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        position.number, encode(batch.header), encode(list(batch.undo.items())),
                        before.block, before.block_id, before.state_root, before.inbox_cursor,
                        before.outbox_next,
                    ),
                )  # fmt: skip

    def _write_leaves(self, changes: dict[bytes, bytes | None]) -> None:
        written = [(key, value) for key, value in changes.items() if value is not None]
        removed = [(key,) for key, value in changes.items() if value is None]
        self._db.executemany("INSERT OR REPLACE INTO leaves VALUES (?, ?)", written)
        self._db.executemany("DELETE FROM leaves WHERE key = ?", removed)

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

    # --- batches that can be removed

    def header(self, number: int) -> BatchHeader | None:
        """Header of a batch as it was built here, None where it cannot be taken back."""
        row = self._db.execute(
            "SELECT header FROM removable WHERE number = ?", (number,)
        ).fetchone()
        return None if row is None else decode_batch_header(row[0])

    def rewind(self, number: int) -> tuple[Position, dict[bytes, bytes | None]]:
        """Take back all batches above `number`; the position there, and the leaves as they were.

        Raises `SafetyViolation` where one of them was forgotten already.
        """
        position, undo = self._way_back(number)
        with transaction(self._db):
            self._write_leaves(undo)
            self._write_position(position)
            for table, column in (("removable", "number"), ("outbox", "batch")):
                self._db.execute(f"DELETE FROM {table} WHERE {column} > ?", (number,))
            self._db.execute("DELETE FROM posting")
        return position, undo

    def undo_to(self, number: int) -> dict[bytes, bytes | None]:
        """What leads the leaves back to the state after batch `number`; raises as `rewind`."""
        return self._way_back(number)[1]

    def _way_back(self, number: int) -> tuple[Position, dict[bytes, bytes | None]]:
        position = self.position()
        if position is None:
            raise SafetyViolation("an empty database holds no batch to take back")
        undo: dict[bytes, bytes | None] = {}
        while position.number > number:
            row = self._db.execute(
                "SELECT undo, block, block_id, state_root, inbox_cursor, outbox_next "
                "FROM removable WHERE number = ?",
                (position.number,),
            ).fetchone()
            if row is None:
                raise SafetyViolation(f"batch {position.number} cannot be taken back any more")
            undo.update(_decode_undo(row[0]))
            position = Position(position.number - 1, *row[1:])
        return position, undo

    def keep_final(self, number: int, ledger_height: int) -> None:
        """Batches up to `number` are final, as of a ledger height: they need no way back."""
        with transaction(self._db):
            self._db.execute("DELETE FROM removable WHERE number <= ?", (number,))
            self._db.execute("INSERT OR REPLACE INTO ledger VALUES (1, ?)", (ledger_height,))

    def ledger_height(self) -> int:
        """The ledger height of the newest `keep_final`: whoever shows an older state lags."""
        row = self._db.execute("SELECT height FROM ledger").fetchone()
        return 0 if row is None else int(row[0])

    # --- withdrawals

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
