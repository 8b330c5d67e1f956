"""Signed batches: one result per action of those that are admitted, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from execution import leaves as lv
from execution.admission import Admission, Kind, Opened, Verdict
from execution.admission import VerifySignature as VerifySignature
from execution.observations import report_code
from execution.pricing import Pricing
from execution.state import State
from execution.trading import OK, REFUSED, Trading
from margin.account import Account
from protocol.actions import (
    ActionBatch,
    ApproveAgent,
    RevokeAgent,
    SignedBatch,
    Transfer,
    TransferPosition,
    Withdraw,
)
from protocol.codec import encode
from protocol.errors import Code
from protocol.events import BatchExecuted, Result

Handler = Callable[[Account, Any], Result]


OWNER_ALONE = frozenset({Withdraw, ApproveAgent, RevokeAgent, Transfer, TransferPosition})
"""Actions that no agent may send."""


class Batches:
    """Executes batches against the state."""

    __slots__ = (
        "_admission", "_agent_actions", "_owner_actions", "_pricing", "_state", "_trading",
        "executed", "ran",
    )  # fmt: skip

    def __init__(
        self,
        state: State,
        trading: Trading,
        pricing: Pricing,
        handlers: Mapping[type, Handler],
    ) -> None:
        self._state = state
        self._trading = trading
        self._pricing = pricing
        self._admission = Admission(state.chain, state.accounts, state.nonces)
        self.executed = 0
        """Actions executed in this block."""
        self.ran: list[tuple[ActionBatch, BatchExecuted]] = []
        """Batches executed in this block, in order."""
        self._owner_actions = dict(handlers)
        self._agent_actions = self._owner_actions | dict.fromkeys(OWNER_ALONE, _owner_only)

    def run_committee(self, opened: Opened, verify: VerifySignature) -> None:
        """Phase 1: a batch made of oracle prices or guardians' votes alone."""
        signed, batch = opened.signed, opened.batch
        if signed is None or batch is None or not self._admit(opened, verify).admitted:
            return
        state = self._state
        if opened.kind == Kind.ORACLE:
            member = state.oracles[signed.signer]
            results = [self._price(member, batch.nonce_ms, action) for action in batch.actions]
        else:
            member = state.guardians[signed.signer]
            results = [self._vote(member, action) for action in batch.actions]
        self._finish(opened.identity, signed, batch, results)

    def run(self, opened: Opened, verify: VerifySignature) -> None:
        """The ordered actions: a batch of an account."""
        verdict = self._admit(opened, verify)
        signed, batch = opened.signed, opened.batch
        if signed is None or batch is None or not verdict.admitted:
            return
        account = self._state.accounts.get(batch.account)
        if account is None:
            results = [REFUSED[Code.UNKNOWN_ACCOUNT] for _ in batch.actions]
        else:
            self._trading.touch(account)
            handlers = self._handlers(verdict.owner)
            results = [handlers[type(action)](account, action) for action in batch.actions]
        self._finish(opened.identity, signed, batch, results)

    def run_action(
        self, opened: Opened, verify: VerifySignature, number: int, results: list[Result] | None
    ) -> list[Result] | None:
        """One action of a batch, as a step of its own. `results`: of those before it, None where
        the batch was refused, as in the answer; behind the last one None, too."""
        signed, batch = opened.signed, opened.batch
        if number and (results is None or signed is None or batch is None):
            return None
        if not number and not self._admit(opened, verify).admitted:
            return None
        if signed is None or batch is None:
            return None
        account = self._state.accounts.get(batch.account)
        if account is None:
            result = REFUSED[Code.UNKNOWN_ACCOUNT]
        else:
            self._trading.touch(account)
            handlers = self._handlers(self._admission.owns(batch.account, signed.signer))
            action = batch.actions[number]
            result = handlers[type(action)](account, action)
        results = [*(results or []), result]
        if number + 1 < len(batch.actions):
            return results
        self._finish(opened.identity, signed, batch, results)
        return None

    def _handlers(self, owner: bool) -> dict[type, Handler]:
        return self._owner_actions if owner else self._agent_actions

    def _admit(self, opened: Opened, verify: VerifySignature) -> Verdict:
        """Whether the batch is executed; otherwise it is answered here. Nobody is named in the
        answer to what nobody is known to have signed."""
        state = self._state
        verdict = self._admission.judge(opened, state.time_ms, verify)
        signed, batch, code = opened.signed, opened.batch, verdict.code
        if verdict.admitted:
            return verdict
        if signed is None or batch is None or code == Code.BAD_SIGNATURE:
            state.events.append(BatchExecuted(0, b"", 0, code, []))
        elif verdict.kept is not None:
            state.events.append(kept_event(signed.signer, verdict.kept.leaf))
        else:
            state.events.append(
                BatchExecuted(batch.account, signed.signer, batch.nonce_ms, code, [])
            )
        return verdict

    def _finish(
        self, identity: bytes, signed: SignedBatch, batch: ActionBatch, results: list[Result]
    ) -> None:
        state = self._state
        signer, nonce_ms = signed.signer, batch.nonce_ms
        leaf = encode(lv.NonceLeaf(nonce_ms, identity, batch.account, results))
        slot = state.nonces.keep(signer, nonce_ms, identity, leaf)
        state.written[lv.nonce_key(signer, slot)] = leaf
        self.executed += len(results)
        event = BatchExecuted(batch.account, signer, nonce_ms, 0, results)
        state.events.append(event)
        self.ran.append((batch, event))

    def _vote(self, guardian: int, action: Any) -> Result:
        return REFUSED[self._pricing.vote(guardian, action.market, action.mode)]

    def _price(self, oracle: int, nonce_ms: int, action: Any) -> Result:
        state = self._state
        code = report_code(state.markets, state.oracle_prices, oracle, nonce_ms, action)
        if code:
            return REFUSED[code]
        leaf = state.oracle_prices[action.market][oracle] = lv.OracleLeaf(
            action.price_ticks, nonce_ms, state.time_ms, action.confidence_ppm
        )
        state.written[lv.oracle_key(action.market, oracle)] = encode(leaf)
        return OK


def kept_event(signer: bytes, leaf: bytes) -> BatchExecuted:
    """The first results of a kept batch, as a duplicate."""
    kept = lv.decode_nonce(leaf)
    return BatchExecuted(kept.account, signer, kept.nonce_ms, 0, kept.results, duplicate=True)


def _owner_only(account: Account, action: Any) -> Result:
    return REFUSED[Code.NOT_AUTHORISED]
