"""The leaves are the whole state: roots follow from them, and nothing works without one of them."""

from __future__ import annotations

import functools
import random

import pytest
from engine_flow import Flow
from engine_world import World, accept
from rich_flow import RichFlow

from execution import Engine, leaves
from protocol.actions import BUY, SELL
from protocol.errors import SafetyViolation
from prover.tree import StateTree

KINDS = [bytes((kind,)) for kind in b"acdfklmnoprstvwy"]
KINDS += [leaves.CLOCK_KEY, leaves.COUNTERS_KEY, leaves.MONEY_KEY]
KINDS += [leaves.RECEIPTS_KEY, leaves.BACKSTOP_KEY]
"""What leaves begin with, by kind; each one that is global is a kind of its own."""


@functools.cache
def snapshots() -> dict[bytes, tuple[World, dict[bytes, bytes]]]:
    """For each kind a world, and all leaves of some block of it that has leaves of the kind."""
    found: dict[bytes, tuple[World, dict[bytes, bytes]]] = {}
    for seed in range(40, 80):
        flow = RichFlow(seed)
        for number in range(300):
            flow.block(6, 5)
            missing = [kind for kind in KINDS if kind not in found]
            if not missing:
                return found
            if number % 5 == 0 and number > 40:
                everything = flow.world.engine.leaves()
                for kind in missing:
                    if any(key.startswith(kind) for key in everything):
                        found[kind] = flow.world, everything
    raise AssertionError(f"no leaves of the kinds {missing}")


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


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_leaf_the_state_is_another_one_or_none_at_all(kind: bytes) -> None:
    world, everything = snapshots()[kind]
    root = StateTree(everything.items()).root
    for dropped in [key for key in everything if key.startswith(kind)][:40]:
        left = {key: value for key, value in everything.items() if key != dropped}
        assert StateTree(left.items()).root != root
        try:
            twin = Engine.restore(world.chain, left.items(), accept)
        except SafetyViolation:
            continue
        assert twin.leaves() != everything


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_every_leaf_counts(kind: bytes) -> None:
    world, everything = snapshots()[kind]
    rng = random.Random(kind)
    keys = sorted(key for key in everything if key.startswith(kind))
    root = StateTree(everything.items()).root
    for _ in range(60):
        key = rng.choice(keys)
        value = bytearray(everything[key])
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        altered = everything | {key: bytes(value)}
        assert StateTree(altered.items()).root != root
        try:
            twin = Engine.restore(world.chain, altered.items(), accept)
        except SafetyViolation:
            continue
        assert twin.leaves() == altered, "a part of the leaf was ignored"
