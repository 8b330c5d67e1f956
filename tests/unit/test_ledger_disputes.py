"""The rules of disputes on the ledger: who may move when, who wins, and whose money it costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispute_world import RULES, DisputeWorld, mint
from ledger_world import key_of

from execution.leaves import COUNTERS_KEY, account_key
from node import disputes
from node.ledger import Ledger
from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    STEPS_PER_BLOCK,
    WITNESS_BYTES,
    Choose,
    Contradict,
    Cut,
    DisputeLeaf,
    OpenDispute,
    Prove,
    cuts,
)
from protocol.errors import Code
from protocol.keys import Key
from protocol.settlement import OutboxEntry

ALICE, BOB, CAROL = key_of("alice"), key_of("bob"), key_of("carol")
BOND, STAKE = RULES.prover_bond_uusd, RULES.challenger_bond_uusd
OTHER = bytes(32)


def world_of(blocks: int = 7, lie_at: int | None = None) -> DisputeWorld:
    """One batch of so many blocks, with a lie in one of them."""
    world = DisputeWorld()
    world.fill(blocks)
    assert world.post(None if lie_at is None else mint(lie_at)) == 1
    return world


def test_a_lie_is_cut_down_to_its_block_and_the_batch_goes() -> None:
    world = world_of(lie_at=4)
    alice, prover = world.balance(ALICE), world.balance(world.prover)
    assert world.open(1, ALICE) == Code.OK
    assert world.balance(ALICE) == alice - STAKE
    world.play(1, ALICE)
    assert world.ledger.batch(1) is None and world.ledger.shard_leaf().batch == 0
    assert world.balance(ALICE) == alice + BOND // 2
    assert world.burnt() == BOND - BOND // 2
    assert world.balance(world.prover) == prover
    assert world.post() == 1 and world.ledger.batch(1) is not None


@pytest.mark.parametrize("at", range(7))
def test_every_block_of_a_batch_can_be_the_wrong_one(at: int) -> None:
    world = world_of(lie_at=at)
    assert world.open(1, ALICE) == Code.OK
    world.play(1, ALICE)
    assert world.ledger.batch(1) is None


def test_a_right_batch_stands_and_the_challenger_pays() -> None:
    world = world_of()
    alice, prover = world.balance(ALICE), world.balance(world.prover)
    move = at_the_last_step(world, part=1)
    assert world.send(world.prover, move) == Code.OK
    assert _last(world).turn == CHALLENGER
    assert world.send(ALICE, Choose(1, 0)) == Code.NOT_YOUR_TURN
    world.wait(RULES.clock_ms)  # nothing larger can be shown
    assert world.ledger.batch(1) is not None and world.game(1, ALICE) is None
    assert world.balance(ALICE) == alice - STAKE
    assert world.balance(world.prover) == prover + STAKE // 2
    assert world.burnt() == STAKE - STAKE // 2


def test_a_batch_of_one_block_is_cut_inside_of_it() -> None:
    world = world_of(blocks=1, lie_at=0)
    assert world.open(1, ALICE) == Code.OK
    game = _last(world)
    assert (game.turn, game.low, game.high) == (DEFENDER, 0, STEPS_PER_BLOCK)
    while _last(world).high - _last(world).low > 1:
        assert world.defend(1, ALICE) == Code.OK and world.challenge(1, ALICE) == Code.OK
    assert world.send(world.prover, Cut(1, ALICE.address, [])) == Code.NOT_YOUR_TURN
    assert world.defend(1, ALICE) == Code.OK
    assert world.ledger.batch(1) is None


def test_opening_is_refused_where_nothing_can_be_won() -> None:
    world = world_of()
    header = world.posted[1][0].header
    assert world.open(1, ALICE, header.post_state_root) == Code.NOTHING_DISPUTED
    assert world.open(1, ALICE, b"short") == Code.WRONG_TYPE
    assert world.send(ALICE, OpenDispute(2, OTHER)) == Code.UNKNOWN_BATCH
    assert world.send(ALICE, OpenDispute(-1, OTHER)) == Code.UNKNOWN_BATCH
    assert world.open(1, key_of("nobody"), OTHER) == Code.INSUFFICIENT_BALANCE
    assert world.open(1, ALICE, OTHER) == Code.OK
    assert world.open(1, ALICE, bytes([1]) * 32) == Code.DISPUTE_OPEN
    assert world.open(1, BOB, OTHER) == Code.OK


def test_a_final_batch_cannot_be_disputed() -> None:
    world = world_of()
    world.wait(RULES.window_ms)
    assert world.ledger.final().batch == 1
    assert world.open(1, ALICE, OTHER) == Code.WINDOW_OVER


def test_a_game_holds_its_batch_but_opens_no_longer_window() -> None:
    world = world_of()
    world.wait(RULES.window_ms - 1_000)
    assert world.open(1, ALICE, OTHER) == Code.OK
    world.wait(2_000)
    assert world.ledger.final().batch == 0
    assert world.open(1, BOB, OTHER) == Code.WINDOW_OVER
    assert world.defend(1, ALICE) == Code.OK
    world.wait(RULES.clock_ms + 1_000)
    assert world.game(1, ALICE) is None and world.ledger.final().batch == 1
    assert world.burnt() == STAKE - STAKE // 2


def test_moves_out_of_turn_or_out_of_shape_are_refused() -> None:
    world = world_of()
    address = ALICE.address
    assert world.send(ALICE, Choose(1, 0)) == Code.UNKNOWN_DISPUTE
    assert world.send(world.prover, Cut(1, address, [OTHER])) == Code.UNKNOWN_DISPUTE
    assert world.open(1, ALICE, OTHER) == Code.OK
    assert world.send(ALICE, Choose(1, 0)) == Code.NOT_YOUR_TURN
    assert world.send(BOB, Cut(1, address, [OTHER, OTHER])) == Code.NOT_A_PROVER
    assert world.send(world.prover, Cut(1, b"x", [OTHER, OTHER])) == Code.WRONG_TYPE
    for roots in ([], [OTHER], [OTHER] * 3, [OTHER, b""]):
        assert world.send(world.prover, Cut(1, address, roots)) == Code.BAD_MOVE
    prove = Prove(1, address, b"", [], [], b"", (0, 0), [])
    assert world.send(world.prover, prove) == Code.NOT_YOUR_TURN
    assert world.send(BOB, prove) == Code.NOT_A_PROVER
    assert world.defend(1, ALICE) == Code.OK
    assert world.send(ALICE, prove) == Code.NOT_YOUR_TURN
    again = Cut(1, address, [OTHER, OTHER])
    assert world.send(world.prover, again) == Code.NOT_YOUR_TURN
    for part in (-1, 3):
        assert world.send(ALICE, Choose(1, part)) == Code.BAD_MOVE
    assert world.send(BOB, Choose(1, 0)) == Code.UNKNOWN_DISPUTE
    assert world.send(ALICE, Choose(1, 0)) == Code.OK


def at_the_last_step(world: DisputeWorld, part: int = 0) -> Prove:
    """Open a game of alice's over batch 1, choose down to one step, and give the right proof."""
    assert world.open(1, ALICE, OTHER) == Code.OK
    while True:
        game = world.game(1, ALICE)
        assert game is not None
        if game.turn == CHALLENGER:
            assert world.send(ALICE, Choose(1, part)) == Code.OK
        elif game.high - game.low > 1:
            assert world.defend(1, ALICE) == Code.OK
        else:
            move = world.defence(1, ALICE, game)
            assert isinstance(move, Prove)
            return move


