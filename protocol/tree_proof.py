"""Proofs against a state root, and their verification without the tree.

A proof is the part of the tree that answers the question, in preorder; every other subtree is one
hash. A root determines, for each key, either its value or its absence: the walk by
pivots is a function of the key, and each opened branch's pivot is hashed and checked against the
keys below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import Annotated, Any, NamedTuple

import msgspec

from protocol import tree_walk
from protocol.codec import Decoder, Wire
from protocol.errors import Code, Rejected
from protocol.tree_node import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Branch,
    Child,
    branch,
    leaf_image,
    leaf_key,
    leaf_value,
    pivot_at,
    position_of,
    top,
)
from protocol.tree_walk import subtree

MAX_PROOF_LEAVES = 655_360
"""Most leaves in one proof."""

MAX_PROOF_STEPS = 4_194_304
"""Most nodes (branches, leaves, hidden subtrees) in one proof."""

HIDDEN, LEAF, BRANCH = 0, 1, 2
"""Entries of `TreeProof.shape`; a branch at bit position p is ``BRANCH + p``."""

_MAX_ENTRY = BRANCH + 8 * MAX_KEY_BYTES - 1

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
KeyBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_KEY_BYTES)]
ValueBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_VALUE_BYTES)]
Entry = Annotated[int, msgspec.Meta(ge=0, le=_MAX_ENTRY)]


class TreeProof(Wire, frozen=True):
    """Part of a state tree in preorder.

    `shape`: one entry per node (`HIDDEN`, `LEAF` or ``BRANCH + bit position``), empty for the empty
    tree; `hashes`: of the hidden subtrees, in order (32 bytes each); `leaves`: (key, value) of the
    open leaves, in key order.
    """

    shape: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MAX_PROOF_STEPS)]
    hashes: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=MAX_PROOF_STEPS)]
    leaves: Annotated[
        tuple[tuple[KeyBytes, ValueBytes], ...], msgspec.Meta(max_length=MAX_PROOF_LEAVES)
    ]


decode_tree_proof: Decoder[TreeProof] = Decoder(TreeProof)
"""Canonical bytes to a proof; raises Rejected."""


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_PROOF, text)


Opened = tuple[Child, bytes, bytes]
"""A node, its hash, and a key below it (empty: all hidden)."""


def open_proof(root: bytes, proof: TreeProof) -> Branch:
    """The holder above the opened tree, checked against `root`; raises Rejected (bad_proof)."""
    shape, hashes, leaves = proof.shape, proof.hashes, proof.leaves
    if len(shape) > MAX_PROOF_STEPS or len(leaves) > MAX_PROOF_LEAVES:
        raise _bad(f"a proof has at most {MAX_PROOF_LEAVES} leaves and {MAX_PROOF_STEPS} nodes")
    if len(hashes) + len(leaves) != len(shape) - sum(entry >= BRANCH for entry in shape):
        raise _bad("the shape does not match the hashes and leaves")
    # backwards through a preorder, children stand on the stack when their branch comes
    stack: list[Opened] = []
    next_hash, next_leaf = len(hashes), len(leaves)
    for entry in reversed(shape):
        if entry == HIDDEN and next_hash:
            next_hash -= 1
            if len(hashes[next_hash]) != 32:
                raise _bad("a hash has 32 bytes")
            stack.append((None, hashes[next_hash], b""))
        elif entry == LEAF and next_leaf:
            next_leaf -= 1
            key, value = leaves[next_leaf]
            if not 0 < len(key) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
                raise _bad("a key or a value is outside its bounds")
            image = leaf_image(key, value)
            stack.append((image, sha256(image).digest(), key))
        elif BRANCH <= entry <= _MAX_ENTRY and len(stack) >= 2:
            left, right = stack.pop(), stack.pop()
            stack.append(_open_branch(entry - BRANCH, left, right))
        else:
            raise _bad("the shape is not a tree")
    if len(stack) > 1 or next_hash or next_leaf:
        raise _bad("the shape is not one tree")
    holder = top(stack[0][0], stack[0][1]) if stack else top()
    if holder.left_hash != root:
        raise _bad("the proof belongs to another root")
    return holder


def _open_branch(position: int, left: Opened, right: Opened) -> Opened:
    """The branch over two opened children, after checking that their keys belong there."""
    key = left[2] or right[2]
    if not key:
        raise _bad("an open branch without an open leaf")
    if 8 * len(key) <= position:
        raise _bad("a branch lies beyond the end of a key below it")
    pivot = pivot_at(key, position)
    for side, (node, _, below) in enumerate((left, right)):
        if not below:
            continue
        if isinstance(node, Branch) and position_of(node.pivot) <= position:
            raise _bad("a branch is not below its parent")
        if 8 * len(below) <= position or pivot_at(below, position) != pivot:
            raise _bad("a key does not share its branch's prefix")
        if (below >= pivot) != bool(side):
            raise _bad("a key stands on the wrong side of its branch")
    node = branch(left[1], right[1], pivot, left[0], right[0])
    return node, sha256(node.image).digest(), key


class Leaf(NamedTuple):
    """What stands at the end of a walk: the image of a leaf, `EMPTY`, or None where it is hidden.

    `key` is None where it is hidden, and ``b""`` in an empty tree.
    """

    image: bytes | None

    @property
    def key(self) -> Any:
        return None if self.image is None else leaf_key(self.image)

    @property
    def value(self) -> bytes:
        return leaf_value(self.image) if self.image else b""


def descend(holder: Branch, key: bytes) -> Leaf:
    """The leaf (or hidden subtree, or empty tree) where the walk of `key` ends."""
    return Leaf(tree_walk.descend(holder, key))


def leaves_below(node: Child) -> Iterator[Leaf]:
    """The leaves below a node in key order; hidden subtrees come as they are, the empty not."""
    return map(Leaf, tree_walk.leaves_below(node))


def value_at(leaf: Leaf, key: bytes) -> bytes | None:
    """Value of a key whose walk ended at `leaf`; raises Rejected where that is hidden."""
    if leaf.image is None:
        raise _bad(f"the proof does not cover key {key.hex()}")
    return leaf.value if key and leaf.key == key else None


def _first(holder: Branch, prefix: bytes, k: int) -> tuple[list[Leaf], list[Leaf]]:
    """The leaves that had to be open to answer, and those of them in the answer."""
    if k < 1:
        raise _bad("a first-k proof shows at least one leaf")
    seen: list[Leaf] = []
    for leaf in leaves_below(subtree(holder, prefix)):
        if leaf.key is None:
            raise _bad(f"the proof hides leaves under prefix {prefix.hex()}")
        seen.append(leaf)
        if not leaf.key.startswith(prefix):
            return seen, []
        if len(seen) == k:
            break
    return seen, seen


def _all_used(proof: TreeProof, used: int) -> None:
    """One question has one proof: nothing in it may be superfluous."""
    if used != len(proof.leaves) or (not used and len(proof.shape) > 1):
        raise _bad("the proof shows more than was asked")


def verify_proof(
    root: bytes, proof: TreeProof, keys: Collection[bytes]
) -> dict[bytes, bytes | None]:
    """Value of each key under `root`, None where it is absent; raises Rejected (bad_proof)."""
    holder = open_proof(root, proof)
    values: dict[bytes, bytes | None] = {}
    used: set[bytes] = set()
    for key in keys:
        leaf = descend(holder, key)
        values[key] = value_at(leaf, key)
        used.add(leaf.key or b"")
    _all_used(proof, len(used - {b""}))
    return values


def verify_first(root: bytes, proof: TreeProof, prefix: bytes, k: int) -> list[tuple[bytes, bytes]]:
    """The first `k` leaves under `prefix` in key order, with nothing skipped.

    Fewer than `k` come back only where there are no more. Raises Rejected (bad_proof).
    """
    seen, found = _first(open_proof(root, proof), prefix, k)
    _all_used(proof, len(seen))
    return [(leaf.key, leaf.value) for leaf in found]
