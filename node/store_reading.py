"""A validator's database as it stood at one moment, read beside the process that writes it.

The ledger is read in one transaction, which ends with that: a longer one would keep the writer's
log from being cut. Blocks never change, and those that the state still needs are not deleted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from node.ledger import Ledger
from node.store import DATABASE_NAME
from protocol.chain import Block, decode_block
from protocol.errors import ConfigError, SafetyViolation
from protocol.genesis import Chain

BUSY_TIMEOUT_MS = 5_000


class StoreReading:
    """Ledger and blocks of a data directory, all of the same moment; `close` it in the end.

    Raises `ConfigError` where there is no such database, or where it is of another chain,
    `SafetyViolation` where its leaves do not have the root that was stored with them.
    """

    def __init__(self, directory: Path, chain: Chain) -> None:
        path = directory / DATABASE_NAME
        if not path.is_file():
            raise ConfigError(
                f"{directory} is no validator's data directory: no {DATABASE_NAME} in it"
            )
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            self._database.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            self._database.execute("PRAGMA query_only=1")
            self._database.execute("BEGIN")
            self.ledger = self._read_ledger(path, chain)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self.close()
            raise ConfigError(f"the database {path} cannot be read: {error}") from None
        except BaseException:
            self.close()
            raise

    def _read_ledger(self, path: Path, chain: Chain) -> Ledger:
        meta = dict(self._database.execute("SELECT name, value FROM meta"))
        if meta.get("chain") != chain.chain_id:
            raise ConfigError(f"the database {path} belongs to another chain")
        leaves = self._database.execute("SELECT key, value FROM leaves")
        ledger = Ledger(chain, leaves, meta["height"])
        if ledger.root != meta["root"]:
            raise SafetyViolation(f"the ledger in {path} does not have its stored root")
        return ledger

    def block(self, height: int) -> Block | None:
        """A committed block, None where it is not kept."""
        if height > self.ledger.height:
            return None
        row = self._database.execute(
            "SELECT block FROM blocks WHERE height = ?", (height,)
        ).fetchone()
        return None if row is None else decode_block(row[0])

    def retained_from(self) -> int:
        """Lowest height of a block that is kept; that of the next one where there is none."""
        lowest = self._database.execute("SELECT min(height) FROM blocks").fetchone()[0]
        return self.ledger.height + 1 if lowest is None else int(lowest)

    def close(self) -> None:
        """Let the moment go."""
        self._database.close()
