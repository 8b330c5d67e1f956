"""What ledger transactions pay for their place, and what of it their senders can pay."""

from __future__ import annotations

from node.envelopes import OpenedTransaction
from protocol.dispute import Cut, Prove, ShowPart
from protocol.errors import Code, Rejected
from protocol.genesis import Fees
from protocol.settlement import Bond, Deposit, Payout, PostBatch, ReportEvidence

RATE_UNIT = 1_000_000
"""Rates are micro-dollars for so many bytes, rounded down."""


def require_fee(fees: Fees, opened: OpenedTransaction) -> None:
    """Raise `Rejected(fee_too_low)` unless a transaction offers what the chain asks at least."""
    least_uusd = fees.least_uusd(opened.size_bytes)
    if opened.fee_uusd < least_uusd:
        raise Rejected(
            Code.FEE_TOO_LOW,
            f"the fee is {opened.fee_uusd} uusd; {opened.size_bytes} bytes cost {least_uusd} uusd",
        )


def fee_rate(opened: OpenedTransaction) -> int:
    """Fee in micro-dollars for `RATE_UNIT` bytes."""
    return opened.fee_uusd * RATE_UNIT // opened.size_bytes


def is_urgent(opened: OpenedTransaction) -> bool:
    """Whether the exchange needs a transaction more than its fee says: batches, their defence, and
    evidence. Senders of these are known, or what they send is checked first."""
    action = opened.action
    if isinstance(action, Prove | ShowPart):
        return action.challenger != opened.address
    return isinstance(action, PostBatch | Cut | ReportEvidence)


def spent_uusd(opened: OpenedTransaction) -> int:
    """Most that a transaction takes from its sender's balance."""
    action = opened.action
    amount_uusd = 0
    if isinstance(action, Deposit | Bond):
        amount_uusd = action.amount_uusd
    elif isinstance(action, PostBatch):
        amount_uusd = action.header.bond_uusd
    return opened.fee_uusd + max(0, amount_uusd)


def earned_uusd(opened: OpenedTransaction) -> int:
    """What a transaction pays to its sender before it takes the fee: a withdrawal of its own."""
    action = opened.action
    if isinstance(action, Payout) and action.entry.address == opened.address:
        return action.entry.amount_uusd
    return 0
