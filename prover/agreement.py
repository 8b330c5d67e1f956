"""Whether execution nodes say the same of the same blocks. A pure machine.

The diff of a block is everything that it changed, so nodes whose diffs are equal from some block
on, and whose states were, have equal states. A prover posts what one node says, under its own bond;
what another one says of the same blocks is the only hint, before a challenger's, that it is wrong.
Who of two is right this does not tell: that takes executing the block again.
"""

from __future__ import annotations

from sortedcontainers import SortedDict

WINDOW = 8_192
"""Newest blocks of which it is remembered what was said first."""


class Agreement:
    """What execution nodes, by any name, have said of blocks: a digest of each block's diff."""

    def __init__(self) -> None:
        self.disagreements = 0
        """Blocks and nodes so far of which another node had said something else before."""
        self._said: SortedDict[int, tuple[str, bytes]] = SortedDict()
        self._apart: dict[tuple[str, str], int] = {}

    def began(self, node: str) -> None:
        """A node is heard anew: it may have been repaired, and nothing of before is held against
        it."""
        kept = [(at, said) for at, said in self._said.items() if said[0] != node]
        self._said = SortedDict(kept)
        self._apart = {pair: at for pair, at in self._apart.items() if node not in pair}

    def told(self, node: str, height: int, digest: bytes) -> bool:
        """A node has said this of a block; False where it is the first to part with another one."""
        other, before = self._said.setdefault(height, (node, digest))
        if len(self._said) > WINDOW:
            # The lowest, not the first said: one that lags takes no place from those ahead of it.
            self._said.popitem(0)
        if before == digest:
            return True
        self.disagreements += 1
        pair = (min(node, other), max(node, other))
        known = pair in self._apart
        self._apart.setdefault(pair, height)
        return known

    def sentence(self) -> str:
        """Who disagrees, and from which block on; empty where nobody does."""
        if not self._apart:
            return ""
        (one, other), height = min(self._apart.items(), key=lambda item: (item[1], item[0]))
        return f"execution nodes {one} and {other} disagree on block {height}"
