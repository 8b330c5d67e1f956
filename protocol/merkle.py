"""Merkle tree over a list of byte strings (RFC 6962 section 2.1, RFC 9162 section 2.1).

SHA-256; a leaf is hashed behind 0x00, a node behind 0x01, the empty list is the hash of nothing.
Proofs are audit paths from the leaf to the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

EMPTY_LIST_ROOT = sha256(b"").digest()
"""Root of the empty list."""

MAX_LIST_SIZE = 1 << 63
"""Upper bound on the number of leaves that a proof may claim."""


def list_leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf (32 bytes)."""
    return sha256(b"\x00" + leaf).digest()


def list_node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node over two subtrees (32 bytes)."""
    return sha256(b"\x01" + left + right).digest()


def _next_level(level: list[bytes]) -> list[bytes]:
    """The row above: pairs joined, an odd last node carried up unchanged."""
    above = [
        sha256(b"\x01" + left + right).digest()
        for left, right in zip(level[::2], level[1::2], strict=False)
    ]
    if len(level) & 1:
        above.append(level[-1])
    return above


def list_root(leaves: Sequence[bytes]) -> bytes:
    """Merkle tree head of a list (32 bytes)."""
    if not leaves:
        return EMPTY_LIST_ROOT
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def list_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Audit path of the leaf at `index`, from the leaf up (32 bytes each).

    Raises IndexError if there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a list of {len(leaves)}")
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    path: list[bytes] = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _next_level(level)
        index >>= 1
    return path


def list_proofs(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Audit paths of all leaves, in their order; hashes each node once."""
    paths: list[list[bytes]] = [[] for _ in leaves]
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    height = 0
    while len(level) > 1:
        for index, path in enumerate(paths):
            sibling = (index >> height) ^ 1
            if sibling < len(level):
                path.append(level[sibling])
        level = _next_level(level)
        height += 1
    return paths


def verify_list_proof(
    root: bytes, leaf: bytes, index: int, size: int, path: Sequence[bytes]
) -> bool:
    """Whether `leaf` stands at `index` of the list of `size` leaves with this root."""
    return verify_list_hash_proof(root, list_leaf_hash(leaf), index, size, path)


def verify_list_hash_proof(
    root: bytes, leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]
) -> bool:
    """As `verify_list_proof`, from the hash of the leaf (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size <= MAX_LIST_SIZE or len(leaf_hash) != 32:
        return False
    last = size - 1
    current = leaf_hash
    for sibling in path:
        if not last or len(sibling) != 32:
            return False
        if index & 1 or index == last:
            current = list_node_hash(sibling, current)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            current = list_node_hash(current, sibling)
        index >>= 1
        last >>= 1
    return not last and current == root
