"""The ordered log as whoever follows it believes it: committed by its sequencers, without a gap."""

from __future__ import annotations

from consensus import MemberSet, VerifiedCache, verify_certificate
from protocol.chain import EMPTY_HASH, genesis_header, payload_hash
from protocol.errors import Code, Rejected
from protocol.genesis import Chain
from protocol.ordering import OrderedChunk

CHUNK_BYTES = 1024 * 1024
"""More than one commit step is in a chunk only up to so many bytes: a prover settles whole chunks,
and a chunk must fit a batch."""

BLOCK_OVERHEAD_BYTES = 320
"""More than a header and its framing take, encoded."""

STEP_BLOCKS_MAX = 257
"""Blocks that commit in one step: those that consensus leaves uncommitted, and one more."""


class VerifiedLog:
    """Where a follower stands in the log: behind the block `block_id` of `height`."""

    def __init__(self, chain: Chain, height: int, block_id: bytes) -> None:
        self.height = height
        self.block_id = block_id
        self._members = MemberSet(chain.log_id, [one.member() for one in chain.genesis.sequencers])
        self._cache = VerifiedCache()
        step_bytes = chain.genesis.sequencer_pace.max_payload_bytes
        step_bytes += STEP_BLOCKS_MAX * BLOCK_OVERHEAD_BYTES
        self._chunk_bytes = max(CHUNK_BYTES, step_bytes)

    def add(self, chunk: OrderedChunk) -> None:
        """Check that a chunk continues the log and is committed, and move on to its end.

        Raises `Rejected`, and then stays where it stands.
        """
        height, block_id = self.height, self.block_id
        if not chunk.blocks:
            raise Rejected(Code.MALFORMED, "a chunk without blocks")
        size_bytes = 0
        for block in chunk.blocks:
            header = block.header
            size_bytes += len(block.payload) + BLOCK_OVERHEAD_BYTES
            if header.height != height + 1 or header.parent_id != block_id:
                raise Rejected(Code.BAD_CERTIFICATE, f"block {header.height} does not follow")
            if payload_hash(block.payload) != header.payload_hash:
                raise Rejected(Code.BAD_CERTIFICATE, f"payload of block {header.height} differs")
            height, block_id = header.height, header.block_id()
        if size_bytes > self._chunk_bytes:
            raise Rejected(Code.FRAME_TOO_LARGE, f"a chunk of {size_bytes} bytes")
        header = chunk.blocks[-1].header
        verify_certificate(self._members, header, chunk.certificate, cache=self._cache)
        self.height, self.block_id = height, block_id


def log_genesis_id(chain: Chain) -> bytes:
    """Id of the block of height 0 of the ordered log."""
    return genesis_header(chain.log_id, chain.genesis.time_ms, EMPTY_HASH).block_id()
