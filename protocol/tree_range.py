"""Proofs of a run of consecutive leaves of a state tree, for whoever downloads one in pieces.

A range proof opens every leaf from the first one at or above a key on, up to some last leaf. Where
the walk of that key ends at a smaller leaf, this one is opened too: it shows that nothing between
the two was left out. Pivots are hashed and bound the keys on both sides, so a hidden subtree left
of the walk holds only smaller keys, and one behind the last open leaf only greater ones.
"""

from __future__ import annotations

from protocol.errors import Code, Rejected
from protocol.tree_node import Node
from protocol.tree_proof import TreeProof, leaves_below, open_proof

Leaves = list[tuple[bytes, bytes]]
"""(key, value) in key order."""


def successor(key: bytes) -> bytes:
    """The smallest byte string above `key`; may be one byte longer than any key of a tree."""
    return key + b"\0"


def walk(holder: Node, first: bytes) -> tuple[Node, list[Node], list[Node]]:
    """Where the walk of `first` ends, and the subtrees beside it: smaller keys, greater keys.

    Both lists go downwards, so the last one with greater keys comes next in key order.
    """
    node: Node = holder.right
    below: list[Node] = []
    above: list[Node] = []
    while (pivot := node.pivot) is not None:
        if first < pivot:
            above.append(node.right)
            node = node.left
        else:
            below.append(node.left)
            node = node.right
    return node, below, above


def verify_range(root: bytes, proof: TreeProof, first: bytes) -> tuple[Leaves, bytes | None]:
    """All leaves from `first` up to the last one shown, and where the next range starts.

    The next start is None where there is no leaf behind; otherwise at least one leaf is shown.
    Raises `Rejected` (bad_proof) when a leaf in between could be missing, or when the proof shows
    anything else.
    """
    end, below, above = walk(open_proof(root, proof), first)
    if any(node.pivot is not None or node.left is not None for node in below):
        raise _bad("the range proof opens leaves before its start")
    if end.left is None:
        raise _bad("the range proof hides where its start belongs")
    if end.left == b"":
        return [], None
    leaves: Leaves = []
    if end.left >= first:
        leaves.append((end.left, end.right))
    more = False
    for subtree in reversed(above):
        for leaf in leaves_below(subtree):
            if leaf.left is None:
                more = True
            elif more:
                raise _bad("the range proof hides leaves between those that it shows")
            else:
                leaves.append((leaf.left, leaf.right))
    if not more:
        return leaves, None
    if not leaves:
        raise _bad("the range proof shows no leaf of its range")
    return leaves, successor(leaves[-1][0])


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_PROOF, text)
