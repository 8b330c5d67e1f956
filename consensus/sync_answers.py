"""An answer to a request for blocks: how it is made, and what of it is proven."""

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

Chain = list[tuple[bytes, Block]]
"""Consecutive blocks with their ids, lowest first."""


def serve(
    tree: BlockTree,
    high_qc: QC,
    request: BlocksRequest,
    config: ReplicaConfig,
    stored: BlockSource | None,
    retained_from: int = 1,
) -> BlocksResponse:
    """Answer a request: committed blocks above the height, then the branch asked for.

    At most `fetch_limit` blocks and `max_response_bytes`, but two blocks where there are two: the
    second proves the first. Ends with the epoch of its first block: whoever asks knows only the
    members of its own epoch, and learns of the next ones by executing the last block of it.
    """
    limit = min(request.limit, config.fetch_limit)
    blocks: list[Block] = []
    certificate: CommitCertificate | None = None
    size = 0

    def room(block: Block) -> bool:
        nonlocal size
        if blocks and block.header.epoch != blocks[0].header.epoch:
            return False
        size += len(block.payload) + HEADER_ALLOWANCE_BYTES
        return len(blocks) < limit and (len(blocks) < 2 or size <= config.max_response_bytes)

    height = max(request.above_height, 0) + 1
    while height <= tree.tip.height:
        found = tree.committed(height, stored)
        if found is None or not room(found[0]):
            return BlocksResponse(blocks, high_qc, certificate, retained_from)
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
    return BlocksResponse(blocks, high_qc, certificate, retained_from)


def answer_bytes(response: BlocksResponse) -> int:
    """Size of an answer as `serve` counts it."""
    return sum(len(block.payload) + HEADER_ALLOWANCE_BYTES for block in response.blocks)


def linked(blocks: list[Block]) -> Chain:
    """The blocks with their ids; raises `Rejected` unless each is the parent of the next.

    What is signed in a block's QC is not looked at: a certified block's ancestors, and the QCs in
    them, are what its voters checked.
    """
    chain: Chain = []
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
        if header.epoch != blocks[0].header.epoch:
            raise Rejected(Code.BAD_CERTIFICATE, "the answer goes on behind the end of an epoch")
        previous = header.block_id()
        chain.append((previous, block))
    return chain


def proven(
    response: BlocksResponse,
    request: BlocksRequest,
    check_qc: Callable[[QC], None],
    check_certificate: Callable[[Header, CommitCertificate], None],
) -> Chain:
    """The blocks of an answer, with ids, that a certificate proves; lowest first.

    The last block is proven when it was asked for by the id in a verified QC, when the answer's
    QC or commit certificate is for it; otherwise its own QC proves the one before it. A commit
    certificate for any block of the answer has verified when this returns.
    Raises `Rejected` when the blocks do not form a chain or nothing proves them.
    """
    if len(response.blocks) > request.limit:
        raise Rejected(Code.BAD_CERTIFICATE, "more blocks than asked for")
    chain = linked(response.blocks)
    if not chain:
        return chain
    last_id, last = chain[-1]
    proof = response.certificate
    committed = None if proof is None else certified_block(chain, proof)
    if proof is not None and committed is not None:
        check_certificate(committed[1].header, proof)
    high_qc = response.high_qc
    if last_id == request.block_id or (committed is not None and committed[0] == last_id):
        return chain
    # The QC of an epoch's last block may come as the next epoch's origin: it has no signatures.
    same_epoch = high_qc is not None and high_qc.epoch == last.header.epoch
    if high_qc is not None and same_epoch and high_qc.block_id == last_id:
        check_qc(high_qc)
        return chain
    chain.pop()
    if chain:
        check_qc(last.justify)
    return chain


def certified_block(chain: Chain, certificate: CommitCertificate) -> tuple[bytes, Block] | None:
    """The block of a chain that has the height which a certificate speaks of, with its id."""
    if not chain:
        return None
    place = certificate.height - chain[0][1].header.height
    return chain[place] if 0 <= place < len(chain) else None
