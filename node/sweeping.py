"""What the ledger forgets of the past: old final batches, their payouts, old inbox entries.

Where genesis has `keep_batches`, final batches older than that many leave the ledger's state, some
with each block, and with them the marks of their payouts: nothing can be proven against a batch
that is no more, so nothing can be paid twice. A batch with a withdrawal that nobody has had paid
stays until somebody does. Inbox entries that the forgotten batches took in go too.
"""

from __future__ import annotations

from msgspec.structs import replace

from node.ledger_state import LedgerState
from protocol.errors import SafetyViolation
from protocol.ledger_leaves import (
    SettledBatch,
    batch_key,
    paid_key,
    swept_key,
)

SWEPT_PER_BLOCK = 64
"""Batches that one block looks at, and inbox entries that it forgets; payouts come on top, all of a
batch at once, which its size bounds."""


class Sweeping:
    """What a ledger's shard has forgotten. Every validator forgets the same in the same block."""

    def __init__(self, state: LedgerState) -> None:
        self._state = state
        self._kept = state.chain.genesis.settlement.keep_batches

    def begin_block(self) -> None:
        """Forget some of what is old enough."""
        end = self._state.final().batch - self._kept
        if not self._kept or end < 1:
            return
        before = swept = self._state.swept()
        for number in range(swept.batch + 1, min(end, swept.batch + SWEPT_PER_BLOCK) + 1):
            settled = self._batch(number)
            if settled.paid == settled.header.outbox_count:
                self._forget(settled)
            # The last entry stays: it says how much was deposited up to there.
            swept = replace(swept, batch=number, cursor=max(0, settled.header.inbox_cursor - 1))
        entries = min(swept.cursor, swept.entries + SWEPT_PER_BLOCK)
        running_hash = self._state.forget_entries(entries, swept.running_hash)
        swept = replace(swept, entries=entries, running_hash=running_hash)
        if swept != before:
            self._state.write(swept_key(self._state.shard), swept)

    def note_payout(self, number: int, outbox_number: int, height: int) -> None:
        """Mark an outbox entry of a final batch as paid; with its last one an old batch goes."""
        state = self._state
        state.write(paid_key(state.shard, outbox_number), height)
        if not self._kept:
            return
        settled = self._batch(number)
        settled = replace(settled, paid=settled.paid + 1)
        if number <= state.swept().batch and settled.paid == settled.header.outbox_count:
            self._forget(settled)
        else:
            state.write(batch_key(state.shard, number), settled)

    def _batch(self, number: int) -> SettledBatch:
        settled = self._state.batch(number)
        if settled is None:
            raise SafetyViolation(f"batch {number} is missing though nobody has forgotten it")
        return settled

    def _forget(self, settled: SettledBatch) -> None:
        state, header = self._state, settled.header
        state.erase(batch_key(state.shard, header.number))
        for number in range(header.outbox_first, header.outbox_first + header.outbox_count):
            state.erase(paid_key(state.shard, number))
