"""Epochs of the ledger: boundary, last block, the next members, the ledger's own time; and what
evidence does to whom it accuses."""

from __future__ import annotations

import msgspec
import pytest
from ledger_world import GENESIS_MS, LedgerWorld, key_of
from staking_world import EPOCH_MS, STAKE, STAKING, StakingWorld

from node.app import LedgerApplication
from node.ledger import Ledger
from protocol.chain import Block, genesis_header, genesis_qc, origin_qc
from protocol.codec import Decoder, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.evidence import evidence_id
from protocol.genesis import Staking
from protocol.ledger_leaves import decode_epoch, epoch_key, offence_key
from protocol.settlement import ReportEvidence, Unbond
from prover.tree import TreeProof, verify_proof

decode_proof: Decoder[TreeProof] = Decoder(TreeProof)
replace = msgspec.structs.replace


def keys_of(world: StakingWorld) -> list[bytes]:
    return [one.public_key for one in world.ledger.current_members()]


def changed(**fields: int) -> Staking:
    return replace(STAKING, **fields)


def test_the_boundary_decides_and_the_first_block_that_names_its_root_is_the_last() -> None:
    world = StakingWorld()
    world.block(step_ms=EPOCH_MS - 1)
    assert world.ledger.next_epoch() is None
    boundary = world.block(world.bond("alice", 5_000), step_ms=1)
    decided = world.ledger.next_epoch()
    assert decided is not None
    assert (decided.number, decided.boundary_height) == (1, boundary.height)
    assert decided.ends_ms == GENESIS_MS + 2 * EPOCH_MS
    assert decided.decided_ms == world.window_ms
    assert decided.members[3].public_key == world.alice.public, "its own transactions count"
    between = world.block()
    assert (between.epoch_began, world.epoch, len(keys_of(world))) == (0, 0, 3)
    last = world.block()
    assert (last.epoch_began, world.epoch, len(keys_of(world))) == (1, 1, 4)
    header = world.headers[-1]
    assert header.app_height == boundary.height
    proven = verify_proof(header.app_root, decode_proof(last.epoch_proof), [epoch_key(1)])
    assert decode_epoch(proven[epoch_key(1)] or b"") == decided
    current = world.ledger.current_epoch()
    assert (current.origin_height, current.origin_view) == (header.height, header.view)
    assert current.origin_id == header.block_id()


def test_a_ledger_that_cannot_go_back_to_the_boundary_begins_the_epoch_without_its_proof() -> None:
    world = StakingWorld()
    world.reach_boundary()
    world.block()
    copy = Ledger(world.chain, world.ledger.leaves(), world.ledger.height)
    header = world.next_header()
    outcome = copy.apply_block(header, [])
    assert (outcome.epoch_began, outcome.epoch_proof) == (1, b"")
    assert outcome.root == world.ledger.apply_block(header, []).root


def test_the_application_names_the_members_of_the_next_block() -> None:
    world = StakingWorld()
    app = LedgerApplication(world.ledger, 1_000)
    first = app.epoch()
    assert first is not None and first.origin is None and first is app.epoch()
    assert (first.epoch, first.ends_ms) == (0, GENESIS_MS + EPOCH_MS)
    assert first.keys == tuple(key.public for key in world.keys)
    world.block(world.bond("bob", 2_000))
    world.reach_boundary()
    assert app.epoch() is first
    world.next_epoch()
    second, header = app.epoch(), world.headers[-1]
    assert second is not None and second.epoch == 1
    assert second.origin == origin_qc(1, header, header.block_id())
    assert second.stakes == (STAKE, STAKE, STAKE, 2_000)
    assert second.ends_ms == GENESIS_MS + 2 * EPOCH_MS
    fixed = LedgerApplication(LedgerWorld().ledger, 1_000).epoch()
    assert fixed is not None and fixed.ends_ms is None


