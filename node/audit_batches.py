"""The batches of an audit: settled, removed and final as the ledger does it, and what they pay.

The ledger here is our own re-execution; whoever executes the shard (`ShardPart`) is told of every
batch that it settled, and its findings decide.
"""

from __future__ import annotations

from typing import Protocol

from node.audit_shard import AuditDifference, BatchFindings, BatchTask, Counts, ShardAudit
from node.ledger import BlockOutcome, Ledger
from protocol.batch_data import unpack_blocks
from protocol.errors import Code
from protocol.inbox import block_inbox_height
from protocol.settlement import (
    BatchHeader,
    InboxDeposit,
    OutboxEntry,
    Payout,
    PostBatch,
    decode_signed_transaction,
    decode_transaction,
)


class ShardPart(Protocol):
    """Who executes batches: `ShardAudit`, or somebody who has it done elsewhere."""

    batch: int
    begins_at: int
    counts: Counts

    @property
    def root(self) -> bytes:
        """Root after the newest batch."""

    def settle(self, task: BatchTask) -> BatchFindings | None:
        """The next batch; None where its findings come later."""

    def remove(self, number: int) -> None:
        """A batch and all newer ones are gone."""

    def finalise(self, number: int) -> None:
        """A batch and all older ones stay."""


class BatchFollower:
    """What the ledger does with batches, block by block. `begins`: the batch from whose end they
    are executed, 0 for genesis; `removed`: settled batches that were taken out again."""

    def __init__(self, ledger: Ledger, shard: ShardPart) -> None:
        self._ledger = ledger
        self._shard = shard
        self.removed = 0
        self.payouts: list[OutboxEntry] = []
        """Payouts that were not compared, as the findings of their batches come later."""
        leaf = ledger.shard_leaf()
        self.newest = leaf.batch
        """Number of the newest settled batch."""
        self.begins = leaf.batch
        self.begun = shard.begins_at <= leaf.last_block
        """Whether the state that the shard began from has been compared with a settled root."""
        known = ledger.batch(leaf.batch)
        self._headers = {} if known is None else {leaf.batch: known.header}
        self._ends = {leaf.batch: (leaf.inbox_height, leaf.inbox_cursor)}
        self._final = ledger.final().batch
        self._wrong: dict[int, AuditDifference] = {}
        self._unpaid: dict[int, int] = {}
        self._outbox_begins = leaf.outbox_next
        self._owed_before_uusd: int | None = None if shard.begins_at else 0
        if self.begun:
            self._require_conserved()

    @property
    def root(self) -> bytes:
        """Root of the shard's state after the newest batch."""
        return self._shard.root

    def follow(self, transactions: list[bytes], outcome: BlockOutcome) -> None:
        """A ledger block that was applied; raises `AuditDifference`."""
        for raw, result in zip(transactions, outcome.results, strict=True):
            if result.code != Code.OK:
                continue
            action = decode_transaction(decode_signed_transaction(raw).payload).action
            if isinstance(action, PostBatch):
                self._remove(action.header.number)
                self._settle(action)
            elif isinstance(action, Payout):
                self._pay(action.entry)
        while self.newest in self._headers and self._is_gone(self.newest):
            self._remove(self.newest)
        self._finalise(self._ledger.final().batch)
        if outcome.batches or outcome.payouts or outcome.entries:
            self._require_conserved()

    def _is_gone(self, number: int) -> bool:
        settled = self._ledger.batch(number)
        return settled is None or settled.header != self._headers[number]

    # --- batches

    def _settle(self, post: PostBatch) -> None:
        header = post.header
        number = header.number
        height, cursor = self._ends[number - 1]
        taken = self._ledger.entries(cursor, header.inbox_cursor - cursor, self._ledger.height)
        self._headers[number], self.newest = header, number
        self._ends[number] = (self._height_after(post, height), header.inbox_cursor)
        if self.begun or header.last_block > self._shard.begins_at:
            self._execute(BatchTask(header, post.data, height, cursor, taken))
        elif header.last_block == self._shard.begins_at:
            if self._shard.root == header.post_state_root:
                self._begin_behind(header)
                return
            text = (
                f"batch {number}: the state to begin from has the root "
                f"{self._shard.root.hex()[:16]}, settled is {header.post_state_root.hex()[:16]}"
            )
            self._wrong[number] = AuditDifference(text, number)

    def _begin_behind(self, header: BatchHeader) -> None:
        """What comes is compared from the end of this batch on."""
        self.begun = True
        self.begins = self._shard.batch = header.number
        self._outbox_begins = header.outbox_first + header.outbox_count

    def _execute(self, task: BatchTask) -> None:
        header = task.header
        if not self.begun:
            # The state stands within this batch: its end is the first root that can be compared.
            self._shard.batch = header.number - 1
        findings = self._shard.settle(task)
        if not self.begun:
            self._begin_behind(header)
        if findings is None:
            return
        for entry in findings.outbox:
            if entry.number >= self._outbox_begins:
                self._unpaid[entry.number] = entry.amount_uusd
        if findings.difference is not None:
            self._wrong[header.number] = findings.difference

    def _height_after(self, post: PostBatch, height: int) -> int:
        """The inbox height that the last block of a batch names."""
        settled = self._ledger.batch(post.header.number)
        if settled is not None and settled.header == post.header:
            return settled.inbox_height
        # Removed again by the block that settled it.
        for block in unpack_blocks(post.data):
            height = block_inbox_height(block.payload, height)
        return height

    def _remove(self, number: int) -> None:
        """Batches from `number` on are gone, where there are any."""
        while self.newest >= number:
            newest = self.newest
            if newest <= self._final:
                raise AuditDifference(f"batch {newest} was removed though it was final", newest)
            if self.begun and newest <= self.begins:
                text = f"batch {newest}, from which the audit began, was removed by a dispute"
                raise AuditDifference(text, newest)
            if self.begun:
                self._shard.remove(newest)
            self._headers.pop(newest, None)
            self._wrong.pop(newest, None)
            self.newest -= 1
            self.removed += 1

    def _finalise(self, number: int) -> None:
        if number <= self._final:
            return
        self._final = number
        self._require_right(number)
        self._shard.finalise(number)
        for known in [known for known in self._headers if known < number]:
            del self._headers[known]
            self._ends.pop(known, None)

    def _require_right(self, up_to: int) -> None:
        wrong = min((number for number in self._wrong if number <= up_to), default=0)
        if wrong:
            raise self._wrong[wrong]

    # --- money

    def _pay(self, entry: OutboxEntry) -> None:
        """A payout must be of a withdrawal that re-execution made too, and of its amount."""
        if entry.number < self._outbox_begins or not self.begun:
            # Made before the state that we began from, whose withdrawals only the ledger knows.
            if self._owed_before_uusd is not None:
                self._owed_before_uusd -= entry.amount_uusd
        elif not isinstance(self._shard, ShardAudit):
            self.payouts.append(entry)
        elif self._unpaid.pop(entry.number, None) != entry.amount_uusd:
            raise AuditDifference(f"payout {entry.number} pays what was never withdrawn")

    def _surplus_uusd(self, shard: ShardAudit) -> int:
        """Money on the bridge above cash in the shard, deposits on their way, and withdrawals."""
        ledger, engine = self._ledger, shard.engine
        waiting = ledger.entries(engine.inbox_cursor, ledger.inbox().count, ledger.height)
        arriving = sum(entry.amount_uusd for _, entry in waiting if isinstance(entry, InboxDeposit))
        owed = engine.total_cash_uusd() + arriving + sum(self._unpaid.values())
        return ledger.shard_leaf().funds_uusd - owed

    def _require_conserved(self) -> None:
        """Money on the bridge = cash in the shard + deposits and withdrawals on their way."""
        shard = self._shard
        if not isinstance(shard, ShardAudit) or self._ledger.frozen:
            return
        if not self.begun:
            return
        surplus_uusd = self._surplus_uusd(shard)
        if self._owed_before_uusd is None:
            self._owed_before_uusd = surplus_uusd
        if surplus_uusd != self._owed_before_uusd or surplus_uusd < 0:
            funds = self._ledger.shard_leaf().funds_uusd
            raise AuditDifference(
                f"the bridge holds {funds} uusd and owes {funds - surplus_uusd} uusd"
            )

    def check_end(self) -> Counts:
        """Everything that must hold where an audit ends; raises `AuditDifference`."""
        if not self.begun:
            raise AuditDifference(
                f"no batch reaches ordered block {self._shard.begins_at}, from which it began"
            )
        if self._wrong:
            first = self._wrong[min(self._wrong)]
            text = f"{first}; it is not final yet, and can be disputed"
            raise AuditDifference(text, first.batch, first.place)
        self._require_conserved()
        if isinstance(self._shard, ShardAudit):
            self._shard.engine.check()
        return self._shard.counts