def test_a_proof_must_be_of_the_block_that_is_left() -> None:
    world = world_of()
    right = at_the_last_step(world)
    steps = world.posted[1][0]
    block, (first, end) = steps.blocks[0], right.inbox_cursors
    forged = encode(type(block)(block.header, block.payload + b"\x00"))
    lies: list[dict[str, Any]] = [
        {"block": encode(steps.blocks[1])}, {"block": forged}, {"path": right.path[1:]},
        {"path": steps.proof(1)}, {"path": [b""]},
        *({"inbox_cursors": one} for one in (
            (first, end + 1), (first - 1, end), (first, -1), (first, 1 << 63), (end, first - 1),
        )),
    ]  # fmt: skip
    for lie in lies:
        assert world.send(world.prover, msgspec.structs.replace(right, **lie)) == Code.BAD_PROOF
    lie_code = world.send(world.prover, msgspec.structs.replace(right, block=b"\xc1"))
    assert lie_code == Code.MALFORMED
    assert world.send(world.prover, right) == Code.OK
    assert _last(world).turn == CHALLENGER and world.ledger.batch(1) is not None


@pytest.mark.parametrize("witness", [b"", b"no witness", "other", "cut", "tail", "large"])
def test_a_witness_that_is_not_of_the_state_loses_at_once(witness: bytes | str) -> None:
    world = world_of()
    right = at_the_last_step(world)
    elsewhere = msgspec.structs.replace(_last(world), low=STEPS_PER_BLOCK, high=STEPS_PER_BLOCK + 1)
    bad = {
        "other": world.defence(1, ALICE, elsewhere),
        "large": msgspec.structs.replace(right, witness=bytes(WITNESS_BYTES + 1)),
        "cut": msgspec.structs.replace(right, witness=right.witness[:-3]),
        "tail": msgspec.structs.replace(right, witness=right.witness + b"x"),
    }
    if isinstance(witness, bytes):
        move = msgspec.structs.replace(right, witness=witness)
    else:
        shown = bad[witness]
        assert isinstance(shown, Prove)
        move = msgspec.structs.replace(right, witness=shown.witness)
    assert world.send(world.prover, move) == Code.OK
    assert world.ledger.batch(1) is None and world.burnt() == BOND - BOND // 2


