"""Followers of the ordered log and of the base layer's inbox: how messages come to the machines of
`execution.log` and `execution.inbox`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from execution.inbox import VerifiedInbox
from execution.log import VerifiedLog
from execution.process_light import LightFollower
from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault
from protocol.messages import LedgerNews, LogChunk, SubscribeLog
from protocol.messages import SubscribeLedger as SubscribeNews
from protocol.ordering import OrderedChunk
from sim.actors_process import ASK_TIMEOUT_MS, Process, StreamReader
from sim.actors_tasks import Pulse

T = TypeVar("T")

POLL_MS = 300
RETRY_MS = 50
CHUNKS_MAX = 4_096
"""Verified chunks that may wait for whoever follows the log; beyond them the stream is not read."""


class Upstream:
    """One server after the other, as `net.upstream.Upstream` asks them."""

    def __init__(self, process: Process, servers: list[str]) -> None:
        self._process = process
        self._servers = servers
        self._current = process.random.below(len(servers))

    @property
    def server(self) -> str:
        """Name of the server that is asked now."""
        return self._servers[self._current]

    async def ask(
        self, kind: type[T], make: Callable[[int], Wire], timeout_ms: int = ASK_TIMEOUT_MS
    ) -> T:
        """One request and its answer; raises `RemoteFault` or `TimeoutError`."""
        return await self._process.ask(self.server, kind, make, timeout_ms)

    async def drop(self) -> None:
        """Ask another one next time."""
        self._current = (self._current + 1) % len(self._servers)


class LogFollower(VerifiedLog):
    """Verified chunks of the ordered log behind a block, in order."""

    def __init__(
        self, process: Process, sequencers: list[str], height: int, block_id: bytes
    ) -> None:
        super().__init__(process.chain, height, block_id)
        self.chunks: deque[OrderedChunk] = deque()
        self.grown = Pulse()
        self._history = process.history
        self._reader = StreamReader(process, sequencers, self._request, self._take)

    def start(self) -> None:
        """Begin to follow."""
        self._reader.start()

    def go_back(self, height: int, block_id: bytes) -> None:
        """Follow again from an earlier block on: the next chunk is a gap, and is asked for anew."""
        self.height, self.block_id = height, block_id
        self.chunks.clear()

    def _request(self, request_id: int) -> SubscribeLog:
        return SubscribeLog(request_id, self.height + 1)

    def _take(self, message: object) -> bool:
        if not isinstance(message, LogChunk):
            raise Rejected(Code.UNKNOWN_MESSAGE, "expected ordered blocks")
        chunk = message.chunk
        if not chunk.blocks or chunk.blocks[0].header.height != self.height + 1:
            return False
        if len(self.chunks) >= CHUNKS_MAX:
            return False
        self.add(chunk)
        for block in chunk.blocks:
            self._history.ordered(block.header.height, block.header.block_id())
            self._history.blocks.setdefault(block.header.height, block)
        self.chunks.append(chunk)
        self.grown.set()
        return True


class InboxFollower(VerifiedInbox):
    """Verified inbox entries, and how far the base layer is covered."""

    def __init__(
        self,
        process: Process,
        validators: list[str],
        on_news: Callable[[int, int], None] | None = None,
        needed: int | None = 0,
    ) -> None:
        super().__init__(process.chain.genesis.shard, needed)
        self.grown = Pulse()
        self._process = process
        self._upstream = Upstream(process, validators)
        self._on_news = on_news
        self._light = LightFollower(process.chain, self._upstream, None, process.now_ms)
        self._wake = Pulse()
        self._news_id = 0

    def start(self) -> None:
        """Begin to follow."""
        self._process.spawn(self._run())

    async def wait_covered(self, height: int) -> None:
        """Wait until the base layer is covered up to `height`."""
        while self.covered_height < height:
            self.want(height)
            self._wake.set()
            await self.grown.wait()

    # --- following

    async def _run(self) -> None:
        while True:
            self._subscribe()
            try:
                while True:
                    await self._fetch()
                    if self.behind:
                        await self._process.sleep(RETRY_MS)
                    else:
                        await self._process.first_of(self._wake, POLL_MS)
            except (TimeoutError, RemoteFault):
                self._process.history.count("inbox_retries")
            except Rejected:
                self._process.history.count("inbox_rejected")
            self.forget()
            await self._upstream.drop()
            await self._process.sleep(RETRY_MS)

    def _subscribe(self) -> None:
        self._process.close_stream(self._news_id)
        self._news_id = self._process.open_stream(self._news)
        self._process.send(self._upstream.server, SubscribeNews(self._news_id))

    def _news(self, message: object) -> None:
        if isinstance(message, LedgerNews) and self.told(message.inbox_count):
            self._wake.set()

    def begin_behind(self, forgotten: bytes | None) -> None:
        """As below, and noted."""
        super().begin_behind(forgotten)
        self._process.history.count(f"inbox_begun_later_{self._process.role}")

    async def _fetch(self) -> None:
        header = await self._light.extend(self)
        if header.app_height < self.covered_height:
            return  # this validator lags behind one that we asked before
        self.grown.set()
        if self._on_news is not None:
            self._on_news(self.covered_height, self.count)
