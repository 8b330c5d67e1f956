"""The challenger's machine: finds each kind of lie, wins, and leaves right batches alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from challenger_world import CAROL, Watch
from dispute_world import RULES, DisputeWorld, mint
from ledger_world import key_of

import prover.challenger
from protocol.dispute import Contradict, OpenDispute, Prove
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Fees
from protocol.ledger_leaves import batch_key
from protocol.settlement import OutboxEntry, sign_action
from prover.challenger import Challenger
from prover.process_challenger import move_fee_uusd


@pytest.fixture(autouse=True, params=["in memory", "in files"])
def place(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where challengers keep what they executed."""
    if request.param == "in files":
        monkeypatch.setattr(Watch, "folder", tmp_path)
        monkeypatch.setattr(prover.challenger, "SEGMENT_BYTES", 1)


def test_the_fee_of_a_move_is_never_too_low_for_its_size() -> None:
    fees = Fees(base_uusd=1, per_kib_uusd=1_000)
    chain, key = DisputeWorld().chain, CAROL
    for size in (0, 400, 500_000):
        move = Prove(1, bytes(20), bytes(size), [], [], bytes(size), (0, 0), [])
        fee_uusd = move_fee_uusd(fees, move)
        raw = sign_action(key, chain, 7, move, fee_uusd)
        least_uusd = fees.least_uusd(len(raw))
        assert 100 * least_uusd <= fee_uusd <= 100 * (least_uusd + fees.per_kib_uusd)


def test_right_batches_are_checked_and_left_alone() -> None:
    world = DisputeWorld()
    watch = Watch(world)
    for blocks in (3, 1, 4):
        world.fill(blocks)
        world.post()
    watch.catch_up()
    machine = watch.machine
    assert (machine.next, machine.block, machine.checked_batches) == (4, 8, 3)
    assert machine.move() is None
    world.wait(RULES.window_ms)
    watch.look()
    assert machine.final == world.ledger.final() and machine.final.batch == 3


@pytest.mark.parametrize("at", range(5))
def test_a_minted_balance_is_found_in_any_block(at: int) -> None:
    world = DisputeWorld()
    world.fill(3)
    world.post()
    watch = Watch(world)
    watch.catch_up()
    world.fill(5)
    world.post(mint(at))
    watch.fight()
    assert isinstance(watch.moves[0], OpenDispute) and world.ledger.shard_leaf().batch == 1
    world.fill(1)
    world.post()
    watch.catch_up()
    assert watch.machine.next == 3 and not watch.machine.wrong


def test_a_batch_with_the_true_root_and_a_false_outbox_is_contradicted() -> None:
    world = DisputeWorld()
    world.fill(2)
    world.post(outbox=[OutboxEntry(0, 16, CAROL.address, 5_000_000)])
    watch = Watch(world)
    watch.fight()
    assert [type(one) for one in watch.moves] == [Contradict]


def test_new_batches_may_end_elsewhere_than_the_removed_ones() -> None:
    world = DisputeWorld()
    world.fill(6)
    world.post(mint(2), upto=5)
    watch = Watch(world)
    watch.fight()
    for end in (2, 4, 6):
        world.post(upto=end)
        watch.catch_up()
    assert watch.machine.next == 4 and watch.machine.checked_blocks == 6


def undefended() -> tuple[DisputeWorld, Watch]:
    """A right batch whose prover let a game on it run out, and who watched it."""
    world = DisputeWorld()
    world.fill(4)
    world.post()
    watch = Watch(world)
    watch.catch_up()
    assert watch.machine.next == 2
    assert world.open(1, key_of("alice"), bytes(32)) == Code.OK
    world.wait(RULES.clock_ms + 1_000)
    assert world.ledger.batch(1) is None
    return world, watch


def test_a_right_batch_that_went_undefended_may_come_back_as_a_lie() -> None:
    """The prover lets a game on a right batch run out, and posts a wrong one in its place."""
    for later in (0, 1):
        world, watch = undefended()
        world.post(mint(1))
        if later:
            world.fill(1)
            world.post()
        watch.fight()
        assert world.ledger.shard_leaf().batch == 0


@pytest.mark.parametrize("later", [False, True])
def test_a_right_batch_may_come_back_shorter_before_anybody_looks(later: bool) -> None:
    world, watch = undefended()
    world.post(upto=2)
    world.wait(RULES.window_ms // 2)
    if later:
        world.post(upto=4)
    for _ in range(3):
        watch.catch_up()  # a look that finds another batch than before asks for it only
    world.wait(RULES.window_ms // 2)
    watch.look()
    assert watch.machine.final == world.ledger.final() and not watch.machine.lost
    assert watch.machine.final.batch == 1
    world.fill(2)
    world.post(mint())
    watch.fight()


def test_a_wrong_batch_that_is_final_is_told_and_ends_the_checking() -> None:
    world = DisputeWorld()
    world.fill(2)
    world.post(mint())
    world.wait(RULES.window_ms)
    watch = Watch(world)
    watch.catch_up()
    watch.look()
    assert "batch 1 is final and wrong" in watch.machine.lost
    assert watch.machine.move() is None and watch.machine.wants is None


def test_a_batch_that_was_forgotten_before_it_was_checked_ends_it_with_a_word() -> None:
    world = DisputeWorld()
    world.fill(2)
    world.post()
    world.wait(RULES.window_ms)
    assert world.ledger.final().batch == 1
    gone = batch_key(0, 1)
    machine = Watch(world).machine
    with pytest.raises(ConfigError, match="forgotten batch 1"):
        machine.look(lambda key: None if key == gone else world.ledger.read(key))
    watch = Watch(world)
    watch.catch_up()
    watch.look()
    watch.machine.look(lambda key: None if key == gone else world.ledger.read(key))
    assert watch.machine.final.batch == 1 and not watch.machine.lost


def test_data_that_is_not_the_batch_is_refused() -> None:
    world = DisputeWorld()
    world.fill(3)
    world.post()
    watch = Watch(world)
    watch.look()
    blocks = world.posted[1][0].blocks
    with pytest.raises(Rejected, match="not that of batch 1"):
        watch.machine.inbox_height(blocks[:-1])
    with pytest.raises(Rejected, match="not that of batch 1"):
        watch.machine.check(blocks[1:], watch.inbox)


def test_a_later_start_goes_on_from_a_final_state() -> None:
    world = DisputeWorld()
    watch = Watch(world)
    world.fill(3)
    world.post()
    world.fill(2)
    world.post()
    watch.catch_up()
    world.wait(RULES.window_ms)
    world.fill(2)
    world.post()
    watch.catch_up()
    state = watch.machine.final_state()
    assert state.final == world.ledger.final() and state.final.batch == 2
    later = Watch(world, state)
    later.catch_up()
    assert later.machine.next == 4 and later.machine.checked_blocks == 2
    world.fill(2)
    world.post(mint(1))
    later.fight()
    leaves = state.leaves[:-1]
    with pytest.raises(ConfigError, match="damaged"):
        Challenger(world.chain, CAROL.address, type(state)(state.chain_id, state.final, leaves))
