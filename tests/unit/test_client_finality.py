"""Withdrawals wait until their batch is final, whichever batch that is in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ledger_world import key_of, make_chain

from client import ledger as module
from client.ledger import Ledger
from protocol.errors import Code, RemoteFault
from protocol.messages import (
    BalanceRequest,
    BalanceView,
    BatchRequest,
    BatchView,
    Committed,
    SubmitTransaction,
    WithdrawalRequest,
    WithdrawalView,
)
from protocol.settlement import (
    BatchHeader,
    OutboxEntry,
    Payout,
    decode_signed_transaction,
    decode_transaction,
)

ALICE = key_of("alice")
CHAIN = make_chain([(ALICE, 1_000, 500)])
ENTRY = OutboxEntry(3, 16, ALICE.address, 25)


def header(number: int) -> BatchHeader:
    return BatchHeader(
        b"", 0, number, 1, 1, b"", b"", b"", b"", 0, b"", 0, 0, b"", 0,
    )  # fmt: skip


class Venue:
    """A validator and a prover; `step` is called at each question and may change what is so."""

    def __init__(self) -> None:
        self.chain = CHAIN
        self.batch, self.settled, self.final, self.left_ms = 4, 9, 0, 3_000
        self.questions = 0
        self.step: Callable[[], None] = lambda: None
        self.paid: list[Payout] = []
        self.refuse = 0

    def channel(self, role: str) -> Venue:
        assert role in ("node", "prover")
        return self

    async def ask(self, kind: type, make: Callable[..., Any], *fields: Any, **_: int) -> Any:
        self.questions += 1
        self.step()
        request = make(1, *fields)
        if isinstance(request, WithdrawalRequest):
            return WithdrawalView(1, self.batch, ENTRY, [])
        if isinstance(request, BalanceRequest):
            return BalanceView(1, ALICE.address, 1_000, 0, 16, 1)
        if isinstance(request, BatchRequest):
            if request.number > self.settled:
                raise RemoteFault(Code.UNKNOWN_BATCH, "not settled")
            return BatchView(1, header(request.number), 1, 1, self.final, 0, self.left_ms)
        assert isinstance(request, SubmitTransaction) and kind is Committed
        raw = decode_signed_transaction(request.transaction).payload
        action = decode_transaction(raw).action
        assert isinstance(action, Payout)
        if self.refuse:
            self.refuse -= 1
            raise RemoteFault(Code.NOT_FINAL, "this validator lags")
        self.paid.append(action)
        return Committed(1, b"", 7, 0, "")


@pytest.fixture
def venue(monkeypatch: pytest.MonkeyPatch) -> Venue:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    made = Venue()
    loop = SimpleNamespace(time=lambda: sum(waits))
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: loop)
    return made


def pay(venue: Venue, timeout_ms: int = 60_000) -> Any:
    ledger = Ledger(venue)  # type: ignore[arg-type]
    work = ledger.pay_out(ALICE, ENTRY.number, timeout_ms)
    return asyncio.run(work)


def test_a_payout_waits_for_the_window(venue: Venue) -> None:
    def step() -> None:
        venue.left_ms = max(0, venue.left_ms - 500)
        venue.final = 0 if venue.left_ms else 4

    venue.step = step
    assert pay(venue).height == 7
    assert [one.batch for one in venue.paid] == [4] and venue.questions >= 6


def test_a_withdrawal_whose_batch_was_removed_is_paid_out_of_another(venue: Venue) -> None:
    def step() -> None:
        if venue.questions == 3:
            venue.settled = 3
        elif venue.questions == 9:
            venue.batch, venue.settled, venue.final = 5, 5, 5

    venue.step = step
    pay(venue)
    assert [one.batch for one in venue.paid] == [5]


def test_a_validator_that_lags_is_asked_again(venue: Venue) -> None:
    venue.final, venue.refuse = 4, 2
    pay(venue)
    assert len(venue.paid) == 1 and venue.refuse == 0


def test_a_window_longer_than_ones_patience_says_what_to_do(venue: Venue) -> None:
    venue.left_ms = 600_000_000
    with pytest.raises(TimeoutError, match=r"final in about 600000 s.*trilemma payout 3"):
        pay(venue, 5_000)
