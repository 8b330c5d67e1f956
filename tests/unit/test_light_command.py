"""`trilemma light` verifies what it prints, and says with its exit status what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from ledger_world import GENESIS_MS, key_of
from light_world import TRUSTING_MS, LightChain
from typer.testing import CliRunner, Result

from client import light as client_light
from client import light_command
from client.faults import EXIT_INVALID_PROOF, EXIT_REJECTED, EXIT_USAGE, explain
from client.sdk import Exchange
from protocol.codec import encode
from protocol.ledger_leaves import (
    Account,
    FinalLeaf,
    SettledBatch,
    account_key,
    batch_key,
    final_key,
    number_key,
)
from protocol.light import checkpoint_from_json
from protocol.merkle import list_proof, list_root
from protocol.messages import (
    EpochRequest,
    EpochView,
    HeaderRequest,
    HeaderView,
    ProofRequest,
    ProofView,
    WithdrawalRequest,
    WithdrawalView,
)
from protocol.settlement import BatchHeader, OutboxEntry

replace = msgspec.structs.replace
ALICE = key_of("alice").address
OUTBOX = [OutboxEntry(7 + n, 16, ALICE, 1_000_000 + n) for n in range(3)]
ENCODED = [encode(entry) for entry in OUTBOX]
BATCH = BatchHeader(
    b"", 0, 1, 1, 20, bytes(32), bytes(32), b"\x05" * 32, bytes(32), 0, list_root(ENCODED), 7, 3,
    b"", 0,
)  # fmt: skip
LEAVES = {
    account_key(ALICE): encode(Account(12_500_000, 3)),
    number_key(ALICE): encode(16),
    batch_key(0, 1): encode(SettledBatch(BATCH, 2, GENESIS_MS)),
}


class FakeExchange:
    """An exchange of one validator and one prover over a made chain; `lie` changes answers."""

    def __init__(self, world: LightChain) -> None:
        self.chain = world.chain
        self.world = world
        self.lie: Callable[[Any], Any] = lambda view: view
        self.moves = 0

    async def __aenter__(self) -> FakeExchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""

    def channel(self, role: str) -> FakeExchange:
        assert role in ("node", "prover")
        return self

    async def move_on(self) -> None:
        self.moves += 1

    async def ask(self, kind: type, make: Callable[..., Any], *fields: Any, **_: int) -> Any:
        answer = self.lie(self._answer(make(1, *fields)))
        assert isinstance(answer, kind)
        return answer

    def _answer(self, request: Any) -> Any:
        world = self.world
        header = world.headers[-1]
        if isinstance(request, HeaderRequest):
            return HeaderView(1, header, world.certificate(header))
        if isinstance(request, ProofRequest):
            leaves = encode(world.proof(header, request.keys))
            return ProofView(1, header, world.certificate(header), leaves)
        if isinstance(request, EpochRequest):
            last, certificate, proof = world.change(request.number)
            return EpochView(1, request.number, last, certificate, encode(proof))
        assert isinstance(request, WithdrawalRequest)
        index = request.number - 7
        return WithdrawalView(1, 1, OUTBOX[index], list_proof(ENCODED, index))


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> FakeExchange:
    world = LightChain(leaves=LEAVES)
    world.to_epoch(2)
    fake = FakeExchange(world)
    monkeypatch.setattr(Exchange, "connect", lambda *_, **__: fake)
    monkeypatch.setattr(client_light, "wall_clock_ms", lambda: world.now_ms)
    return fake


def light(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    light_command.register(app)
    return CliRunner().invoke(app, ["light", *arguments])


def status_of(result: Result) -> int:
    assert result.exception is not None
    explained = explain(result.exception)
    assert explained is not None, result.exception
    return explained[1]


def test_everything_asked_for_is_proven_and_printed(exchange: FakeExchange) -> None:
    result = light("--address", ALICE.hex(), "--batch", "1", "--withdrawal", "8", "--json")
    assert result.exit_code == 0, result.exception
    report = json.loads(result.stdout)
    newest = exchange.world.headers[-1]
    assert (report["height"], report["epoch"], report["epochs_followed"]) == (newest.height, 2, 2)
    assert report["block_id"] == newest.block_id().hex()
    assert report["members"] == [key_of(name).public.hex() for name in exchange.world.sets[2]]
    assert report["balance"] == {
        "address": ALICE.hex(), "balance_uusd": 12_500_000, "nonce": 3, "account": 16,
    }  # fmt: skip
    assert report["batch"]["number"] == 1 and report["batch"]["state_root"] == "05" * 32
    assert report["withdrawal"]["amount_uusd"] == 1_000_001
    text = light("--address", f"0x{ALICE.hex()}", "--withdrawal", "8").stdout
    assert "holds 12.5 dollars" in text and "of epoch 2" in text
    assert "in batch 1, not final yet" in text
    assert report["batch"]["final"] is report["withdrawal"]["final"] is False


def test_a_batch_is_shown_final_once_that_is_proven(exchange: FakeExchange) -> None:
    world = exchange.world
    world.block({final_key(0): encode(FinalLeaf(1, 20, bytes(32), b"\x05" * 32, 0, 0, 10))})
    for _ in range(2):
        world.block()
    text = light("--batch", "1", "--withdrawal", "8").stdout
    assert "is settled in ledger block 2 and final" in text and "in batch 1 and final" in text


def test_a_checkpoint_file_leads_on_when_genesis_is_too_old(
    exchange: FakeExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trusted.json"
    assert light("--checkpoint-out", str(path)).exit_code == 0
    taken = checkpoint_from_json(path.read_bytes())
    assert taken.epoch == 2 and taken.time_ms == exchange.world.headers[-1].time_ms
    late_ms = taken.time_ms + TRUSTING_MS
    monkeypatch.setattr(client_light, "wall_clock_ms", lambda: late_ms)
    assert status_of(light()) == EXIT_USAGE
    before = path.read_bytes()
    result = light("--checkpoint", str(path), "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["epochs_followed"] == 0
    assert path.read_bytes() == before, "a given checkpoint is only read"
    monkeypatch.setattr(client_light, "wall_clock_ms", lambda: late_ms + 1)
    assert status_of(light("--checkpoint", str(path))) == EXIT_USAGE


def unsigned(view: Any) -> Any:
    return replace(view, certificate=replace(view.certificate, child_qc=view.certificate.qc))


LIES: dict[str, Callable[[Any], Any]] = {
    "header": lambda view: unsigned(view) if isinstance(view, HeaderView) else view,
    "epoch": lambda view: unsigned(view) if isinstance(view, EpochView) else view,
    "leaves": lambda view: unsigned(view) if isinstance(view, ProofView) else view,
    "proof": lambda view: (
        replace(view, proof=encode(((), (), ()))) if isinstance(view, ProofView) else view
    ),
    "garbage": lambda view: replace(view, proof=b"\xc1") if isinstance(view, ProofView) else view,
    "amount": lambda view: (
        replace(view, entry=replace(view.entry, amount_uusd=10**9))
        if isinstance(view, WithdrawalView)
        else view
    ),
    "another withdrawal": lambda view: (
        replace(view, entry=OUTBOX[0], path=list_proof(ENCODED, 0))
        if isinstance(view, WithdrawalView)
        else view
    ),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_lie_ends_with_the_status_of_an_invalid_proof(exchange: FakeExchange, kind: str) -> None:
    exchange.lie = LIES[kind]
    result = light("--address", ALICE.hex(), "--withdrawal", "8")
    assert status_of(result) == EXIT_INVALID_PROOF
    assert not result.stdout
    assert exchange.moves == (kind != "another withdrawal"), "who lied is not asked again"


def test_a_block_above_the_last_one_is_no_origin(exchange: FakeExchange) -> None:
    """It is certified and proves the right members, but the new epoch did not start from it."""
    world = exchange.world
    last = world.lasts[1]
    later = world.header_on(last, last.app_height)
    certificate = world.certificate(later)

    def lie(view: Any) -> Any:
        if isinstance(view, EpochView) and view.number == 2:
            return replace(view, header=later, certificate=certificate)
        return view

    exchange.lie = lie
    result = light("--address", ALICE.hex())
    assert status_of(result) == EXIT_INVALID_PROOF and "another block" in str(result.exception)


def test_a_batch_that_is_proven_absent_is_no_invalid_proof(exchange: FakeExchange) -> None:
    result = light("--batch", "2")
    assert status_of(result) == EXIT_REJECTED and "proven not to be settled" in str(
        result.exception
    )


@pytest.mark.parametrize(
    "arguments", [["--address", "xyz"], ["--address", "00"], ["--checkpoint", "/nowhere/file"]]
)
def test_what_cannot_be_meant_is_a_usage_error(
    exchange: FakeExchange, arguments: list[str]
) -> None:
    assert status_of(light(*arguments)) == EXIT_USAGE
