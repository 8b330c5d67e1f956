"""Proof files of every kind hold offline, and nothing in them can be changed unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from light_world import TRUSTING_MS, LightChain
from proof_world import BATCH, NUMBER, OUTBOX, World

from client.faults import InvalidProof
from client.proof_file import (
    SettledProof,
    WithdrawalEvidence,
    check_under_root,
    from_file,
    to_file,
)
from client.proof_kinds import KINDS, LIQUIDATION, WITHDRAWAL, row_text
from execution import leaves as lv
from protocol.actions import SELL
from protocol.codec import encode
from protocol.errors import ConfigError
from prover.tree import StateTree


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind_holds(kind: str) -> None:
    world = World()
    chain = world.chain.chain
    raw = to_file(world.proof(kind), chain)
    found = from_file(raw, chain)
    assert found == world.proof(kind)
    shown = world.check(found)
    text = json.loads(raw)
    assert text["kind"] == kind and text["batch"] == BATCH and text["final"] is True
    assert text["state_root"] == world.state.root.hex()
    assert shown.proven == text["proven"] and shown.settled_height == 4
    assert shown.ledger_height == world.header.app_height
    assert row_text(kind, chain.genesis.markets, shown.proven)


def test_what_the_kinds_say() -> None:
    world = World()
    told = {kind: world.check(world.proof(kind)).proven for kind in KINDS}
    assert (told["account"]["cash_uusd"], told["account"]["address"]) == (5_250_000, "77" * 20)
    assert (told["position"]["size"], told["position"]["cost_uusd"]) == ("-0.03", -18_000_000)
    assert (told["order"]["remaining"], told["order"]["price"]) == ("0.012", "60000")
    assert (told["market"]["mark"], told["market"]["funding_index"]) == ("60000", 7)
    assert (told[WITHDRAWAL]["amount_uusd"], told[WITHDRAWAL]["paid_height"]) == (2_000_000, 12)
    assert told[LIQUIDATION]["number"] == NUMBER


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("account", [21]), ("position", [21, 0]), ("order", [0, SELL, 600_000, 78])],
)
def test_absence_is_proven_too(kind: str, subject: list[int]) -> None:
    world = World()
    shown = world.check(world.proof(kind, subject))
    assert shown.proven["exists"] is False
    text = row_text(kind, world.chain.chain.genesis.markets, shown.proven)
    assert "no " in text or "not" in text


def test_a_batch_that_is_only_settled_and_a_withdrawal_that_is_not_paid() -> None:
    world = World(final=BATCH - 1, paid=False)
    shown = world.check(world.proof(WITHDRAWAL))
    assert shown.final is False and shown.proven["paid_height"] == 0


Change = Callable[[SettledProof], SettledProof]


def put(**fields: object) -> Change:
    return lambda found: msgspec.structs.replace(found, **fields)


def header(**fields: object) -> Change:
    return lambda found: put(header=msgspec.structs.replace(found.header, **fields))(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        put(batch=BATCH + 1),
        put(batch=-1),
        put(shard=1),
        put(subject=[]),
        put(subject=[-1]),
        put(subject=[1 << 62, 1 << 62]),
        put(subject=[0, 7, 600_000, 77]),
        put(subject=[3]),
        put(kind="account", subject=[22]),
        put(kind="position", subject=[22, 0]),
        put(kind="elephant"),
        put(evidence=b""),
        header(app_root=bytes(32)),
        header(time_ms=1),
        header(height=9),
        lambda found: put(evidence=encode(found.ledger_proof))(found),
        lambda found: put(evidence=found.evidence[:-1])(found),
        lambda found: put(ledger_proof=msgspec.structs.replace(found.ledger_proof, leaves=()))(
            found
        ),
    ],
)
def test_whatever_is_changed_is_noticed(kind: str, change: Change) -> None:
    world = World()
    found = change(world.proof(kind))
    if found.kind in ("account", "position") and found.subject[:1] in ([3], [22]):
        # The walk to a leaf shows what is not beside it: another statement, and a true one.
        assert "exists" not in _row(world, found) or not _row(world, found)["exists"]
        return
    with pytest.raises(InvalidProof):
        world.check(found)


def _row(world: World, found: SettledProof) -> dict[str, Any]:
    try:
        row: dict[str, Any] = world.check(found).proven
    except InvalidProof:
        return {}
    return row


def test_evidence_that_says_more_is_noticed() -> None:
    world = World()
    proof = world.proof("account")
    other = StateTree([(lv.account_key(20), encode(lv.AccountLeaf(b"w" * 20, 9_999_999_999)))])
    forged = encode(other.prove([lv.account_key(20)]))
    richer = encode(
        WithdrawalEvidence(msgspec.structs.replace(OUTBOX[1], amount_uusd=9), [bytes(32)] * 2)
    )
    for found in (
        msgspec.structs.replace(proof, evidence=forged),
        msgspec.structs.replace(world.proof(WITHDRAWAL), evidence=richer),
        msgspec.structs.replace(
            world.proof(LIQUIDATION), evidence=world.evidence(LIQUIDATION, [NUMBER + 1])
        ),
    ):
        with pytest.raises(InvalidProof):
            world.check(found)


def test_a_few_votes_are_no_certificate() -> None:
    world = World()
    weak = world.chain.certificate(world.header, signers=[0, 1])
    with pytest.raises(InvalidProof):
        world.check(msgspec.structs.replace(world.proof("account"), certificate=weak))


def test_a_state_root_alone_proves_what_is_below_it() -> None:
    world = World()
    chain = world.chain.chain
    row = check_under_root(world.proof("account"), chain, world.state.root)
    assert row["cash_uusd"] == 5_250_000
    assert check_under_root(world.proof(LIQUIDATION), chain, world.state.root)["number"] == NUMBER
    with pytest.raises(InvalidProof, match="another root"):
        check_under_root(world.proof("account"), chain, bytes(32))
    with pytest.raises(ConfigError, match="by its batch"):
        check_under_root(world.proof(WITHDRAWAL), chain, world.state.root)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 4), ("final", False), ("state_root", "00" * 32), ("settled_height", 5),
        ("settled_time_ms", 6), ("ledger_height", 1), ("ledger_epoch", 1), ("ledger_time_ms", 1),
        ("chain_id", "00" * 32), ("kind", "position"), ("proven", {"account": 20}),
    ],
)  # fmt: skip
def test_what_people_read_is_what_is_proven(field: str, value: object) -> None:
    world = World()
    chain = world.chain.chain
    text = json.loads(to_file(world.proof("account"), chain))
    assert text[field] != value
    with pytest.raises(InvalidProof, match="tells something else"):
        from_file(json.dumps(text | {field: value}).encode(), chain)


def test_cut_damaged_and_foreign_files() -> None:
    world = World()
    chain = world.chain.chain
    raw = to_file(world.proof("account"), chain)
    text = json.loads(raw)
    for broken in (
        b"", b"\xff\xfe", raw[:-9], json.dumps(text | {"proof": "zz"}).encode(),
        json.dumps(text | {"proof": text["proof"][:-2]}).encode(),
        json.dumps(text | {"more": 1}).encode(),
    ):  # fmt: skip
        with pytest.raises(InvalidProof, match="cut or damaged"):
            from_file(broken, chain)
    for unknown in (b"{}", json.dumps(text | {"kind": "elephant"}).encode()):
        with pytest.raises(ConfigError, match="known kind"):
            from_file(unknown, chain)
    with pytest.raises(ConfigError, match="another chain"):
        from_file(raw, LightChain(epoch_ms=0).chain)


def test_a_file_leads_over_the_epochs_from_an_older_checkpoint() -> None:
    world = World(epochs=2)
    found = world.proof("account")
    assert world.check(found).ledger_epoch == 2 and len(found.epochs) == 2
    short = msgspec.structs.replace(found, epochs=found.epochs[:1])
    with pytest.raises(ConfigError, match="of epoch 2, the checkpoint of epoch 0"):
        world.check(short)
    wrong = msgspec.structs.replace(found.epochs[1], header=found.epochs[0].header)
    with pytest.raises((InvalidProof, ConfigError)):
        world.check(msgspec.structs.replace(found, epochs=[found.epochs[0], wrong]))
    light = world.chain.client()
    light.advance(*world.chain.change(1), world.chain.now_ms)
    assert world.check(found, light.checkpoint()).batch == BATCH


def test_stale_files_and_old_or_foreign_checkpoints() -> None:
    old = World()
    with pytest.raises(ConfigError, match="trusted for"):
        old.check(old.proof("account"), now_ms=old.chain.now_ms + TRUSTING_MS)
    later = World(epochs=1)
    light = later.chain.client()
    light.advance(*later.chain.change(1), later.chain.now_ms)
    with pytest.raises(InvalidProof, match="stale"):
        old.check(old.proof("account"), light.checkpoint(), later.chain.now_ms)
    other = msgspec.structs.replace(light.checkpoint(), chain_id=bytes(32))
    with pytest.raises(ConfigError, match="another chain"):
        later.check(later.proof("account"), other)