def test_blocks_behind_the_boundary_carry_nothing() -> None:
    world = StakingWorld()
    app = LedgerApplication(world.ledger, 10_000)
    raw = world.deposit(world.alice, 5)
    app.submit(raw, 0)
    header = replace(world.next_header(), time_ms=GENESIS_MS + EPOCH_MS)
    justify = genesis_qc(genesis_header(world.chain.chain_id, 0, bytes(32)))
    boundary = Block(header, b"", justify, None)
    payload = encode([raw])
    assert app.propose([], GENESIS_MS + EPOCH_MS) == payload
    assert app.propose([boundary], GENESIS_MS + EPOCH_MS + 1) == b""
    behind = Block(world.next_header(), payload, justify, None)
    app.check(behind, [])
    app.check(replace(behind, payload=b""), [boundary])
    with pytest.raises(Rejected) as refused:
        app.check(behind, [boundary])
    assert refused.value.code == Code.WRONG_EPOCH
    world.reach_boundary()
    assert app.propose([], world.time_ms) == b""
    with pytest.raises(Rejected):
        app.check(behind, [])
    with pytest.raises(SafetyViolation, match="boundary"):
        world.block(raw)
    world.ledger = Ledger(world.chain, world.ledger.leaves(), world.ledger.height)
    world.next_epoch()
    assert world.block(world.deposit(world.alice, 5)).results[0].code == Code.OK


def test_a_block_of_another_epoch_stops_the_ledger() -> None:
    world = StakingWorld()
    with pytest.raises(SafetyViolation, match="epoch 1"):
        world.ledger.apply_block(replace(world.next_header(), epoch=1), [])


def test_the_highest_stakes_are_chosen_and_who_stays_keeps_its_place() -> None:
    world = StakingWorld()
    world.block(world.bond("alice", 1_001), world.bond("bob", 3_000))
    world.block(world.sign(world.keys[0], Unbond(1)))
    members = world.next_epoch().members
    newcomers = sorted([world.alice.public, world.bob.public])
    assert [one.public_key for one in members] == [
        world.keys[1].public, world.keys[2].public, *newcomers,
    ]  # fmt: skip
    world.block(world.sign(world.bob, Unbond(3_000)), world.bond("validator-0", 1))
    members = world.next_epoch().members
    assert [one.public_key for one in members] == [
        world.keys[1].public, world.keys[2].public, world.alice.public, world.keys[0].public,
    ]  # fmt: skip


def test_of_equal_stakes_the_lower_key_is_chosen() -> None:
    world = StakingWorld(changed(max_validators=3))
    world.block(world.bond("alice", STAKE), world.bond("bob", STAKE))
    candidates = sorted([*keys_of(world), world.alice.public, world.bob.public])
    assert sorted(one.public_key for one in world.next_epoch().members) == candidates[:3]


def test_where_nobody_qualifies_the_old_members_go_on() -> None:
    world = StakingWorld()
    before = world.ledger.current_members()
    world.block(*(world.sign(key, Unbond(STAKE)) for key in world.keys))
    assert world.next_epoch().members == before


def test_epochs_end_on_their_grid_even_after_a_standstill() -> None:
    world = StakingWorld()
    world.block(step_ms=7 * EPOCH_MS + 3)
    decided = world.ledger.next_epoch()
    assert decided is not None and decided.ends_ms == GENESIS_MS + 8 * EPOCH_MS


def test_a_standstill_is_one_step_of_the_ledgers_own_time() -> None:
    world = StakingWorld()
    world.block(step_ms=400)
    assert world.window_ms == 400
    world.block(step_ms=100 * EPOCH_MS)
    assert world.window_ms == 400 + 5_000, "the pace of idle blocks"
    quick = LedgerWorld()
    quick.block(step_ms=9_000)
    assert quick.ledger.system().window_ms == 1_000, "at least a second"


# --- evidence


@pytest.mark.parametrize("kind", ["vote", "proposal"])
def test_evidence_burns_a_part_of_the_stake_and_jails(kind: str) -> None:
    world = StakingWorld()
    accused = world.keys[1]
    world.expect(Code.OK, world.sign(accused, Unbond(333)))
    supply_uusd = world.ledger.system().supply_uusd
    evidence = world.double_vote(1) if kind == "vote" else world.double_proposal(1)
    outcome = world.block(world.sign(world.alice, ReportEvidence(evidence)))
    assert outcome.results[0].code == Code.OK
    record = world.record(accused)
    assert record.stake_uusd == 667 - 34 and record.unbonding[0].amount_uusd == 333 - 17
    assert record.jailed_until_ms == world.window_ms + STAKING.jail_ms
    system = world.ledger.system()
    assert (system.supply_uusd, system.burnt_uusd) == (supply_uusd - 51, 51)
    identity = evidence_id(world.chain.chain_id, evidence)
    assert outcome.changes[offence_key(identity)] == encode(outcome.height)
    assert keys_of(world)[1] == accused.public, "it is a member until the epoch ends"
    assert accused.public not in [one.public_key for one in world.next_epoch().members]


