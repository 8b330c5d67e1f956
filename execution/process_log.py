"""Follows the ordered log of the sequencers, trusting certificates only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from execution.log import VerifiedLog
from net.readiness import Hearing
from net.rpc import Connection, Subscription
from net.upstream import QUIET_S, Upstream, next_frame
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import LogChunk, SubscribeLog, decode_answer
from protocol.ordering import OrderedChunk

REFUSED_S = 0.5
"""Where nobody sends what can be believed, they are asked again after so long."""

OPEN_S = 2.0
"""Where there are several sequencers, one that does not greet for so long is passed over."""

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
        self._several = len(sequencers) > 1
        self._opening: dict[int, asyncio.Task[Connection]] = {}
        # A third of what a round may take: each one hangs, but for the last.
        round_ms = int(1000 * (QUIET_S + OPEN_S * len(sequencers)))
        self._hearing = Hearing("ordered log", round_ms // 3)
        self._busy = False
        self._refused: dict[int, str] = {}
        """Why what each sequencer sent last was not believed, since the newest chunk that was."""
        self.refused = 0
        """How often a sequencer sent what does not verify or does not follow."""

    def silence_ms(self) -> int:
        """How long no sequencer has said anything at all, were it that there is no new block; 0
        while a chunk is being worked on, since nothing is read meanwhile."""
        return 0 if self._busy else self._hearing.silence_ms()

    def trouble(self) -> str:
        """Why no sequencer seems to be reached, or to have this log; empty where one is and has."""
        if self._busy:
            return ""
        if self._nobody_believed:
            why = next(reversed(self._refused.values()))
            return f"the ordered log does not go on behind block {self.height}: {why}"
        return self._hearing.trouble()

    @property
    def _nobody_believed(self) -> bool:
        """Whether more sequencers sent what is not believed than may be liars."""
        return 3 * len(self._refused) >= len(self._upstreams)

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
                    self.refused += 1
                    self._refused.pop(self._at, None)
                    self._refused[self._at] = error.text
                    _log.warning("a sequencer sent what does not verify", error=str(error))
                await self._next()
                if self._nobody_believed:
                    await asyncio.sleep(REFUSED_S)
        finally:
            for task in self._opening.values():
                task.cancel()

    async def _follow(self) -> AsyncIterator[OrderedChunk]:
        """Chunks of one sequencer, until it fails."""
        connection = await self._connection()
        if self._at not in self._refused:
            self._hearing.heard()
        request_id = connection.next_request_id()
        request = SubscribeLog(request_id, self.height + 1)
        # Few chunks wait here: a slow reader slows its connection, not the sequencer.
        frames = connection.subscribe(encode(request), request_id, capacity=8)
        while True:
            answer = decode_answer(await self._next_frame(connection, frames))
            if not isinstance(answer, LogChunk):
                raise Rejected(Code.UNKNOWN_MESSAGE, "expected ordered blocks")
            self.add(answer.chunk)
            self._refused.clear()
            self._busy = True
            yield answer.chunk
            self._busy = False
            self._hearing.heard()

    async def _next_frame(self, connection: Connection, frames: Subscription) -> bytes:
        """What the sequencer sends next; raises `TimeoutError` where another should be asked."""
        # Without a block for a while the log may stand still, or this sequencer hangs, lags behind
        # or keeps blocks back: the next one is asked, and the only one whether it still answers.
        if not self._several:
            return await next_frame(connection, frames, on_answer=self._quiet)
        try:
            async with asyncio.timeout(QUIET_S):
                return await frames.get()
        except TimeoutError:
            self._refused.pop(self._at, None)
            raise

    def _quiet(self) -> None:
        """The only sequencer lives, and has nothing to send that would contradict this log."""
        self._refused.clear()
        self._hearing.heard()

    async def _connection(self) -> Connection:
        """A session with the sequencer whose turn it is; raises `TimeoutError`.

        One that hangs is left to answer when it can, and asked again when its turn comes.
        """
        opening = self._opening.get(self._at)
        if opening is None:
            opening = asyncio.ensure_future(self._upstreams[self._at].connection())
            self._opening[self._at] = opening
        await asyncio.wait([opening], timeout=OPEN_S if self._several else None)
        if not opening.done():
            raise TimeoutError("a sequencer does not greet")
        del self._opening[self._at]
        return opening.result()

    async def _next(self) -> None:
        """Give the sequencer up, and go to the next."""
        if self._at not in self._opening:
            await self._upstreams[self._at].drop()
        self._at = (self._at + 1) % len(self._upstreams)