def _last(world: DisputeWorld) -> DisputeLeaf:
    game = world.game(1, ALICE)
    assert game is not None
    return game


def test_who_runs_out_of_time_loses() -> None:
    world = world_of()
    assert world.open(1, ALICE, OTHER) == Code.OK
    world.wait(RULES.clock_ms + 1_000)  # the prover says nothing
    assert world.ledger.batch(1) is None and world.burnt() == BOND - BOND // 2
    world.post()
    assert world.open(1, ALICE, OTHER) == Code.OK and world.defend(1, ALICE) == Code.OK
    world.wait(RULES.clock_ms + 1_000)  # the challenger says nothing
    assert world.ledger.batch(1) is not None and world.game(1, ALICE) is None


def test_clocks_run_only_for_the_side_to_move() -> None:
    world = world_of()
    assert world.open(1, ALICE, OTHER) == Code.OK
    world.wait(15_000)
    assert world.defend(1, ALICE) == Code.OK
    world.wait(15_000)
    assert world.send(ALICE, Choose(1, 0)) == Code.OK
    game = world.game(1, ALICE)
    assert game is not None
    assert all(0 < left < 6_000 for left in game.clocks_ms)
    world.wait(6_000)
    assert world.ledger.batch(1) is None


def test_losing_one_game_protects_no_batch() -> None:
    """A colluding challenger loses on purpose; an honest one takes the batch down all the same."""
    world = world_of(lie_at=4)
    assert world.open(1, BOB, OTHER) == Code.OK
    assert world.open(1, ALICE) == Code.OK
    assert world.defend(1, BOB) == Code.OK
    assert world.send(BOB, Choose(1, 0)) == Code.OK  # the part that is right
    for _ in range(99):
        assert world.defend(1, BOB) == Code.OK
        if world.send(BOB, Choose(1, 0)) == Code.NOT_YOUR_TURN:
            break
    assert world.game(1, BOB) is not None and world.ledger.batch(1) is not None
    shown = world.game(1, BOB)
    assert shown is not None and shown.shown
    assert world.send(BOB, _garbage(world, BOB)) == Code.OK and world.game(1, BOB) is None
    assert world.ledger.batch(1) is not None
    world.play(1, ALICE)
    assert world.ledger.batch(1) is None
    assert world.burnt() == STAKE - STAKE // 2 + BOND - BOND // 2


def _garbage(world: DisputeWorld, key: Key) -> Prove:
    """A witness of nothing for the step that is left, with the right block."""
    steps, game = world.posted[1][0], world.game(1, key)
    assert game is not None
    index = game.low // STEPS_PER_BLOCK
    return Prove(
        1, key.address, b"nothing", [], [], encode(steps.blocks[index]), steps.cursors_of(index),
        steps.proof(index),
    )  # fmt: skip


