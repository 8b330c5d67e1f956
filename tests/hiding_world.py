"""A ledger on which a prover hides somebody's order from a taker."""

from __future__ import annotations

from dispute_world import RULES, DisputeWorld
from duel_world import LyingPlayer, changes_on
from ledger_world import key_of
from witness_world import Block

from execution.engine import Engine
from execution.steps import Stage
from protocol.actions import BUY, SELL, Order
from protocol.genesis import Chain
from protocol.keys import verify
from prover.step_input import StepInput
from prover.steps import walk
from prover.tree import StateTree
from prover.witness import execute
from sim.lying_play import hiding

ALICE, BOB = key_of("alice"), key_of("bob")
LOTS = 10


def trading(rests: int = 0, chain: Chain | None = None) -> DisputeWorld:
    """A world in which bob buys from alice in the last block. Alice has `rests` more orders."""
    world = DisputeWorld(chain=chain)
    world.fill(2)
    more = [
        world.act(ALICE, *(Order(0, SELL, 600_100, 1, client_id=first + n) for n in range(1, 101)))
        for first in range(0, rests, 100)
    ]
    world.order(world.act(ALICE, Order(0, SELL, 600_000, LOTS)), *more, inbox_height=0)
    assert len(world.engine.state.accounts[16].orders) == 1 + rests
    world.order(world.act(BOB, Order(0, BUY, 600_000, LOTS)), inbox_height=0)
    return world


def traded(rests: int = 0, chain: Chain | None = None) -> tuple[DisputeWorld, LyingPlayer]:
    """The world of `trading`, and who says that bob found nobody."""
    world = trading(rests, chain)
    tree = StateTree(world.truth.leaves(3))
    cursor, result = world.cursors[4], world.truth.roots([4])[0]
    step = StepInput(world.log.blocks[3], [], cursor, 0)
    assert cursor == world.cursors[3]
    block = Block(world.chain, tree, step, result, world.changes[3])
    plan = block.step.steps(Engine.restore(world.chain, tree.iterate())).plan
    number = next(n for n, one in enumerate(plan) if one.stage == Stage.TAKING)
    with walk(world.chain, tree, block.step) as walked:
        walked.to(number)
        taking = block.step._replace(number=number)
        changed = taking.run(Engine.restore(world.chain, tree.iterate()))
        witness = hiding(world.chain, tree, taking, {16}, changed)
        said = changes_on(world.chain, witness, taking, verify)
        assert said != changed and execute(world.chain, tree.root, witness, taking)
    liar = LyingPlayer(block, number, said, witness, verify)
    liar.sections = RULES.sections
    return world, liar


def lied(rests: int = 0, chain: Chain | None = None) -> DisputeWorld:
    """The prover hides alice's orders from bob."""
    world, liar = traded(rests, chain)
    world.post(upto=3)
    assert world.post(lambda _, changes: liar.net) == 2
    world.players[2] = liar
    return world
