"""Range proofs: leaf after leaf from a key on, and no proof that leaves one out."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.tree_node import EMPTY_ROOT, MAX_KEY_BYTES
from protocol.tree_proof import HIDDEN, LEAF, TreeProof, decode_tree_proof
from protocol.tree_range import successor, verify_range
from prover.tree import StateTree


def grown(seed: int, size: int | None = None) -> tuple[random.Random, StateTree, list[bytes]]:
    """A tree whose keys have one length per first byte, many of them close together."""
    rng = random.Random(seed)
    count = rng.randrange(0, 60) if size is None else size
    model: dict[bytes, bytes] = {}
    while len(model) < count:
        kind = rng.randrange(4)
        if rng.random() < 0.5:
            rest = rng.randrange(40).to_bytes(2 + kind, "big")
        else:
            rest = rng.randbytes(2 + kind)
        model[bytes((kind,)) + rest] = rng.randbytes(rng.randrange(12))
    return rng, StateTree(model.items()), sorted(model)


def starts(rng: random.Random, keys: list[bytes]) -> list[bytes]:
    """Keys to begin at: absent ones, present ones, their neighbours, the ends."""
    found = [b"", b"\x00", b"\xff" * (MAX_KEY_BYTES + 1), rng.randbytes(4)]
    for key in rng.sample(keys, min(4, len(keys))):
        found += [key, successor(key), key[:2], key[:-1] + bytes((key[-1] ^ 1,))]
    return found


def rejected(root: bytes, proof: TreeProof, first: bytes) -> bool:
    try:
        verify_range(root, proof, first)
    except Rejected as fault:
        assert fault.code == Code.BAD_PROOF
        return True
    return False


@pytest.mark.parametrize("seed", range(120))
def test_a_range_is_what_the_tree_holds(seed: int) -> None:
    rng, tree, keys = grown(seed)
    for first in starts(rng, keys):
        limit = rng.choice([1, 2, 5, 1000])
        proof = decode_tree_proof(encode(tree.prove_range(first, limit)))
        leaves, behind = verify_range(tree.root, proof, first)
        right = [(key, tree.get(key)) for key in keys if key >= first]
        assert leaves == right[:limit], f"seed {seed}"
        assert list(tree.iterate_from(first)) == right
        assert behind == (successor(leaves[-1][0]) if len(right) > limit else None)


@pytest.mark.parametrize("seed", range(20))
def test_a_tree_can_be_fetched_range_by_range(seed: int) -> None:
    _, tree, _ = grown(seed, 200)
    first: bytes | None = b""
    found: list[tuple[bytes, bytes]] = []
    ranges = 0
    while first is not None:
        proof = tree.prove_range(first, 1000, 60)
        leaves, first = verify_range(tree.root, proof, first)
        sizes = [len(key) + len(value) for key, value in leaves]
        assert first is None or sum(sizes) >= 60 > sum(sizes[:-1])
        found += leaves
        ranges += 1
    assert found == list(tree.iterate()) and len(found) == 200
    assert ranges <= sum(len(key) + len(value) for key, value in found) // 60 + 1


@pytest.mark.parametrize("seed", range(60))
def test_no_other_selection_of_leaves_passes(seed: int) -> None:
    """Opens every other set of leaves that an honest tree could open: the right root, but a leaf is
    hidden in the middle or at an edge, or more is shown than the range."""
    rng, tree, keys = grown(seed, rng_size(seed))
    for first in starts(rng, keys):
        honest = verify_range(tree.root, tree.prove_range(first, 3), first)
        right = [key for key in keys if key >= first]
        for _ in range(30):
            shown = rng.sample(keys, rng.randrange(1, min(6, len(keys)) + 1))
            if rng.random() < 0.5 and honest[0]:
                shown = [key for key, _ in honest[0]]
                shown.remove(rng.choice(shown))
                shown += rng.sample(keys, rng.randrange(0, 2))
            proof = tree.prove(shown) if shown else TreeProof((HIDDEN,), (tree.root,), ())
            if rejected(tree.root, proof, first):
                continue
            leaves, behind = verify_range(tree.root, proof, first)
            run = [key for key, _ in leaves]
            assert run == right[: len(run)], f"seed {seed} first {first.hex()}"
            assert (behind is None) == (len(run) == len(right))
            assert len(leaves) + 1 >= len(proof.leaves), "shows more than one leaf beside the range"


def rng_size(seed: int) -> int:
    return random.Random(seed + 1000).randrange(2, 14)


@pytest.mark.parametrize("seed", range(20))
def test_altered_proofs_fail(seed: int) -> None:
    rng, tree, keys = grown(seed, 12)
    for first in starts(rng, keys)[:8]:
        proof = tree.prove_range(first, 4)
        shape, hashes, leaves = proof.shape, proof.hashes, proof.leaves
        for at, (key, value) in enumerate(leaves):
            rest = leaves[:at], leaves[at + 1 :]
            for leaf in ((), ((key, value + b"x"),), ((key[:-1] + bytes((key[-1] ^ 1,)), value),)):
                assert rejected(
                    tree.root, TreeProof(shape, hashes, rest[0] + leaf + rest[1]), first
                )
        for at, hash_ in enumerate(hashes):
            other = (*hashes[:at], bytes(32), *hashes[at + 1 :])
            assert hash_ != bytes(32) and rejected(
                tree.root, TreeProof(shape, other, leaves), first
            )
        for at in range(len(shape)):
            for entry in (HIDDEN, LEAF, shape[at] + 1):
                if entry != shape[at]:
                    other_shape = (*shape[:at], entry, *shape[at + 1 :])
                    assert rejected(tree.root, TreeProof(other_shape, hashes, leaves), first)
        assert rejected(bytes(32), proof, first)


def test_the_empty_tree_has_one_range() -> None:
    proof = StateTree().prove_range(b"", 5)
    assert proof == TreeProof((), (), ())
    assert verify_range(EMPTY_ROOT, proof, b"") == ([], None)
    assert rejected(StateTree([(b"a", b"")]).root, proof, b"")


def test_the_deepest_tree_works() -> None:
    keys = [bytes(80)] + [(1 << bit).to_bytes(80, "big") for bit in range(640)]
    tree = StateTree((key, b"v") for key in keys)
    leaves, behind = verify_range(tree.root, tree.prove_range(keys[5], 20), keys[5])
    assert [key for key, _ in leaves] == keys[5:25] and behind == successor(keys[24])


def test_a_proof_that_makes_no_headway_is_refused() -> None:
    """Only the leaf below the start is shown though more follow."""
    tree = StateTree((bytes((one,)), b"v") for one in range(0, 40, 2))
    first = b"\x05"
    show: Callable[[list[bytes]], TreeProof] = tree.prove
    assert rejected(tree.root, show([b"\x04"]), first)
    assert not rejected(tree.root, tree.prove_range(first, 1), first)
