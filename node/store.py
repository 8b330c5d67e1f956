"""What a validator must not lose, in one SQLite database.

Voting state, blocks, ledger leaves and transaction outcomes of one round are written in one
transaction with one sync, before anything of that round is sent. A block and the leaves that it
changed stand in the same transaction, so the ledger on disk is always that of the newest block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consensus import RecoveredState, VotingState, decode_voting_state
from node.app import ExecutedBlock
from node.envelopes import Envelopes
from node.genesis import genesis_leaves
from node.ledger import Ledger
from node.outcomes import NOT_FINAL
from node.snapshots import SnapshotBase, SyncedSnapshot, rewound
from node.store_history import (
    PRUNED_AT_ONCE,
    delete_blocks,
    read_proven,
    read_undo,
    replace_ledger,
    write_epoch,
)
from protocol.chain import (
    Block,
    CommitCertificate,
    Header,
    decode_block,
    decode_certificate,
    decode_header,
)
from protocol.codec import encode
from protocol.errors import ConfigError, SafetyViolation
from protocol.genesis import Chain
from store.sqlite import open_database, transaction

DATABASE_NAME = "validator.sqlite"
SCHEMA_VERSION = 2
OUTCOMES_KEPT = 100_000
"""Transactions whose outcome can still be asked for."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE voting (one INTEGER PRIMARY KEY CHECK (one = 1), state BLOB NOT NULL);
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, id BLOB NOT NULL, block BLOB NOT NULL, certificate BLOB
);
CREATE TABLE proposed (id BLOB PRIMARY KEY, height INTEGER NOT NULL, block BLOB NOT NULL);
CREATE INDEX proposed_height ON proposed (height);
CREATE TABLE leaves (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE undo (height INTEGER, key BLOB, value BLOB, PRIMARY KEY (height, key)) WITHOUT ROWID;
CREATE TABLE outcomes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, height INTEGER NOT NULL,
    code INTEGER NOT NULL, text TEXT NOT NULL
);
CREATE TABLE epochs (
    number INTEGER PRIMARY KEY, header BLOB NOT NULL, certificate BLOB NOT NULL, proof BLOB NOT NULL
);
"""


@dataclass(slots=True)
class WriteBatch:
    """Everything of one round that must be durable before its messages leave.

    `prune_below`: blocks below this height may go (0: none), some with each write; see `prune`.
    """

    voting_state: VotingState | None = None
    proposed: list[Block] = field(default_factory=list)
    executed: list[ExecutedBlock] = field(default_factory=list)
    committed_heights: list[int] = field(default_factory=list)
    prune_below: int = 0

    def __bool__(self) -> bool:
        return bool(
            self.proposed or self.executed or self.voting_state is not None or self.prune_below
        )


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """What became of a transaction, and the block that holds it."""

    height: int
    code: int
    text: str


class ValidatorStore:
    """The database of one validator. `write` may run in another thread; reads have their own
    connection, which sees what was committed."""

    def __init__(self, directory: Path, chain: Chain) -> None:
        self._chain = chain
        self._path = directory / DATABASE_NAME
        self._writer = open_database(self._path, _SCHEMA, SCHEMA_VERSION)
        self._reader = open_database(self._path, _SCHEMA, SCHEMA_VERSION)
        self._prune_below = 0

    def close(self) -> None:
        """Close the connections; everything written is durable already."""
        self._reader.close()
        self._writer.close()

    def size_bytes(self) -> int:
        """Bytes of the database and its write-ahead log on disk."""
        total = 0
        for suffix in ("", "-wal"):
            try:
                total += self._path.with_name(self._path.name + suffix).stat().st_size
            except FileNotFoundError:
                continue
        return total

    # --- start-up

    def load_ledger(self, genesis_state_root: bytes, envelopes: Envelopes | None = None) -> Ledger:
        """The ledger after the newest stored block, or that of genesis in a new database.

        Raises `ConfigError` where the database is of another chain, `SafetyViolation` where its
        leaves do not have the root that was stored with them.
        """
        if self._meta("chain") is None:
            self._write_genesis(genesis_leaves(self._chain, genesis_state_root))
        if self._meta("chain") != self._chain.chain_id:
            raise ConfigError(
                f"the database {self._path} belongs to another chain; "
                "start with an empty directory, or with the genesis file of that chain"
            )
        height = self._height()
        undo = read_undo(self._reader, self._undo_from(height), height)
        leaves = self._reader.execute("SELECT key, value FROM leaves")
        ledger = Ledger(self._chain, leaves, height, undo, envelopes)
        if ledger.root != self._meta("root"):
            raise SafetyViolation(
                f"the stored ledger of height {height} does not have its stored root: "
                "the database is damaged"
            )
        return ledger

    def recovered(self) -> RecoveredState | None:
        """What the replica starts from; None in a database without blocks and votes."""
        row = self._reader.execute("SELECT state FROM voting").fetchone()
        state = None if row is None else decode_voting_state(row[0])
        height = self._height()
        tip, certificate = self.block(height) or (None, None)
        blocks = [
            decode_block(raw)
            for (raw,) in self._reader.execute("SELECT block FROM proposed ORDER BY height, id")
        ]
        if state is None and tip is None and not blocks:
            return None
        return RecoveredState(state, tip, certificate, blocks)

    def _write_genesis(self, leaves: dict[bytes, bytes]) -> None:
        ledger = Ledger(self._chain, leaves.items(), 0)
        with transaction(self._writer) as database:
            database.executemany("INSERT INTO leaves VALUES (?, ?)", leaves.items())
            _set_meta(database, "chain", self._chain.chain_id)
            _set_meta(database, "height", 0)
            _set_meta(database, "root", ledger.root)
            _set_meta(database, "genesis_root", ledger.root)

    def genesis_root(self) -> bytes:
        """Ledger root before the first block (32 bytes)."""
        root = self._meta("genesis_root")
        if not isinstance(root, bytes):
            raise SafetyViolation("the database holds no ledger yet")
        return root

    def _meta(self, name: str) -> bytes | int | None:
        row = self._reader.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _height(self) -> int:
        height = self._meta("height")
        return height if isinstance(height, int) else 0

    def _undo_from(self, height: int) -> int:
        """Lowest height to which the ledger of the newest block, at `height`, can be led back."""
        found = self.block(height)
        app_height = 0 if found is None else found[0].header.app_height
        installed = self._meta("installed")
        return max(app_height, installed if isinstance(installed, int) else 0)

    def snapshot_base(self) -> SnapshotBase:
        """From where a `SnapshotSource` starts; reads all leaves."""
        height = self._height()
        found = self.block(height)
        tip = found[0].header if found is not None and found[1] is not None else None
        leaves = dict(self._reader.execute("SELECT key, value FROM leaves"))
        if tip is None and height:
            return SnapshotBase(height, leaves)
        return rewound(leaves, read_undo(self._reader, self._undo_from(height), height), tip)

    # --- reading

    def block(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        """A committed block, with the certificate where it ended a commit step."""
        row = self._reader.execute(
            "SELECT block, certificate FROM blocks WHERE height = ?", (height,)
        ).fetchone()
        if row is None:
            return None
        return decode_block(row[0]), None if row[1] is None else decode_certificate(row[1])

    def proven(self, height: int) -> tuple[Block, CommitCertificate] | None:
        """A committed block with a certificate that proves this very height, by a path where no
        commit step ended with it."""
        return read_proven(self._reader, height)

    def epoch(self, number: int) -> tuple[Header, CommitCertificate, bytes] | None:
        """How an epoch, 1 or higher, began: the last header of the one before, its certificate, and
        the encoded `TreeProof` of the `EpochLeaf` of `number` under its `app_root`."""
        row = self._reader.execute(
            "SELECT header, certificate, proof FROM epochs WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            return None
        return decode_header(row[0]), decode_certificate(row[1]), row[2]

    def retained_from(self) -> int:
        """Lowest height of a block that is stored; that of the next one where there is none."""
        lowest = self._reader.execute("SELECT min(height) FROM blocks").fetchone()[0]
        return self._height() + 1 if lowest is None else int(lowest)

    def certificate_from(self, height: int) -> CommitCertificate | None:
        """Certificate of the lowest block at or above `height` that has one."""
        row = self._reader.execute(
            "SELECT certificate FROM blocks WHERE height >= ? AND certificate IS NOT NULL"
            " ORDER BY height LIMIT 1",
            (height,),
        ).fetchone()
        return None if row is None else decode_certificate(row[0])

    def block_run(
        self, first: int, limit: int, max_bytes: int
    ) -> tuple[list[Block], CommitCertificate | None]:
        """Committed blocks upward from `first`, at least one where that one is stored.

        They end with a block that has a certificate, where one within the bounds has; otherwise
        the certificate is that of the nearest descendant.
        """
        blocks: list[Block] = []
        certificate: bytes | None = None
        proven = size = 0
        if first < self.retained_from():
            return [], None
        rows = self._reader.execute(
            "SELECT block, certificate FROM blocks WHERE height >= ? ORDER BY height LIMIT ?",
            (first, limit),
        )
        for raw, proof in rows:
            size += len(raw)
            if blocks and size > max_bytes:
                break
            blocks.append(decode_block(raw))
            if proof is not None:
                proven, certificate = len(blocks), proof
        rows.close()
        if certificate is not None:
            return blocks[:proven], decode_certificate(certificate)
        return blocks, self.certificate_from(first) if blocks else None

    def outcome(self, identity: bytes) -> StoredOutcome | None:
        """What became of a recent transaction."""
        row = self._reader.execute(
            "SELECT height, code, text FROM outcomes WHERE id = ?", (identity,)
        ).fetchone()
        return None if row is None else StoredOutcome(*row)

    def outcomes_stored(self) -> int:
        """Transactions in committed blocks so far."""
        row = self._reader.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outcomes'")
        found = row.fetchone()
        return 0 if found is None else int(found[0])

    # --- writing

    def write(self, batch: WriteBatch) -> None:
        """Make a round durable: one transaction, one sync. Raises `OSError` where that fails."""
        try:
            with transaction(self._writer) as database:
                database.executemany(
                    "INSERT OR IGNORE INTO proposed VALUES (?, ?, ?)",
                    [
                        (block.header.block_id(), block.header.height, encode(block))
                        for block in batch.proposed
                    ],
                )
                if batch.voting_state is not None:
                    database.execute(
                        "INSERT OR REPLACE INTO voting VALUES (1, ?)", (encode(batch.voting_state),)
                    )
                if batch.executed:
                    _write_executed(database, batch.executed)
                below = max(self._prune_below, batch.prune_below)
                done = not below or delete_blocks(database, below) < PRUNED_AT_ONCE
        except sqlite3.Error as error:
            raise self._unwritable(error) from error
        self._prune_below = 0 if done else below

    def prune(self, below_height: int) -> int:
        """Delete stored blocks below a height, some at a time; how many went.

        Those that recovery needs stay whatever is asked. Raises `OSError` where that fails.
        """
        try:
            with transaction(self._writer) as database:
                return delete_blocks(database, below_height)
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def install_snapshot(self, snapshot: SyncedSnapshot) -> None:
        """Put a verified snapshot in the place of the ledger and the blocks, in one transaction.

        The voting state stays, and so do outcomes. Raises `SafetyViolation` for a snapshot that is
        not above the stored ledger, `OSError` where writing fails.
        """
        if self._meta("chain") != self._chain.chain_id or snapshot.height <= self._height():
            raise SafetyViolation("a snapshot must lead the ledger of its chain forward")
        try:
            with transaction(self._writer) as database:
                replace_ledger(database, snapshot)
                _set_meta(database, "height", snapshot.height)
                _set_meta(database, "root", snapshot.root)
                _set_meta(database, "installed", snapshot.height)
        except sqlite3.Error as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: sqlite3.Error) -> OSError:
        return OSError(f"the database {self._path} cannot be written: {error}")


def _set_meta(database: sqlite3.Connection, name: str, value: bytes | int) -> None:
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _write_executed(database: sqlite3.Connection, executed: Sequence[ExecutedBlock]) -> None:
    """Blocks with what they did; the newest one's height and root become the ledger's."""
    for done in executed:
        header, certificate, outcome = done.block.header, done.certificate, done.outcome
        ends_step = certificate.height == header.height
        database.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            (
                header.height,
                header.block_id(),
                encode(done.block),
                encode(certificate) if ends_step else None,
            ),
        )
        _write_leaves(database, outcome.changes)
        database.executemany(
            "INSERT INTO undo VALUES (?, ?, ?)",
            [(header.height, key, value) for key, value in sorted(outcome.undo.items())],
        )
        if outcome.epoch_began and outcome.epoch_proof:
            write_epoch(database, outcome.epoch_began, header, certificate, outcome.epoch_proof)
        _write_outcomes(
            database,
            [(one.id, header.height, int(one.code), one.text) for one in outcome.results],
        )
    newest = executed[-1]
    _set_meta(database, "height", newest.block.header.height)
    _set_meta(database, "root", newest.outcome.root)
    database.execute("DELETE FROM undo WHERE height <= ?", (newest.block.header.app_height,))
    database.execute("DELETE FROM proposed WHERE height <= ?", (newest.block.header.height,))


def _write_leaves(database: sqlite3.Connection, changes: Mapping[bytes, bytes | None]) -> None:
    """Leaves as a block left them; None deletes."""
    ordered = sorted(changes.items())
    database.executemany(
        "INSERT OR REPLACE INTO leaves VALUES (?, ?)",
        [one for one in ordered if one[1] is not None],
    )
    database.executemany(
        "DELETE FROM leaves WHERE key = ?", [(key,) for key, value in ordered if value is None]
    )


def _write_outcomes(
    database: sqlite3.Connection, outcomes: Iterable[tuple[bytes, int, int, str]]
) -> None:
    """Outcomes are final, but for what took no effect at all (`NOT_FINAL`)."""
    database.executemany(
        "INSERT INTO outcomes (id, height, code, text) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET height = excluded.height, code = excluded.code,"
        " text = excluded.text"
        f" WHERE outcomes.code IN ({', '.join(str(int(code)) for code in sorted(NOT_FINAL))})",
        outcomes,
    )
    database.execute(
        "DELETE FROM outcomes WHERE sequence <= (SELECT max(sequence) FROM outcomes) - ?",
        (OUTCOMES_KEPT,),
    )
