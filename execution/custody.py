"""Money in and out of the shard and between accounts, and agent keys."""

from __future__ import annotations

from execution.state import State
from execution.trading import OK, REFUSED
from margin.account import REVOKED, Account
from protocol.actions import ApproveAgent, RevokeAgent, Withdraw
from protocol.errors import Code, SafetyViolation
from protocol.events import AgentChanged, Deposited, Result, WithdrawalQueued
from protocol.genesis import CASH_MOVE_LIMIT
from protocol.keys import ADDRESS_BYTES
from protocol.settlement import (
    BACKSTOP_ACCOUNT,
    FIRST_ACCOUNT,
    INSURANCE_ACCOUNT,
    InboxEntry,
    OutboxEntry,
)

AGENT_BYTES = 32
"""Length of an agent's public key."""

REVOKED_PER_LIVE = 8
"""Revoked keys are kept up to so many times the limit of live ones."""

FUNDS = (INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT)
"""System accounts that may be given money."""


class Custody:
    """Deposits, withdrawals, approvals."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def deposit(self, entry: InboxEntry) -> None:
        """Credit the next inbox entry; the account starts with its first deposit.

        The entry was verified against the ledger: one that does not fit the state raises
        `SafetyViolation`.
        """
        state = self._state
        number = entry.account
        if entry.index != state.inbox_cursor:
            raise SafetyViolation(f"inbox entry {entry.index} where {state.inbox_cursor} is next")
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
        state.outbox.append(OutboxEntry(number, account.number, action.address, paid))
        state.events.append(WithdrawalQueued(number, account.number, action.address, paid, haircut))
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
        """Approve an agent key of the master account, or move the expiry of one; a revoked one
        stays revoked."""
        account = self._state.accounts[account.master]
        agents = account.agents
        if len(action.agent) != AGENT_BYTES:
            return REFUSED[Code.WRONG_TYPE]
        before = agents.get(action.agent)
        if before == REVOKED:
            return REFUSED[Code.AGENT_REVOKED]
        if action.expires_ms <= self._state.time_ms:
            return REFUSED[Code.AGENT_EXPIRED]
        if before is None and not self._make_room(account):
            return REFUSED[Code.TOO_MANY_AGENTS]
        self._set_agent(account, action.agent, action.expires_ms)
        return OK

    def _make_room(self, account: Account) -> bool:
        """Whether another agent fits; where none does, the one that expired first gives way.
        Revoked ones stay, so that they never return; there may be `REVOKED_PER_LIVE` times more."""
        limit, agents = self._state.limits.agents_per_account, account.agents
        live = {agent: expires_ms for agent, expires_ms in agents.items() if expires_ms != REVOKED}
        if len(agents) - len(live) >= REVOKED_PER_LIVE * limit:
            return False
        if len(live) < limit:
            return True
        expires_ms, agent = min((expires_ms, agent) for agent, expires_ms in live.items())
        if expires_ms >= self._state.time_ms:
            return False
        self._state.agents_before.setdefault((account.number, agent), expires_ms)
        del agents[agent]
        return True

    def revoke(self, account: Account, action: RevokeAgent) -> Result:
        """Revoke an agent key of the master account for ever."""
        account = self._state.accounts[account.master]
        before = account.agents.get(action.agent)
        if before is None:
            return REFUSED[Code.UNKNOWN_SIGNER]
        if before == REVOKED:
            return REFUSED[Code.AGENT_REVOKED]
        self._set_agent(account, action.agent, REVOKED)
        return OK

    def _set_agent(self, account: Account, agent: bytes, expires_ms: int) -> None:
        state = self._state
        state.agents_before.setdefault((account.number, agent), account.agents.get(agent))
        account.agents[agent] = expires_ms
        state.events.append(AgentChanged(account.number, agent, expires_ms))
