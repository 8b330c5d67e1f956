"""Answering requests for blocks, and taking blocks that were asked for."""

from __future__ import annotations

from consensus.blocktree import Node
from consensus.ordering import Ordering
from consensus.sync import MAX_SERVED, proven, serve
from protocol.chain import Block, BlocksRequest, BlocksResponse, CommitCertificate
from protocol.errors import Rejected, SafetyViolation


class CatchUp(Ordering):
    """Serves committed and certified blocks, and inserts those of others that are proven."""

    def _on_request(self, peer: int, request: BlocksRequest) -> None:
        if self._now_ms != self._served_ms:
            self._served_ms = self._now_ms
            self._served.clear()
        self._served[peer] += 1
        if self._served[peer] > MAX_SERVED:
            self._count("requests_refused")
            return
        self._count("requests_served")
        self._out.send(peer, serve(self._tree, self.high_qc, request, self.config, self._stored))

    def _on_response(self, peer: int, message: BlocksResponse) -> None:
        request = self._fetch.answered(peer, self._now_ms)
        if self.index is None:
            self._fetch.refresh(self._now_ms + self.config.fetch_timeout_ms)
        try:
            news, reached = self._take_blocks(peer, message, request)
        except Rejected:
            self._fetch.no_progress(self._now_ms)
            raise
        if news == 0:
            self._fetch.no_progress(self._now_ms)
        self._fetch.reached(reached)
        self._fetch.settle(self._tree)
        self._adopt_orphans()

    def _take_blocks(
        self, peer: int, answer: BlocksResponse, request: BlocksRequest
    ) -> tuple[int, int]:
        """Insert what an answer proves; how many blocks were new, and how high they lead."""
        chain = proven(answer, request, self._check_qc, self._check_certificate)
        tree = self._tree
        self._watch_for_forks(chain, answer.certificate)
        inserted: list[Node] = []
        for block_id, block in chain:
            if tree.get(block_id) is not None or tree.full():
                continue
            if block.header.height <= tree.tip.height or tree.get(block.header.parent_id) is None:
                continue
            node = Node(block, block_id)
            inserted.append(node)
            self._insert(node)
        certificate = answer.certificate
        if certificate is not None and certificate.qc.height > self.committed_height:
            node_known = self._tree.get(certificate.qc.block_id)
            if node_known is not None:
                self._check_certificate(node_known.header, certificate)
                self._commits.commit(node_known, certificate)
                self._process_qc(certificate.child_qc, peer)
        if chain:
            self._process_qc(chain[-1][1].justify, peer)
        if answer.high_qc is not None and answer.high_qc.view > self.high_qc.view:
            self._check_qc(answer.high_qc)
            self._process_qc(answer.high_qc, peer)
        for node in inserted:
            if node.height > self.committed_height:
                self._out.persist_block(node.block)
        if inserted:
            self.counters["blocks_fetched"] = self.counters.get("blocks_fetched", 0) + len(inserted)
        known = (block.header.height for block_id, block in chain if tree.get(block_id) is not None)
        return len(inserted), max(known, default=0)

    def _watch_for_forks(
        self, chain: list[tuple[bytes, Block]], certificate: CommitCertificate | None
    ) -> None:
        """Stop where a certificate commits another block than ours: no member may choose."""
        if certificate is None:
            return
        for block_id, block in chain:
            if block_id != certificate.qc.block_id:
                continue
            if self._tree.conflicts(block_id, block.header.height):
                self._check_certificate(block.header, certificate)
                raise SafetyViolation(
                    f"conflicting blocks of height {block.header.height} are both committed: a "
                    "third of the stake or more signed two histories"
                )
