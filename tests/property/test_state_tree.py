from __future__ import annotations

import random
from hashlib import sha256

import pytest
from tree_world import KINDS, Leaves, apply_to_model, naive_root, random_changes

from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.tree_proof import BRANCH, HIDDEN, LEAF, decode_tree_proof
from prover.tree import (
    EMPTY_ROOT,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    StateTree,
    TreeProof,
    verify_first,
    verify_proof,
)
from prover.tree_partial import PartialTree


def grown(seed: int, size: int = 30) -> tuple[random.Random, StateTree, Leaves, object]:
    rng = random.Random(seed)
    make = KINDS[seed % len(KINDS)]
    model = {make(rng): rng.randbytes(rng.randrange(6)) for _ in range(rng.randrange(1, size))}
    return rng, StateTree(model.items()), model, make


@pytest.mark.parametrize("seed", range(80))
def test_batches_give_the_root_of_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    make = KINDS[seed % len(KINDS)]
    tree, model, emptied = StateTree(), dict[bytes, bytes](), 0
    assert tree.root == EMPTY_ROOT
    for _ in range(12):
        changes = random_changes(rng, model, make)
        apply_to_model(model, changes)
        root = tree.update(changes)
        assert root == tree.root == naive_root(sorted(model.items())), f"seed {seed}"
        assert len(tree) == len(model)
        assert list(tree.iterate()) == sorted(model.items())
        emptied += not model
        for key in [*changes, make(rng)]:
            assert tree.get(key) == model.get(key)
    assert StateTree(model.items()).root == tree.root
    tree.update(dict.fromkeys(model))
    assert (tree.root, len(tree), list(tree.iterate())) == (EMPTY_ROOT, 0, [])


@pytest.mark.parametrize("seed", range(40))
def test_iterating_a_prefix_gives_its_keys_in_order(seed: int) -> None:
    rng, tree, model, make = grown(seed)
    assert callable(make)
    for _ in range(10):
        prefix = make(rng)[: rng.randrange(82)]
        expected = sorted(item for item in model.items() if item[0].startswith(prefix))
        assert list(tree.iterate(prefix)) == expected


def test_keys_and_values_out_of_bounds_change_nothing() -> None:
    tree = StateTree([(b"ka", b"1"), (b"kb", b"2")])
    root = tree.root
    for changes in (
        {b"": b"x"},
        {bytes(MAX_KEY_BYTES + 1): b"x"},
        {b"kc": b"x", b"kd": bytes(MAX_VALUE_BYTES + 1)},
    ):
        with pytest.raises(SafetyViolation):
            tree.update(changes)
        assert (tree.root, len(tree)) == (root, 2)
    assert tree.get(b"") is None
    assert StateTree([(bytes(MAX_KEY_BYTES), bytes(MAX_VALUE_BYTES))]).get(bytes(MAX_KEY_BYTES))


@pytest.mark.parametrize(
    "pair", [(b"a", b"ab"), (b"ab", b"a"), (b"\0", b"\0\0"), (b"\xff\0", b"\xff")]
)
def test_a_key_that_begins_another_is_refused(pair: tuple[bytes, bytes]) -> None:
    tree = StateTree([(pair[0], b""), (b"z", b"")])
    with pytest.raises(SafetyViolation, match="prefix"):
        tree.update({pair[1]: b""})
    tree = StateTree([(pair[0], b""), (b"z", b"")])
    root = tree.root
    assert tree.update({pair[1]: None}) == root


def test_a_repeated_key_in_the_bulk_build_is_refused() -> None:
    with pytest.raises(SafetyViolation):
        StateTree([(b"a", b"1"), (b"a", b"1")])


@pytest.mark.parametrize("seed", range(60))
def test_proofs_of_presence_and_absence_verify(seed: int) -> None:
    rng, tree, model, make = grown(seed)
    assert callable(make)
    for _ in range(5):
        keys = [make(rng) for _ in range(rng.randrange(4))]
        keys += rng.sample(sorted(model), rng.randrange(len(model) + 1))
        proof = decode_tree_proof(encode(tree.prove(keys)))
        assert verify_proof(tree.root, proof, keys) == {key: model.get(key) for key in keys}


