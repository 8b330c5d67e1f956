"""Signed batches: who may act, replay guard, and one result per action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

from execution import leaves as lv
from execution.pricing import Pricing
from execution.state import State
from execution.trading import OK, REFUSED, Trading
from margin.account import REVOKED, Account
from protocol.actions import (
    POST_ONLY,
    ActionBatch,
    ApproveAgent,
    Cancel,
    CancelAll,
    CancelClient,
    MassQuote,
    OraclePrice,
    Order,
    Reduce,
    RevokeAgent,
    SetMode,
    SignedBatch,
    Transfer,
    TransferPosition,
    Withdraw,
    actions_digest,
    batch_id,
    open_batch,
)
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.events import BatchExecuted, Result
from protocol.keys import address_of
from protocol.markets import OPEN_INTEREST_NOTIONAL_LIMIT, PPM
from protocol.settlement import FIRST_ACCOUNT

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""(public key, signature, digest) -> whether the signature is valid."""

Handler = Callable[[Account, Any], Result]


OWNER_ALONE = frozenset({Withdraw, ApproveAgent, RevokeAgent, Transfer, TransferPosition})
"""Actions that no agent may send."""

COMMITTEE = frozenset({OraclePrice, SetMode})
"""Actions of oracles and guardians, which do not mix with others."""

MAKING = frozenset({Cancel, CancelAll, CancelClient, MassQuote, Reduce})
"""Actions that never take."""

QUOTING = MAKING | {Order}
"""And orders, which may be post-only."""


class Kind(IntEnum):
    """What a batch is made of, which says when in the block it comes."""

    TAKING = 0
    MAKING = 1
    """Cancels, quotes and post-only orders alone."""
    MIXED = 2
    """Actions of a committee among others, which is refused."""
    ORACLE = 3
    GUARDIAN = 4


class Opened:
    """A decoded batch, not verified yet; `refusal` says why it could not be decoded."""

    __slots__ = ("batch", "identity", "kind", "refusal", "signed")

    def __init__(
        self,
        identity: bytes,
        signed: SignedBatch | None,
        batch: ActionBatch | None,
        kind: Kind,
        refusal: Code,
    ) -> None:
        self.identity = identity
        self.signed = signed
        self.batch = batch
        self.kind = kind
        self.refusal = refusal


