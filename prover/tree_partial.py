"""A state tree opened from a proof: enough to execute a step on its witness.

What the proof does not cover cannot be touched. Updates are kept as net changes over the opened
tree, so that what the proof showed (the absence of a neighbour, say) stays known after a delete.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.errors import Code, Rejected
from protocol.tree_proof import TreeProof, descend, leaves_below, open_proof, value_at
from protocol.tree_walk import subtree
from prover.tree_update import apply_changes


class PartialTree:
    """Reads, first-k reads and updates as the whole tree gives them, or Rejected (bad_proof)."""

    __slots__ = ("_changes", "_holder", "_proof", "_root", "_root_before")

    def __init__(self, root: bytes, proof: TreeProof) -> None:
        """Open `proof` against `root`; raises Rejected (bad_proof)."""
        self._holder = open_proof(root, proof)
        self._proof = proof
        self._root_before = self._root = root
        self._changes: dict[bytes, bytes | None] = {}

    @property
    def root(self) -> bytes:
        """Root after the updates so far (32 bytes)."""
        return self._root

    def get(self, key: bytes) -> bytes | None:
        """Value of a key, None where it is provably absent."""
        if key in self._changes:
            return self._changes[key]
        return value_at(descend(self._holder, key), key)

    def update(self, changes: Mapping[bytes, bytes | None]) -> bytes:
        """Apply changes (None deletes) and return the new root; nothing changes if it raises.

        A new key must not begin, or be begun by, a key deleted since the tree was opened either.
        """
        net = {**self._changes, **changes}
        holder = open_proof(self._root_before, self._proof)
        # deletes last: until then every walk still ends at a leaf that the proof opened
        gone = [key for key, value in net.items() if value is None]
        present = [key for key in gone if value_at(descend(holder, key), key) is not None]
        apply_changes(holder, {key: value for key, value in net.items() if value is not None})
        apply_changes(holder, dict.fromkeys(present))
        self._changes = net
        self._root = holder.left_hash
        return self._root

    def first(self, prefix: bytes, k: int) -> list[tuple[bytes, bytes]]:
        """The first `k` leaves under a prefix in key order, fewer if there are provably no more."""
        # a new key belongs to the gap around the leaf where its walk ends
        gaps: dict[bytes, list[bytes]] = {}
        new: list[bytes] = []
        for key, value in self._changes.items():
            if value is not None and key.startswith(prefix):
                gaps.setdefault(descend(self._holder, key).key, []).append(key)
                new.append(key)
        found: list[tuple[bytes, bytes]] = []
        shown = list(leaves_below(subtree(self._holder, prefix)))
        opened = [leaf.key for leaf in shown if leaf.key is not None]
        if not shown or (opened and not opened[0].startswith(prefix)):
            return [(key, value) for key in sorted(new)[:k] if (value := self.get(key)) is not None]
        for leaf in shown:
            if len(found) >= k:
                break
            if leaf.key is None:
                raise Rejected(Code.BAD_PROOF, f"the proof hides leaves under {prefix.hex()}")
            for key in sorted({leaf.key, *gaps.get(leaf.key, ())}):
                value = self.get(key)
                if value is not None:
                    found.append((key, value))
        return found[:k]
