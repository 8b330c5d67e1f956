"""Uncommitted blocks above the newest committed one, and a window of committed blocks below it."""

from __future__ import annotations

from msgspec.structs import replace

from consensus.effects import BlockSource
from protocol.chain import Block, CommitCertificate
from protocol.errors import SafetyViolation
from store.newest import Newest

HARD_CAP = 16
"""Uncommitted blocks kept at most, in multiples of `max_uncommitted`."""

NODE_BYTES = 4_096
"""What a committed block takes in memory beside its payload: header, votes and certificate."""


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
    """Every node but the tip has its parent in the tree, so all descend from the tip.

    Committed blocks are here for those who catch up, the newest `window` of them and no more than
    `window_bytes`; the shell's store has the others. The ids of the whole window stay: forks show
    by them.
    """

    def __init__(
        self,
        tip: Node,
        window: int,
        window_bytes: int,
        capacity: int,
        certificate: CommitCertificate | None = None,
    ) -> None:
        """`certificate` is that of the tip, None where the tip is the genesis block."""
        self.tip = tip
        self.certificate = certificate
        self.nodes: dict[bytes, Node] = {tip.id: tip}
        self.first_in_view: dict[tuple[int, int], bytes] = {}
        self.pending_payloads = 0
        # Height of the newest committed payload; after a restart the tip stands for it.
        self.newest_payload = tip.height
        self._window = window
        self._capacity = capacity * HARD_CAP
        self._committed: Newest[tuple[Block, CommitCertificate | None]] = Newest(
            window_bytes, window
        )
        self._committed_ids: dict[int, bytes] = {}
        self._remember(tip, certificate)

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
        self._remember(node, certificate if ends_step else None)
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

    def _remember(self, node: Node, certificate: CommitCertificate | None) -> None:
        """Put a committed block into the window."""
        size_bytes = NODE_BYTES + len(node.block.payload)
        self._committed.put(node.height, (node.block, certificate), size_bytes)
        self._committed_ids[node.height] = node.id
        self._committed_ids.pop(node.height - self._window, None)

    def committed(
        self, height: int, stored: BlockSource | None
    ) -> tuple[Block, CommitCertificate | None] | None:
        """A committed block from memory or, where it is not there any more, the shell's store."""
        found = self._committed.get(height)
        if found is not None:
            return found
        if stored is None or not 0 < height <= self.tip.height:
            return None
        return stored(height)

    def conflicts(self, block_id: bytes, height: int) -> bool:
        """Whether another block of this height is in the committed window."""
        return self._committed_ids.get(height, block_id) != block_id
