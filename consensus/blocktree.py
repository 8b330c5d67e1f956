"""Uncommitted blocks above the newest committed one, and a window of committed blocks below it."""

from __future__ import annotations

from msgspec.structs import replace

from consensus.effects import BlockSource
from protocol.chain import Block, CommitCertificate
from protocol.errors import SafetyViolation

HARD_CAP = 16
"""Uncommitted blocks kept at most, in multiples of `max_uncommitted`."""


class Node:
    """A block in the tree with its id.

    The TC of a proposal counts when it is voted on and is not under the block id: it is dropped
    here, so that every member keeps the same bytes. `judged`: the application has said all that it
    will of the payload, so that nothing comes of another copy.
    """

    __slots__ = ("block", "header", "height", "id", "judged", "view")

    def __init__(self, block: Block, block_id: bytes) -> None:
        self.block = block if block.timeout is None else replace(block, timeout=None)
        self.header = block.header
        self.height = block.header.height
        self.view = block.header.view
        self.id = block_id
        self.judged = False


class BlockTree:
    """Every node but the tip has its parent in the tree, so all descend from the tip."""

    def __init__(self, tip: Node, window: int, capacity: int) -> None:
        self.tip = tip
        self.certificate: CommitCertificate | None = None
        self.nodes: dict[bytes, Node] = {tip.id: tip}
        self.first_in_view: dict[tuple[int, int], bytes] = {}
        self.pending_payloads = 0
        # Height of the newest committed payload; after a restart the tip stands for it.
        self.newest_payload = tip.height
        self._window = window
        self._capacity = capacity * HARD_CAP
        self._committed: dict[int, tuple[Node, CommitCertificate | None]] = {
            tip.height: (tip, None)
        }

    def get(self, block_id: bytes) -> Node | None:
        """The tip or an uncommitted block."""
        return self.nodes.get(block_id)

    def full(self) -> bool:
        return len(self.nodes) > self._capacity

    def insert(self, node: Node) -> None:
        """Add a block whose parent is in the tree."""
        if node.header.parent_id not in self.nodes:
            raise SafetyViolation("a block was inserted before its parent")
        self.nodes[node.id] = node
        self.first_in_view.setdefault((node.view, node.header.proposer), node.id)
        if node.block.payload:
            self.pending_payloads += 1

    @property
    def root_unproven(self) -> bool:
        """Whether no certified header names the root after the newest committed payload yet."""
        return self.certificate is None or self.tip.header.app_height < self.newest_payload

    def path(self, node: Node) -> list[Node]:
        """Nodes above the tip up to `node`, oldest first; empty for the tip itself."""
        path = []
        while node.id != self.tip.id:
            path.append(node)
            node = self.nodes[node.header.parent_id]
        path.reverse()
        return path

    def advance(self, node: Node, certificate: CommitCertificate) -> None:
        """Make the tip's child `node` the tip and forget what does not descend from it."""
        if node.header.parent_id != self.tip.id:
            raise SafetyViolation("a commit does not extend the committed chain")
        self.tip = node
        if node.block.payload:
            self.newest_payload = node.height
        ends_step = certificate.height == node.height
        if ends_step:
            self.certificate = certificate
        self._committed[node.height] = (node, certificate if ends_step else None)
        self._committed.pop(node.height - self._window, None)
        kept = {node.id: node}
        for other in self.nodes.values():
            if other.header.parent_id in kept:
                kept[other.id] = other
        self.nodes = kept
        self.first_in_view = {}
        self.pending_payloads = 0
        for other in kept.values():
            if other is not node:
                self.first_in_view.setdefault((other.view, other.header.proposer), other.id)
                self.pending_payloads += 1 if other.block.payload else 0

    def begin_epoch(self) -> None:
        """Forget what was built above the tip, the last block of its epoch."""
        self.nodes = {self.tip.id: self.tip}
        self.first_in_view = {}
        self.pending_payloads = 0

    def remember(self, block: Block, certificate: CommitCertificate | None) -> None:
        """Put an already committed block into the window (start-up)."""
        self._committed[block.header.height] = (Node(block, block.header.block_id()), certificate)

    def committed(
        self, height: int, stored: BlockSource | None
    ) -> tuple[Block, CommitCertificate | None] | None:
        """A committed block from the window or, below it, from the shell's store."""
        entry = self._committed.get(height)
        if entry is not None:
            return entry[0].block, entry[1]
        if stored is None or not 0 < height <= self.tip.height:
            return None
        return stored(height)

    def conflicts(self, block_id: bytes, height: int) -> bool:
        """Whether another block of this height is in the committed window."""
        entry = self._committed.get(height)
        return entry is not None and entry[0].id != block_id