def test_proofs_of_the_empty_tree() -> None:
    proof = StateTree().prove([b"a"])
    assert verify_proof(EMPTY_ROOT, proof, [b"a", b""]) == {b"a": None, b"": None}
    assert PartialTree(EMPTY_ROOT, proof).get(b"") is None
    assert verify_first(EMPTY_ROOT, StateTree().prove_first(b"a", 3), b"a", 3) == []
    with pytest.raises(Rejected):
        verify_proof(StateTree([(b"a", b"")]).root, proof, [b"a"])


@pytest.mark.parametrize("seed", range(60))
def test_first_k_proofs_verify_and_skip_nothing(seed: int) -> None:
    rng, tree, model, make = grown(seed)
    assert callable(make)
    for _ in range(8):
        check_first(rng, tree, model, rng.choice([make(rng), *model]))


def check_first(rng: random.Random, tree: StateTree, model: Leaves, base: bytes) -> None:
    prefix = base[: rng.choice([0, 1, 2, 4, 16, 79, 80])]
    under = sorted(item for item in model.items() if item[0].startswith(prefix))
    k = rng.randrange(1, len(model) + 3)
    proof = tree.prove_first(prefix, k)
    assert verify_first(tree.root, proof, prefix, k) == under[:k]
    if len(under) > k:
        rejects(lambda p=proof: verify_first(tree.root, p, prefix, k + 1))
    if k > 1 and len(under) >= k:
        rejects(lambda p=proof: verify_first(tree.root, p, prefix, k - 1))
        for skipped in range(k - 1):
            shown = [key for key, _ in under[:k]]
            del shown[skipped]
            hiding = tree.prove(shown)
            rejects(lambda p=hiding: verify_first(tree.root, p, prefix, k))
            rejects(lambda p=hiding: verify_first(tree.root, p, prefix, k - 1))


def test_the_best_bid_is_the_leftmost() -> None:
    def bid(price: int, sequence: int) -> bytes:
        return b"o\0\1\0" + (0xFFFFFFFF - price).to_bytes(4, "big") + sequence.to_bytes(8, "big")

    tree = StateTree((bid(p, s), b"") for p, s in [(9, 4), (10, 3), (10, 2), (8, 1)])
    first = verify_first(tree.root, tree.prove_first(b"o\0\1\0", 3), b"o\0\1\0", 3)
    assert [key for key, _ in first] == [bid(10, 2), bid(10, 3), bid(9, 4)]


def rejects(check: object) -> None:
    assert callable(check)
    with pytest.raises(Rejected) as caught:
        check()
    assert caught.value.code == Code.BAD_PROOF


def alterations(proof: TreeProof, rng: random.Random) -> list[TreeProof]:
    """Every single flipped byte, omission, repetition and swap."""
    out = []
    for at, hash_ in enumerate(proof.hashes):
        rest = proof.hashes[:at], proof.hashes[at + 1 :]
        byte = rng.randrange(32)
        flipped = hash_[:byte] + bytes((hash_[byte] ^ 1 << rng.randrange(8),)) + hash_[byte + 1 :]
        out += [
            TreeProof(proof.shape, rest[0] + part + rest[1], proof.leaves)
            for part in ((flipped,), (), (hash_, hash_), (hash_[:31],), (hash_ + b"\0",))
        ]
    for at in range(len(proof.hashes) - 1):
        hashes = list(proof.hashes)
        hashes[at], hashes[at + 1] = hashes[at + 1], hashes[at]
        out.append(TreeProof(proof.shape, tuple(hashes), proof.leaves))
    for at, (key, value) in enumerate(proof.leaves):
        rest_leaves = proof.leaves[:at], proof.leaves[at + 1 :]
        byte = rng.randrange(len(key))
        other = key[:byte] + bytes((key[byte] ^ 1 << rng.randrange(8),)) + key[byte + 1 :]
        bad = [(other, value), (key, value + b"\0"), (key[:-1], key[-1:] + value), (b"", b"")]
        out += [
            TreeProof(proof.shape, proof.hashes, rest_leaves[0] + (leaf,) + rest_leaves[1])
            for leaf in bad
        ]
        out.append(TreeProof(proof.shape, proof.hashes, rest_leaves[0] + rest_leaves[1]))
    for at, entry in enumerate(proof.shape):
        for part in ((), (entry, entry), (HIDDEN,), (LEAF,), (entry ^ 1,), (entry + 8,), (-1,)):
            if part != (entry,):
                shape = proof.shape[:at] + part + proof.shape[at + 1 :]
                out.append(TreeProof(shape, proof.hashes, proof.leaves))
    return out


