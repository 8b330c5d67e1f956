"""The state tree: every leaf of the engine's state under one root.

Resting orders sit under ``market || side || price || sequence``, bids complemented, so the best
order is the leftmost and a first-k proof shows that nothing better was skipped. See
`protocol.tree_node` for the hashes and `protocol.tree_proof` for verification.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

from protocol.errors import Code, Rejected, SafetyViolation
from protocol.tree_node import (
    EMPTY,
    EMPTY_ROOT,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Branch,
    Child,
    leaf_key,
    leaf_value,
    position_of,
    top,
)
from protocol.tree_proof import (
    BRANCH,
    HIDDEN,
    LEAF,
    MAX_PROOF_LEAVES,
    TreeProof,
    verify_first,
    verify_proof,
)
from protocol.tree_walk import descend, leaves_below, subtree, walk
from prover.tree_update import apply_changes

__all__ = [
    "EMPTY_ROOT",
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "StateTree",
    "TreeProof",
    "verify_first",
    "verify_proof",
]


class StateTree:
    """A mutable binary radix tree over prefix-free byte keys, committed to by SHA-256.

    Keys have 1 to `MAX_KEY_BYTES` bytes, values up to `MAX_VALUE_BYTES`. No key may be a prefix of
    another, of the tree or of the same batch. Depth is bounded by the bits of the longest key.
    """

    __slots__ = ("_holder", "_size")

    def __init__(self, leaves: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Build from leaves in any order; a key that comes twice is a SafetyViolation."""
        pairs = list(leaves)
        changes: dict[bytes, bytes | None] = dict(pairs)
        if len(changes) != len(pairs):
            raise SafetyViolation("a state key comes twice")
        self._holder = top()
        self._size = 0
        self.update(changes)

    def update(
        self,
        changes: Mapping[bytes, bytes | None],
        undo: dict[bytes, bytes | None] | None = None,
    ) -> bytes:
        """Apply a batch and return the new root (32 bytes); None deletes.

        Deleting an absent key does nothing. `undo`, an empty dict, takes the batch that leads back.
        Raises SafetyViolation for a key or value out of bounds, or for keys that are not
        prefix-free; the tree is unusable after the latter.
        """
        self._size += apply_changes(self._holder, changes, undo)
        return self.root

    @property
    def root(self) -> bytes:
        """Root of the tree (32 bytes); `EMPTY_ROOT` without leaves."""
        return self._holder.left_hash

    def __len__(self) -> int:
        return self._size

    def get(self, key: bytes) -> bytes | None:
        """Value of a key, None if it is absent."""
        leaf = descend(self._holder, key)
        return leaf_value(leaf) if leaf and leaf_key(leaf) == key else None

    def iterate(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The leaves whose key begins with `prefix`, in key order; do not update meanwhile."""
        for leaf in _all_leaves(subtree(self._holder, prefix)):
            key = leaf_key(leaf)
            if not key.startswith(prefix):
                return
            yield key, leaf_value(leaf)

    def prove(self, keys: Iterable[bytes]) -> TreeProof:
        """One proof of the value or the absence of each key; raises Rejected if it is too large."""
        return _prove(self._holder, sorted(set(keys)))

    def prove_first(self, prefix: bytes, k: int) -> TreeProof:
        """Proof of the first `k` ≥ 1 leaves under `prefix`, or of all if there are fewer."""
        if k < 1:
            raise SafetyViolation("a first-k proof shows at least one leaf")
        shown: list[bytes] = []
        for leaf in _all_leaves(subtree(self._holder, prefix)):
            shown.append(leaf_key(leaf))
            if len(shown) == k or not shown[-1].startswith(prefix):
                break
        return _prove(self._holder, shown)

    def iterate_from(self, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The leaves with a key at or above `first`, in key order; do not update meanwhile."""
        end, _, above = walk(self._holder, first)
        if end and leaf_key(end) >= first:
            yield leaf_key(end), leaf_value(end)
        for beside in reversed(above):
            for leaf in _all_leaves(beside):
                yield leaf_key(leaf), leaf_value(leaf)

    def prove_range(self, first: bytes, limit: int, max_bytes: int | None = None) -> TreeProof:
        """Proof of consecutive leaves from the first key at or above `first` on.

        It ends with the tree, after `limit` ≥ 1 leaves, or with the leaf that brings keys and
        values to `max_bytes` together. See `protocol.tree_range.verify_range`.
        """
        if limit < 1:
            raise SafetyViolation("a range proof shows at least one leaf")
        end, _, _ = walk(self._holder, first)
        shown = [leaf_key(end)] if end and leaf_key(end) < first else []
        size = 0
        for count, (key, value) in enumerate(self.iterate_from(first), 1):
            shown.append(key)
            size += len(key) + len(value)
            if count == limit or (max_bytes is not None and size >= max_bytes):
                break
        return _prove(self._holder, shown)


def _all_leaves(node: Child) -> Iterator[bytes]:
    """Images of the leaves below a node of a whole tree, in key order."""
    return (leaf for leaf in leaves_below(node) if leaf is not None)


def _prove(holder: Branch, keys: list[bytes]) -> TreeProof:
    """The tree opened along the walks of the sorted keys."""
    if len(keys) > MAX_PROOF_LEAVES:
        raise Rejected(Code.BAD_PROOF, f"a proof shows at most {MAX_PROOF_LEAVES} leaves")
    shape: list[int] = []
    hashes: list[bytes] = []
    leaves: list[tuple[bytes, bytes]] = []
    stack = [(holder.left, holder.left_hash, 0, len(keys))]
    if holder.left == EMPTY:
        stack.clear()
    while stack:
        node, hash_, low, high = stack.pop()
        if low == high:
            shape.append(HIDDEN)
            hashes.append(hash_)
        elif isinstance(node, Branch):
            pivot = node.pivot
            shape.append(BRANCH + position_of(pivot))
            split = bisect_left(keys, pivot, low, high)
            stack.append((node.right, node.right_hash, split, high))
            stack.append((node.left, node.left_hash, low, split))
        elif node is not None:
            shape.append(LEAF)
            leaves.append((leaf_key(node), leaf_value(node)))
    return TreeProof(tuple(shape), tuple(hashes), tuple(leaves))
