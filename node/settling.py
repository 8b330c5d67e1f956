"""Batches on the ledger from their posting to finality: windows, bonds, removal.

A batch is settled when a ledger block takes it in, and final when its window has passed (in the
ledger's own time) without a dispute that still holds it, the batches before it first. Until then it
can be removed with all that stand on it; its prover's bond is locked as long.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from consensus.members import MemberSet
from node.batches import BatchRules, check_batch
from node.envelopes import OpenedTransaction
from node.ledger_state import LedgerState
from node.native import NativeChecks
from node.outcomes import BlockOutcome
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.keys import address_of
from protocol.ledger_leaves import (
    FinalLeaf,
    SettledBatch,
    ShardLeaf,
    batch_key,
    final_key,
    shard_key,
)
from protocol.settlement import BatchHeader, PostBatch
from protocol.windows import OPEN_BATCHES_MAX


class Settling:
    """The batches of a ledger's shard. Every check stands before the first write.

    `holds(number)` says whether an open dispute keeps a batch from becoming final; `dissolve` ends
    the disputes on batches that were removed. Without disputes neither does anything.
    """

    def __init__(self, state: LedgerState) -> None:
        genesis = state.chain.genesis
        self._state = state
        self._rules = genesis.settlement
        sequencers = [identity.member() for identity in genesis.sequencers]
        self._batch_rules = BatchRules(
            state.chain.chain_id,
            state.shard,
            MemberSet(state.chain.log_id, sequencers),
            frozenset(bytes.fromhex(key) for key in genesis.provers),
            genesis.limits.inbox_per_block,
        )
        self._native = NativeChecks(state)
        self.holds: Callable[[int], bool] = _never
        self.dissolve: Callable[[list[int], BlockOutcome], None] = _nothing

    @property
    def provers(self) -> frozenset[bytes]:
        """Public keys that may post batches."""
        return self._batch_rules.provers

    # --- posting

    def post(self, opened: OpenedTransaction, action: PostBatch, outcome: BlockOutcome) -> None:
        """Settle the shard's next batch and lock its bond; raises `Rejected`."""
        state, header = self._state, action.header
        self.require_wanted(header)
        before = state.shard_leaf()
        checked = check_batch(
            self._batch_rules, before, action, opened.signer,
            ledger_height=state.height, entries_at=state.entries_at,
        )  # fmt: skip
        self._check_bond(opened.address, header.bond_uusd)
        after = checked.after
        native_root, prices = self._native.take(
            header.number, checked.blocks, before.inbox_cursor, checked.cursors, action.prices
        )
        state.credit(opened.address, -header.bond_uusd)
        state.write(shard_key(state.shard), after)
        state.write(
            batch_key(state.shard, header.number),
            SettledBatch(
                header, outcome.height, outcome.time_ms, state.system().window_ms,
                after.inbox_height, after.outbox_hash, header.bond_uusd, checked.steps_root,
                native_root, prices,
            ),
        )  # fmt: skip
        outcome.batches.append(header)
        if self._rules.window_ms == 0:
            self._finalise_due(outcome)

    def require_wanted(self, header: BatchHeader) -> None:
        """Raise `Rejected` for a batch that has no effect now; better it stands in no block."""
        if self._state.frozen:
            raise Rejected(Code.SHARD_FROZEN, "a frozen shard takes no batches any more")
        settled = self._state.shard_leaf().batch
        if header.number <= settled:
            raise Rejected(
                Code.WRONG_BATCH_NUMBER, f"batch {header.number} came, {settled} is settled already"
            )
        if settled - self._state.final().batch >= OPEN_BATCHES_MAX:
            raise Rejected(
                Code.BUSY,
                f"{OPEN_BATCHES_MAX} batches wait for their windows; post larger ones, less often",
            )

    def _check_bond(self, address: bytes, bond_uusd: int) -> None:
        least_uusd = self._rules.prover_bond_uusd
        if bond_uusd < least_uusd:
            raise Rejected(
                Code.BAD_BOND, f"the bond is {bond_uusd} uusd, a batch needs {least_uusd} uusd"
            )
        balance_uusd = self._state.account(address).balance_uusd
        if bond_uusd > balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {balance_uusd} uusd, the batch's bond {bond_uusd} uusd; "
                "bonds return when their batches are final",
            )

    # --- finality

    def begin_block(self, outcome: BlockOutcome) -> None:
        """Make final what is due, and give its provers their bonds back."""
        self._finalise_due(outcome)

    def is_open(self, number: int) -> bool:
        """Whether a batch is settled and not final."""
        return number > self._state.final().batch and self._state.batch(number) is not None

    def left_ms(self, number: int) -> int:
        """Window time until a settled batch can be final, 0 where that has passed."""
        settled = self._state.batch(number)
        if settled is None or number <= self._state.final().batch:
            return 0
        return max(0, self._due_ms(settled) - self._state.system().window_ms)

    def require_final(self, number: int) -> None:
        """Raise `Rejected(not_final)` for a batch that can still be disputed."""
        if number <= self._state.final().batch:
            return
        left_ms = self.left_ms(number)
        when = f"in about {left_ms} ms" if left_ms else "when the disputes of it or before it end"
        raise Rejected(Code.NOT_FINAL, f"batch {number} can be disputed; it is final {when}")

    def next_due_ms(self) -> int | None:
        """Window time until the oldest open batch can be final; None where none is open."""
        number = self._state.final().batch + 1
        return self.left_ms(number) if self.is_open(number) else None

    def _due_ms(self, settled: SettledBatch) -> int:
        return settled.window_ms + self._rules.window_ms

    def _finalise_due(self, outcome: BlockOutcome) -> None:
        state = self._state
        number, now_ms = state.final().batch + 1, state.system().window_ms
        newest: SettledBatch | None = None
        while (settled := state.batch(number)) is not None:
            if self._due_ms(settled) > now_ms or self.holds(number):
                break
            if settled.bond_uusd:
                self._return_bond(settled)
                kept = msgspec.structs.replace(settled, bond_uusd=0)
                state.write(batch_key(state.shard, number), kept)
            self._native.forget(number)
            outcome.finalised.append(settled.header)
            newest, number = settled, number + 1
        if newest is not None:
            state.write(final_key(state.shard), _after(newest))

    def _return_bond(self, settled: SettledBatch) -> None:
        if settled.bond_uusd:
            self._state.credit(address_of(settled.header.prover), settled.bond_uusd)

    # --- removal

    def remove(self, number: int, outcome: BlockOutcome) -> int:
        """Take an open batch out with all newer ones; the bond of its own, in micro-dollars.

        That bond is the caller's to dispose of; those of the others return, as what they stood on
        was not theirs to answer for. The shard is again where the batch before left it.
        """
        state = self._state
        if not self.is_open(number):
            raise SafetyViolation(f"batch {number} is not open, and cannot be removed")
        shard, before = state.shard_leaf(), self._end_of(number - 1)
        bond_uusd = 0
        removed = list(range(number, shard.batch + 1))
        for one in removed:
            settled = state.batch(one)
            if settled is None:
                raise SafetyViolation(f"batch {one} is missing between settled ones")
            if one == number:
                bond_uusd = settled.bond_uusd
            else:
                self._return_bond(settled)
            state.erase(batch_key(state.shard, one))
            outcome.removed.append(settled.header)
        for one in reversed(removed):
            self._native.remove(one)
        state.write(
            shard_key(state.shard),
            ShardLeaf(
                before.batch, before.last_block, before.last_block_id, before.state_root,
                before.inbox_height, before.inbox_cursor, before.outbox_next,
                state.shard_leaf().funds_uusd, before.outbox_hash,
            ),
        )  # fmt: skip
        self.dissolve(removed, outcome)
        return bond_uusd

    def _end_of(self, number: int) -> FinalLeaf:
        """The shard as an open batch, or the newest final one, left it."""
        final = self._state.final()
        if number == final.batch:
            return final
        settled = self._state.batch(number)
        if settled is None:
            raise SafetyViolation(f"batch {number} is missing below a settled one")
        return _after(settled)


def _after(settled: SettledBatch) -> FinalLeaf:
    header = settled.header
    return FinalLeaf(
        header.number, header.last_block, header.last_block_id, header.post_state_root,
        settled.inbox_height, header.inbox_cursor, header.outbox_first + header.outbox_count,
        settled.outbox_hash,
    )  # fmt: skip


def _never(number: int) -> bool:
    del number
    return False


def _nothing(numbers: list[int], outcome: BlockOutcome) -> None:
    del numbers, outcome