@pytest.mark.parametrize("seed", range(40))
def test_altered_proofs_fail(seed: int) -> None:
    rng, tree, model, make = grown(seed, 12)
    assert callable(make)
    keys = [make(rng), *rng.sample(sorted(model), rng.randrange(1, len(model) + 1))]
    proof = tree.prove(keys)
    for altered in alterations(proof, rng):
        rejects(lambda p=altered: verify_proof(tree.root, p, keys))
    rejects(lambda: verify_proof(sha256(tree.root).digest(), proof, keys))
    uncovered = set(model) - {key for key, _ in proof.leaves}
    for key in uncovered:
        rejects(lambda k=key: verify_proof(tree.root, proof, [*keys, k]))
        rejects(lambda k=key: verify_proof(tree.root, tree.prove([*keys, k]), keys))
    prefix = keys[0][:1]
    first = tree.prove_first(prefix, 2)
    for altered in alterations(first, rng):
        rejects(lambda p=altered: verify_first(tree.root, p, prefix, 2))


def forged(*parts: object) -> tuple[bytes, TreeProof]:
    """Root and proof of a tree as a liar builds it: (position, pivot), leaves, in preorder."""
    shape: list[int] = []
    leaves: list[tuple[bytes, bytes]] = []
    todo = list(parts)

    def build() -> bytes:
        part = todo.pop(0)
        assert isinstance(part, tuple)
        if isinstance(part[0], bytes):
            shape.append(LEAF)
            leaves.append(part)
            return sha256(b"\x02" + bytes((len(part[0]),)) + part[0] + part[1]).digest()
        shape.append(BRANCH + part[0])
        left, right = build(), build()
        return sha256(b"\x03" + left + right + part[1]).digest()

    return build(), TreeProof(tuple(shape), (), tuple(leaves))


def test_malformed_trees_are_refused_under_their_own_roots() -> None:
    a, b, c = (b"\x00", b"1"), (b"\x40", b"2"), (b"\x80", b"3")
    outer, inner = (0, b"\x80"), (1, b"\x40")
    good_root, good = forged(outer, inner, a, b, c)
    assert good_root == StateTree([a, b, c]).root
    assert verify_proof(good_root, good, [b"\x00", b"\x40", b"\x80"])[b"\x40"] == b"2"
    for parts in (
        (outer, inner, b, a, c),  # swapped below the inner branch
        (outer, c, inner, a, b),  # swapped below the outer one
        ((1, b"\x40"), a, c),  # c does not share the prefix
        (inner, outer, a, c, b),  # a branch above its ancestor's position
        (outer, a, a),  # one leaf twice
        ((7, b"\x01"), a, b),  # a position where they do not part
        (inner, inner, a, b, b),  # a position twice
        ((8, b"\x00\x80"), a, (b"\x00\x80", b"")),  # a key that begins another
    ):
        root, proof = forged(*parts)
        for keys in ([k for k, _ in proof.leaves], [proof.leaves[0][0]]):
            rejects(lambda r=root, p=proof, k=keys: verify_proof(r, p, k))
        rejects(lambda r=root, p=proof: PartialTree(r, p))


