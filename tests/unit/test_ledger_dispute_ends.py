"""How games on the ledger end: false witnesses, roots of nothing, clocks; who is told of them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispute_world import RULES, DisputeWorld, mint
from ledger_world import key_of

from execution.leaves import COUNTERS_KEY, account_key
from protocol.codec import encode
from protocol.dispute import CHALLENGER, STEPS_PER_BLOCK, Contradict, Prove
from protocol.errors import Code
from prover.game import Player
from prover.tree import StateTree
from prover.witness_maker import make

ALICE, BOB, CAROL = key_of("alice"), key_of("bob"), key_of("carol")
OTHER = bytes(32)


def world_of(blocks: int = 7, lie_at: int | None = None) -> DisputeWorld:
    """One batch of so many blocks, with a lie in one of them."""
    world = DisputeWorld()
    world.fill(blocks)
    world.post(None if lie_at is None else mint(lie_at))
    return world


def test_a_prover_is_told_which_games_wait_for_it_the_shortest_clock_first() -> None:
    world = world_of()
    world.order()
    world.post()
    prover, waiting = world.prover.public, world.ledger.disputes.waiting
    assert waiting(prover, 9) == []
    assert world.open(1, BOB, OTHER) == Code.OK
    world.wait(2_000)
    assert world.open(2, ALICE, OTHER) == Code.OK and world.open(1, CAROL, OTHER) == Code.OK
    games = [(1, BOB.address), (2, ALICE.address), (1, CAROL.address)]
    assert waiting(prover, 9) == games and waiting(prover, 2) == games[:2]
    assert waiting(ALICE.public, 9) == []
    assert world.defend(1, BOB) == Code.OK  # now it is the challenger's move
    assert waiting(prover, 9) == games[1:]


def test_a_state_that_leads_to_the_lie_but_was_never_agreed_on_does_not_save_it() -> None:
    """The defender shows a state before the last step in which the money was there already."""
    world = world_of(lie_at=6)
    assert world.open(1, ALICE) == Code.OK
    while True:
        game = world.game(1, ALICE)
        assert game is not None
        if game.turn == CHALLENGER:
            assert world.challenge(1, ALICE) == Code.OK
        elif game.high - game.low > 1:
            assert world.defend(1, ALICE) == Code.OK
        else:
            break
    steps, trace = world.posted[1]
    right = world.defence(1, ALICE, game)
    index, number = divmod(game.low, STEPS_PER_BLOCK)
    assert isinstance(right, Prove) and index == 6
    with Player(world.chain, trace).walk(steps, index) as walked, trace.at(6) as tree:
        walked.to(number)
        before = dict(tree.iterate())
    rich = StateTree({**before, account_key(16): dict(trace.leaves(7))[account_key(16)]}.items())
    assert rich.root == game.roots[-1]
    witness = make(world.chain, rich, steps.step(index, number))
    move = msgspec.structs.replace(right, witness=witness)
    assert world.send(world.prover, move) == Code.OK
    assert world.ledger.batch(1) is None


def test_a_root_of_no_state_is_contradicted_by_what_it_lacks() -> None:
    world = DisputeWorld()
    world.fill(2)
    tree = StateTree([one for one in world.truth.leaves(2) if one[0] != COUNTERS_KEY])
    world.post(root=tree.root)
    proof = encode(tree.prove([COUNTERS_KEY]))
    assert world.send(ALICE, Contradict(1, proof)) == Code.OK
    assert world.ledger.batch(1) is None
    tree.update({COUNTERS_KEY: b"\xc1"})
    world.post(root=tree.root)
    assert world.send(ALICE, Contradict(1, encode(tree.prove([COUNTERS_KEY])))) == Code.OK
    assert world.ledger.batch(1) is None


def test_only_those_whose_clock_ran_out_are_judged() -> None:
    world = world_of()
    for key in (BOB, ALICE):
        assert world.open(1, key, OTHER) == Code.OK and world.defend(1, key) == Code.OK
        world.wait(12_000)
    assert world.game(1, BOB) is None and world.game(1, ALICE) is not None
    world.wait(RULES.clock_ms)
    assert world.game(1, ALICE) is None and world.ledger.batch(1) is not None
