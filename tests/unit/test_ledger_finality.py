"""Windows, bonds, removal: what becomes of a batch between settled and final."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import LedgerWorld, key_of, make_chain

from node import settling
from node.ledger import Ledger
from node.outcomes import BlockOutcome
from protocol.codec import encode
from protocol.errors import Code, SafetyViolation
from protocol.exits import FreezeLeaf
from protocol.genesis import SettlementRules
from protocol.ledger_leaves import FinalLeaf, ShardLeaf, batch_key, freeze_key, shard_key
from protocol.settlement import EMPTY_OUTBOX_HASH, OutboxEntry, extend_outbox_hash

WINDOW_MS = 3_000
BOND_UUSD = 40
RULES = SettlementRules(window_ms=WINDOW_MS, prover_bond_uusd=BOND_UUSD)


def world_of(rules: SettlementRules = RULES, prover_uusd: int = 100) -> LedgerWorld:
    funded = [
        (key_of("alice"), 1_000, 500),
        (key_of("prover"), prover_uusd, 0),
        (key_of("second"), prover_uusd, 0),
    ]
    return LedgerWorld(make_chain(funded, settlement=rules, provers=("prover", "second")))


def balance(world: LedgerWorld, name: str) -> int:
    return world.ledger.account(key_of(name).address).balance_uusd


def withdrawal(world: LedgerWorld, number: int = 0, amount_uusd: int = 30) -> OutboxEntry:
    return OutboxEntry(number, 16, world.alice.address, amount_uusd)


def remove(world: LedgerWorld, number: int) -> tuple[BlockOutcome, int]:
    """Remove a batch in a block of its own and burn its bond, as the part that judges does."""
    ledger = world.ledger
    outcome = BlockOutcome(ledger.height + 1, world.time_ms)
    bond_uusd = ledger.settling.remove(number, outcome)
    ledger.change_system(supply_uusd=-bond_uusd, burnt_uusd=bond_uusd)
    ledger.seal(outcome)
    world.roots.append(outcome.root)
    return outcome, bond_uusd


def test_a_batch_is_final_when_its_window_has_passed_and_the_bond_returns() -> None:
    world = world_of()
    header = world.settle([withdrawal(world)])
    ledger = world.ledger
    assert balance(world, "prover") == 100 - BOND_UUSD
    assert ledger.final().batch == 0 and ledger.settling.is_open(1)
    settled = ledger.batch(1)
    assert settled is not None and settled.bond_uusd == BOND_UUSD
    for _ in range(2):
        assert world.block(step_ms=1_000).finalised == []
    assert ledger.settling.left_ms(1) == 1_000
    assert world.block(step_ms=999).finalised == []
    outcome = world.block(step_ms=1)
    assert outcome.finalised == [header]
    assert balance(world, "prover") == 100 and not ledger.settling.is_open(1)
    hashed = extend_outbox_hash(EMPTY_OUTBOX_HASH, withdrawal(world))
    assert ledger.final() == FinalLeaf(
        1, 1, header.last_block_id, header.post_state_root, 0, header.inbox_cursor, 1, hashed
    )
    kept = ledger.batch(1)
    assert kept is not None and kept.bond_uusd == 0


def test_a_standstill_makes_nothing_final() -> None:
    world = world_of()
    world.settle()
    for _ in range(2):
        assert world.block(step_ms=86_400_000).finalised == []
    assert len(world.block(step_ms=86_400_000).finalised) == 1


def test_only_final_batches_pay_and_the_refusal_says_when() -> None:
    world = world_of()
    world.settle([withdrawal(world)])
    payout = world.payout(1, 0)
    result = world.block(world.sign(world.bob, payout), step_ms=1_000).results[0]
    assert result.code == Code.NOT_FINAL and "in about 2000 ms" in result.text
    for _ in range(2):
        world.block(step_ms=1_000)
    assert world.code(world.sign(world.bob, payout)) == Code.OK
    assert world.code(world.sign(world.bob, payout)) == Code.ALREADY_PAID


def test_without_a_window_a_settled_batch_is_final_in_its_own_block() -> None:
    world = world_of(SettlementRules(prover_bond_uusd=BOND_UUSD))
    world.log.append()
    entry = withdrawal(world)
    post = world.batch([entry])
    outcome = world.block(world.sign(world.prover, post), world.sign(world.bob, world.payout(1, 0)))
    assert [one.code for one in outcome.results] == [Code.OK, Code.OK]
    assert outcome.finalised == outcome.batches == [post.header]
    assert balance(world, "prover") == 100 and world.ledger.final().batch == 1


def test_a_bond_is_large_enough_and_covered() -> None:
    world = world_of()
    world.log.append()
    short = world.batch(bond_uusd=BOND_UUSD - 1)
    assert world.code(world.sign(world.prover, short)) == Code.BAD_BOND
    long = world.batch(bond_uusd=101)
    result = world.block(world.sign(world.prover, long)).results[0]
    assert result.code == Code.INSUFFICIENT_BALANCE and "100 uusd" in result.text
    assert balance(world, "prover") == 100
    for _ in range(2):
        world.settle()
    world.log.append()
    third = world.batch()
    assert world.code(world.sign(world.prover, third)) == Code.INSUFFICIENT_BALANCE


def test_bonds_count_as_money_over_a_restart() -> None:
    world = world_of()
    world.settle()
    old = world.ledger
    world.ledger = Ledger(world.chain, old.leaves(), old.height)
    assert world.ledger.conserved and world.ledger.root == old.root
    for _ in range(3):
        world.block(step_ms=1_000)
    assert balance(world, "prover") == 100


def test_a_removed_batch_leaves_the_shard_as_it_was_before_it() -> None:
    world = world_of()
    world.log.append(0)
    assert world.code(world.sign(world.prover, world.batch([withdrawal(world)]))) == Code.OK
    before = world.ledger.shard_leaf()
    assert before.inbox_cursor == 1 and before.outbox_next == 1
    second = world.settle([withdrawal(world, 1)])
    world.log.append(world.ledger.height)
    post = world.batch(prover=key_of("second").public)
    assert world.code(world.sign(key_of("second"), post)) == Code.OK
    outcome, bond_uusd = remove(world, 2)
    assert [one.number for one in outcome.removed] == [2, 3] and outcome.removed[0] == second
    assert bond_uusd == BOND_UUSD and world.ledger.conserved
    assert balance(world, "prover") == 100 - 2 * BOND_UUSD and balance(world, "second") == 100
    assert world.ledger.shard_leaf() == before
    assert world.ledger.batch(2) is None and world.ledger.batch(3) is None
    # Another prover posts the number anew, and all of it becomes final.
    again = world.batch([withdrawal(world, 1, 10)], prover=key_of("second").public)
    assert again.header.number == 2 and again.header.last_block == 3
    assert world.code(world.sign(key_of("second"), again)) == Code.OK
    for _ in range(4):
        world.block(step_ms=1_000)
    assert world.ledger.final().batch == 2 and world.ledger.conserved


def test_removing_the_oldest_open_batch_goes_back_to_the_final_state() -> None:
    world = world_of()
    genesis = world.ledger.shard_leaf()
    world.settle([withdrawal(world)])
    remove(world, 1)
    assert world.ledger.shard_leaf() == genesis
    world.settle()
    for _ in range(3):
        world.block(step_ms=1_000)
    final = world.ledger.shard_leaf()
    world.settle()
    remove(world, 2)
    assert world.ledger.shard_leaf() == final
    with pytest.raises(SafetyViolation, match="not open"):
        remove(world, 1)


def test_removal_dissolves_the_disputes_of_all_that_went() -> None:
    world = world_of()
    world.settle()
    world.settle()
    dissolved: list[list[int]] = []
    world.ledger.settling.dissolve = lambda numbers, outcome: dissolved.append(numbers)
    remove(world, 1)
    assert dissolved == [[1, 2]]


def test_a_disputed_batch_holds_those_behind_it() -> None:
    world = world_of()
    held = {1}
    world.ledger.settling.holds = lambda number: number in held
    world.settle([withdrawal(world)])
    world.settle()
    for _ in range(5):
        assert world.block(step_ms=1_000).finalised == []
    result = world.block(world.sign(world.bob, world.payout(1, 0))).results[0]
    assert result.code == Code.NOT_FINAL and "disputes" in result.text
    held.clear()
    assert [one.number for one in world.block().finalised] == [1, 2]
    assert world.ledger.final().batch == 2


def test_a_frozen_shard_takes_no_batch_and_no_deposit() -> None:
    world = world_of()
    ledger = world.ledger
    outcome = BlockOutcome(1, world.time_ms)
    ledger.write(freeze_key(0), FreezeLeaf(0, 0, ledger.final().state_root, 0))
    ledger.seal(outcome)
    world.roots.append(outcome.root)
    world.log.append()
    assert world.code(world.sign(world.prover, world.batch())) == Code.SHARD_FROZEN
    assert world.code(world.deposit(world.alice, 5)) == Code.SHARD_FROZEN
    assert ledger.conserved and balance(world, "alice") == 1_000


def test_open_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "OPEN_BATCHES_MAX", 2)
    world = world_of()
    world.settle()
    world.settle()
    world.log.append()
    post = world.batch()
    assert world.code(world.sign(world.prover, post)) == Code.BUSY
    for _ in range(3):
        world.block(step_ms=1_000)
    assert world.code(world.sign(world.prover, post)) == Code.OK


@pytest.mark.parametrize("wrong", ["missing", "other", "number", "order"])
def test_posted_outbox_entries_are_those_of_the_root(wrong: str) -> None:
    world = world_of()
    world.log.append()
    first, second = withdrawal(world), withdrawal(world, 1)
    posted = {
        "missing": [first],
        "other": [first, withdrawal(world, 1, 31)],
        "order": [second, first],
    }
    entries = [first, withdrawal(world, 2)] if wrong == "number" else [first, second]
    post = world.batch(entries, posted_outbox=posted.get(wrong, entries))
    assert world.code(world.sign(world.prover, post)) == Code.BAD_OUTBOX
    right = world.batch([first, second])
    assert world.code(world.sign(world.prover, right)) == Code.OK


def test_money_that_vanishes_from_a_batch_leaf_is_noticed() -> None:
    world = world_of()
    world.settle()
    leaves = dict(world.ledger.leaves())
    shard = world.ledger.shard_leaf()
    assert isinstance(shard, ShardLeaf) and leaves[shard_key(0)] == encode(shard)
    del leaves[batch_key(0, 1)]
    with pytest.raises(SafetyViolation):
        Ledger(world.chain, leaves.items(), world.ledger.height)
