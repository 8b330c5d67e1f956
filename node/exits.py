"""The way out of a shard: forced actions, the freeze, claims on what is left, limits on exits.

What waits in the inbox for too long, in the ledger's own time, freezes the shard: nobody has to
ask. Frozen, it stands at its last final state for ever. The bridge then owes three things that add
up to what it holds: withdrawals of final batches, deposits that the state never took in, and the
cash in the state, which claims share. The first two are paid in full, claims at one factor for all.
"""

from __future__ import annotations

from msgspec.structs import replace

from execution.exit_value import read_exit_value
from node.envelopes import OpenedTransaction
from node.ledger_state import LedgerState
from node.outcomes import BlockOutcome
from node.settling import Settling
from protocol.actions import (
    REDUCE_ONLY,
    ActionBatch,
    CancelAll,
    MarketOrder,
    SignedBatch,
    Withdraw,
    actions_digest,
    open_batch,
)
from protocol.errors import Code, Rejected
from protocol.exits import (
    Claim,
    ClaimLeaf,
    Collect,
    ExitAction,
    ExitsLeaf,
    ForceAction,
    Freeze,
    FreezeLeaf,
    Refund,
    decode_claim,
    decode_exits,
    decode_freeze,
)
from protocol.genesis import CASH_MOVE_LIMIT, Chain
from protocol.keys import ADDRESS_BYTES, address_of, require_signature
from protocol.ledger_leaves import claim_key, entry_key, exits_key, freeze_key
from protocol.markets import DAY_MS, PPM
from protocol.settlement import (
    FIRST_ACCOUNT,
    InboxDeposit,
    InboxForced,
    OutboxEntry,
    master_of,
)
from protocol.tree_proof import decode_tree_proof

MAX_FORCED_BYTES = 512
"""Most bytes of a forced action's signed batch."""

HOUR_MS = 3_600_000


def check_force(chain: Chain, action: ForceAction) -> tuple[SignedBatch, ActionBatch]:
    """Open a forced action; raises `Rejected` where it can never be taken, in no state."""
    if len(action.signed) > MAX_FORCED_BYTES:
        raise Rejected(Code.NOT_FORCEABLE, f"a forced action has at most {MAX_FORCED_BYTES} bytes")
    signed, batch = open_batch(action.signed)
    if len(batch.actions) != 1:
        raise Rejected(Code.NOT_FORCEABLE, "a forced batch holds one action")
    one = batch.actions[0]
    if isinstance(one, Withdraw):
        if len(one.address) != ADDRESS_BYTES or not 0 < one.amount_uusd < CASH_MOVE_LIMIT:
            raise Rejected(Code.BAD_AMOUNT, "the withdrawal's amount or address is out of range")
    elif isinstance(one, MarketOrder):
        if not one.flags & REDUCE_ONLY:
            raise Rejected(Code.NOT_FORCEABLE, "a forced market order is reduce-only")
    elif not isinstance(one, CancelAll):
        raise Rejected(
            Code.NOT_FORCEABLE, "only withdraw, cancel-all and reduce-only market orders are forced"
        )
    digest = actions_digest(chain.chain_id, chain.genesis.shard, signed.payload)
    require_signature(signed.signer, signed.signature, digest)
    return signed, batch


