"""The leaves are the whole state: roots follow from them, and nothing works without one of them."""

from __future__ import annotations

import pytest
from engine_flow import Flow
from engine_world import accept

from execution import Engine, leaves
from protocol.actions import BUY, SELL
from protocol.errors import SafetyViolation
from prover.tree import StateTree

KINDS = b"agkmnopr"


def traded(seed: int, blocks: int = 60) -> Flow:
    """A flow after some trading, with leaves of every kind."""
    flow = Flow(seed)
    for _ in range(blocks):
        flow.block(8, 6)
    flow.world.block(flow.prices())
    assert {key[0] for key in flow.world.engine.leaves()} == set(KINDS)
    return flow


@pytest.mark.parametrize("seed", [31, 32])
def test_a_tree_fed_with_changes_is_the_tree_of_all_leaves(seed: int) -> None:
    flow = Flow(seed)
    engine = flow.world.engine
    tree = StateTree(flow.world.mirror.items())
    for number in range(200):
        before = tree.root
        root = tree.update(flow.block(5, 5).changes)
        assert root != before
        if number % 20 == 0:
            everything = engine.leaves()
            assert root == StateTree(everything.items()).root
            assert dict(tree.iterate()) == everything


@pytest.mark.parametrize("seed", [33, 34])
def test_the_orders_of_a_side_stand_in_the_tree_in_their_priority(seed: int) -> None:
    flow = Flow(seed)
    longest = 0
    tree = StateTree(flow.world.mirror.items())
    for number in range(150):
        tree.update(flow.block(5, 5).changes)
        if number % 10:
            continue
        for market in range(3):
            view = flow.world.engine.book_view(0, market, 10_000)
            for side, levels in ((BUY, view.bids), (SELL, view.asks)):
                prefix = leaves.order_key(market, side, 0, 0)[:4]
                queue = [
                    (*leaves.parse_order_key(key)[2:], leaves.decode_order(value).remaining_lots)
                    for key, value in tree.iterate(prefix)
                ]
                prices = list(dict.fromkeys(price for price, _, _ in queue))
                assert prices == [price for price, _, _ in levels]
                for price, lots, count in levels:
                    level = [(number, left) for at, number, left in queue if at == price]
                    assert level == sorted(level) and len(level) == count
                    assert sum(left for _, left in level) == lots
                longest = max(longest, len(queue))
    assert longest > 5


@pytest.mark.parametrize("kind", [bytes((kind,)) for kind in KINDS])
def test_without_a_leaf_the_state_is_another_one_or_none_at_all(kind: bytes) -> None:
    world = traded(35).world
    everything = world.engine.leaves()
    root = StateTree(everything.items()).root
    for dropped in [key for key in everything if key[:1] == kind][:40]:
        left = {key: value for key, value in everything.items() if key != dropped}
        assert StateTree(left.items()).root != root
        try:
            twin = Engine.restore(world.chain, left.items(), accept)
        except SafetyViolation:
            continue
        assert twin.leaves() != everything


@pytest.mark.parametrize("seed", [36])
def test_every_leaf_that_is_lost_or_altered_is_noticed_or_changes_the_root(seed: int) -> None:
    flow = traded(seed)
    everything = flow.world.engine.leaves()
    keys = sorted(everything)
    refused = 0
    for _ in range(150):
        key = flow.rng.choice(keys)
        value = bytearray(everything[key])
        value[flow.rng.randrange(len(value))] ^= 1 << flow.rng.randrange(8)
        altered = everything | {key: bytes(value)}
        try:
            twin = Engine.restore(flow.world.chain, altered.items(), accept)
        except SafetyViolation:
            refused += 1
            continue
        assert twin.leaves() == altered, "a part of the leaf was ignored"
    assert refused
