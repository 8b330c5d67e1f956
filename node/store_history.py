"""Blocks, undo and epochs in a validator's database: proofs over several rows, snapshots put in
place of what stood there, and what may be forgotten."""

from __future__ import annotations

import sqlite3

from consensus.verify import MAX_PATH
from node.snapshots import SyncedSnapshot, reputation_floor
from protocol.chain import (
    Block,
    CommitCertificate,
    Header,
    decode_block,
    decode_certificate,
)
from protocol.codec import encode
from protocol.errors import SafetyViolation

PRUNED_AT_ONCE = 1_000
"""Most blocks that one transaction deletes: a round must not wait for more."""

KEPT_BELOW_TIP = 512
"""Blocks below the tip that always stay: what a replica keeps in memory, several times over."""

Undo = list[tuple[int, dict[bytes, bytes | None]]]
"""(height, leaves before the block of that height), ascending."""


def read_undo(database: sqlite3.Connection, above: int, height: int) -> Undo:
    """What leads the leaves at `height` back to those at `above`, block by block."""
    undo: dict[int, dict[bytes, bytes | None]] = {one: {} for one in range(above + 1, height + 1)}
    rows = database.execute("SELECT height, key, value FROM undo WHERE height > ?", (above,))
    for block_height, key, value in rows:
        if block_height in undo:
            undo[block_height][key] = value
    return sorted(undo.items())


def read_proven(
    database: sqlite3.Connection, height: int
) -> tuple[Block, CommitCertificate] | None:
    """A stored block with a certificate of its own height.

    Where no commit step ended with it, the headers up to the next one that did are the path; an
    epoch's last block always ends a step, so that path stays within the epoch.
    """
    row = database.execute(
        "SELECT height, certificate FROM blocks WHERE height >= ? AND certificate IS NOT NULL"
        " ORDER BY height LIMIT 1",
        (height,),
    ).fetchone()
    if row is None:
        return None
    certificate = decode_certificate(row[1])
    rows = database.execute(
        "SELECT block FROM blocks WHERE height >= ? AND height <= ? ORDER BY height LIMIT ?",
        (height, row[0], MAX_PATH + 1),
    )
    blocks = [decode_block(raw) for (raw,) in rows]
    if not blocks or blocks[0].header.height != height:
        return None
    path = [block.header for block in blocks[1:]] + certificate.path
    if len(path) > MAX_PATH or any(one.epoch != blocks[0].header.epoch for one in path):
        return None
    return blocks[0], CommitCertificate(
        certificate.qc, certificate.child, certificate.child_qc, path
    )


def write_epoch(
    database: sqlite3.Connection,
    number: int,
    last: Header,
    certificate: CommitCertificate,
    proof: bytes,
) -> None:
    """How an epoch began; raises `SafetyViolation` where the certificate is of another block."""
    if certificate.height != last.height:
        raise SafetyViolation(
            f"epoch {number} begins above block {last.height}, but the commit step goes on"
        )
    database.execute(
        "INSERT OR REPLACE INTO epochs VALUES (?, ?, ?, ?)",
        (number, encode(last), encode(certificate), proof),
    )


def replace_ledger(database: sqlite3.Connection, snapshot: SyncedSnapshot) -> None:
    """Leaves, blocks and undo become those of the snapshot; epochs are added."""
    for table in ("leaves", "blocks", "undo"):
        database.execute(f"DELETE FROM {table}")
    database.executemany("INSERT INTO leaves VALUES (?, ?)", sorted(snapshot.leaves.items()))
    tip = snapshot.tip
    rows = [(block, None) for block in snapshot.recent]
    for block, certificate in [*rows, (tip, snapshot.certificate)]:
        database.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)",
            (
                block.header.height,
                block.header.block_id(),
                encode(block),
                None if certificate is None else encode(certificate),
            ),
        )
    for number, header, certificate, proof in snapshot.epochs:
        write_epoch(database, number, header, certificate, proof)
    database.execute("DELETE FROM proposed WHERE height <= ?", (tip.header.height,))


def delete_blocks(database: sqlite3.Connection, below: int) -> int:
    """Delete up to `PRUNED_AT_ONCE` blocks below a height, never those that recovery needs."""
    row = database.execute("SELECT block FROM blocks ORDER BY height DESC LIMIT 1").fetchone()
    if row is None:
        return 0
    tip = decode_block(row[0]).header
    lowest = database.execute("SELECT min(height) FROM blocks").fetchone()[0]
    end = min(below, reputation_floor(tip), tip.height - KEPT_BELOW_TIP, lowest + PRUNED_AT_ONCE)
    return database.execute("DELETE FROM blocks WHERE height < ?", (end,)).rowcount
