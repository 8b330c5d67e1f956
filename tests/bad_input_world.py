"""A corner of the exchange for bad input: rich accounts, and checks that a refusal does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from engine_world import DOLLAR, GOOD, ORACLES, START_MS, accept, make_chain, market, signer

from execution import Engine
from execution import leaves as lv
from protocol import actions as act
from protocol.codec import encode
from protocol.errors import Code
from protocol.events import CANCELLED, BatchExecuted, Result
from protocol.genesis import Chain, Limits, parse_genesis
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit, account_number, master_of

ALICE, BOB = FIRST_ACCOUNT, FIRST_ACCOUNT + 1
GUARDIAN = b"\xa0" * 32
AGENT = b"\x55" * 32
SUB = account_number(ALICE, 1)
TO = b"t" * 20


def chain_of(limits: Limits | None = None, guardians: bool = True, **rules: Any) -> Chain:
    """A chain of two markets, the first with these rules, and a guardian."""
    genesis = make_chain([market(0, **rules), market(1)], limits).genesis
    keys = [GUARDIAN.hex()] if guardians else []
    return parse_genesis(msgspec.json.encode(msgspec.structs.replace(genesis, guardians=keys)))


class Corner:
    """An engine with two rich accounts. `refused` checks that a refusal changed nothing."""

    def __init__(self, chain: Chain | None = None, dollars: int = 10_000) -> None:
        self.chain = chain or chain_of()
        self.engine = Engine(self.chain, accept)
        self.height = 0
        self.time_ms = self.nonce = START_MS
        self.cursor = 0
        self.waited_ms = 10
        self.deposit(ALICE, dollars)
        self.deposit(BOB, dollars)

    def deposit(self, account: int, dollars: int) -> None:
        address = address_of(signer(account))
        entry = InboxDeposit(self.cursor, account, address, dollars * DOLLAR)
        self.cursor += 1
        self.block([], [entry])

    def block(self, raws: list[bytes], inbox: list[InboxDeposit] | None = None) -> list[Any]:
        self.height += 1
        self.time_ms += self.waited_ms
        result = self.engine.apply(self.height, self.time_ms, b"", inbox or [], self.cursor, raws)
        self.engine.check()
        return list(result.events)

    def raw(self, account: int, actions: Any, by: bytes = b"", **changes: Any) -> bytes:
        """A signed batch; `nonce`, `expires_ms`, `signature`, `scheme` may be given."""
        self.nonce = max(self.nonce + 1, self.time_ms)
        nonce = changes.get("nonce", self.nonce)
        batch = act.ActionBatch(account, nonce, changes.get("expires_ms", 0), list(actions))
        key = by or signer(master_of(account))
        signed = act.SignedBatch(
            changes.get("scheme", 1), key, encode(batch), changes.get("signature", GOOD)
        )
        return encode(signed)

    def send(self, account: int, *actions: Any, by: bytes = b"", **changes: Any) -> BatchExecuted:
        events = self.block([self.raw(account, actions, by, **changes)])
        return next(e for e in reversed(events) if isinstance(e, BatchExecuted))

    def one(self, account: int, action: Any) -> Result:
        answer = self.send(account, action)
        assert answer.code == 0, answer
        return answer.results[0]

    def fine(self, account: int, *actions: Any, by: bytes = b"") -> Result:
        """Actions that must be taken; the last one's result."""
        answer = self.send(account, *actions, by=by)
        assert answer.code == 0, answer
        assert not any(result.code for result in answer.results), answer
        return answer.results[-1]

    def price(self, ticks: int, number: int = 0) -> None:
        for key in ORACLES:
            self.fine(0, act.OraclePrice(number, ticks), by=key)

    def vote(self, mode: int, number: int = 0) -> None:
        self.fine(0, act.SetMode(number, mode), by=GUARDIAN)
        self.block([])

    def trade(self, lots: int = 10, number: int = 0, price: int = 1_000) -> None:
        """Alice buys from Bob."""
        self.fine(BOB, act.Order(number, act.SELL, price, lots))
        self.fine(ALICE, act.Order(number, act.BUY, price, lots))

    def refused(self, account: int, *actions: Any, by: bytes = b"", **changes: Any) -> int:
        """Code of a refusal, of the batch or of its last action, that changed nothing."""
        answer = self.tried(account, *actions, by=by, **changes)
        return answer.code or (answer.results[-1].code if answer.results else 0)

    def tried(self, account: int, *actions: Any, by: bytes = b"", **changes: Any) -> BatchExecuted:
        """Send actions; if the last one is refused, the state is what an empty block leaves."""
        twin = Engine.restore(self.chain, self.engine.leaves().items(), accept)
        answer = self.send(account, *actions, by=by, **changes)
        result = answer.results[-1] if answer.results else None
        if answer.code or (result is not None and result.code):
            twin.apply(self.height, self.time_ms, b"", [], self.cursor, [])
            # An order that entered and did nothing still used an id.
            entered = result is not None and result.status == CANCELLED
            assert state_of(self.engine, entered) == state_of(twin, entered), actions
        return answer


def state_of(engine: Engine, entered: bool) -> dict[bytes, bytes]:
    """All leaves but nonces, and but the counters where an order entered."""
    leaves = {key: leaf for key, leaf in engine.leaves().items() if key[:1] != lv.NONCE}
    if entered:
        leaves.pop(lv.COUNTERS_KEY)
    return leaves


# -- cases by code

Case = Callable[[], int]
CASES: dict[Code, list[Case]] = {}


def case(code: Code) -> Callable[[Case], Case]:
    """Register a case that must end with this code."""

    def register(function: Case) -> Case:
        CASES.setdefault(code, []).append(function)
        return function

    return register


def buy(price: int = 1_000, lots: int = 1, tif: int = act.GTC, **fields: int) -> act.Order:
    return act.Order(0, act.BUY, price, lots, tif, **fields)


def sell(price: int = 1_000, lots: int = 1, tif: int = act.GTC, **fields: int) -> act.Order:
    return act.Order(0, act.SELL, price, lots, tif, **fields)


def stop(trigger: int = 900, lots: int = 1, **fields: int) -> act.TriggerOrder:
    """Sells when the mark falls."""
    given = {"slippage_ppm": 10_000} | fields
    return act.TriggerOrder(0, act.SELL, lots, act.STOP, trigger, **given)