def test_shapes_that_are_no_tree_are_refused() -> None:
    leaf = (b"a", b"1")
    for shape, hashes, leaves in (
        ((BRANCH + 6, LEAF), (), (leaf,)),
        ((LEAF, LEAF), (), (leaf, (b"b", b"2"))),
        ((BRANCH + 6, HIDDEN, HIDDEN), (bytes(32), bytes(32)), ()),
        ((BRANCH + 640, LEAF, HIDDEN), (bytes(32),), (leaf,)),
        ((BRANCH + 8, LEAF, HIDDEN), (bytes(32),), (leaf,)),
        ((HIDDEN,), (), ()),
        ((), (bytes(32),), ()),
    ):
        proof = TreeProof(shape, hashes, leaves)
        rejects(lambda p=proof: verify_proof(EMPTY_ROOT, p, [b"a"]))


@pytest.mark.parametrize("seed", range(80))
def test_a_partial_tree_agrees_with_the_whole(seed: int) -> None:
    rng, tree, model, make = grown(seed)
    assert callable(make)
    keys = [make(rng) for _ in range(3)] + rng.sample(sorted(model), rng.randrange(len(model) + 1))
    partial = PartialTree(tree.root, tree.prove(keys))
    for _ in range(4):
        some = rng.sample(keys, rng.randrange(1, len(keys) + 1))
        changes = {key: None if rng.random() < 0.5 else rng.randbytes(3) for key in some}
        assert partial.update(changes) == tree.update(changes) == partial.root
        assert [partial.get(key) for key in keys] == [tree.get(key) for key in keys]


@pytest.mark.parametrize("seed", range(80))
def test_first_k_on_a_partial_tree_is_right_or_refused(seed: int) -> None:
    rng, tree, model, make = grown(seed)
    assert callable(make)
    keys = [make(rng) for _ in range(3)] + rng.sample(sorted(model), len(model) * 3 // 4)
    whole = rng.random() < 0.5
    partial = PartialTree(tree.root, tree.prove([*keys, *model] if whole else keys))
    for _ in range(4):
        some = rng.sample(keys, rng.randrange(1, len(keys) + 1))
        changes = {key: None if rng.random() < 0.6 else rng.randbytes(3) for key in some}
        partial.update(changes)
        tree.update(changes)
        for _ in range(4):
            prefix, k = rng.choice(keys)[: rng.choice([0, 1, 2, 4, 80])], rng.randrange(1, 8)
            try:
                found = partial.first(prefix, k)
            except Rejected as rejected:
                assert rejected.code == Code.BAD_PROOF
                assert not whole, f"seed {seed}"
                continue
            assert found == list(tree.iterate(prefix))[:k], f"seed {seed}"


def test_absence_stays_known_after_the_neighbour_is_deleted() -> None:
    tree = StateTree([(b"a1", b"x"), (b"b1", b"y"), (b"b2", b"z")])
    partial = PartialTree(tree.root, tree.prove([b"a1"]))
    partial.update({b"a1": None})
    assert partial.get(b"a1") is None
    assert partial.first(b"a", 2) == []
    assert partial.update({b"a1": b"x"}) == tree.root


def test_a_refused_update_leaves_a_partial_tree_as_it_was() -> None:
    tree = StateTree([(b"a1", b"x"), (b"b1", b"y"), (b"b2", b"z")])
    partial = PartialTree(tree.root, tree.prove([b"a1"]))
    rejects(lambda: partial.update({b"a1": b"new", b"b1": None}))
    assert partial.root == tree.root
    assert partial.get(b"a1") == b"x"
    assert partial.update({b"a1": b"new"}) == tree.update({b"a1": b"new"})


def test_a_partial_tree_refuses_what_it_does_not_hold() -> None:
    tree = StateTree((bytes((i,)), b"v") for i in range(0, 64, 2))
    partial = PartialTree(tree.root, tree.prove([b"\x04"]))
    assert partial.get(b"\x04") == b"v"
    assert partial.get(b"\x05") is None
    rejects(lambda: partial.get(b"\x20"))
    rejects(lambda: partial.first(b"", 4))
    rejects(lambda: partial.update({b"\x21": b"x"}))
