"""Follows the ordered log of the sequencers, trusting certificates only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import structlog

from execution.log import VerifiedLog
from net.upstream import Upstream
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import LogChunk, SubscribeLog, decode_answer
from protocol.ordering import OrderedChunk

_log = structlog.get_logger()


class LogFollower(VerifiedLog):
    """Verified ordered blocks from a height on, from one sequencer after the other."""

    def __init__(
        self,
        chain: Chain,
        sequencers: Sequence[tuple[str, int]],
        name: str,
        height: int,
        block_id: bytes,
    ) -> None:
        super().__init__(chain, height, block_id)
        self._upstream = Upstream(sequencers, chain.chain_id, name)

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
                    self.add(answer.chunk)
                    yield answer.chunk
            except (ConnectionError, TimeoutError, RemoteFault, EOFError) as error:
                _log.debug("sequencer lost", error=str(error))
            except Rejected as error:
                _log.warning("a sequencer sent what does not verify", error=str(error))
            await self._upstream.drop()