class Exits:
    """Forced actions, freeze, claims and limits of a ledger's shard. Every check stands before the
    first write."""

    def __init__(self, state: LedgerState, settling: Settling) -> None:
        genesis = state.chain.genesis
        self._state = state
        self._settling = settling
        self._rules = rules = genesis.settlement
        self._per_block = genesis.limits.inbox_per_block
        self._pace_ms = genesis.sequencer_pace.idle_interval_ms
        self._limited = min(rules.exit_hour_ppm, rules.exit_day_ppm) < PPM

    def execute(self, opened: OpenedTransaction, action: ExitAction, outcome: BlockOutcome) -> None:
        """Execute a transaction of these rules, whose fee is paid; raises `Rejected`."""
        if isinstance(action, ForceAction):
            self._force(opened, action, outcome)
        elif isinstance(action, Freeze):
            self._freeze_due(outcome)
        elif isinstance(action, Claim):
            self._claim(action)
        elif isinstance(action, Collect):
            self._collect(action)
        else:
            self._refund(action)

    def begin_block(self, outcome: BlockOutcome) -> None:
        """Freeze the shard where it has missed its deadline; begin the hour of the exit limits."""
        if self._state.frozen:
            return
        if self.next_due_ms() == 0:
            self._freeze(outcome)
        elif self._limited:
            self._begin_hour()

    # --- forced actions

    def _force(self, opened: OpenedTransaction, action: ForceAction, outcome: BlockOutcome) -> None:
        state, fee_uusd = self._state, self._rules.forced_fee_uusd
        if state.frozen:
            raise Rejected(Code.SHARD_FROZEN, "a frozen shard executes nothing; register a claim")
        signed, batch = check_force(state.chain, action)
        number = state.account_number(address_of(signed.signer))
        if batch.account < FIRST_ACCOUNT or master_of(batch.account) != number:
            raise Rejected(Code.NOT_AUTHORISED, f"the signer does not own account {batch.account}")
        balance_uusd = state.account(opened.address).balance_uusd
        if fee_uusd > balance_uusd:
            raise Rejected(
                Code.INSUFFICIENT_BALANCE,
                f"the balance is {balance_uusd} uusd, a forced action costs {fee_uusd} uusd more",
            )
        state.credit(opened.address, -fee_uusd)
        state.change_system(fees_uusd=fee_uusd)
        entry = InboxForced(state.inbox().count, action.signed)
        state.append_entry(outcome.height, entry)
        outcome.entries.append(entry)

    # --- the freeze

    def next_due_ms(self) -> int | None:
        """Window time until the shard freezes unless a batch settles, or until claims on a frozen
        one close; None while no clock runs."""
        state, rules = self._state, self._rules
        freeze, now_ms = self.frozen_at(), state.system().window_ms
        if freeze is not None:
            closes_ms = freeze.since_ms + rules.claim_ms
            return closes_ms - now_ms if closes_ms > now_ms else None
        shard = state.shard_leaf()
        oldest = state.placed_entry(shard.inbox_cursor)
        if oldest is None:
            return None
        due_ms: list[int] = []
        if rules.forced_ms:
            # The queue before it has to be worked off first, at the slowest pace of honest blocks.
            blocks = -(-oldest.ahead // self._per_block)
            due_ms.append(oldest.window_ms + rules.forced_ms + blocks * self._pace_ms)
        if rules.outage_ms:
            newest = state.batch(shard.batch)
            since_ms = max(oldest.window_ms, 0 if newest is None else newest.window_ms)
            due_ms.append(since_ms + rules.outage_ms)
        return max(0, min(due_ms) - now_ms) if due_ms else None

    def frozen_at(self) -> FreezeLeaf | None:
        """The freeze of the shard, if it is frozen."""
        raw = self._state.read(freeze_key(self._state.shard))
        return None if raw is None else decode_freeze(raw)

    def _freeze_due(self, outcome: BlockOutcome) -> None:
        if self._state.frozen:
            raise Rejected(Code.SHARD_FROZEN, "the shard is frozen already")
        left_ms = self.next_due_ms()
        if left_ms is None:
            raise Rejected(Code.NOT_OVERDUE, "nothing in the inbox waits for a deadline")
        if left_ms:
            raise Rejected(
                Code.NOT_OVERDUE, f"the deadline is in {left_ms} ms of the ledger's time"
            )
        self._freeze(outcome)

    def _freeze(self, outcome: BlockOutcome) -> None:
        """Go back to the last final batch and stay there. Who posted the others has not lied, as
        far as anybody has shown: bonds return."""
        state, final = self._state, self._state.final()
        first = state.batch(final.batch + 1)
        if first is not None:
            bond_uusd = self._settling.remove(final.batch + 1, outcome)
            state.credit(address_of(first.header.prover), bond_uusd)
        refunds_uusd = state.deposited_uusd(state.inbox().count)
        refunds_uusd -= state.deposited_uusd(final.inbox_cursor)
        state.write(
            freeze_key(state.shard),
            FreezeLeaf(
                state.system().window_ms, final.batch, final.state_root, final.inbox_cursor,
                refunds_uusd=refunds_uusd,
            ),
        )  # fmt: skip

    def _require_frozen(self) -> FreezeLeaf:
        freeze = self.frozen_at()
        if freeze is None:
            raise Rejected(Code.NOT_FROZEN, "the shard is not frozen; withdraw, or force it")
        return freeze

    # --- claims

    def _claim(self, action: Claim) -> None:
        state, freeze = self._state, self._require_frozen()
        if state.system().window_ms >= freeze.since_ms + self._rules.claim_ms:
            raise Rejected(Code.CLAIMS_CLOSED, "the time for claims is over")
        if not FIRST_ACCOUNT <= action.account < 1 << 63:
            raise Rejected(Code.UNKNOWN_ACCOUNT, "an account of the system belongs to nobody")
        key = claim_key(state.shard, action.account)
        if state.read(key) is not None:
            raise Rejected(Code.ALREADY_CLAIMED, f"account {action.account} has its claim")
        worth = read_exit_value(
            state.chain.genesis,
            freeze.state_root,
            action.account,
            decode_tree_proof(action.positions),
            decode_tree_proof(action.values),
        )
        if worth.value_uusd <= 0:
            raise Rejected(
                Code.NO_CLAIM, f"account {action.account} is worth {worth.value_uusd} uusd"
            )
        funds_uusd = freeze.funds_uusd
        if not freeze.claims_uusd:
            # What is not the state's cash belongs to refunds and to withdrawals on their way.
            held_uusd = state.shard_leaf().funds_uusd - freeze.refunds_uusd
            funds_uusd = max(0, min(worth.shard_cash_uusd, held_uusd))
        claims_uusd = freeze.claims_uusd + worth.value_uusd
        state.write(key, ClaimLeaf(worth.address, worth.value_uusd))
        self._keep(replace(freeze, claims_uusd=claims_uusd, funds_uusd=funds_uusd))

    def _collect(self, action: Collect) -> None:
        state, freeze = self._state, self._require_frozen()
        left_ms = freeze.since_ms + self._rules.claim_ms - state.system().window_ms
        if left_ms > 0:
            raise Rejected(
                Code.CLAIMS_OPEN, f"claims register for another {left_ms} ms of the ledger's time"
            )
        account = action.account
        raw = state.read(claim_key(state.shard, account)) if 0 <= account < 1 << 63 else None
        if raw is None:
            raise Rejected(Code.NO_CLAIM, f"account {account} registered no claim in time")
        claim = decode_claim(raw)
        if claim.paid:
            raise Rejected(Code.ALREADY_PAID, f"the claim of account {account} has been paid")
        amount_uusd = share_uusd(claim.amount_uusd, freeze)
        state.write(claim_key(state.shard, account), replace(claim, paid=True))
        self._keep(replace(freeze, paid_uusd=freeze.paid_uusd + amount_uusd))
        state.add_funds(-amount_uusd)
        state.credit(claim.address, amount_uusd)

    def _refund(self, action: Refund) -> None:
        state, freeze = self._state, self._require_frozen()
        placed = state.placed_entry(action.index)
        if placed is None or action.index < freeze.inbox_cursor:
            raise Rejected(
                Code.NOT_REFUNDABLE, f"inbox entry {action.index} is in the final state, or nowhere"
            )
        entry = placed.entry
        if not isinstance(entry, InboxDeposit) or entry.account < FIRST_ACCOUNT:
            raise Rejected(Code.NOT_REFUNDABLE, f"inbox entry {action.index} is nobody's deposit")
        if placed.refunded:
            raise Rejected(Code.ALREADY_PAID, f"deposit {action.index} has been refunded")
        state.write(entry_key(state.shard, action.index), replace(placed, refunded=True))
        self._keep(replace(freeze, refunds_uusd=freeze.refunds_uusd - entry.amount_uusd))
        state.add_funds(-entry.amount_uusd)
        state.credit(entry.address, entry.amount_uusd)

    def _keep(self, freeze: FreezeLeaf) -> None:
        self._state.write(freeze_key(self._state.shard), freeze)

    # --- limits on exits

    def check_payout(self, entry: OutboxEntry) -> None:
        """Raise `Rejected(exit_limit)` for a payout beyond what may leave within the hour or day;
        it can be paid later. A frozen shard has no limits."""
        if not self._limited or self._state.frozen:
            return
        rules, running = self._rules, self._running()
        parts = (
            ("hour", HOUR_MS, rules.exit_hour_ppm, running.hour_held_uusd, running.hour_uusd),
            ("day", DAY_MS, rules.exit_day_ppm, running.day_held_uusd, running.day_uusd),
        )
        for name, length_ms, share_ppm, held_uusd, paid_uusd in parts:
            most_uusd = held_uusd * share_ppm // PPM
            if share_ppm < PPM and paid_uusd + entry.amount_uusd > most_uusd:
                left_ms = length_ms - self._state.system().window_ms % length_ms
                raise Rejected(
                    Code.EXIT_LIMIT,
                    f"{most_uusd} uusd may leave the bridge in this {name}, {paid_uusd} uusd have; "
                    f"try again in {left_ms} ms of the ledger's time, when the next {name} begins",
                )

    def take_payout(self, entry: OutboxEntry) -> None:
        """Count a payout; raises `Rejected(exit_limit)` as `check_payout` does."""
        self.check_payout(entry)
        if self._limited and not self._state.frozen:
            running, amount_uusd = self._running(), entry.amount_uusd
            counted = replace(
                running,
                hour_uusd=running.hour_uusd + amount_uusd,
                day_uusd=running.day_uusd + amount_uusd,
            )
            self._state.write(exits_key(self._state.shard), counted)

    def _running(self) -> ExitsLeaf:
        raw = self._state.read(exits_key(self._state.shard))
        return ExitsLeaf(hour=-1, day=-1) if raw is None else decode_exits(raw)

    def _begin_hour(self) -> None:
        """What may leave follows from what the bridge holds before the hour's first transaction."""
        state, running = self._state, self._running()
        now_ms, held_uusd = state.system().window_ms, state.shard_leaf().funds_uusd
        hour, day = now_ms // HOUR_MS, now_ms // DAY_MS
        if hour == running.hour:
            return
        running = replace(running, hour=hour, hour_uusd=0, hour_held_uusd=held_uusd)
        if day != running.day:
            running = replace(running, day=day, day_uusd=0, day_held_uusd=held_uusd)
        state.write(exits_key(state.shard), running)


def share_uusd(claim_uusd: int, freeze: FreezeLeaf) -> int:
    """What a claim is paid when claims are closed: the same factor for all, rounded down."""
    if freeze.claims_uusd <= freeze.funds_uusd:
        return claim_uusd
    return claim_uusd * freeze.funds_uusd // freeze.claims_uusd
