"""The root commits to all of the state: to every kind of leaf, and to every field of each.

That an engine takes every bit of its leaves for state is shown in `test_engine_leaves.py`, and that
one restored from its leaves goes on byte for byte in `test_engine_random.py`.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import msgspec
import pytest
from rich_flow import RichFlow

from execution import leaves
from protocol.codec import Decoder, Wire, encode
from protocol.events import Result
from prover.tree import StateTree

DECODERS: dict[bytes, Decoder[Any]] = {
    leaves.ACCOUNT: leaves.decode_account,
    leaves.VOTE: leaves.decode_vote,
    leaves.DEAD_MAN: leaves.decode_dead_man,
    leaves.PRICING: leaves.decode_pricing,
    leaves.AGENT: leaves.decode_agent,
    leaves.DISTRESS: leaves.decode_distress,
    leaves.MARKET: leaves.decode_market,
    leaves.NONCE: leaves.decode_nonce,
    leaves.ORDER: leaves.decode_order,
    leaves.POSITION: leaves.decode_position,
    leaves.ORACLE: leaves.decode_oracle,
    leaves.SETTINGS: leaves.decode_settings,
    leaves.TRIGGER: leaves.decode_trigger,
    leaves.VOLUME: leaves.decode_volume,
    leaves.TWAP: leaves.decode_twap,
    leaves.REALISED: leaves.decode_realised,
    leaves.CLOCK_KEY: leaves.decode_clock,
    leaves.COUNTERS_KEY: leaves.decode_counters,
    leaves.MONEY_KEY: leaves.decode_money,
    leaves.RECEIPTS_KEY: leaves.decode_receipts,
    leaves.BACKSTOP_KEY: leaves.decode_backstop,
    leaves.TURN_KEY: leaves.decode_turn,
    leaves.PROGRESS_KEY: leaves.decode_progress,
    leaves.REALISED_NOW: leaves.decode_realised_now,
}
"""By what a leaf's key begins with; each global leaf is a kind of its own."""

RARE: dict[bytes, Wire] = {
    leaves.BACKSTOP_KEY: leaves.BackstopLeaf(1_000),
    leaves.TURN_KEY: leaves.TurnLeaf(5_000, 7),
    leaves.distress_key(3): leaves.DistressLeaf(1_000, [(0, 5, 2_000)]),
    leaves.PROGRESS_KEY: leaves.ProgressLeaf(1, 2, 3, 4, 5, [Result(0)], [9]),
    leaves.realised_now_key(7, 1): leaves.RealisedNowLeaf(-5),
}
"""Leaves that are seldom there, or only between two steps of a block."""


def test_no_kind_of_leaf_is_left_out() -> None:
    named = {value for name, value in vars(leaves).items() if name.endswith("_KEY")}
    assert set(DECODERS) == (set(leaves.KEY_BYTES) - {leaves.GLOBAL}) | named
    defined = [kind for kind in vars(leaves).values() if isinstance(kind, type)]
    kinds = [kind for kind in defined if issubclass(kind, Wire) and kind.__name__.endswith("Leaf")]
    assert len(kinds) == len(DECODERS) == len(set(DECODERS.values()))


@functools.cache
def state() -> dict[bytes, bytes]:
    """All leaves of an exchange in use, with at least one of each kind."""
    flow = RichFlow(140)
    everything: dict[bytes, bytes] = {key: encode(leaf) for key, leaf in RARE.items()}
    for number in range(200):
        flow.block(6, 5)
        if number % 5 == 0:
            everything |= flow.world.engine.leaves()
    return everything


def others(value: Any) -> list[Any]:
    """Values of the same type beside this one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1] if value else [1]
    if isinstance(value, bytes):
        flipped = bytes((value[0] ^ 1,)) + value[1:] if value else b"\x01"
        return [flipped, value[:-1] + bytes((value[-1] ^ 128,)) if value else b"\x02"]
    if isinstance(value, msgspec.Struct):
        names = [field.name for field in msgspec.structs.fields(value)]
        return [
            msgspec.structs.replace(value, **{name: other})
            for name in names
            for other in others(getattr(value, name))
        ]
    if isinstance(value, list | tuple):
        found = [
            [*value[:at], other, *value[at + 1 :]]
            for at in range(len(value))
            for other in others(value[at])
        ]
        found += [list(value[:-1]), list(value[1:])] if len(value) else []
        return [type(value)(one) for one in found]
    raise AssertionError(f"no other value for a {type(value).__name__}")


@pytest.mark.parametrize("kind", DECODERS)
def test_every_field_of_every_leaf_moves_the_root(kind: bytes) -> None:
    everything = state()
    tree = StateTree(everything.items())
    root = tree.root
    keys = [key for key in everything if key.startswith(kind)]
    key = max(keys, key=lambda one: (len(others(DECODERS[kind](everything[one]))), one))
    leaf = DECODERS[kind](everything[key])
    roots, values = {root}, {everything[key]}
    for field in msgspec.structs.fields(leaf):
        instead = others(getattr(leaf, field.name))
        assert instead, f"an empty {field.name} shows nothing; take a leaf that has some"
        for one in instead:
            value = encode(msgspec.structs.replace(leaf, **{field.name: one}))
            values.add(value)
            roots.add(tree.update({key: value}))
            assert tree.update({key: everything[key]}) == root
    assert len(roots) == len(values) > len(msgspec.structs.fields(leaf))


@pytest.mark.parametrize("kind", DECODERS)
def test_every_byte_of_every_key_moves_the_root(kind: bytes) -> None:
    everything = state()
    tree = StateTree(everything.items())
    root = tree.root
    key = max(key for key in everything if key.startswith(kind))
    roots, moves = {root, tree.update({key: None})}, 0
    assert tree.update({key: everything[key]}) == root
    for at in range(1, len(key)):
        for mask in (1, 128):
            moved = key[:at] + bytes((key[at] ^ mask,)) + key[at + 1 :]
            if moved in everything:
                continue
            moves += 1
            roots.add(tree.update({key: None, moved: everything[key]}))
            assert tree.update({moved: None, key: everything[key]}) == root
    assert moves and len(roots) == moves + 2


@pytest.mark.parametrize("seed", [3, 4])
def test_engines_have_one_root_exactly_while_all_their_leaves_agree(seed: int) -> None:
    """Two engines on one flow, until the second one sees other actions."""
    one, other = RichFlow(seed), RichFlow(seed)
    trees = [StateTree(flow.world.mirror.items()) for flow in (one, other)]
    for number in range(120):
        if number == 60:
            other.rng = random.Random(seed + 1000)
        roots = [
            tree.update(flow.block(6, 5).changes)
            for tree, flow in zip(trees, (one, other), strict=True)
        ]
        assert (roots[0] == roots[1]) == (one.world.mirror == other.world.mirror)
        assert (number < 60) <= (roots[0] == roots[1])
    ours, theirs = one.world.engine.leaves(), other.world.engine.leaves()
    differing = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    assert len({key[:1] for key in differing}) > 8, "hardly anything differed"
    tree, roots_seen = trees[0], set[bytes]()
    root = tree.root
    for key in differing:
        roots_seen.add(tree.update({key: theirs.get(key)}))
        assert tree.update({key: ours.get(key)}) == root
    assert root not in roots_seen and len(roots_seen) == len(differing)
    assert tree.update({key: theirs.get(key) for key in differing}) == trees[1].root