class Batches:
    """Executes batches against the state."""

    __slots__ = (
        "_addresses", "_agent_actions", "_owner_actions", "_pricing", "_state", "_trading",
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
        self.executed = 0
        """Actions executed in this block."""
        self.ran: list[tuple[ActionBatch, BatchExecuted]] = []
        """Batches executed in this block, in order."""
        self._addresses: dict[bytes, bytes] = {}
        self._owner_actions = dict(handlers)
        self._agent_actions = self._owner_actions | dict.fromkeys(OWNER_ALONE, _owner_only)

    @staticmethod
    def open(raw: bytes) -> Opened:
        """Decode one batch; never raises on what a client sent."""
        try:
            signed, batch = open_batch(raw)
        except Rejected as error:
            return Opened(b"", None, None, Kind.TAKING, error.code)
        return Opened(batch_id(raw), signed, batch, _kind(batch), Code.OK)

    def run_committee(self, opened: Opened, verify: VerifySignature) -> None:
        """Phase 1: a batch made of oracle prices or guardians' votes alone."""
        signed, batch = opened.signed, opened.batch
        if signed is None or batch is None or not self._proven(opened, signed, batch, verify):
            return
        state = self._state
        members = state.oracles if opened.kind == Kind.ORACLE else state.guardians
        member = members.get(signed.signer)
        if member is None or batch.account != 0:
            self._refuse(signed, batch, Code.NOT_AUTHORISED)
        elif self._fresh(signed, batch):
            if opened.kind == Kind.ORACLE:
                results = [self._price(member, batch.nonce_ms, action) for action in batch.actions]
            else:
                results = [self._vote(member, action) for action in batch.actions]
            self._finish(opened.identity, signed, batch, results)

    def run(self, opened: Opened, verify: VerifySignature) -> None:
        """The ordered actions: a batch of an account."""
        state = self._state
        signed, batch = opened.signed, opened.batch
        if signed is None or batch is None:
            state.events.append(BatchExecuted(0, b"", 0, opened.refusal, []))
            return
        if not self._proven(opened, signed, batch, verify):
            return
        if opened.kind == Kind.MIXED:
            self._refuse(signed, batch, Code.MIXED_BATCH)
            return
        account = state.accounts.get(batch.account)
        if account is None or account.number < FIRST_ACCOUNT:
            self._refuse(signed, batch, Code.UNKNOWN_ACCOUNT)
            return
        master = account if account.master == account.number else state.accounts[account.master]
        owner = self._address(signed.signer) == master.address
        if not owner:
            code = self._agent_code(master, signed.signer)
            if code:
                self._refuse(signed, batch, code)
                return
        if not self._fresh(signed, batch):
            return
        self._trading.touch(account)
        handlers = self._owner_actions if owner else self._agent_actions
        results = [handlers[type(action)](account, action) for action in batch.actions]
        self._finish(opened.identity, signed, batch, results)

    def _proven(
        self, opened: Opened, signed: SignedBatch, batch: ActionBatch, verify: VerifySignature
    ) -> bool:
        """Whether the signer is proven and the batch is not a repeat; otherwise it is answered.

        A repeat has the very bytes of a batch that was verified, and changes nothing.
        """
        state = self._state
        kept = state.nonces.find(signed.signer, batch.nonce_ms)
        if kept is not None and kept.batch_id == opened.identity:
            state.events.append(kept_event(signed.signer, kept.leaf))
            return False
        chain = state.chain
        digest = actions_digest(chain.chain_id, chain.genesis.shard, signed.payload)
        if verify(signed.signer, signed.signature, digest):
            return True
        state.events.append(BatchExecuted(0, b"", 0, Code.BAD_SIGNATURE, []))
        return False

    def _address(self, signer: bytes) -> bytes:
        found = self._addresses.get(signer)
        if found is None:
            if len(self._addresses) >= 65_536:
                self._addresses.clear()
            found = self._addresses[signer] = address_of(signer)
        return found

    def _agent_code(self, account: Account, signer: bytes) -> Code:
        expires_ms = account.agents.get(signer)
        if expires_ms is None:
            return Code.NOT_AUTHORISED
        if expires_ms == REVOKED:
            return Code.AGENT_REVOKED
        return Code.AGENT_EXPIRED if expires_ms < self._state.time_ms else Code.OK

    def _fresh(self, signed: SignedBatch, batch: ActionBatch) -> bool:
        """Whether expiry and nonce allow the batch; otherwise it is refused."""
        time_ms = self._state.time_ms
        code = self._state.nonces.check(signed.signer, batch.nonce_ms, time_ms)
        if not code and batch.expires_ms and batch.expires_ms < time_ms:
            code = Code.ACTION_EXPIRED
        if code:
            self._refuse(signed, batch, code)
        return not code

    def _refuse(self, signed: SignedBatch, batch: ActionBatch, code: Code) -> None:
        self._state.events.append(
            BatchExecuted(batch.account, signed.signer, batch.nonce_ms, code, [])
        )

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
        number = action.market
        if not 0 <= number < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        market, price = state.markets[number], action.price_ticks
        if not 0 < price < market.price_limit or (
            market.product.notional_uusd(market.open_interest_lots, price)
            >= OPEN_INTEREST_NOTIONAL_LIMIT
        ):
            return REFUSED[Code.BAD_PRICE]
        if not 0 <= action.confidence_ppm <= PPM:
            return REFUSED[Code.BAD_CONFIDENCE]
        prices = state.oracle_prices[number]
        kept = prices.get(oracle)
        if kept is not None and nonce_ms < kept.nonce_ms:
            return REFUSED[Code.STALE_ORACLE]
        leaf = prices[oracle] = lv.OracleLeaf(
            action.price_ticks, nonce_ms, state.time_ms, action.confidence_ppm
        )
        state.written[lv.oracle_key(number, oracle)] = encode(leaf)
        return OK


def _kind(batch: ActionBatch) -> Kind:
    kinds = set(map(type, batch.actions))
    if not COMMITTEE.isdisjoint(kinds):
        if len(kinds) > 1:
            return Kind.MIXED
        return Kind.ORACLE if OraclePrice in kinds else Kind.GUARDIAN
    if kinds <= MAKING:
        return Kind.MAKING
    if not kinds <= QUOTING:
        return Kind.TAKING
    for action in batch.actions:
        if isinstance(action, Order) and action.tif != POST_ONLY:
            return Kind.TAKING
    return Kind.MAKING


def kept_event(signer: bytes, leaf: bytes) -> BatchExecuted:
    """The first results of a kept batch, as a duplicate."""
    kept = lv.decode_nonce(leaf)
    return BatchExecuted(kept.account, signer, kept.nonce_ms, 0, kept.results, duplicate=True)


def _owner_only(account: Account, action: Any) -> Result:
    return REFUSED[Code.NOT_AUTHORISED]


def open_all(raws: Sequence[bytes]) -> list[Opened]:
    """Decode the batches of a block."""
    return [Batches.open(raw) for raw in raws]
