"""The commit rule, and the application's state as headers must name it."""

from __future__ import annotations

from msgspec.structs import replace

from consensus.blocktree import BlockTree, Node
from consensus.effects import Application, BlockSource, Outbox
from consensus.members import MemberSet
from consensus.reputation import Reputation
from protocol.chain import QC, Block, CommitCertificate
from protocol.errors import Rejected, SafetyViolation

ROOT_WINDOW = 8192
"""Heights whose application root is kept: more than can be uncommitted at once."""


class CommitLog:
    """Commits blocks to the application, in order, and keeps the roots of recent heights.

    `next_members` is set when the last block of the epoch was executed; nothing above it commits.
    """

    def __init__(
        self,
        tree: BlockTree,
        app: Application,
        out: Outbox,
        members: MemberSet,
        origin: QC,
        reputation_window: int,
    ) -> None:
        self.tree = tree
        self.next_members: MemberSet | None = None
        self._window = reputation_window
        self._app = app
        self._out = out
        self.begin(members, origin)
        height, root = app.root()
        self._roots = {height: root}
        if tree.certificate is not None:
            # Blocks beside the certificate's child may still name the root that the child names.
            for header in (tree.tip.header, tree.certificate.child):
                self._roots.setdefault(header.app_height, header.app_root)

    def begin(self, members: MemberSet, origin: QC) -> None:
        """Go on with the members of an epoch, above its origin."""
        self.members, self.origin, self.next_members = members, origin, None
        self.reputation = Reputation(members, origin, self._window)

    def recall(self, stored: BlockSource | None) -> None:
        """After a restart: the blocks of this epoch that leader reputation looks at."""
        tip = self.tree.tip
        first = max(self.origin.height + 1, tip.height - self._window + 1)
        for height in range(first, tip.height + 1):
            found = self.tree.committed(height, stored)
            if found is not None and found[0].header.epoch == self.members.epoch:
                self.reputation.note(found[0].header, found[0].justify)

    def leader_after(self, node: Node) -> int:
        """Leader of the view after that of a block of the tree, once it is certified."""
        above = [(one.header, one.block.justify) for one in self.tree.path(node)]
        return self.reputation.after(node.header, node.id, above)

    def skipped(self, view: int, parent: Node) -> int | None:
        """Whose turn came to nothing before a child in `view`, as the child's header says."""
        return None if view == parent.view + 1 else self.leader_after(parent)

    def implied_height(self, parent: Node) -> int:
        """Height that the ancestors of a child of `parent` commit.

        The child carries the QC for `parent`; with the parent exactly one view above the
        grandparent the pair commits the grandparent, otherwise nothing new is committed.
        """
        header = parent.header
        if parent.id == self.origin.block_id:
            return parent.height
        if header.view == header.parent_view + 1:
            return header.height - 1
        return header.app_height

    def root_at(self, height: int) -> bytes | None:
        """Application root after a recent height, None outside the window."""
        return self._roots.get(height)

    def certified(self, node: Node, qc: QC) -> None:
        """Apply the commit rule to a block of the tree for which a verified QC is known."""
        header = node.header
        if header.view != header.parent_view + 1 or self.next_members is not None:
            return
        if header.height - 1 <= self.tree.tip.height:
            return
        parent = self.tree.nodes[header.parent_id]
        self.commit(parent, CommitCertificate(node.block.justify, header, qc))

    def commit(self, node: Node, certificate: CommitCertificate) -> None:
        """Commit `node` and its uncommitted ancestors under the node's certificate.

        Ends early at the last block of the epoch, whose certificate gets the path up to `node`.
        """
        if self.next_members is not None:
            return
        path = self.tree.path(node)
        for place, step in enumerate(path):
            self._execute(step.block, certificate)
            proof = certificate
            if self._epoch_ends():
                above = [later.header for later in path[place + 1 :]]
                proof = replace(certificate, path=above + certificate.path)
            self.tree.advance(step, proof)
            self.reputation.note(step.header, step.block.justify)
            self._out.committed(step.block, proof)
            if self.next_members is not None:
                return

    def _epoch_ends(self) -> bool:
        members = self._app.epoch()
        if members is not None and members.epoch != self.members.epoch:
            self.next_members = members
        return self.next_members is not None

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
                self._epoch_ends()
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
