"""The base layer's ledger: balances, inbox, settled batches, payouts and stakes, as a pure machine.

Its state is the set of leaves of `protocol.ledger_leaves`. A block is applied whole. Every
transaction pays for its place before it is looked at further: one that fails is recorded with its
code, has paid, and uses up its sender's nonce, as it stands in a public block and anybody could
otherwise send it again, on a day when its sender no longer wants it. One whose fee cannot be
charged has no effect at all and leaves the nonce, like one before its turn: nobody writes leaves
for nothing, and pools drop what cannot pay. Evidence that holds is free; a payout to its sender may
pay out of what it brings. Money is conserved: balances, bridge, stakes, bonds and fees are the
supply of genesis less what was burnt, checked after every block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from node.disputes import Disputes
from node.envelopes import Envelopes, OpenedTransaction
from node.exits import Exits
from node.fees import earned_uusd, require_fee
from node.ledger_state import LedgerState
from node.outcomes import BlockOutcome, LedgerCounters, TransactionResult
from node.settling import Settling
from node.staking import StakingRules
from node.sweeping import Sweeping
from protocol.chain import Header
from protocol.codec import encode
from protocol.dispute import Choose, Contradict, Cut, OpenDispute, Prove, ShowPart
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.exits import Claim, Collect, ForceAction, Freeze, Refund
from protocol.genesis import CASH_MOVE_LIMIT, Chain
from protocol.keys import ADDRESS_BYTES
from protocol.ledger_leaves import (
    Account,
    account_key,
    epoch_key,
    number_key,
    paid_key,
)
from protocol.merkle import verify_list_proof
from protocol.settlement import (
    FIRST_ACCOUNT,
    Bond,
    Deposit,
    InboxDeposit,
    InboxEntry,
    Payout,
    PostBatch,
    ReportEvidence,
    Unbond,
    Unjail,
)

__all__ = ["BlockOutcome", "Ledger", "LedgerCounters", "TransactionResult", "check_deposit"]

LEAST_WINDOW_STEP_MS = 1_000
"""A block moves the ledger's own time on by the time since the one before, but by no more than this
or the pace of idle blocks, whichever is more."""


class Ledger(LedgerState):
    """The ledger after some block.

    With `leaves` of genesis it is that of genesis.
    """

    def __init__(
        self,
        chain: Chain,
        leaves: Iterable[tuple[bytes, bytes]],
        height: int,
        undo: Iterable[tuple[int, dict[bytes, bytes | None]]] = (),
        envelopes: Envelopes | None = None,
    ) -> None:
        super().__init__(chain, leaves, height, undo)
        self.counters = LedgerCounters()
        self.envelopes = envelopes or Envelopes(chain.chain_id)
        self.staking = StakingRules(self)
        self.fees = chain.genesis.fees
        self.settling = Settling(self)
        self.exits = Exits(self, self.settling)
        self.disputes = Disputes(self, self.settling)
        self.sweeping = Sweeping(self)
        self.settling.holds = self.disputes.holds
        self.settling.dissolve = self.disputes.dissolve

    @property
    def provers(self) -> frozenset[bytes]:
        """Public keys that may post batches."""
        return self.settling.provers

    # --- blocks

    def apply_block(self, header: Header, transactions: Sequence[bytes]) -> BlockOutcome:
        """Execute the transactions of the next block in order, and what its epoch asks of it.

        Raises `SafetyViolation` for a block that cannot be committed here.
        """
        if header.height != self.height + 1:
            raise SafetyViolation(f"block {header.height} came to a ledger at height {self.height}")
        self.staking.begin_block(header, len(transactions))
        self._advance_clock(header.time_ms)
        outcome = BlockOutcome(header.height, header.time_ms)
        self.disputes.begin_block(outcome)
        self.settling.begin_block(outcome)
        self.exits.begin_block(outcome)
        self.sweeping.begin_block()
        for raw in transactions:
            outcome.results.append(self._apply(raw, outcome))
        outcome.epoch_began = self.staking.end_block(header)
        self.counters.removed_batches += len(outcome.removed)
        self.seal(outcome)
        if outcome.epoch_began:
            self.counters.epochs += 1
            # A ledger out of a snapshot cannot go back that far; others can prove this epoch.
            with suppress(Rejected):
                keys = [epoch_key(outcome.epoch_began)]
                proof = self.prove_at(header.app_height, header.app_root, keys)
                outcome.epoch_proof = encode(proof)
        return outcome

    def _advance_clock(self, time_ms: int) -> None:
        """Block time, and the window time that passed since the block before."""
        step_ms = max(0, time_ms - self.system().time_ms)
        idle_ms = self.chain.genesis.ledger_pace.idle_interval_ms
        self.change_system(
            time_ms=step_ms, window_ms=min(step_ms, max(LEAST_WINDOW_STEP_MS, idle_ms))
        )

    # --- transactions

    def _apply(self, raw: bytes, outcome: BlockOutcome) -> TransactionResult:
        try:
            opened = self.envelopes.open(raw)
            self._require_turn(opened)
            if isinstance(opened.action, ReportEvidence):
                return self._report(opened, opened.action, outcome)
            self._charge(opened)
        except Rejected as error:
            return self._failed(self.envelopes.identity(raw), error)
        try:
            self._execute(opened, outcome)
        except Rejected as error:
            return self._failed(opened.id, error)
        return self._succeeded(opened.id)

    def _succeeded(self, identity: bytes) -> TransactionResult:
        self.counters.applied += 1
        return TransactionResult(identity, Code.OK, "")

    def _failed(self, identity: bytes, error: Rejected) -> TransactionResult:
        self.counters.failed += 1
        return TransactionResult(identity, error.code, error.text)

    def _require_turn(self, opened: OpenedTransaction) -> None:
        """Raise `Rejected` unless the transaction is its sender's next one."""
        nonce = self.account(opened.address).nonce
        if opened.nonce != nonce:
            raise Rejected(
                Code.BAD_LEDGER_NONCE,
                f"the nonce is {opened.nonce}, the sender's next one is {nonce}",
            )

    def _charge(self, opened: OpenedTransaction) -> None:
        """Take the fee and the nonce; raises `Rejected(fee_too_low)` and takes nothing."""
        require_fee(self.fees, opened)
        account = self.account(opened.address)
        if account.balance_uusd < opened.fee_uusd:
            self._require_own_payout(opened, account.balance_uusd)
        self._count_nonce(opened, opened.fee_uusd)

    def _count_nonce(self, opened: OpenedTransaction, fee_uusd: int) -> None:
        account = self.account(opened.address)
        balance_uusd = account.balance_uusd - fee_uusd
        self.write(account_key(opened.address), Account(balance_uusd, account.nonce + 1))
        if fee_uusd:
            self.change_system(fees_uusd=fee_uusd)

    def _require_own_payout(self, opened: OpenedTransaction, balance_uusd: int) -> None:
        """Raise `Rejected` unless the transaction surely brings its sender the fee."""
        action = opened.action
        if isinstance(action, Payout) and balance_uusd + earned_uusd(opened) >= opened.fee_uusd:
            try:
                self.check_payout(action)
                self.exits.check_payout(action.entry)
                self._require_funds(action)
            except Rejected as error:
                text = f"the fee cannot come out of the payout: {error.text}"
                raise Rejected(Code.FEE_TOO_LOW, text) from None
            return
        raise Rejected(
            Code.FEE_TOO_LOW,
            f"the fee of {opened.fee_uusd} uusd is more than the balance, {balance_uusd} uusd",
        )

    def _report(
        self, opened: OpenedTransaction, action: ReportEvidence, outcome: BlockOutcome
    ) -> TransactionResult:
        """Punish what evidence proves, free of charge; what proves nothing pays, where it can."""
        try:
            record = self.staking.check_report(action.evidence)
        except Rejected as error:
            with suppress(Rejected):
                self._charge(opened)
            return self._failed(opened.id, error)
        self._count_nonce(opened, 0)
        self.staking.punish(action.evidence, record, outcome.height)
        self.counters.offences += 1
        return self._succeeded(opened.id)

    def _execute(self, opened: OpenedTransaction, outcome: BlockOutcome) -> None:
        """Execute a transaction that has paid; every check stands before the first write."""
        action = opened.action
        if isinstance(action, Deposit):
            self._deposit(opened, action, outcome)
        elif isinstance(action, PostBatch):
            self.settling.post(opened, action, outcome)
        elif isinstance(action, Payout):
            self._payout(action, outcome)
        elif isinstance(action, Bond | Unbond | Unjail):
            self.staking.execute(opened, action)
        elif isinstance(action, OpenDispute | Contradict | Cut | Choose | Prove | ShowPart):
            self.disputes.execute(opened, action, outcome)
        elif isinstance(action, ForceAction | Freeze | Claim | Collect | Refund):
            self.exits.execute(opened, action, outcome)

    def _deposit(self, opened: OpenedTransaction, action: Deposit, outcome: BlockOutcome) -> None:
        check_deposit(action)
        if self.frozen:
            raise Rejected(Code.SHARD_FROZEN, "a frozen shard takes no deposits any more")
        balance_uusd = self.account(opened.address).balance_uusd
        if action.amount_uusd > balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {balance_uusd} uusd, the deposit {action.amount_uusd} uusd",
            )
        self.credit(opened.address, -action.amount_uusd)
        outcome.entries.append(
            self._take_deposit(outcome.height, action.address, action.amount_uusd)
        )

    def _take_deposit(self, height: int, address: bytes, amount_uusd: int) -> InboxEntry:
        """Append a deposit to the inbox; the money is the bridge's from here on."""
        number = self.account_number(address)
        if not number:
            number = FIRST_ACCOUNT + self.system().accounts_given
            self.change_system(accounts_given=1)
            self.write(number_key(address), number)
        entry = InboxDeposit(self.inbox().count, number, address, amount_uusd)
        self.append_entry(height, entry)
        self.add_funds(amount_uusd)
        return entry

    def _payout(self, action: Payout, outcome: BlockOutcome) -> None:
        self.check_payout(action)
        self._require_funds(action)
        entry = action.entry
        self.exits.take_payout(entry)
        self.sweeping.note_payout(action.batch, entry.number, outcome.height)
        self.add_funds(-entry.amount_uusd)
        self.credit(entry.address, entry.amount_uusd)
        outcome.payouts.append(entry)

    def _require_funds(self, action: Payout) -> None:
        entry = action.entry
        if entry.amount_uusd > self.shard_leaf().funds_uusd:
            self.counters.underfunded_payouts += 1
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"outbox entry {entry.number} is proven, but the bridge does not hold "
                f"{entry.amount_uusd} uusd: a settled batch created money",
            )

    def check_payout(self, action: Payout) -> None:
        """Raise `Rejected` unless the entry is proven against a final batch and unpaid."""
        entry = action.entry
        settled = self.batch(action.batch)
        if settled is None and 0 < action.batch <= self.swept().batch:
            text = f"all withdrawals of batch {action.batch} have been paid"
            raise Rejected(Code.ALREADY_PAID, text)
        if settled is None:
            raise Rejected(Code.UNKNOWN_BATCH, f"batch {action.batch} is not settled")
        header = settled.header
        index = entry.number - header.outbox_first
        if not verify_list_proof(
            header.outbox_root, encode(entry), index, header.outbox_count, action.path
        ):
            raise Rejected(
                Code.BAD_PROOF, f"the path does not lead to the outbox root of batch {action.batch}"
            )
        if len(entry.address) != ADDRESS_BYTES:
            raise Rejected(Code.WRONG_TYPE, f"an address has {ADDRESS_BYTES} bytes")
        if not 0 < entry.amount_uusd < CASH_MOVE_LIMIT:
            raise Rejected(Code.BAD_AMOUNT, f"an amount of {entry.amount_uusd} uusd is not payable")
        self.settling.require_final(action.batch)
        if self.read(paid_key(self.shard, entry.number)) is not None:
            raise Rejected(Code.ALREADY_PAID, f"outbox entry {entry.number} has been paid")


def check_deposit(action: Deposit) -> None:
    """Raise `Rejected` where a deposit can never take effect, whatever its sender holds."""
    if len(action.address) != ADDRESS_BYTES:
        raise Rejected(Code.WRONG_TYPE, f"an address has {ADDRESS_BYTES} bytes")
    if not 0 < action.amount_uusd < CASH_MOVE_LIMIT:
        raise Rejected(
            Code.BAD_AMOUNT, f"a deposit is 1 to {CASH_MOVE_LIMIT - 1} uusd, not more or less"
        )
