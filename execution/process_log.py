"""Follows the ordered log of the sequencers, trusting certificates only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from execution.log import VerifiedLog
from net.rpc import Connection
from net.upstream import Upstream
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import LogChunk, SubscribeLog, decode_answer
from protocol.ordering import OrderedChunk

OPEN_S = 2.0
"""Where there are several sequencers, one that does not greet for so long is passed over."""

QUIET_S = 3.0
"""Where there are several sequencers, the next one is asked after so long without a block: the log
may stand still, or it is this sequencer that lags behind or keeps blocks back."""

_log = structlog.get_logger()


class LogFollower(VerifiedLog):
    """Verified ordered blocks from a height on, from one sequencer after the other.

    `name` decides who is asked first, so that followers spread over the sequencers.
    """

    def __init__(
        self,
        chain: Chain,
        sequencers: Sequence[tuple[str, int]],
        name: str,
        height: int,
        block_id: bytes,
    ) -> None:
        super().__init__(chain, height, block_id)
        self._upstreams = [Upstream([one], chain.chain_id, name) for one in sequencers]
        self._at = sum(name.encode()) % len(sequencers)
        several = len(sequencers) > 1
        self._quiet_s = QUIET_S if several else None
        self._open_s = OPEN_S if several else None
        self._opening: dict[int, asyncio.Task[Connection]] = {}

    async def chunks(self) -> AsyncIterator[OrderedChunk]:
        """Chunks in order, without gap or repeat, for ever; resumes after lost connections."""
        try:
            while True:
                try:
                    async for chunk in self._follow():
                        yield chunk
                except (ConnectionError, TimeoutError, RemoteFault, EOFError) as error:
                    _log.debug("sequencer lost", error=str(error))
                except Rejected as error:
                    _log.warning("a sequencer sent what does not verify", error=str(error))
                await self._next()
        finally:
            for task in self._opening.values():
                task.cancel()

    async def _follow(self) -> AsyncIterator[OrderedChunk]:
        """Chunks of one sequencer, until it fails."""
        connection = await self._connection()
        request_id = connection.next_request_id()
        request = SubscribeLog(request_id, self.height + 1)
        # Few chunks wait here: a slow reader slows its connection, not the sequencer.
        frames = connection.subscribe(encode(request), request_id, capacity=8)
        while True:
            async with asyncio.timeout(self._quiet_s):
                frame = await frames.get()
            answer = decode_answer(frame)
            if not isinstance(answer, LogChunk):
                raise Rejected(Code.UNKNOWN_MESSAGE, "expected ordered blocks")
            self.add(answer.chunk)
            yield answer.chunk

    async def _connection(self) -> Connection:
        """A session with the sequencer whose turn it is; raises `TimeoutError`.

        One that hangs is left to answer when it can, and asked again when its turn comes.
        """
        opening = self._opening.get(self._at)
        if opening is None:
            opening = asyncio.ensure_future(self._upstreams[self._at].connection())
            self._opening[self._at] = opening
        await asyncio.wait([opening], timeout=self._open_s)
        if not opening.done():
            raise TimeoutError("a sequencer does not greet")
        del self._opening[self._at]
        return opening.result()

    async def _next(self) -> None:
        """Give the sequencer up, and go to the next."""
        if self._at not in self._opening:
            await self._upstreams[self._at].drop()
        self._at = (self._at + 1) % len(self._upstreams)
