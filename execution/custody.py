"""Money in and out of the shard and between accounts, and agent keys."""

from __future__ import annotations

from collections.abc import Callable

from execution.agents import Change, approved, revoked
from execution.state import State
from execution.trading import OK, REFUSED
from margin.account import Account
from protocol.actions import ApproveAgent, RevokeAgent, Withdraw
from protocol.errors import Code, SafetyViolation
from protocol.events import AgentChanged, Deposited, Result, WithdrawalQueued
from protocol.genesis import CASH_MOVE_LIMIT
from protocol.keys import ADDRESS_BYTES
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    FIRST_ACCOUNT,
    INSURANCE_ACCOUNT,
    InboxDeposit,
    InboxForced,
    OutboxEntry,
    extend_outbox_hash,
)

FUNDS = (INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT)
"""System accounts that may be given money."""


def nobody_waits(account: Account) -> None:
    """Stands for triggers until the engine is put together."""


class Custody:
    """Deposits, withdrawals, approvals. `on_left` is told of accounts that money left."""

    __slots__ = ("_state", "on_left")

    def __init__(self, state: State) -> None:
        self._state = state
        self.on_left: Callable[[Account], None] = nobody_waits

    def take_forced(self, entry: InboxForced) -> None:
        """Consume a forced action, which the block executes before its own batches."""
        self._require_next(entry.index)
        self._state.inbox_cursor += 1

    def _require_next(self, index: int) -> None:
        cursor = self._state.inbox_cursor
        if index != cursor:
            raise SafetyViolation(f"inbox entry {index} where {cursor} is next")

    def deposit(self, entry: InboxDeposit) -> None:
        """Credit the next inbox entry; the account starts with its first deposit.

        The entry was verified against the ledger: one that does not fit the state raises
        `SafetyViolation`.
        """
        state = self._state
        number = entry.account
        self._require_next(entry.index)
        to_account = number >= FIRST_ACCOUNT or number in FUNDS
        if not to_account or len(entry.address) != ADDRESS_BYTES or entry.amount_uusd <= 0:
            raise SafetyViolation(f"inbox entry {entry.index} is not a deposit to an account")
        account = state.accounts.get(number)
        if number in FUNDS:
            account = state.accounts[number]
        elif account is None:
            if entry.address in state.by_address:
                raise SafetyViolation(f"inbox entry {entry.index} renumbers an account")
            account = state.accounts[number] = Account(number, entry.address)
            state.by_address[entry.address] = number
        elif account.address != entry.address:
            raise SafetyViolation(f"inbox entry {entry.index} has another account's address")
        state.inbox_cursor += 1
        account.cash_uusd += entry.amount_uusd
        account.tv_uusd += entry.amount_uusd
        state.deposits_uusd += entry.amount_uusd
        state.moved_uusd += entry.amount_uusd
        state.dirty_accounts[account] = None
        state.events.append(Deposited(entry.index, number, entry.address, entry.amount_uusd))

    def withdraw(self, account: Account, action: Withdraw) -> Result:
        """Debit the account and queue a numbered payment on the ledger."""
        state = self._state
        amount = action.amount_uusd
        if not 0 < amount < CASH_MOVE_LIMIT:
            return REFUSED[Code.BAD_AMOUNT]
        if len(action.address) != ADDRESS_BYTES:
            return REFUSED[Code.WRONG_TYPE]
        if state.holds_wild(account):
            return REFUSED[Code.STALE_MARKET]
        free, settled = state.risk.withdrawable_uusd(account)
        if amount > settled:
            return REFUSED[Code.INSUFFICIENT_CASH]
        if amount > free:
            return REFUSED[Code.INSUFFICIENT_MARGIN]
        haircut = self.haircut_uusd(amount)
        paid = amount - haircut
        if paid <= 0:
            return REFUSED[Code.BAD_AMOUNT]
        number = state.next_outbox
        state.next_outbox = number + 1
        account.cash_uusd -= amount
        account.tv_uusd -= amount
        state.insurance.cash_uusd += haircut
        state.withdrawals_uusd += paid
        state.moved_uusd -= paid
        state.dirty_accounts[account] = state.dirty_accounts[state.insurance] = None
        entry = OutboxEntry(number, account.number, action.address, paid)
        state.outbox.append(entry)
        state.outbox_hash = extend_outbox_hash(state.outbox_hash, entry)
        state.events.append(WithdrawalQueued(number, account.number, action.address, paid, haircut))
        self.on_left(account)
        return Result(0, order_id=number)

    def haircut_uusd(self, amount_uusd: int) -> int:
        """What a withdrawal gives up for open bad debt, rounded up: the same share of every claim.

        Claims are the money of the shard and the bad debt, which somebody holds as equity."""
        state = self._state
        bad = -state.insurance.cash_uusd
        if bad <= 0:
            return 0
        claims = state.deposits_uusd - state.withdrawals_uusd + bad
        return -(-amount_uusd * bad // claims)

    def approve(self, account: Account, action: ApproveAgent) -> Result:
        """Approve an agent key, or move the expiry of one."""
        if account.number != account.master:
            return REFUSED[Code.NOT_AUTHORISED]
        state = self._state
        limit = state.limits.agents_per_account
        change = approved(account.agents, action, state.time_ms, limit)
        if change.dropped:
            before = account.agents.pop(change.dropped)
            state.agents_before.setdefault((account.number, change.dropped), before)
        return self._set_agent(account, action.agent, change)

    def revoke(self, account: Account, action: RevokeAgent) -> Result:
        """Revoke an agent key for ever."""
        if account.number != account.master:
            return REFUSED[Code.NOT_AUTHORISED]
        return self._set_agent(account, action.agent, revoked(account.agents, action))

    def _set_agent(self, account: Account, agent: bytes, change: Change) -> Result:
        if change.code:
            return REFUSED[change.code]
        state = self._state
        state.agents_before.setdefault((account.number, agent), account.agents.get(agent))
        account.agents[agent] = change.expires_ms
        state.events.append(AgentChanged(account.number, agent, change.expires_ms))
        return OK
