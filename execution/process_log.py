"""Follows the ordered log of the sequencers, trusting certificates only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import structlog

from consensus import MemberSet, VerifiedCache, verify_certificate
from net.upstream import Upstream
from protocol.chain import EMPTY_HASH, genesis_header, payload_hash
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import LogChunk, SubscribeLog, decode_answer
from protocol.ordering import OrderedChunk

_log = structlog.get_logger()


class LogFollower:
    """Verified ordered blocks from a height on, from one sequencer after the other."""

    def __init__(
        self,
        chain: Chain,
        sequencers: Sequence[tuple[str, int]],
        name: str,
        height: int,
        block_id: bytes,
    ) -> None:
        self.height = height
        self.block_id = block_id
        self._upstream = Upstream(sequencers, chain.chain_id, name)
        self._members = MemberSet(chain.log_id, [one.member() for one in chain.genesis.sequencers])
        self._cache = VerifiedCache()

    async def chunks(self) -> AsyncIterator[OrderedChunk]:
        """Chunks in order, without gap or repeat, for ever; resumes after lost connections."""
        while True:
            try:
                connection = await self._upstream.connection()
                request_id = connection.next_request_id()
                request = SubscribeLog(request_id, self.height + 1)
                # Few chunks wait here: a slow reader slows its connection, not the sequencer.
                frames = connection.subscribe(encode(request), request_id, capacity=8)
                async for frame in frames:
                    answer = decode_answer(frame)
                    if not isinstance(answer, LogChunk):
                        raise Rejected(Code.UNKNOWN_MESSAGE, "expected ordered blocks")
                    self._verify(answer.chunk)
                    yield answer.chunk
            except (ConnectionError, TimeoutError, RemoteFault, EOFError) as error:
                _log.debug("sequencer lost", error=str(error))
            except Rejected as error:
                _log.warning("a sequencer sent what does not verify", error=str(error))
            await self._upstream.drop()

    def _verify(self, chunk: OrderedChunk) -> None:
        """Check that a chunk continues the log and is committed, and move on to its end."""
        height, block_id = self.height, self.block_id
        for block in chunk.blocks:
            header = block.header
            if header.height != height + 1 or header.parent_id != block_id:
                raise Rejected(Code.BAD_CERTIFICATE, f"block {header.height} does not follow")
            if payload_hash(block.payload) != header.payload_hash:
                raise Rejected(Code.BAD_CERTIFICATE, f"payload of block {header.height} differs")
            height, block_id = header.height, header.block_id()
        if chunk.blocks:
            header = chunk.blocks[-1].header
            verify_certificate(self._members, header, chunk.certificate, cache=self._cache)
        self.height, self.block_id = height, block_id


def log_genesis_id(chain: Chain) -> bytes:
    """Id of the block of height 0 of the ordered log."""
    return genesis_header(chain.log_id, chain.genesis.time_ms, EMPTY_HASH).block_id()
