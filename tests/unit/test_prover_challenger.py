"""The challenger's machine: finds each kind of lie, wins, and leaves right batches alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from defence_world import LedgerInbox
from dispute_world import RULES, DisputeWorld, mint
from ledger_world import key_of

from protocol.dispute import Contradict, OpenDispute, Prove
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Fees
from protocol.settlement import OutboxEntry, sign_action
from prover.challenger import Challenger
from prover.process_challenger import move_fee_uusd

CAROL = key_of("carol")


class Watch:
    """A challenger that looks at a world's ledger."""

    def __init__(self, world: DisputeWorld, machine: Challenger | None = None) -> None:
        self.world = world
        self.machine = machine or Challenger(world.chain, CAROL.address)
        self.inbox: Any = LedgerInbox(world)
        self.moves: list[Any] = []

    def look(self) -> None:
        self.machine.look(self.world.ledger.read)

    def catch_up(self) -> None:
        """Look and check until there is nothing new."""
        while True:
            self.look()
            settled = self.machine.wants
            if settled is None:
                return
            blocks = self.world.posted[settled.header.number][0].blocks
            self.machine.inbox_height(blocks)
            self.machine.check(blocks, self.inbox)

    def step(self) -> bool:
        """Catch up, and make the move there is; whether one was made."""
        self.catch_up()
        asked = self.machine.answers
        before = b"" if asked is None else self.world.shown[asked.shown]
        move = self.machine.move(before)
        if move is None:
            return False
        self.moves.append(move)
        assert self.world.send(CAROL, move) == Code.OK
        return True

    def fight(self, defend: Callable[[int], Any] | None = None) -> None:
        """Until the batch that is wrong is gone, against a defender that answers with its lie."""
        for _ in range(40):
            self.step()
            number = self.machine.next
            if self.world.ledger.batch(number) is None:
                return
            if self.world.game(number, CAROL) is not None:
                game = self.world.game(number, CAROL)
                if game is not None and game.turn == 0:
                    self.world.defend(number, CAROL)
        raise AssertionError("the wrong batch stands")


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


def test_a_right_batch_that_went_undefended_may_come_back_as_a_lie() -> None:
    """The prover lets a game on a right batch run out, and posts a wrong one in its place."""
    for later in (0, 1):
        world = DisputeWorld()
        world.fill(4)
        world.post()
        watch = Watch(world)
        watch.catch_up()
        assert watch.machine.next == 2
        assert world.open(1, key_of("alice"), bytes(32)) == Code.OK
        world.wait(RULES.clock_ms + 1_000)
        assert world.ledger.batch(1) is None
        world.post(mint(1))
        if later:
            world.fill(1)
            world.post()
        watch.fight()
        assert world.ledger.shard_leaf().batch == 0


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
    later = Watch(world, Challenger(world.chain, CAROL.address, state))
    later.catch_up()
    assert later.machine.next == 4 and later.machine.checked_blocks == 2
    world.fill(2)
    world.post(mint(1))
    later.fight()
    leaves = state.leaves[:-1]
    with pytest.raises(ConfigError, match="damaged"):
        Challenger(world.chain, CAROL.address, type(state)(state.chain_id, state.final, leaves))
