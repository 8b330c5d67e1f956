"""Catching up: one outstanding request for blocks at a time, and answering others' requests.

Blocks travel lowest first, so every answer moves the asker forward, and are proven from above: a
certified block proves its ancestors by parent hash, and through them the QCs that they carry.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.blocktree import BlockTree
from consensus.effects import BlockSource, ReplicaConfig
from protocol.chain import (
    QC,
    Block,
    BlocksRequest,
    BlocksResponse,
    CommitCertificate,
    Header,
    payload_hash,
)
from protocol.errors import Code, Rejected

HEADER_ALLOWANCE_BYTES = 1024
"""Counted for each block's header and QC when an answer's size is bounded."""

MAX_SERVED = 4
"""Requests of one peer that are served in one millisecond: an honest asker waits for its answer."""

MAX_PATIENCE = 4
"""The wait for an answer doubles at most so often."""


class Fetcher:
    """Decides whom to ask for what. A peer that does not help is followed by the next member.

    The wait for an answer doubles when every peer has missed it, and an answer that comes late is
    taken all the same, so that a slow link delays a member and never keeps it behind for good.
    """

    def __init__(self, config: ReplicaConfig, size: int, own: int | None) -> None:
        self._config = config
        self._size = size
        self._own = own
        self._peer = 0 if own is None else (own + 1) % size
        self._refresh_ms: int | None = None
        self._ready_ms = 0
        # Newest unanswered request of each peer; the one that is waited for, since and until when.
        self._asked: dict[int, BlocksRequest] = {}
        self._inflight: tuple[int, int, int] | None = None
        self._missed = 0
        self._reached = 0
        self.target: QC | None = None

    def want(self, qc: QC, peer: int) -> None:
        """The block of a verified QC is missing; `peer` told us of it."""
        if self.target is not None and self.target.view >= qc.view:
            return
        self.target = qc
        if self._inflight is None and peer != self._own and 0 <= peer < self._size:
            self._peer = peer

    def refresh(self, at_ms: int) -> None:
        """Ask a member for news at `at_ms` even if nothing is known to be missing."""
        self._refresh_ms = at_ms

    def settle(self, tree: BlockTree) -> None:
        """Forget a target that has arrived or is committed."""
        target = self.target
        if target is not None and (
            target.height <= tree.tip.height or tree.get(target.block_id) is not None
        ):
            self.target = None
            self._reached = 0

    def deadline_ms(self) -> int | None:
        """When `request` has something to do."""
        if self._size == 1 and self._own is not None:
            return None
        if self._inflight is not None:
            return self._inflight[2]
        if self.target is not None:
            return self._ready_ms
        return self._refresh_ms

    def request(self, now_ms: int, tip_height: int) -> tuple[int, BlocksRequest] | None:
        """The request to send now, if any."""
        due = self.deadline_ms()
        if due is None or now_ms < due:
            return None
        if self._inflight is not None:
            self._inflight = None
            self._missed += 1
            self._reached = 0
            self._next_peer()
            if self.target is None and self._refresh_ms is None:
                return None
        target = b"" if self.target is None else self.target.block_id
        above = max(tip_height, self._reached)
        message = BlocksRequest(target, above, self._config.fetch_limit)
        self._asked[self._peer] = message
        self._inflight = (self._peer, now_ms, now_ms + self._patience_ms())
        return self._peer, message

    def _patience_ms(self) -> int:
        others = max(1, self._size - (self._own is not None))
        return self._config.fetch_timeout_ms << min(self._missed // others, MAX_PATIENCE)

    def answered(self, peer: int, now_ms: int) -> BlocksRequest:
        """Close the request that an answer belongs to; raises `Rejected` when unasked for."""
        request = self._asked.pop(peer, None)
        if request is None:
            raise Rejected(Code.NOT_AUTHORISED, "blocks that were not asked for")
        if self._inflight is not None and self._inflight[0] == peer:
            if now_ms <= self._inflight[1] + self._config.fetch_timeout_ms:
                self._missed = 0
            self._inflight = None
        self._refresh_ms = None
        return request

    def reached(self, height: int) -> None:
        """The last answer led up to a block of this height that is in the tree (0: to none).

        The next request goes on from there: a way that commits nothing may be longer than one
        answer.
        """
        self._reached = height

    def no_progress(self, now_ms: int) -> None:
        """The last answer did not help: ask another member after a pause."""
        self._next_peer()
        self._reached = 0
        self._ready_ms = now_ms + self._config.fetch_timeout_ms // 4 + 1

    def _next_peer(self) -> None:
        self._peer = (self._peer + 1) % self._size
        if self._peer == self._own:
            self._peer = (self._peer + 1) % self._size


def serve(
    tree: BlockTree,
    high_qc: QC,
    request: BlocksRequest,
    config: ReplicaConfig,
    stored: BlockSource | None,
) -> BlocksResponse:
    """Answer a request: committed blocks above the height, then the branch asked for.

    At most `fetch_limit` blocks and `max_response_bytes`, but two blocks where there are two: the
    second proves the first.
    """
    limit = min(request.limit, config.fetch_limit)
    blocks: list[Block] = []
    certificate: CommitCertificate | None = None
    size = 0

    def room(block: Block) -> bool:
        nonlocal size
        size += len(block.payload) + HEADER_ALLOWANCE_BYTES
        return len(blocks) < limit and (len(blocks) < 2 or size <= config.max_response_bytes)

    height = max(request.above_height, 0) + 1
    while height <= tree.tip.height:
        found = tree.committed(height, stored)
        if found is None or not room(found[0]):
            return BlocksResponse(blocks, high_qc, certificate)
        blocks.append(found[0])
        certificate = found[1] or certificate
        height += 1
    target = tree.get(request.block_id) or tree.get(high_qc.block_id)
    for node in tree.path(target) if target is not None else ():
        if node.height < height:
            continue
        if not room(node.block):
            break
        blocks.append(node.block)
    return BlocksResponse(blocks, high_qc, certificate)


def proven(
    response: BlocksResponse,
    request: BlocksRequest,
    check_qc: Callable[[QC], None],
    check_certificate: Callable[[Header, CommitCertificate], None],
) -> list[tuple[bytes, Block]]:
    """The blocks of an answer, with ids, that a certificate proves; lowest first.

    The last block is proven when it was asked for by the id in a verified QC, when the answer's
    QC or commit certificate is for it; otherwise its own QC proves the one before it.
    Raises `Rejected` when the blocks do not form a chain or nothing proves them.
    """
    blocks = response.blocks
    if len(blocks) > request.limit:
        raise Rejected(Code.BAD_CERTIFICATE, "more blocks than asked for")
    chain: list[tuple[bytes, Block]] = []
    previous = b""
    for block in blocks:
        header, justify = block.header, block.justify
        if (
            (chain and header.parent_id != previous)
            or header.parent_id != justify.block_id
            or header.parent_view != justify.view
            or header.height != justify.height + 1
            or header.justify_hash != justify.digest()
            or header.payload_hash != payload_hash(block.payload)
        ):
            raise Rejected(Code.BAD_CERTIFICATE, "the blocks do not form a chain")
        previous = header.block_id()
        chain.append((previous, block))
    if not chain or previous == request.block_id:
        return chain
    last = chain[-1][1]
    certificate = response.certificate
    if response.high_qc is not None and response.high_qc.block_id == previous:
        check_qc(response.high_qc)
    elif certificate is not None and certificate.qc.block_id == previous:
        check_certificate(last.header, certificate)
    else:
        chain.pop()
        if chain:
            check_qc(last.justify)
    return chain
