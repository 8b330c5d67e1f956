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

In memory a node is its *image*, the bytes that its hash is of: a leaf is nothing else, a branch has
its two children beside it. So the hash of a node stands in the image of its parent, and a path is
rehashed without a look at the nodes beside it, which at a million leaves are in no cache.
"""

from __future__ import annotations

from hashlib import sha256

from mypy_extensions import i64

from protocol.errors import SafetyViolation

MAX_KEY_BYTES = 80
"""Longest key; also bounds the depth of the tree (640)."""

MAX_VALUE_BYTES = 65_536
"""Longest value of a leaf."""

EMPTY_ROOT = sha256(b"trilemma/state-tree/empty").digest()
"""Root of a tree without leaves."""

BRANCH_TAG = b"\x03"
LEAF_HEADS = tuple(b"\x02" + bytes((length,)) for length in range(MAX_KEY_BYTES + 1))
"""By length of the key: what a leaf's image begins with."""

BEYOND = b"\xff" * (MAX_KEY_BYTES + 1)
"""Above every key."""

ABOVE_BITS = 256
"""Mask of the holder above the root: no byte has this bit."""

EMPTY = b""
"""In the place of a leaf: the tree is empty."""

_BYTES = tuple(bytes((value,)) for value in range(256))


class Branch:
    """A branch: its image, its children, and the bit by which their keys part.

    `image` is ``0x03 || hash(left) || hash(right) || pivot``; within an update the hash of a child
    that was touched is stale. A child is a branch, the image of a leaf, `EMPTY`, or None for a
    hidden subtree (only in a tree opened from a proof). Keys with ``key[at] & mask`` go right.
    """

    __slots__ = ("at", "image", "left", "mask", "right")

    def __init__(self, image: bytes, at: i64, mask: i64, left: Child, right: Child) -> None:
        self.image: bytes = image
        self.at: i64 = at
        self.mask: i64 = mask
        self.left: Child = left
        self.right: Child = right

    @property
    def left_hash(self) -> bytes:
        """Hash of the left child; of the holder above the root, the root."""
        return self.image[1:33]

    @property
    def right_hash(self) -> bytes:
        """Hash of the right child."""
        return self.image[33:65]

    @property
    def pivot(self) -> bytes:
        """The smallest key that can stand on the right."""
        return self.image[65:]


Child = Branch | bytes | None


def branch(left_hash: bytes, right_hash: bytes, pivot: bytes, left: Child, right: Child) -> Branch:
    """A branch out of its children, their hashes (32 bytes each) and its pivot."""
    last = pivot[-1]
    image = BRANCH_TAG + left_hash + right_hash + pivot
    return Branch(image, len(pivot) - 1, last & -last, left, right)


def top(root: Child = EMPTY, root_hash: bytes = EMPTY_ROOT) -> Branch:
    """The holder above the root: its pivot is above every key, so all go left, to the root."""
    return Branch(BRANCH_TAG + root_hash + bytes(32) + BEYOND, 0, ABOVE_BITS, root, None)


def leaf_image(key: bytes, value: bytes) -> bytes:
    """What the hash of a leaf is of."""
    return LEAF_HEADS[len(key)] + key + value


def leaf_key(image: bytes) -> bytes:
    """Key of a leaf; ``b""`` for `EMPTY`."""
    return image[2 : 2 + image[1]] if image else b""


def leaf_value(image: bytes) -> bytes:
    """Value of a leaf."""
    return image[2 + image[1] :]


def pivot_between(low: bytes, high: bytes) -> bytes:
    """Pivot of the branch where two keys, `low` < `high`, part.

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