def test_one_witness_counts_in_every_game_that_came_down_to_it() -> None:
    world = world_of()
    for key in (BOB, CAROL):
        assert world.open(1, key, OTHER) == Code.OK
    move = at_the_last_step(world)
    for key in (BOB, CAROL):
        while (game := world.game(1, key)) is not None:
            if game.turn == CHALLENGER:
                assert world.send(key, Choose(1, 0)) == Code.OK
            elif game.high - game.low > 1:
                assert world.defend(1, key) == Code.OK
            else:
                break
    assert world.ledger.disputes.count == 3
    assert world.send(world.prover, move) == Code.OK
    for key in (ALICE, BOB, CAROL):
        game = world.game(1, key)
        assert game is not None and game.shown and game.turn == CHALLENGER
        assert world.send(key, _garbage(world, key)) == Code.OK
    assert world.ledger.disputes.count == 0 and world.ledger.batch(1) is not None
    assert world.burnt() == 3 * (STAKE - STAKE // 2)


def test_a_removed_batch_takes_its_descendants_and_their_games_along() -> None:
    world = world_of(lie_at=1)
    world.order()
    assert world.post() == 2
    world.order()
    assert world.post() == 3
    prover, bob = world.balance(world.prover), world.balance(BOB)
    assert world.open(2, BOB, OTHER) == Code.OK and world.open(1, CAROL, OTHER) == Code.OK
    assert world.open(1, ALICE) == Code.OK
    world.play(1, ALICE)
    assert world.ledger.shard_leaf().batch == 0 and world.ledger.disputes.count == 0
    assert world.ledger.batch(2) is None and world.ledger.batch(3) is None
    assert world.balance(BOB) == bob  # nobody's fault
    assert world.balance(world.prover) == prover + 2 * BOND
    assert world.burnt() == BOND - BOND // 2


def test_games_on_several_batches_go_on_at_once() -> None:
    world = world_of()
    for _ in range(2):
        world.order()
        world.post()
    world.order()
    world.order()
    assert world.post(mint(1)) == 4
    assert world.open(1, BOB, OTHER) == Code.OK and world.open(4, ALICE) == Code.OK
    world.play(4, ALICE)
    assert world.ledger.shard_leaf().batch == 3
    assert world.game(1, BOB) is not None


def test_a_header_that_contradicts_its_state_falls_at_once() -> None:
    world = world_of(blocks=3)
    world.wait(1_000)
    world.order()
    entry = OutboxEntry(0, 16, ALICE.address, 5_000_000)
    assert world.post(outbox=[entry]) == 2  # the root is right, the withdrawal is invented
    alice = world.balance(ALICE)
    proof = encode(world.truth.prove(4, [COUNTERS_KEY]))
    assert world.send(ALICE, Contradict(1, proof)) == Code.BAD_PROOF
    assert world.send(ALICE, Contradict(2, b"")) == Code.MALFORMED
    assert world.send(ALICE, Contradict(2, proof)) == Code.OK
    assert world.ledger.shard_leaf().batch == 1
    assert world.balance(ALICE) == alice + BOND // 2 and world.burnt() == BOND - BOND // 2


def test_a_header_that_agrees_cannot_be_contradicted() -> None:
    world = world_of(blocks=3)
    proof = encode(world.truth.prove(3, [COUNTERS_KEY]))
    assert world.send(ALICE, Contradict(1, proof)) == Code.NOTHING_DISPUTED
    more = encode(world.truth.prove(3, [COUNTERS_KEY, account_key(16)]))
    assert world.send(ALICE, Contradict(1, more)) == Code.BAD_PROOF
    world.wait(RULES.window_ms)
    assert world.send(ALICE, Contradict(1, proof)) == Code.WINDOW_OVER


def test_a_block_judges_so_many_steps_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes, "PROOFS_PER_BLOCK", 1)
    world = world_of()
    first = at_the_last_step(world)
    assert world.open(1, BOB, OTHER) == Code.OK
    while True:
        game = world.game(1, BOB)
        assert game is not None
        if game.turn == CHALLENGER:
            assert world.send(BOB, Choose(1, 1)) == Code.OK
        elif game.high - game.low > 1:
            assert world.defend(1, BOB) == Code.OK
        else:
            break
    second = world.defence(1, BOB, game)
    assert isinstance(second, Prove)
    nonce = world.ledger.account(world.prover.address).nonce
    outcome = world.block(
        world.sign(world.prover, first, nonce), world.sign(world.prover, second, nonce + 1)
    )
    assert [one.code for one in outcome.results] == [Code.OK, Code.BUSY]
    assert world.send(world.prover, second) == Code.OK


def test_a_ledger_from_its_leaves_plays_on() -> None:
    world = world_of(lie_at=5)
    assert world.open(1, ALICE) == Code.OK and world.open(1, BOB, OTHER) == Code.OK
    assert world.defend(1, ALICE) == Code.OK
    world.ledger = Ledger(world.chain, world.ledger.leaves(), world.ledger.height)
    assert world.ledger.disputes.count == 2 and world.ledger.disputes.holds(1)
    world.play(1, ALICE)
    assert world.ledger.batch(1) is None


def test_cuts_are_even_and_end_in_single_steps() -> None:
    assert cuts(0, 7, 3) == [2, 4] and cuts(3, 5, 3) == [4] and cuts(3, 4, 3) == []
    block = STEPS_PER_BLOCK
    assert cuts(0, 7 * block, 3) == [2 * block, 4 * block]
    assert cuts(block, 3 * block, 3) == [2 * block]
    assert cuts(block, 2 * block, 4) == [block + n * block // 4 for n in (1, 2, 3)]
