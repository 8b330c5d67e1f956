"""What a simulated member keeps on its disk, and how it reads it back.

One log holds blocks, voting states and commits in the order in which the replica gave them. A torn
record at its end is cut: no sync had promised it. Damage before the end is no such thing, and a
node that finds any does not start.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus import Committed, Effect, Persist, PersistBlock, RecoveredState
from protocol.chain import Block, CommitCertificate
from sim.bank import Bank
from sim.disk import DAMAGED, Disk

LOG = "chain"

Stored = dict[int, tuple[Block, CommitCertificate | None]]
"""Committed blocks by height, each with its certificate where it ended a commit step."""


class NodeStore:
    """`chain` is what is durable, `first` the lowest height that it has without a gap below."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.chain: Stored = {}
        self.first = 1

    def write(self, effects: Sequence[Effect]) -> bool:
        """Append what a step wants stored; whether there was anything."""
        disk = self.disk
        wrote = False
        for effect in effects:
            if isinstance(effect, PersistBlock):
                disk.append(LOG, effect.block)
            elif isinstance(effect, Persist):
                disk.append(LOG, effect.state)
            elif isinstance(effect, Committed):
                disk.append(LOG, effect)
            else:
                break
            wrote = True
        return wrote

    def committed(self, effect: Committed) -> None:
        """Note a commit whose record is durable."""
        height = effect.block.header.height
        ends = effect.certificate.height == height
        self.chain[height] = effect.block, effect.certificate if ends else None

    def recover(self) -> RecoveredState | None:
        """Read the log back; None where it is damaged before its end."""
        records = self.disk.log(LOG)
        if records and records[-1] is DAMAGED:
            records.pop()
            self.disk.truncate(LOG, len(records))
        if any(record is DAMAGED for record in records):
            return None
        state = None
        loose: dict[bytes, Block] = {}
        self.chain.clear()
        base: Stored = self.disk.get("base") or {}
        self.chain.update(base)
        self.first = min(base, default=1)
        for record in records:
            if isinstance(record, Committed):
                self.committed(record)
            elif isinstance(record, Block):
                loose[record.header.block_id()] = record
            else:
                state = record
        height = max(self.chain, default=0)
        while height and self.chain[height][1] is None:
            # A crash inside a commit step leaves blocks without the certificate that ends it.
            block = self.chain.pop(height)[0]
            loose[block.header.block_id()] = block
            height -= 1
        tip, certificate = self.chain[height] if height else (None, None)
        blocks = [block for block in loose.values() if block.header.height > height]
        return RecoveredState(state, tip, certificate, blocks)

    def take_snapshot(self, base: Stored, bank: Bank) -> None:
        """Store the newest blocks and the state of another node, durably."""
        self.disk.put("base", base)
        self.disk.put("snapshot", bank.copy())
        self.disk.sync_now()

    def snapshot(self) -> Bank | None:
        """The state that a snapshot brought, None where the chain is whole."""
        found: Bank | None = self.disk.get("snapshot")
        return None if found is None else found.copy()
