"""Walks down a state tree: to a key, to the keys under a prefix, and along the leaves.

All of them compare with the pivots, which makes the end of a walk a function of tree and key, also
for a key that is absent: that is what a proof of absence opens.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.tree_node import Branch, Child


def descend(holder: Branch, key: bytes) -> bytes | None:
    """Image of the leaf where the walk of `key` ends, `EMPTY`, or None for a hidden subtree."""
    node = holder.left
    while isinstance(node, Branch):
        node = node.left if key < node.image[65:] else node.right
    return node


def subtree(holder: Branch, prefix: bytes) -> Child:
    """The node above all keys that begin with `prefix`, if there are any."""
    node = holder.left
    while isinstance(node, Branch) and node.at < len(prefix):
        node = node.left if prefix < node.image[65:] else node.right
    return node


def leaves_below(node: Child) -> Iterator[bytes | None]:
    """Images of the leaves below a node in key order, None for a hidden subtree; the empty tree
    has none."""
    stack: list[Child] = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, Branch):
            stack.append(node.right)
            stack.append(node.left)
        elif node is None or node:
            yield node


def walk(holder: Branch, first: bytes) -> tuple[bytes | None, list[Child], list[Child]]:
    """Where the walk of `first` ends, and the subtrees beside it: smaller keys, greater keys.

    Both lists go downwards, so the last one with greater keys comes next in key order.
    """
    node = holder.left
    below: list[Child] = []
    above: list[Child] = []
    while isinstance(node, Branch):
        if first < node.image[65:]:
            above.append(node.right)
            node = node.left
        else:
            below.append(node.left)
            node = node.right
    return node, below, above