def test_an_offence_is_punished_once_and_another_one_again() -> None:
    world = StakingWorld()
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(world.double_vote(1))))
    world.expect(Code.EVIDENCE_KNOWN, world.sign(world.bob, ReportEvidence(world.double_vote(1))))
    world.expect(
        Code.EVIDENCE_KNOWN, world.sign(world.bob, ReportEvidence(world.double_proposal(1)))
    )
    world.expect(Code.OK, world.sign(world.bob, ReportEvidence(world.double_vote(1, view=6))))
    assert world.record(world.keys[1]).stake_uusd == 950 - 48


def test_evidence_that_does_not_hold_changes_nothing() -> None:
    world = StakingWorld()
    right = world.double_vote(1)
    forged = replace(right, second=replace(right.second, signature=bytes(64)))
    stranger = replace(
        right, first=replace(right.first, member=3), second=replace(right.second, member=3)
    )
    other = replace(right, second=replace(right.second, epoch=1))
    for evidence, code in (
        (forged, Code.BAD_EVIDENCE),
        (stranger, Code.BAD_EVIDENCE),
        (other, Code.BAD_EVIDENCE),
        (replace(right, first=replace(right.first, epoch=1)), Code.WRONG_EPOCH),
        (replace(right, first=replace(right.first, epoch=-1)), Code.WRONG_EPOCH),
    ):
        world.expect(code, world.sign(world.alice, ReportEvidence(evidence)))
    assert world.record(world.keys[1]).stake_uusd == STAKE
    assert world.ledger.system().burnt_uusd == 0


def test_who_has_left_is_punished_with_the_keys_of_its_epoch() -> None:
    world = StakingWorld()
    leaving = world.keys[0]
    world.expect(Code.OK, world.sign(leaving, Unbond(STAKE)))
    world.next_epoch()
    assert leaving.public not in keys_of(world)
    assert keys_of(world)[0] != leaving.public
    evidence = world.double_vote(0, epoch=0)
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(evidence)))
    assert world.record(leaving).unbonding[0].amount_uusd == 950
    world.wait(STAKING.unbonding_ms + EPOCH_MS)
    assert world.balance(leaving) == 10_950


def test_no_stake_is_out_before_the_last_evidence_against_it_expires() -> None:
    world = StakingWorld()
    leaving = world.keys[0]
    world.expect(Code.OK, world.sign(leaving, Unbond(STAKE)))
    decided_ms = world.next_epoch().decided_ms
    world.wait(decided_ms + STAKING.evidence_ms - world.window_ms - 200)
    while world.ledger.next_epoch() is not None:
        world.block(step_ms=1)
    assert world.window_ms < decided_ms + STAKING.evidence_ms
    early, late = world.double_vote(0, epoch=0), world.double_vote(0, epoch=0, view=9)
    world.block(
        world.sign(world.alice, ReportEvidence(early)),
        step_ms=decided_ms + STAKING.evidence_ms - world.window_ms,
    )
    assert world.record(leaving).unbonding[0].amount_uusd == 950
    result = world.block(world.sign(world.alice, ReportEvidence(late)), step_ms=1).results[0]
    assert result.code == Code.EVIDENCE_EXPIRED
    assert world.balance(leaving) == 10_000


def test_free_stake_that_waits_to_be_paid_is_not_slashed() -> None:
    world = StakingWorld(changed(epoch_ms=200_000, unbonding_ms=40_000))
    accused = world.keys[0]
    world.expect(Code.OK, world.sign(accused, Unbond(500)))
    world.next_epoch()
    world.wait(STAKING.unbonding_ms)
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(world.double_vote(0))))
    assert world.balance(accused) == 10_500
    assert (world.record(accused).stake_uusd, world.record(accused).unbonding) == (475, [])


def test_whoever_has_nothing_left_cannot_be_reported_for_free_for_ever() -> None:
    world = StakingWorld(changed(slash_ppm=1_000_000))
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(world.double_vote(0))))
    assert world.record(world.keys[0]).stake_uusd == 0
    again = ReportEvidence(world.double_vote(0, view=6))
    world.expect(Code.EVIDENCE_KNOWN, world.sign(world.alice, again))


def test_a_lone_validator_of_a_fixed_set_is_punished_too() -> None:
    world = StakingWorld(changed(epoch_ms=0))
    world.expect(Code.OK, world.sign(world.alice, ReportEvidence(world.double_vote(2))))
    assert world.record(key_of("validator-2")).stake_uusd == 950
