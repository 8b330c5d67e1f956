"""Proofs against a state root, and their verification without the tree.

A proof is the part of the tree that answers the question, in preorder; every other subtree is one
hash. A root determines, for each key, either its value or its absence: the walk by
pivots is a function of the key, and each opened branch's pivot is hashed and checked against the
keys below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any

import msgspec

from protocol.codec import Decoder, Wire
from protocol.errors import Code, Rejected
from protocol.tree_node import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Node,
    branch_hash,
    leaf_hash,
    pivot_at,
    position_of,
    top,
)

MAX_PROOF_LEAVES = 65_536
"""Most leaves in one proof."""

MAX_PROOF_STEPS = 1_048_576
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


def open_proof(root: bytes, proof: TreeProof) -> Node:
    """The holder above the opened tree, checked against `root`; raises Rejected (bad_proof)."""
    shape, hashes, leaves = proof.shape, proof.hashes, proof.leaves
    if len(shape) > MAX_PROOF_STEPS or len(leaves) > MAX_PROOF_LEAVES:
        raise _bad(f"a proof has at most {MAX_PROOF_LEAVES} leaves and {MAX_PROOF_STEPS} nodes")
    if len(hashes) + len(leaves) != len(shape) - sum(entry >= BRANCH for entry in shape):
        raise _bad("the shape does not match the hashes and leaves")
    # backwards through a preorder, children stand on the stack when their branch comes;
    # beside each node, a key below it (empty: all hidden)
    stack: list[tuple[Node, bytes]] = []
    next_hash, next_leaf = len(hashes), len(leaves)
    for entry in reversed(shape):
        if entry == HIDDEN and next_hash:
            next_hash -= 1
            if len(hashes[next_hash]) != 32:
                raise _bad("a hash has 32 bytes")
            stack.append((Node(hashes[next_hash], None, None, None), b""))
        elif entry == LEAF and next_leaf:
            next_leaf -= 1
            key, value = leaves[next_leaf]
            if not 0 < len(key) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
                raise _bad("a key or a value is outside its bounds")
            stack.append((Node(leaf_hash(key, value), None, key, value), key))
        elif BRANCH <= entry <= _MAX_ENTRY and len(stack) >= 2:
            left, right = stack.pop(), stack.pop()
            stack.append(_open_branch(entry - BRANCH, left, right))
        else:
            raise _bad("the shape is not a tree")
    holder = top(stack[0][0] if stack else None)
    if len(stack) > 1 or next_hash or next_leaf:
        raise _bad("the shape is not one tree")
    if holder.right.hash != root:
        raise _bad("the proof belongs to another root")
    return holder


def _open_branch(
    position: int, left: tuple[Node, bytes], right: tuple[Node, bytes]
) -> tuple[Node, bytes]:
    """The branch over two opened children, after checking that their keys belong there."""
    key = left[1] or right[1]
    if not key:
        raise _bad("an open branch without an open leaf")
    if 8 * len(key) <= position:
        raise _bad("a branch lies beyond the end of a key below it")
    pivot = pivot_at(key, position)
    for child, (node, below) in enumerate((left, right)):
        if not below:
            continue
        if node.pivot is not None and position_of(node.pivot) <= position:
            raise _bad("a branch is not below its parent")
        if 8 * len(below) <= position or pivot_at(below, position) != pivot:
            raise _bad("a key does not share its branch's prefix")
        if (below >= pivot) != bool(child):
            raise _bad("a key stands on the wrong side of its branch")
    return Node(branch_hash(left[0].hash, right[0].hash, pivot), pivot, left[0], right[0]), key


def descend(holder: Node, key: bytes) -> Node:
    """The leaf (or hidden subtree, or empty tree) where the walk of `key` ends."""
    node: Node = holder.right
    while (pivot := node.pivot) is not None:
        node = node.left if key < pivot else node.right
    return node


def subtree(holder: Node, prefix: bytes) -> Node:
    """The node above all keys that begin with `prefix`, if there are any."""
    node: Node = holder.right
    size = len(prefix)
    while (pivot := node.pivot) is not None and len(pivot) <= size:
        node = node.left if prefix < pivot else node.right
    return node


def leaves_below(node: Node) -> Iterator[Node]:
    """The leaves below a node in key order; hidden subtrees come as they are, the empty not."""
    stack = [node]
    while stack:
        node = stack.pop()
        if node.pivot is not None:
            stack.append(node.right)
            stack.append(node.left)
        elif node.left != b"":
            yield node


def value_at(leaf: Node, key: bytes) -> bytes | None:
    """Value of a key whose walk ended at `leaf`; raises Rejected where that is hidden."""
    if leaf.left is None:
        raise _bad(f"the proof does not cover key {key.hex()}")
    value: bytes = leaf.right
    return value if key and leaf.left == key else None


def _first(holder: Node, prefix: bytes, k: int) -> tuple[list[Node], list[Node]]:
    """The leaves that had to be open to answer, and those of them in the answer."""
    if k < 1:
        raise _bad("a first-k proof shows at least one leaf")
    seen: list[Node] = []
    for leaf in leaves_below(subtree(holder, prefix)):
        if leaf.left is None:
            raise _bad(f"the proof hides leaves under prefix {prefix.hex()}")
        seen.append(leaf)
        if not leaf.left.startswith(prefix):
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
    used: set[Any] = set()
    for key in keys:
        leaf = descend(holder, key)
        values[key] = value_at(leaf, key)
        used.add(leaf.left or None)
    _all_used(proof, len(used - {None}))
    return values


def verify_first(root: bytes, proof: TreeProof, prefix: bytes, k: int) -> list[tuple[bytes, bytes]]:
    """The first `k` leaves under `prefix` in key order, with nothing skipped.

    Fewer than `k` come back only where there are no more. Raises Rejected (bad_proof).
    """
    seen, found = _first(open_proof(root, proof), prefix, k)
    _all_used(proof, len(seen))
    return [(leaf.left, leaf.right) for leaf in found]
