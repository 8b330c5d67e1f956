"""Nodes and hashes of the state tree: a compressed binary radix tree over ordered byte keys.

A branch stands only where keys diverge. With ``P`` the bits that all keys below it share, its
*pivot* is ``P``, then a one bit, then zero bits up to the end of the byte: every key on its left is
below the pivot, every key on its right at or above it. The pivot determines ``P`` (its lowest set
bit marks the end), so hashing it commits to the branch's whole key range:

- leaf: ``SHA-256(0x02 || len(key) || key || value)``,
- branch: ``SHA-256(0x03 || hash(left) || hash(right) || pivot)``,
- empty tree: `EMPTY_ROOT`.

The tags differ from those of `protocol.merkle`, so that no root of one structure is one of the
other. Keys are prefix-free (no key begins another), so order by bytes is order in the tree. Depth
is at most the bits of the longest key: 8 · `MAX_KEY_BYTES`.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from protocol.errors import SafetyViolation

MAX_KEY_BYTES = 80
"""Longest key; also bounds the depth of the tree (640)."""

MAX_VALUE_BYTES = 65_536
"""Longest value of a leaf."""

EMPTY_ROOT = sha256(b"trilemma/state-tree/empty").digest()
"""Root of a tree without leaves."""

BRANCH_TAG = b"\x03"
LEAF_HEADS = tuple(b"\x02" + bytes((length,)) for length in range(MAX_KEY_BYTES + 1))
"""By length of the key: what a leaf's hash begins with."""

_BYTES = tuple(bytes((value,)) for value in range(256))


class Node:
    """A branch, a leaf or a hidden subtree; one class keeps the hot loop's attribute access fast.

    - branch: `pivot` set, `left` and `right` are nodes;
    - leaf: `pivot` None, `left` the key, `right` the value;
    - empty tree: `pivot` None, `left` ``b""``;
    - hidden subtree (only in a tree opened from a proof): `pivot` None, `left` None.

    `hash` is the node's hash (32 bytes); within an update that of a touched branch is stale.
    """

    __slots__ = ("hash", "left", "pivot", "right")

    def __init__(self, hash_: bytes, pivot: bytes | None, left: Any, right: Any) -> None:
        self.hash = hash_
        self.pivot = pivot
        self.left = left
        self.right = right


def leaf_hash(key: bytes, value: bytes) -> bytes:
    """Hash of a leaf (32 bytes)."""
    return sha256(LEAF_HEADS[len(key)] + key + value).digest()


def branch_hash(left: bytes, right: bytes, pivot: bytes) -> bytes:
    """Hash of a branch from its children's hashes and its pivot (32 bytes)."""
    return sha256(BRANCH_TAG + left + right + pivot).digest()


def top(root: Node | None = None) -> Node:
    """The holder above the root: pivot ``b""``, so that every key goes right, to the root."""
    return Node(b"", b"", None, root or Node(EMPTY_ROOT, None, b"", b""))


def pivot_between(low: bytes, high: bytes) -> bytes:
    """Pivot of the branch where two keys, `low` < `high`, diverge.

    Raises SafetyViolation if one is a prefix of the other: the tree's keys are prefix-free.
    """
    size = min(len(low), len(high))
    differ = int.from_bytes(low[:size], "big") ^ int.from_bytes(high[:size], "big")
    if not differ:
        raise SafetyViolation(f"state key {low.hex()} is a prefix of state key {high.hex()}")
    from_end = differ.bit_length() - 1
    at = size - 1 - (from_end >> 3)
    return high[:at] + _BYTES[high[at] & -(1 << (from_end & 7))]


def pivot_at(key: bytes, position: int) -> bytes:
    """Pivot of a branch at bit `position` (0 the highest of the first byte) above `key`."""
    at = position >> 3
    mask = 0x80 >> (position & 7)
    return key[:at] + _BYTES[key[at] & -mask | mask]


def position_of(pivot: bytes) -> int:
    """Bit position of the branch with this pivot."""
    last = pivot[-1]
    return 8 * len(pivot) - (last & -last).bit_length()
