"""Bonding, unbonding, certificates and jail on the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from ledger_world import GENESIS_MS, LedgerWorld, key_of
from staking_world import STAKE, STAKING, StakingWorld, certificate_of

from net.tls import make_certificate
from node import staking
from node.certificates import check_certificate
from node.ledger import Ledger
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import CASH_MOVE_LIMIT, MAX_CERTIFICATE_BYTES, Staking
from protocol.ledger_leaves import Unbonding, validator_key
from protocol.settlement import Bond, ReportEvidence, Unbond, Unjail


def test_genesis_bonds_the_validators_and_counts_their_stakes() -> None:
    world = StakingWorld()
    assert [one.public_key for one in world.ledger.current_members()] == [
        key.public for key in world.keys
    ]
    assert {one.stake_uusd for one in world.ledger.validators()} == {STAKE}
    assert world.ledger.system().supply_uusd == 5 * 10_000 + 3 * STAKE
    assert world.ledger.current_leaf().ends_ms == GENESIS_MS + STAKING.epoch_ms


def test_a_bond_moves_money_to_the_stake_and_names_certificate_and_address() -> None:
    world = StakingWorld()
    world.expect(Code.OK, world.bond("alice", 300, "[::1]:26600"))
    record = world.record(world.alice)
    assert (record.public_key, record.stake_uusd) == (world.alice.public, 300)
    assert (record.certificate, record.address) == (certificate_of("alice"), "[::1]:26600")
    assert world.balance(world.alice) == 9_700
    world.expect(Code.OK, world.bond("alice", 50, "other:1"))
    assert world.record(world.alice).stake_uusd == 350
    assert world.record(world.alice).address == "other:1"
    assert len(world.ledger.current_members()) == 3


@pytest.mark.parametrize(
    ("amount", "code"),
    [
        (-1, Code.BAD_AMOUNT),
        (CASH_MOVE_LIMIT, Code.BAD_AMOUNT),
        (99, Code.BAD_STAKE),
        (0, Code.BAD_STAKE),
        (10_001, Code.INSUFFICIENT_BALANCE),
    ],
)
def test_a_bond_of_a_wrong_amount_is_refused(amount: int, code: Code) -> None:
    world = StakingWorld()
    world.expect(code, world.bond("alice", amount))
    assert world.ledger.validator(world.alice.address) is None
    assert world.balance(world.alice) == 10_000


@pytest.mark.parametrize(
    "address", ["", "host", "host:0", "host:70000", "h\xfc:1", "h" * 61 + ":123"]
)
def test_a_bond_with_a_wrong_address_is_refused(address: str) -> None:
    world = StakingWorld()
    world.expect(Code.WRONG_TYPE, world.bond("alice", 500, address))


def test_a_bond_needs_a_certificate_over_the_senders_key() -> None:
    world = StakingWorld()
    for certificate in (b"", b"\x30\x00", certificate_of("bob"), bytes(MAX_CERTIFICATE_BYTES + 1)):
        bond = Bond(500, certificate, "host:1")
        world.expect(Code.BAD_CERTIFICATE, world.sign(world.alice, bond))


def made_certificate(**changes: object) -> bytes:
    """A certificate of alice's key that differs from the usual one."""
    key = key_of("alice")
    number = changes.get("serial", key.public.hex())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(number)),
        ]
    )
    issuer = subject if "issuer" not in changes else x509.Name([])
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).serial_number(5)
        .public_key(key.private.public_key())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
    )  # fmt: skip
    if changes.get("constraints", True):
        authority = bool(changes.get("authority"))
        builder = builder.add_extension(
            x509.BasicConstraints(ca=authority, path_length=None), critical=True
        )
    if "extra" in changes:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName("x")]), critical=True
        )
    signer = key_of("bob") if changes.get("forged") else key
    return builder.sign(signer.private, None).public_bytes(Encoding.DER)


def test_only_plain_certificates_of_a_node_are_taken() -> None:
    public = key_of("alice").public
    check_certificate(made_certificate(), public)
    check_certificate(make_certificate(key_of("alice"), "x" * 64), public)
    for changes in (
        {"authority": True}, {"constraints": False}, {"extra": True}, {"forged": True},
        {"serial": key_of("bob").public.hex()}, {"issuer": "another"},
    ):  # fmt: skip
        with pytest.raises(Rejected) as refused:
            check_certificate(made_certificate(**changes), public)
        assert refused.value.code == Code.BAD_CERTIFICATE, changes
    right = certificate_of("alice")
    for damaged in (right + b"\x00", right[:-1], right[:-1] + bytes((right[-1] ^ 1,))):
        with pytest.raises(Rejected):
            check_certificate(damaged, public)


def test_stake_leaves_when_its_epoch_has_ended_and_the_unbonding_period_passed() -> None:
    world = StakingWorld()
    leaving = world.keys[0]
    world.expect(Code.OK, world.sign(leaving, Unbond(400)))
    assert world.record(leaving).stake_uusd == 600
    assert world.record(leaving).unbonding == [Unbonding(400, 0)]
    world.expect(Code.OK, world.sign(leaving, Unbond(100)))
    assert world.record(leaving).unbonding == [Unbonding(500, 0)]
    world.next_epoch()
    free_ms = world.window_ms + STAKING.unbonding_ms
    assert world.record(leaving).unbonding == [Unbonding(500, free_ms)]
    world.wait(STAKING.unbonding_ms - 101)
    world.expect(Code.OK, world.sign(leaving, Unbond(0)))
    assert (world.window_ms, world.balance(leaving)) == (free_ms - 1, 10_000)
    world.block(world.sign(leaving, Unbond(0)), step_ms=1)
    assert world.balance(leaving) == 10_500
    assert world.record(leaving).unbonding == []


