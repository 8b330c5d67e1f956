"""How large the witness of a step gets that somebody makes large on purpose, and what there is room
for."""

from __future__ import annotations

import msgspec
import pytest
from dispute_world import RULES
from ledger_world import MARKET, make_chain

from bench.worst_steps import Crowd, figures
from execution.engine import Engine
from execution.steps import Stage
from protocol.dispute import STEPS_PER_BLOCK, WITNESS_BYTES, WITNESS_LEAVES, WITNESS_ROUNDS
from protocol.errors import Code, ConfigError, Rejected
from protocol.genesis import Limits, action_leaves, parse_genesis
from protocol.tree_proof import MAX_PROOF_LEAVES
from prover.steps import walk
from prover.witness import NOTHING, execute, leaf_count, require_larger
from prover.witness_maker import Room

LARGE = 1 << 30


def accept(key: bytes, signature: bytes, digest: bytes) -> bool:
    return True


def shown(case: str, room: Room, accounts: int = 6, orders: int = 200) -> bytes:
    """The witness of the last batch's step in a crowd, within a room; it holds."""
    return last_action(Crowd(accounts, orders, case), room)


def last_action(crowd: Crowd, room: Room) -> bytes:
    step = crowd.step(crowd.last())
    with walk(crowd.rules, crowd.tree, step, accept) as walked:
        plan = step.steps(Engine.restore(crowd.rules, crowd.tree.iterate(), accept)).plan
        number = next(n for n, one in enumerate(plan) if one.stage == Stage.TAKING)
        root, witness = walked.to(number), walked.witness(number, b"", room)
        after = execute(crowd.rules, root, witness, step._replace(number=number), accept)
        assert after == walked.to(number + 1)
        return witness


def test_makers_who_trade_need_not_be_shown_with_all_their_orders() -> None:
    everything = shown("sweep", Room(LARGE, LARGE))
    assert leaf_count(everything) > 6 * 200
    small = shown("sweep", Room(LARGE, leaf_count(everything) - 1))
    assert leaf_count(small) < 100
    few_bytes = shown("sweep", Room(len(everything) - 1, LARGE))
    assert few_bytes == small


def test_nor_with_what_their_other_orders_are_linked_with() -> None:
    everything = leaf_count(shown("linked", Room(LARGE, LARGE)))
    assert leaf_count(shown("linked", Room(LARGE, everything - 1))) < 100


def test_orders_are_shown_that_forbid_a_trade() -> None:
    everything = leaf_count(shown("refused", Room(LARGE, LARGE)))
    assert leaf_count(shown("refused", Room(LARGE, everything))) >= 6 * 200
    with pytest.raises(Rejected, match="too large to be shown") as caught:
        shown("refused", Room(LARGE, 6 * 200 - 100))
    assert caught.value.code == Code.BAD_WITNESS


def test_more_refused_makers_than_can_be_shown_are_not_met() -> None:
    limits = Limits(orders_per_account=200, fills_per_action=40, refusals_per_action=5)
    crowd = Crowd(20, 200, "refused", limits)
    room = Room(LARGE, action_leaves(crowd.rules.genesis))
    assert 20 * 200 > room.leaves > 5 * 200
    assert leaf_count(last_action(crowd, room)) > 5 * 200


@pytest.mark.parametrize("case", ["cancel", "expiries", "switches", "triggers"])
def test_large_steps_of_every_kind_are_shown(case: str) -> None:
    found = figures(case, 4, 150)
    assert found["changed"] > 4 and found["leaves"] > 150


def test_what_an_action_does_under_default_limits_fits() -> None:
    limits = Limits()
    for markets in (1, 4, 64):
        chain = make_chain([], settlement=RULES)
        many = [msgspec.structs.replace(MARKET, market=n) for n in range(markets)]
        genesis = msgspec.structs.replace(chain.genesis, markets=many)
        leaves = action_leaves(genesis)
        assert limits.orders_per_account + limits.fills_per_action < leaves < WITNESS_LEAVES
        assert parse_genesis(msgspec.json.encode(genesis)).genesis == genesis
    # Whoever answers last has room for all that was shown before, and as much again.
    assert MAX_PROOF_LEAVES >= WITNESS_ROUNDS * WITNESS_LEAVES
    assert WITNESS_BYTES // WITNESS_LEAVES >= 100


def test_limits_beyond_what_can_be_shown_are_refused() -> None:
    large = Limits(fills_per_action=5_000)
    with pytest.raises(ConfigError, match=r"lower limits\.fills_per_action"):
        make_chain([], settlement=RULES, limits=large)
    assert make_chain([], limits=large).genesis.limits == large  # nothing can be disputed there
    with pytest.raises(ConfigError, match="a dispute shows"):
        make_chain([], settlement=RULES, limits=Limits(orders_per_account=WITNESS_LEAVES))


def test_limits_for_which_a_dispute_has_not_enough_places_are_refused() -> None:
    many = Limits(triggers_per_block=STEPS_PER_BLOCK)
    with pytest.raises(ConfigError, match=r"lower limits\.triggers_per_block"):
        make_chain([], settlement=RULES, limits=many)
    assert make_chain([], limits=many).genesis.limits == many  # nothing can be disputed there
    with pytest.raises(ConfigError, match="expiries_per_block"):
        make_chain([], settlement=RULES, limits=Limits(expiries_per_block=STEPS_PER_BLOCK))


def test_a_witness_with_too_many_leaves_is_refused() -> None:
    witness = shown("sweep", Room(LARGE, LARGE), 2, 20)
    count = leaf_count(witness)
    assert require_larger(witness, NOTHING, b"", count)
    with pytest.raises(Rejected, match="are the most"):
        require_larger(witness, NOTHING, b"", count - 1)
