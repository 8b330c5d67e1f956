"""Batched changes to a state tree: one pass over the sorted keys, each touched branch hashed once.

The pass keeps the path from the root to the last key. The next key leaves the subtrees that end
before it (they are complete, so they are hashed there and then) and descends from where the paths
part. No recursion, so hostile keys cannot exhaust the stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from mypy_extensions import i64

from protocol.errors import Code, Rejected, SafetyViolation
from protocol.tree_node import (
    BRANCH_TAG,
    EMPTY,
    EMPTY_ROOT,
    LEAF_HEADS,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Branch,
    Child,
    leaf_key,
    pivot_between,
)

_PADDING = bytes(MAX_KEY_BYTES)
"""Behind a key: a walk may look at bytes that the key does not have."""


def apply_changes(
    top: Branch,
    changes: Mapping[bytes, bytes | None],
    undo: dict[bytes, bytes | None] | None = None,
) -> int:
    """Apply a batch below `top` and rehash; returns the change in the number of leaves.

    None deletes; deleting an absent key does nothing. `undo`, an empty dict, takes the batch that
    leads back: the value before (None: absent) of every key that changed. Raises SafetyViolation
    for a key or value outside its bounds (before any change) or keys that are not prefix-free, and
    Rejected (bad_proof) if a change reaches a hidden subtree; after either of the last two the tree
    must be thrown away.
    """
    path: list[Branch] = [top]
    lefts: list[int] = [0]  # indices in `path` where the path turned left
    limit = top.image[65:]  # pivot of the last of those: keys from here on leave its left subtree
    added = 0
    for key in _checked_keys(changes):
        while key >= limit:
            _leave(path, lefts.pop())
            limit = path[lefts[-1]].image[65:]
        known, turns = len(path), len(lefts)
        met = _descend(path, lefts, key + _PADDING)
        if met is None:
            # behind the bits that tell keys apart, a walk of an absent key has to follow the
            # pivots: where those lead is what a proof shows
            del path[known:], lefts[turns:]
            met = _descend_by_pivots(path, lefts, key)
        value = changes[key]
        head = LEAF_HEADS[len(key)] + key
        present = met.startswith(head)
        if undo is not None and (present or value is not None):
            undo[key] = met[len(head) :] if present else None
        if present:
            if value is not None:
                leaf = head + value
                _replace(path[-1], met, leaf, sha256(leaf).digest())
            else:
                _delete(path, lefts, met)
                added -= 1
        elif value is not None:
            _insert(path, lefts, known, met, key, head + value)
            added += 1
        else:
            del path[known:], lefts[turns:]
            continue
        limit = path[lefts[-1]].image[65:]
    _leave(path, 0)
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


def _descend(path: list[Branch], lefts: list[int], bits: bytes) -> bytes | None:
    """Extend the path by the bits of a padded key; returns the leaf at its end, None if hidden."""
    node = path[-1]
    while True:
        _ = node.image  # asked for early: memory brings it while the walk waits for the child
        if bits[node.at] & node.mask:
            child = node.right
        else:
            lefts.append(len(path) - 1)
            child = node.left
        if not isinstance(child, Branch):
            return child
        path.append(child)
        node = child


def _descend_by_pivots(path: list[Branch], lefts: list[int], key: bytes) -> bytes:
    """The same by comparing with the pivots; raises Rejected where the end is hidden."""
    node = path[-1]
    while True:
        if key >= node.image[65:]:
            child = node.right
        else:
            lefts.append(len(path) - 1)
            child = node.left
        if child is None:
            raise Rejected(Code.BAD_PROOF, f"state key {key.hex()} lies outside the witness")
        if not isinstance(child, Branch):
            return child
        path.append(child)
        node = child


def _leave(path: list[Branch], turn: int) -> None:
    """Hash the branches behind index `turn` of the path, from its end up, and drop them."""
    node = path[-1]
    for at in range(len(path) - 2, turn - 1, -1):
        hash_ = sha256(node.image).digest()
        parent = path[at]
        image = parent.image
        if parent.left is node:
            parent.image = BRANCH_TAG + hash_ + image[33:]
        else:
            parent.image = image[:33] + hash_ + image[65:]
        node = parent
    del path[turn + 1 :]


def _replace(parent: Branch, old: Child, new: Child, hash_: bytes) -> None:
    """Put a child, and its hash, in the place of another one."""
    image = parent.image
    if parent.left is old:
        parent.left = new
        parent.image = BRANCH_TAG + hash_ + image[33:]
    else:
        parent.right = new
        parent.image = image[:33] + hash_ + image[65:]


def _delete(path: list[Branch], lefts: list[int], leaf: bytes) -> None:
    """Remove the leaf at the end of the path; its sibling takes the place of their branch."""
    if len(path) == 1:
        _replace(path[0], leaf, EMPTY, EMPTY_ROOT)
        return
    node = path.pop()
    _trim(lefts, len(path))
    if node.left is leaf:
        _replace(path[-1], node, node.right, node.image[33:65])
    else:
        _replace(path[-1], node, node.left, node.image[1:33])


def _insert(
    path: list[Branch], lefts: list[int], known: int, met: bytes, key: bytes, leaf: bytes
) -> None:
    """Put a leaf where its key leaves the subtree that holds the leaf it `met`.

    The first `known` nodes of the path may hold earlier changes of this batch; the others, passed
    on this descent only, are unchanged and need no hash.
    """
    hash_ = sha256(leaf).digest()
    if not met:
        _replace(path[-1], met, leaf, hash_)
        return
    other = leaf_key(met)
    after = key > other
    pivot = pivot_between(other, key) if after else pivot_between(key, other)
    at: i64 = len(pivot) - 1
    last: i64 = pivot[-1]
    mask = last & -last
    displaced: Child = met
    node = path[-1]
    while node.at > at or (node.at == at and node.mask < mask):
        if len(path) <= known:
            _leave(path, len(path) - 2)
        else:
            path.pop()
        displaced = node
        node = path[-1]
    _trim(lefts, len(path))
    beside = node.image[1:33] if node.left is displaced else node.image[33:65]
    if after:
        new = Branch(BRANCH_TAG + beside + hash_ + pivot, at, mask, displaced, leaf)
    else:
        new = Branch(BRANCH_TAG + hash_ + beside + pivot, at, mask, leaf, displaced)
    if node.left is displaced:
        node.left = new
    else:
        node.right = new
    path.append(new)


def _trim(lefts: list[int], length: int) -> None:
    """Drop the indices that a path of this length no longer has."""
    while lefts[-1] >= length:
        lefts.pop()
