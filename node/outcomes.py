"""What a ledger block did, for whoever stores, answers and announces it."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.errors import Code
from protocol.settlement import BatchHeader, InboxEntry, OutboxEntry


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """What became of one transaction of a block."""

    id: bytes
    code: Code
    text: str


@dataclass(slots=True)
class BlockOutcome:
    """What a block did. `changes` are the leaves it wrote, `undo` what they were before (None:
    absent), `root` the ledger root after it."""

    height: int
    time_ms: int
    results: list[TransactionResult] = field(default_factory=list)
    entries: list[InboxEntry] = field(default_factory=list)
    batches: list[BatchHeader] = field(default_factory=list)
    payouts: list[OutboxEntry] = field(default_factory=list)
    changes: dict[bytes, bytes] = field(default_factory=dict)
    undo: dict[bytes, bytes | None] = field(default_factory=dict)
    root: bytes = b""


@dataclass(slots=True)
class LedgerCounters:
    """Events since the process started."""

    applied: int = 0
    failed: int = 0
    underfunded_payouts: int = 0
