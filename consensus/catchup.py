"""Answering requests for blocks, and taking blocks that were asked for."""

from __future__ import annotations

from collections.abc import Callable

from consensus.blocktree import Node
from consensus.effects import FellBehind
from consensus.ordering import Ordering
from consensus.sync_answers import Chain, answer_bytes, certified_block, proven, serve
from protocol.chain import BlocksRequest, BlocksResponse, CommitCertificate
from protocol.errors import Rejected, SafetyViolation

SERVED_ANSWERS = 8
"""Largest answers that one peer may have at once, and in each second after that."""

ANSWER_BYTES = 4096
"""Counted for each answer beside its blocks."""

SERVED_PEERS = 4096
"""Peers whose share is remembered."""


class CatchUp(Ordering):
    """Serves committed and certified blocks, and inserts those of others that are proven.

    `retained_from` gives the lowest height whose block can still be served here.
    """

    retained_from: Callable[[], int]
    # Whether the last answer spoke of an epoch whose members we did not know yet.
    _later_epoch = False

    def _turn_epoch(self) -> None:
        """As below, and go on asking at once where this epoch is not the last one either."""
        before = self.members
        super()._turn_epoch()
        if self.members is not before and self._later_epoch:
            self._later_epoch = False
            self._fetch.refresh(self._now_ms)

    def _on_request(self, peer: int, request: BlocksRequest) -> None:
        if not self._may_serve(peer):
            self._count("requests_refused")
            return
        self._count("requests_served")
        answer = serve(
            self._tree, self.high_qc, request, self.config, self._stored, self.retained_from()
        )
        cost = ANSWER_BYTES + answer_bytes(answer)
        self._served[peer] = (self._served[peer][0] - cost, self._now_ms)
        self._out.send(peer, answer)

    def _may_serve(self, peer: int) -> bool:
        """Whether a peer has not had too much lately: so many bytes at once, and each second."""
        burst = SERVED_ANSWERS * self.config.max_response_bytes
        if len(self._served) >= SERVED_PEERS and peer not in self._served:
            self._served.clear()
        left, since_ms = self._served.get(peer, (burst, self._now_ms))
        left = min(burst, left + burst * (self._now_ms - since_ms) // 1000)
        self._served[peer] = (left, self._now_ms)
        return left > 0

    def _on_response(self, peer: int, message: BlocksResponse) -> None:
        now, fetch = self._now_ms, self._fetch
        request, lead = fetch.answered(peer, now, message)
        pause_ms = self.config.fetch_timeout_ms
        if self.index is None:
            fetch.refresh(now + pause_ms)
        before = self.committed_height
        try:
            news = self._take_answer(peer, message, request, lead)
            later = self._later_epoch = self._take_news(peer, message)
        except Rejected:
            fetch.lied(peer, now)
            if lead:
                fetch.no_progress(peer, now)
            raise
        if lead and news == 0:
            fetch.no_progress(peer, now)
        if later or self.index is None:
            # What cannot be verified yet names no target: go on where there was something.
            fetch.refresh(now if self.committed_height > before else now + pause_ms)
        self._tell_if_behind(peer, message)
        fetch.settle(self._tree)
        self._adopt_orphans()

    def _take_answer(
        self, peer: int, answer: BlocksResponse, request: BlocksRequest, lead: bool
    ) -> int:
        """Check an answer and insert its blocks, or keep them for later; how many were inserted."""
        fetch = self._fetch
        blocks = answer.blocks
        if blocks and blocks[0].header.epoch != self.members.epoch:
            # The members of that epoch are not known yet, so nobody can be blamed.
            self._count("answers_of_another_epoch")
            fetch.ends_below(peer, request)
            return 0
        chain = proven(answer, request, self._check_qc, self._check_certificate)
        self._watch_for_forks(chain, answer.certificate)
        if not chain:
            promised = answer.high_qc is not None and answer.high_qc.height > request.above_height
            if promised and answer.retained_from <= request.above_height + 1:
                fetch.avoid(peer, self._now_ms)
            return 0
        if self._connects(chain):
            inserted, reached = self._take_blocks(peer, chain, answer)
            fetch.reached(reached, lead=lead)
            return inserted + self._take_kept(reached)
        first, last = chain[0][1].header.height, chain[-1][1].header.height
        tip = self.committed_height
        if first != request.above_height + 1 or first <= tip + 1 <= last:
            # Not the range that was asked for, or beside a committed block of ours.
            fetch.avoid(peer, self._now_ms)
        elif fetch.keep(peer, chain, answer, self._now_ms):
            self._count("answers_kept")
        return 0

    def _connects(self, chain: Chain) -> bool:
        get = self._tree.get
        return any(get(block.header.parent_id) is not None for _, block in chain)

    def _take_kept(self, reached: int) -> int:
        """Insert the kept answers whose lower blocks have come; how many blocks were inserted."""
        fetch = self._fetch
        inserted = 0
        while (kept := fetch.kept.lowest()) is not None:
            if kept.upto <= self.committed_height:
                fetch.kept.remove(kept)
            elif self._connects(kept.chain):
                fetch.kept.remove(kept)
                count, reached = self._take_blocks(kept.peer, kept.chain, kept.answer)
                inserted += count
                fetch.reached(reached)
            elif kept.above <= reached:
                self._count("answers_not_connected")
                fetch.mismatch(kept, self.committed_height, self._now_ms)
                break
            else:
                break
        return inserted

    def _take_blocks(self, peer: int, chain: Chain, answer: BlocksResponse) -> tuple[int, int]:
        """Insert proven blocks; how many were new, and how high they lead."""
        tree = self._tree
        epoch = self.members.epoch
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
        if certificate is not None and certificate.height > self.committed_height:
            committed = certified_block(chain, certificate)
            node_known = None if committed is None else self._tree.get(committed[0])
            if node_known is not None:
                self._commits.commit(node_known, certificate)
                self._process_qc(certificate.child_qc, peer)
        if self.members.epoch == epoch:
            self._process_qc(chain[-1][1].justify, peer)
        for node in inserted:
            if node.height > self.committed_height:
                self._out.persist_block(node.block)
        if inserted:
            self.counters["blocks_fetched"] = self.counters.get("blocks_fetched", 0) + len(inserted)
        known = (block.header.height for block_id, block in chain if tree.get(block_id) is not None)
        return len(inserted), max(known, default=0)

    def _take_news(self, peer: int, answer: BlocksResponse) -> bool:
        """Take the highest QC of an answer; whether it is of an epoch that we do not know yet."""
        qc = answer.high_qc
        height = None
        later = False
        if qc is not None and qc.epoch == self.members.epoch:
            if qc.view > self.high_qc.view:
                self._check_qc(qc)
                self._process_qc(qc, peer)
            height = min(qc.height, self.high_qc.height)
        elif qc is not None and qc.epoch > self.members.epoch:
            height, later = qc.height, True
        self._fetch.heard(peer, height, answer.retained_from)
        return later

    def _tell_if_behind(self, peer: int, answer: BlocksResponse) -> None:
        """Tell the shell where a peer's blocks will not, or not within reason, lead to its height.

        Nothing here is certain: what the shell fetches proves itself.
        """
        tip = self.committed_height
        qc = answer.high_qc
        height = 0 if qc is None or qc.epoch < self.members.epoch else qc.height
        if qc is not None and qc.epoch == self.members.epoch:
            height = min(height, self.high_qc.height)
        far = height - tip >= self.config.snapshot_distance
        if (far or answer.retained_from > tip + 1) and self._fetch.tell(peer, self._now_ms):
            self._count("fell_behind")
            self._out.tell(FellBehind(peer, max(height, answer.retained_from)))

    def _watch_for_forks(self, chain: Chain, certificate: CommitCertificate | None) -> None:
        """Stop where a certificate commits another block than ours: no member may choose."""
        committed = None if certificate is None else certified_block(chain, certificate)
        if committed is None:
            return
        height = committed[1].header.height
        if self._tree.conflicts(committed[0], height):
            raise SafetyViolation(
                f"conflicting blocks of height {height} are both committed: a third of the "
                "stake or more signed two histories"
            )
