"""What a ledger block did, for whoever stores, answers and announces it."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.errors import Code
from protocol.settlement import BatchHeader, InboxEntry, OutboxEntry

NOT_FINAL = frozenset((Code.BAD_LEDGER_NONCE, Code.FEE_TOO_LOW))
"""Codes of transactions in blocks that had no effect at all: not the nonce's turn, or no money for
the fee. The same bytes may take effect later; every other outcome is final."""


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """What became of one transaction of a block."""

    id: bytes
    code: Code
    text: str


@dataclass(slots=True)
class BlockOutcome:
    """What a block did. `changes` are the leaves it wrote (None: deleted), `undo` what they were
    before (None: absent), `root` the ledger root after it.

    `batches` were settled, `removed` are settled ones that were taken out again, oldest first, and
    `finalised` those that nothing can take out any more.

    `epoch_began` is the number of the epoch that starts above this block, which was the last of the
    epoch before; 0 where none does. `epoch_proof` is then the encoded `TreeProof` of that epoch's
    leaf under this block's `app_root`; empty where the ledger starts above `app_height` (it came
    from a snapshot) and cannot prove it.
    """

    height: int
    time_ms: int
    results: list[TransactionResult] = field(default_factory=list)
    entries: list[InboxEntry] = field(default_factory=list)
    batches: list[BatchHeader] = field(default_factory=list)
    removed: list[BatchHeader] = field(default_factory=list)
    finalised: list[BatchHeader] = field(default_factory=list)
    payouts: list[OutboxEntry] = field(default_factory=list)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)
    undo: dict[bytes, bytes | None] = field(default_factory=dict)
    root: bytes = b""
    epoch_began: int = 0
    epoch_proof: bytes = b""


@dataclass(slots=True)
class LedgerCounters:
    """Events since the process started."""

    applied: int = 0
    failed: int = 0
    underfunded_payouts: int = 0
    offences: int = 0
    removed_batches: int = 0
    epochs: int = 0
