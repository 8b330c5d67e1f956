"""Keys and batches chosen to hurt the tree: chains as deep as can be, near misses, absent keys."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

import pytest
from tree_world import Leaves, apply_to_model, naive_root

from protocol.tree_node import MAX_KEY_BYTES
from protocol.tree_range import verify_range
from prover.tree import EMPTY_ROOT, StateTree, verify_first, verify_proof
from prover.tree_partial import PartialTree

DEPTH_MAX = 8 * MAX_KEY_BYTES


def chain() -> list[bytes]:
    """Zero and all powers of two: every key parts from zero at a bit of its own."""
    powers = [1 << bit for bit in range(DEPTH_MAX)]
    return [number.to_bytes(MAX_KEY_BYTES, "big") for number in (0, *powers)]


def chain_root(values: dict[bytes, bytes]) -> bytes:
    """The root over zero and powers of two, from below: each branch has one leaf on its right."""
    keys = sorted(values)
    assert keys[0] == bytes(MAX_KEY_BYTES)
    hashes = [sha256(b"\x02\x50" + key + values[key]).digest() for key in keys]
    root = hashes[0]
    for key, leaf in zip(keys[1:], hashes[1:], strict=True):
        root = sha256(b"\x03" + root + leaf + key.rstrip(b"\0")).digest()
    return root


def depth(tree: StateTree, key: bytes) -> int:
    """How many branches stand above a key that is there."""
    return len(tree.prove([key]).shape) // 2


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_has_the_depth_of_its_bits_and_the_root_of_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    zero, *others = chain()
    model = {zero: b"z"}
    tree = StateTree(model.items())
    deepest = 0
    for _ in range(15):
        changes: dict[bytes, bytes | None] = {
            key: rng.choice([None, b"", rng.randbytes(3)])
            for key in rng.sample(others, rng.choice([1, 20, 300, 640]))
        }
        changes[zero] = rng.randbytes(2)
        apply_to_model(model, changes)
        assert tree.update(changes) == chain_root(model), f"seed {seed}"
        assert depth(tree, zero) == len(model) - 1 <= DEPTH_MAX
        deepest = max(deepest, len(model) - 1)
    assert deepest > 400
    tree.update(dict.fromkeys(others, b"v"))
    assert depth(tree, zero) == DEPTH_MAX


@pytest.mark.parametrize("seed", range(10))
def test_no_keys_make_the_tree_deeper_than_their_bits(seed: int) -> None:
    rng = random.Random(seed)
    base = rng.randbytes(MAX_KEY_BYTES)
    number = int.from_bytes(base, "big")
    flips = [number ^ 1 << bit for bit in range(DEPTH_MAX)]
    twice = [number ^ 1 << rng.randrange(640) ^ 1 << rng.randrange(640) for _ in range(500)]
    keys = {one.to_bytes(MAX_KEY_BYTES, "big") for one in [number, *flips, *twice]}
    tree = StateTree((key, b"") for key in keys)
    assert depth(tree, base) == DEPTH_MAX
    assert max(depth(tree, key) for key in rng.sample(sorted(keys), 100)) <= DEPTH_MAX


@contextmanager
def few_frames() -> Iterator[None]:
    """Room for a few calls only, so that recursion along a path of 640 branches fails."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 60)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def test_the_deepest_tree_works_without_recursion() -> None:
    keys = chain()
    zero = keys[0]
    with few_frames():
        tree = StateTree((key, b"v") for key in keys)
        full = tree.root
        assert verify_proof(full, tree.prove([zero]), [zero]) == {zero: b"v"}
        assert len(tree.prove([zero]).hashes) == DEPTH_MAX
        proof = tree.prove_first(b"", len(keys))
        assert len(verify_first(full, proof, b"", len(keys))) == len(keys)
        leaves, behind = verify_range(full, tree.prove_range(keys[3], 600), keys[3])
        assert len(leaves) == 600 and behind is not None
        assert len(list(tree.iterate())) == len(list(tree.iterate_from(b""))) == len(keys)
        partial = PartialTree(full, tree.prove(keys))
        assert len(partial.first(b"", 1000)) == len(keys)
        assert partial.update(dict.fromkeys(keys)) == EMPTY_ROOT
        undo: dict[bytes, bytes | None] = {}
        assert tree.update(dict.fromkeys(keys), undo) == EMPTY_ROOT
        assert tree.update(undo) == full
        del tree, partial


def test_deep_trees_are_freed_without_harm() -> None:
    keys = chain()
    roots = set()
    for _ in range(60):
        tree = StateTree((key, b"v") for key in keys)
        partial = PartialTree(tree.root, tree.prove(keys[:3]))
        partial.update({keys[0]: b"w"})
        tree.update({keys[0]: b"w"})
        assert partial.root == tree.root
        roots.add(tree.root)
    assert len(roots) == 1


def neighbour(rng: random.Random, key: bytes) -> bytes:
    """A key of the same length as one that is there, a little or a lot beside it."""
    size = 8 * len(key) - 8  # the first byte says how long a key is
    number = int.from_bytes(key[1:], "big")
    bit = rng.choice([0, rng.randrange(size), size - 1 - rng.randrange(min(size, 10))])
    other = rng.choice([number ^ 1 << bit, number + (1 << bit), number - (1 << bit)])
    return key[:1] + (other % (1 << size)).to_bytes(len(key) - 1, "big")


def hostile_changes(rng: random.Random, model: Leaves) -> dict[bytes, bytes | None]:
    """Deletions, absent ones among them, beside insertions and updates of their neighbours."""
    changes: dict[bytes, bytes | None] = {}
    lengths = [1, 2, 3, 9, 79]
    known = sorted(model)
    for _ in range(rng.choice([2, 10, 40])):
        if known and rng.random() < 0.8:
            at = rng.randrange(len(known))
            keys = known[at : at + rng.randrange(1, 4)]
            keys += [neighbour(rng, rng.choice(keys)) for _ in range(rng.randrange(3))]
        else:
            length = rng.choice(lengths)
            keys = [bytes((length,)) + bytes(rng.choice([0, 255, 128, 1]) for _ in range(length))]
        for key in keys:
            changes[key] = None if rng.random() < 0.6 else rng.randbytes(2)
    return changes


@pytest.mark.parametrize("seed", range(150))
def test_hostile_batches_give_the_root_of_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    tree, model = StateTree(), dict[bytes, bytes]()
    for _ in range(12):
        changes = hostile_changes(rng, model)
        before = tree.root
        partial = PartialTree(before, tree.prove(changes))
        apply_to_model(model, changes)
        assert tree.update(changes) == naive_root(sorted(model.items())), f"seed {seed}"
        assert len(tree) == len(model)
        assert partial.update(changes) == tree.root, f"seed {seed}: witness"


@pytest.mark.parametrize("seed", range(30))
def test_how_changes_are_cut_into_batches_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    model: Leaves = {}
    for _ in range(4):
        apply_to_model(model, hostile_changes(rng, model))
    trees = [StateTree(model.items()) for _ in range(3)]
    changes = hostile_changes(rng, model)
    items = list(changes.items())
    trees[0].update(changes)
    for item in rng.sample(items, len(items)):
        trees[1].update(dict([item]))
    backwards = dict(sorted(items, reverse=True))
    half = len(items) // 2
    for part in (items[:half], items[half:]):
        trees[2].update(dict(part))
    assert len({tree.root for tree in trees}) == 1, f"seed {seed}"
    trees[2].update(backwards)
    assert trees[2].root == trees[0].root