def test_free_stake_is_not_paid_before_its_time() -> None:
    world = StakingWorld(Staking(**{**_fields(STAKING), "epoch_ms": 1_000_000_000}))
    leaving = world.keys[0]
    world.expect(Code.OK, world.sign(leaving, Unbond(1_000)))
    world.wait(STAKING.unbonding_ms + 1_000)
    world.expect(Code.OK, world.sign(leaving, Unbond(0)))
    assert world.balance(leaving) == 10_000, "the stake is in force while the epoch lasts"


def test_each_epochs_sum_has_its_own_time() -> None:
    world = StakingWorld()
    leaving = world.keys[0]
    times = []
    for _ in range(3):
        world.expect(Code.OK, world.sign(leaving, Unbond(100)))
        world.next_epoch()
        times.append(world.window_ms + STAKING.unbonding_ms)
    assert world.record(leaving).unbonding == [Unbonding(100, free_ms) for free_ms in times]
    world.expect(Code.OK, world.sign(leaving, Unbond(0)))
    assert world.record(leaving).unbonding == [Unbonding(100, free_ms) for free_ms in times]


def _fields(rules: Staking) -> dict[str, int]:
    return {name: getattr(rules, name) for name in rules.__struct_fields__}


def test_free_stake_is_paid_at_the_boundary_and_the_empty_record_is_forgotten() -> None:
    world = StakingWorld()
    world.expect(Code.OK, world.bond("alice", 300))
    world.expect(Code.OK, world.sign(world.alice, Unbond(300)))
    world.next_epoch()
    world.wait(STAKING.unbonding_ms + STAKING.epoch_ms)
    assert world.balance(world.alice) == 10_000
    assert world.ledger.validator(world.alice.address) is None
    assert validator_key(world.alice.address) not in dict(world.ledger.leaves())
    assert world.ledger.validator_count == 3
    Ledger(world.chain, world.ledger.leaves(), world.ledger.height)


@pytest.mark.parametrize("amount", [901, 1_001])
def test_what_stays_is_nothing_or_a_whole_stake(amount: int) -> None:
    world = StakingWorld()
    world.expect(Code.BAD_STAKE, world.sign(world.keys[0], Unbond(amount)))
    world.expect(Code.OK, world.sign(world.keys[0], Unbond(900)))
    world.expect(Code.OK, world.sign(world.keys[0], Unbond(100)))
    assert world.record(world.keys[0]).stake_uusd == 0


def test_who_has_no_stake_cannot_unbond_or_unjail() -> None:
    world = StakingWorld()
    world.expect(Code.NOT_A_VALIDATOR, world.sign(world.alice, Unbond(1)))
    world.expect(Code.NOT_A_VALIDATOR, world.sign(world.alice, Unjail()))
    world.expect(Code.BAD_AMOUNT, world.sign(world.keys[0], Unbond(-1)))
    world.expect(Code.NOT_AUTHORISED, world.sign(world.keys[0], Unjail()))


def test_sums_on_their_way_out_are_bounded() -> None:
    rules = {**_fields(STAKING), "unbonding_ms": 10**9, "min_stake_uusd": 1}
    world = StakingWorld(Staking(**rules))
    for _ in range(staking.MAX_UNBONDING):
        world.expect(Code.OK, world.sign(world.keys[0], Unbond(1)))
        world.next_epoch()
    world.expect(Code.BUSY, world.sign(world.keys[0], Unbond(1)))
    assert len(world.record(world.keys[0]).unbonding) == staking.MAX_UNBONDING


def test_validators_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staking, "MAX_VALIDATOR_RECORDS", 4)
    world = StakingWorld()
    world.expect(Code.OK, world.bond("alice", 300))
    world.expect(Code.BUSY, world.bond("bob", 300))
    world.expect(Code.OK, world.bond("alice", 300))


def test_jail_ends_by_unjail_after_its_time() -> None:
    world = StakingWorld()
    accused = world.keys[1]
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(world.double_vote(1))))
    assert world.record(accused).jailed_until_ms == world.window_ms + STAKING.jail_ms
    world.expect(Code.JAILED, world.sign(accused, Unjail()))
    members = world.next_epoch().members
    assert accused.public not in [one.public_key for one in members]
    world.wait(STAKING.jail_ms)
    assert accused.public not in [one.public_key for one in world.next_epoch().members]
    world.expect(Code.OK, world.sign(accused, Unjail()))
    assert accused.public in [one.public_key for one in world.next_epoch().members]


def test_on_a_chain_of_one_epoch_the_set_is_fixed() -> None:
    world = LedgerWorld()
    validator = key_of("validator-0")
    for action in (Bond(5, certificate_of("validator-0"), "h:1"), Unbond(1), Unjail()):
        assert world.code(world.sign(validator, action)) == Code.NOT_AUTHORISED
    assert world.ledger.current_leaf().ends_ms == 0


def test_genesis_names_what_is_wrong_with_its_validators() -> None:
    for rules, text in (
        ({"min_stake_uusd": STAKE + 1}, "below min_stake_uusd"),
        ({"max_validators": 2}, "more validators than"),
        ({"max_validators": 101}, "max_validators 1 to 100"),
    ):
        with pytest.raises(ConfigError, match=text):
            StakingWorld(Staking(**{**_fields(STAKING), **rules}))
