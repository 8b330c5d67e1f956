"""`trilemma export`: write the base layer into an archive that an audit can read offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from client.export_archive import Archive, ArchivedEpoch, ArchivedState, ArchiveWriter
from client.export_source import (
    BLOCKS_AT_ONCE,
    Source,
    epoch_change,
    newest_height,
    proven_blocks,
)
from client.faults import InvalidProof
from node.audit import AuditDifference, Auditor
from protocol.chain import Block, CommitCertificate
from protocol.errors import Rejected
from protocol.genesis import Chain

ARCHIVE_NAME = "ledger.archive"
STATE_BLOCKS_AT_ONCE = 8
"""Ledger blocks of a record where states are written: these stand between records."""

Progress = Callable[[int, int], None]
"""(height of the newest ledger block written, of the newest in all)"""


class ExportReport(msgspec.Struct, frozen=True):
    """What stands in an archive. `digest`: running hash of all of it, to compare copies by."""

    path: str
    ledger_blocks: int
    epochs: int
    states: list[int]
    size_bytes: int
    resumed: bool
    digest: str

    def line(self) -> str:
        """For people."""
        states = f", states after batches {', '.join(map(str, self.states))}" if self.states else ""
        return (
            f"{self.path}: {self.ledger_blocks} ledger blocks, {self.epochs} changes of members"
            f"{states}, {self.size_bytes} bytes, digest {self.digest}"
        )


async def export(
    chain: Chain,
    genesis: bytes,
    source: Source,
    path: Path,
    *,
    states_every: int = 0,
    progress: Progress | None = None,
) -> ExportReport:
    """Write everything up to the newest ledger block, going on where an archive stands already.

    `states_every`: a state after each so many batches, from which an audit can begin; that takes
    an audit on the way. Raises `ConfigError`, `InvalidProof`, and what asking raises.
    """
    writer = ArchiveWriter(path, genesis)
    try:
        keeper = _StateKeeper(chain, writer, states_every) if states_every else None
        if keeper is not None and writer.newest:
            keeper.catch_up(path)
        newest = max(await newest_height(source), writer.newest)
        at_once = STATE_BLOCKS_AT_ONCE if states_every else BLOCKS_AT_ONCE
        async for blocks, certificate in proven_blocks(source, writer.newest, newest, at_once):
            writer.blocks(blocks, certificate)
            if keeper is not None:
                keeper.add(blocks, certificate)
            await _epochs(source, writer, blocks)
            if progress is not None:
                progress(writer.newest, newest)
        writer.finish()
        return ExportReport(
            str(path), writer.newest, len(writer.epochs), writer.states, writer.size_bytes,
            writer.resumed, writer.digest.hex(),
        )  # fmt: skip
    finally:
        writer.close()


async def _epochs(source: Source, writer: ArchiveWriter, blocks: list[Block]) -> None:
    """How the epochs of these blocks began, where the archive does not tell that yet."""
    for number in range(1, blocks[-1].header.epoch + 1):
        if number not in writer.epochs:
            view = await epoch_change(source, number)
            writer.epoch(ArchivedEpoch(number, view.header, view.certificate, view.proof))


class _StateKeeper:
    """Audits what is exported, and writes states on the way."""

    def __init__(self, chain: Chain, writer: ArchiveWriter, every: int) -> None:
        self._auditor = Auditor(chain)
        self._writer = writer
        self._every = every

    def catch_up(self, path: Path) -> None:
        """Audit what the archive holds already."""
        archive = Archive(path)
        try:
            for chunk in archive.blocks():
                self._audit(chunk.blocks, chunk.certificate)
        finally:
            archive.close()

    def add(self, blocks: list[Block], certificate: CommitCertificate) -> None:
        """Audit the next blocks; write a state where one is due."""
        self._audit(blocks, certificate)
        newest = self._auditor.batches.newest
        last = self._writer.states[-1] if self._writer.states else 0
        if newest >= last + self._every:
            self._writer.state(
                ArchivedState(
                    newest, self._auditor.parent, self._auditor.ledger.leaves(),
                    self._auditor.shard_leaves(),
                )
            )  # fmt: skip

    def _audit(self, blocks: list[Block], certificate: CommitCertificate) -> None:
        try:
            self._auditor.add(blocks, certificate)
        except (AuditDifference, Rejected) as difference:
            raise InvalidProof(f"audit: {difference}") from None
