"""The commit rule, and the application's state as headers must name it."""

from __future__ import annotations

from consensus.blocktree import BlockTree, Node
from consensus.effects import Application, BlockSource, Outbox
from protocol.chain import QC, Block, CommitCertificate
from protocol.errors import Rejected, SafetyViolation

ROOT_WINDOW = 8192
"""Heights whose application root is kept: more than can be uncommitted at once."""


class CommitLog:
    """Commits blocks to the application, in order, and keeps the roots of recent heights."""

    def __init__(self, tree: BlockTree, app: Application, out: Outbox) -> None:
        self.tree = tree
        self._app = app
        self._out = out
        height, root = app.root()
        self._roots = {height: root}
        if tree.certificate is not None:
            # Blocks beside the certificate's child may still name the root that the child names.
            for header in (tree.tip.header, tree.certificate.child):
                self._roots.setdefault(header.app_height, header.app_root)

    def implied_height(self, parent: Node) -> int:
        """Height that the ancestors of a child of `parent` commit.

        The child carries the QC for `parent`; with the parent exactly one view above the
        grandparent the pair commits the grandparent, otherwise nothing new is committed.
        """
        header = parent.header
        if header.height > 0 and header.view == header.parent_view + 1:
            return header.height - 1
        return header.app_height

    def root_at(self, height: int) -> bytes | None:
        """Application root after a recent height, None outside the window."""
        return self._roots.get(height)

    def certified(self, node: Node, qc: QC) -> None:
        """Apply the commit rule to a block of the tree for which a verified QC is known."""
        header = node.header
        if header.view != header.parent_view + 1 or header.height == 0:
            return
        if header.height - 1 <= self.tree.tip.height:
            return
        parent = self.tree.nodes[header.parent_id]
        self.commit(parent, CommitCertificate(node.block.justify, header, qc))

    def commit(self, node: Node, certificate: CommitCertificate) -> None:
        """Commit `node` and its uncommitted ancestors under the node's certificate."""
        for step in self.tree.path(node):
            self._execute(step.block, certificate)
            self.tree.advance(step, certificate)
            self._out.committed(step.block, certificate)

    def replay(self, stored: BlockSource | None) -> int:
        """Bring an application that is behind the recovered tip up to it; returns the blocks."""
        tip = self.tree.tip
        height = self._app.root()[0]
        if height > tip.height:
            raise SafetyViolation(
                f"the application is at height {height}, the stored chain ends at {tip.height}"
            )
        replayed = 0
        while height < tip.height:
            end, blocks = self._commit_step(height + 1, stored)
            for block in blocks:
                self._execute(block, end)
            height += len(blocks)
            replayed += len(blocks)
        return replayed

    def _commit_step(
        self, height: int, stored: BlockSource | None
    ) -> tuple[CommitCertificate, list[Block]]:
        blocks = []
        while height <= self.tree.tip.height:
            found = self.tree.committed(height, stored)
            if found is None:
                raise SafetyViolation(f"committed block {height} is missing from the store")
            blocks.append(found[0])
            if found[1] is not None:
                return found[1], blocks
            height += 1
        raise SafetyViolation("the stored chain does not end with a commit certificate")

    def _execute(self, block: Block, certificate: CommitCertificate) -> None:
        header = block.header
        known = self._roots.get(header.app_height)
        if known is not None and known != header.app_root:
            raise SafetyViolation(
                f"certified block {header.height} names another application root for height "
                f"{header.app_height} than ours: this replica's state has diverged"
            )
        try:
            self._app.commit(block, certificate)
        except Rejected as error:
            raise SafetyViolation(f"the application refused a committed block: {error}") from error
        height, root = self._app.root()
        if height != header.height:
            raise SafetyViolation(f"the application is at {height} after block {header.height}")
        self._roots[height] = root
        self._roots.pop(height - ROOT_WINDOW, None)
