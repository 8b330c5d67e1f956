"""What a proof says that an account is worth is what the engine says, over random trading."""

from __future__ import annotations

import random

import msgspec
import pytest
from engine_world import START_MS, World, market
from rich_flow import RichFlow

from execution.exit_value import position_prefix, read_exit_value
from node.rebuild import exit_proofs
from protocol.actions import BUY, IOC, SELL, Order
from protocol.errors import Code, Rejected
from protocol.genesis import Genesis
from protocol.settlement import FIRST_ACCOUNT, master_of
from prover.tree import StateTree, TreeProof

SEEDS = range(640, 646)


@pytest.mark.parametrize("seed", SEEDS)
def test_proven_worth_is_the_engines_equity(seed: int) -> None:
    flow = RichFlow(seed)
    compared = positions = expired = 0
    for _ in range(8):
        for _ in range(15):
            flow.block(6, 5)
        engine = flow.world.engine
        state, tree = engine.state, StateTree(engine.leaves().items())
        cash = engine.total_cash_uusd()
        for number in sorted(state.accounts):
            if number < FIRST_ACCOUNT:
                continue
            genesis = flow.world.chain.genesis
            proofs = exit_proofs(tree, number, len(genesis.markets))
            worth = read_exit_value(genesis, tree.root, number, *proofs)
            assert worth.shard_cash_uusd == cash
            assert worth.address == state.accounts[master_of(number)].address
            held = [e for e in state.accounts[number].exposures.values() if e.size_lots]
            positions += len(held)
            expired += any(state.markets[e.market].settled_ticks for e in held)
            if not any(state.markets[e.market].stale for e in held):
                assert worth.value_uusd == engine.account_view(0, number).equity_uusd
                compared += 1
    print("seed", seed, "compared", compared, "positions", positions, "expired", expired)
    assert compared > 20 and positions > 20


@pytest.mark.parametrize("seed", range(650, 653))
def test_a_proof_that_hides_or_changes_anything_is_refused(seed: int) -> None:
    flow = RichFlow(seed)
    for _ in range(40):
        flow.block(6, 5)
    engine, rng = flow.world.engine, random.Random(seed)
    state, tree = engine.state, StateTree(engine.leaves().items())
    number = max(
        (n for n in state.accounts if n >= FIRST_ACCOUNT),
        key=lambda n: sum(bool(e.size_lots) for e in state.accounts[n].exposures.values()),
    )
    genesis, root = flow.world.chain.genesis, tree.root
    right = exit_proofs(tree, number, len(genesis.markets))
    assert len(right[0].leaves) > 1
    everything = [key for key, _ in tree.iterate()]
    for place, proof in enumerate(right):

        def refused(wrong: TreeProof, root: bytes = root, place: int = place) -> None:
            proofs = (wrong, right[1]) if place == 0 else (right[0], wrong)
            refuse(genesis, root, number, proofs)

        keys = [key for key, _ in proof.leaves]
        for hidden in keys:
            refused(tree.prove([key for key in keys if key != hidden]))
        refused(tree.prove([*keys, rng.choice([key for key in everything if key not in keys])]))
        refused(proof, root=bytes(32))
        refused(right[1 - place])
        for index, (key, value) in enumerate(proof.leaves):
            forged = list(proof.leaves)
            at = rng.randrange(len(value))
            forged[index] = (key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
            refused(msgspec.structs.replace(proof, leaves=tuple(forged)))
    fewer = tree.prove_first(position_prefix(number), len(right[0].leaves) - 1)
    refuse(genesis, root, number, (fewer, right[1]))


def refuse(genesis: Genesis, root: bytes, number: int, proofs: tuple[TreeProof, TreeProof]) -> None:
    with pytest.raises(Rejected) as refused:
        read_exit_value(genesis, root, number, *proofs)
    assert refused.value.code == Code.BAD_PROOF


def test_positions_of_an_expired_future_count_at_its_settlement_price() -> None:
    end_ms = START_MS + 60_000
    world = World([market(0, expires_ms=end_ms, settle_window_ms=20_000)], block_ms=5_000)
    world.mark(1_000)
    world.one(16, Order(0, SELL, 1_000, 40))
    world.one(17, Order(0, BUY, 1_000, 40, IOC))
    while world.time_ms < end_ms + 5_000:
        world.mark(1_200)
    state, tree = world.engine.state, StateTree(world.engine.leaves().items())
    assert state.markets[0].settled_ticks == 1_200
    worth = []
    for number in (16, 17):
        assert state.accounts[number].exposures[0].size_lots, "it was settled already"
        proofs = exit_proofs(tree, number, 1)
        found = read_exit_value(world.chain.genesis, tree.root, number, *proofs).value_uusd
        worth.append(found)
        assert found == world.engine.account_view(0, number).equity_uusd
    assert worth[1] - worth[0] > 2 * 40 * 190 * 1_000
