"""Proofs of a run of consecutive leaves of a state tree, for whoever downloads one in pieces.

A range proof opens every leaf from the first one at or above a key on, up to some last leaf. Where
the walk of that key ends at a smaller leaf, this one is opened too: it shows that nothing between
the two was left out. Pivots are hashed and bound the keys on both sides, so a hidden subtree left
of the walk holds only smaller keys, and one behind the last open leaf only greater ones.
"""

from __future__ import annotations

from protocol.errors import Code, Rejected
from protocol.tree_node import leaf_key, leaf_value
from protocol.tree_proof import TreeProof, open_proof
from protocol.tree_walk import leaves_below, walk

Leaves = list[tuple[bytes, bytes]]
"""(key, value) in key order."""


def successor(key: bytes) -> bytes:
    """The smallest byte string above `key`; may be one byte longer than any key of a tree."""
    return key + b"\0"


def verify_range(root: bytes, proof: TreeProof, first: bytes) -> tuple[Leaves, bytes | None]:
    """All leaves from `first` up to the last one shown, and where the next range starts.

    The next start is None where there is no leaf behind; otherwise at least one leaf is shown.
    Raises `Rejected` (bad_proof) when a leaf in between could be missing, or when the proof shows
    anything else.
    """
    end, below, above = walk(open_proof(root, proof), first)
    if any(node is not None for node in below):
        raise _bad("the range proof opens leaves before its start")
    if end is None:
        raise _bad("the range proof hides where its start belongs")
    if not end:
        return [], None
    leaves: Leaves = []
    if leaf_key(end) >= first:
        leaves.append((leaf_key(end), leaf_value(end)))
    more = False
    for subtree in reversed(above):
        for leaf in leaves_below(subtree):
            if leaf is None:
                more = True
            elif more:
                raise _bad("the range proof hides leaves between those that it shows")
            else:
                leaves.append((leaf_key(leaf), leaf_value(leaf)))
    if not more:
        return leaves, None
    if not leaves:
        raise _bad("the range proof shows no leaf of its range")
    return leaves, successor(leaves[-1][0])


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_PROOF, text)
