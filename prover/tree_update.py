"""Batched changes to a state tree: one pass over the sorted keys, each touched branch hashed once.

The pass keeps the path from the root to the last key. The next key leaves the subtrees that end
before it (they are complete, so they are hashed there and then) and descends from where the paths
part. No recursion, so hostile keys cannot exhaust the stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from protocol.errors import Code, Rejected, SafetyViolation
from protocol.tree_node import (
    BRANCH_TAG,
    EMPTY_ROOT,
    LEAF_HEADS,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Node,
    leaf_hash,
    pivot_between,
)

_BEYOND = b"\xff" * (MAX_KEY_BYTES + 1)
"""Above every key."""


def apply_changes(top: Node, changes: Mapping[bytes, bytes | None]) -> int:
    """Apply a batch below `top` and rehash; returns the change in the number of leaves.

    None deletes; deleting an absent key does nothing. Raises SafetyViolation for a key or value
    outside its bounds (before any change) or keys that are not prefix-free, and Rejected
    (bad_proof) if a change reaches a hidden subtree; after either of the last two the tree must be
    thrown away.
    """
    keys = _checked_keys(changes)
    path = [top]
    lefts: list[int] = []  # indices in `path` where the path turned left
    limit = _BEYOND  # pivot of the last of those: keys from here on leave its left subtree
    added = 0
    for key in keys:
        while key >= limit:
            turn = lefts.pop()
            for node in path[:turn:-1]:
                node.hash = sha256(
                    BRANCH_TAG + node.left.hash + node.right.hash + node.pivot
                ).digest()
            del path[turn + 1 :]
            limit = path[lefts[-1]].pivot if lefts else _BEYOND  # type: ignore[assignment]
        known = len(path)
        node = path[-1]
        pivot = node.pivot
        while True:
            if key < pivot:  # type: ignore[operator]
                lefts.append(len(path) - 1)
                limit = pivot  # type: ignore[assignment]
                node = node.left
            else:
                node = node.right
            pivot = node.pivot
            if pivot is None:
                break
            path.append(node)
        value = changes[key]
        if node.left == key:
            if value is not None:
                node.right = value
                node.hash = sha256(LEAF_HEADS[len(key)] + key + value).digest()
                continue
            _delete(path, lefts, node)
            added -= 1
        elif node.left is None:
            raise Rejected(Code.BAD_PROOF, f"state key {key.hex()} lies outside the witness")
        elif value is not None:
            _insert(path, lefts, known, node, Node(leaf_hash(key, value), None, key, value))
            added += 1
        else:
            continue
        limit = path[lefts[-1]].pivot if lefts else _BEYOND  # type: ignore[assignment]
    _rehash(path, 1)
    return added


def _checked_keys(changes: Mapping[bytes, bytes | None]) -> list[bytes]:
    """The keys in order, after checking the bounds of keys and values."""
    keys = sorted(changes)
    if not keys:
        return keys
    if not keys[0] or max(map(len, keys)) > MAX_KEY_BYTES:
        raise SafetyViolation(f"a state key has 1 to {MAX_KEY_BYTES} bytes")
    if max(map(len, filter(None, changes.values())), default=0) > MAX_VALUE_BYTES:
        raise SafetyViolation(f"a state value has at most {MAX_VALUE_BYTES} bytes")
    return keys


def _rehash(path: list[Node], start: int) -> None:
    """Hash the branches of the path from its end up to index `start`."""
    for node in path[: start - 1 : -1]:
        node.hash = sha256(BRANCH_TAG + node.left.hash + node.right.hash + node.pivot).digest()


def _replace(parent: Node, old: Node, new: Node) -> None:
    if parent.left is old:
        parent.left = new
    else:
        parent.right = new


def _delete(path: list[Node], lefts: list[int], leaf: Node) -> None:
    """Remove the leaf at the end of the path; its sibling takes the place of their branch."""
    if len(path) == 1:
        path[0].right = Node(EMPTY_ROOT, None, b"", b"")
        return
    branch = path.pop()
    while lefts and lefts[-1] == len(path):
        lefts.pop()
    _replace(path[-1], branch, branch.right if branch.left is leaf else branch.left)


def _insert(path: list[Node], lefts: list[int], known: int, met: Node, leaf: Node) -> None:
    """Put `leaf` where its key leaves the subtree that holds the leaf it `met`.

    The first `known` nodes of the path may hold earlier changes of this batch; the others, passed
    on this descent only, are unchanged and need no hash.
    """
    key, other = leaf.left, met.left
    if not other:
        path[-1].right = leaf
        return
    after = key > other
    pivot = pivot_between(other, key) if after else pivot_between(key, other)
    size, bit = len(pivot), pivot[-1] & -pivot[-1]
    displaced = met
    while True:
        below: bytes = path[-1].pivot  # type: ignore[assignment]
        if len(below) < size or (len(below) == size and (below[-1] & -below[-1]) > bit):
            break
        if len(path) <= known:
            _rehash(path, len(path) - 1)
        displaced = path.pop()
        while lefts and lefts[-1] == len(path):
            lefts.pop()
    branch = Node(b"", pivot, displaced, leaf) if after else Node(b"", pivot, leaf, displaced)
    _replace(path[-1], displaced, branch)
    if not after:
        lefts.append(len(path))
    path.append(branch)
