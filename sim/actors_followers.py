"""Followers of the ordered log and of the base layer's inbox: certificates and proofs only.

The rules are those of `execution.process_log` and `execution.process_inbox`; what differs is how
messages come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from consensus import MemberSet, VerifiedCache, verify_certificate
from execution.process_light import LightFollower
from protocol.chain import payload_hash
from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault
from protocol.inbox import InboxLeaf, decode_inbox_leaf, inbox_key
from protocol.messages import InboxRequest, InboxView, LedgerNews, LogChunk, SubscribeLog
from protocol.messages import SubscribeLedger as SubscribeNews
from protocol.ordering import OrderedChunk
from protocol.settlement import EMPTY_INBOX_HASH, InboxEntry, extend_inbox_hash
from protocol.tree_proof import decode_tree_proof, verify_proof
from sim.actors_process import ASK_TIMEOUT_MS, Process, StreamReader
from sim.actors_tasks import Pulse

T = TypeVar("T")

FETCH_LIMIT = 4096
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


class LogFollower:
    """Verified chunks of the ordered log behind a block, in order."""

    def __init__(
        self, process: Process, sequencers: list[str], height: int, block_id: bytes
    ) -> None:
        self.height = height
        self.block_id = block_id
        self.chunks: deque[OrderedChunk] = deque()
        self.grown = Pulse()
        chain = process.chain
        self._members = MemberSet(chain.log_id, [one.member() for one in chain.genesis.sequencers])
        self._cache = VerifiedCache()
        self._history = process.history
        self._reader = StreamReader(process, sequencers, self._request, self._take)

    def start(self) -> None:
        """Begin to follow."""
        self._reader.start()

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
        self._verify(chunk)
        self.chunks.append(chunk)
        self.grown.set()
        return True

    def _verify(self, chunk: OrderedChunk) -> None:
        height, block_id = self.height, self.block_id
        for block in chunk.blocks:
            header = block.header
            if header.height != height + 1 or header.parent_id != block_id:
                raise Rejected(Code.BAD_CERTIFICATE, f"block {header.height} does not follow")
            if payload_hash(block.payload) != header.payload_hash:
                raise Rejected(Code.BAD_CERTIFICATE, f"payload of block {header.height} differs")
            height, block_id = header.height, header.block_id()
            self._history.ordered(height, block_id)
        last = chunk.blocks[-1].header
        verify_certificate(self._members, last, chunk.certificate, cache=self._cache)
        self.height, self.block_id = height, block_id


class InboxFollower:
    """Verified inbox entries, and how far the base layer is covered."""

    def __init__(
        self,
        process: Process,
        validators: list[str],
        on_news: Callable[[int, int], None] | None = None,
    ) -> None:
        self.covered_height = -1
        self.count = 0
        self.grown = Pulse()
        self._process = process
        self._upstream = Upstream(process, validators)
        self._on_news = on_news
        self._key = inbox_key(process.chain.genesis.shard)
        self._light = LightFollower(process.chain, self._upstream, None, process.now_ms)
        self._entries: list[tuple[int, InboxEntry]] = []
        self._running_hash = EMPTY_INBOX_HASH
        self._wanted_height = 0
        self._told_count = 0
        self._wake = Pulse()
        self._news_id = 0

    def start(self) -> None:
        """Begin to follow."""
        self._process.spawn(self._run())

    # --- reading

    def count_at(self, height: int) -> int:
        """Entries with ledger height at most `height`, which must be covered."""
        low, high = 0, len(self._entries)
        while low < high:
            middle = (low + high) // 2
            if self._entries[middle][0] <= height:
                low = middle + 1
            else:
                high = middle
        return low

    def entries(self, first: int, end: int) -> list[InboxEntry]:
        """Entries number `first` to `end` - 1."""
        return [entry for _, entry in self._entries[first:end]]

    async def wait_covered(self, height: int) -> None:
        """Wait until the base layer is covered up to `height`."""
        while self.covered_height < height:
            self._wanted_height = max(self._wanted_height, height)
            self._wake.set()
            await self.grown.wait()

    # --- following

    async def _run(self) -> None:
        while True:
            self._subscribe()
            try:
                while True:
                    await self._fetch()
                    behind = (
                        self.count < self._told_count or self.covered_height < self._wanted_height
                    )
                    if behind:
                        await self._process.sleep(RETRY_MS)
                    else:
                        await self._process.first_of(self._wake, POLL_MS)
            except (TimeoutError, RemoteFault):
                self._process.history.count("inbox_retries")
            except Rejected:
                self._process.history.count("inbox_rejected")
            await self._upstream.drop()
            self._told_count = self.count
            await self._process.sleep(RETRY_MS)

    def _subscribe(self) -> None:
        self._process.close_stream(self._news_id)
        self._news_id = self._process.open_stream(self._news)
        self._process.send(self._upstream.server, SubscribeNews(self._news_id))

    def _news(self, message: object) -> None:
        if isinstance(message, LedgerNews) and message.inbox_count > self._told_count:
            self._told_count = message.inbox_count
            self._wake.set()

    async def _fetch(self) -> None:
        fresh: list[tuple[int, InboxEntry]] = []
        while True:
            first = self.count + len(fresh)
            view = await self._upstream.ask(InboxView, partial(_request, first=first))
            leaf = await self._verified_leaf(view)
            fresh += view.entries[: max(0, leaf.count - first)]
            if self.count + len(fresh) >= leaf.count:
                break
            if not view.entries:
                raise Rejected(Code.BAD_PROOF, f"inbox entries from {first} on are withheld")
        height = view.header.app_height
        if leaf.count < self.count or height < self.covered_height:
            return
        self._take(fresh, leaf)
        self.covered_height = height
        self.grown.set()
        if self._on_news is not None:
            self._on_news(height, self.count)

    async def _verified_leaf(self, view: InboxView) -> InboxLeaf:
        await self._light.verify(view.header, view.certificate)
        proof = decode_tree_proof(view.proof)
        value = verify_proof(view.header.app_root, proof, [self._key])[self._key]
        if value is None:
            raise Rejected(Code.BAD_PROOF, "the ledger has no inbox for this shard")
        return decode_inbox_leaf(value)

    def _take(self, fresh: list[tuple[int, InboxEntry]], leaf: InboxLeaf) -> None:
        running = self._running_hash
        for index, (height, entry) in enumerate(fresh, self.count):
            if entry.index != index:
                raise Rejected(Code.BAD_PROOF, f"inbox entry {entry.index} stands for {index}")
            running = extend_inbox_hash(running, height, entry)
        if running != leaf.running_hash:
            raise Rejected(Code.BAD_PROOF, "the inbox entries do not hash to the ledger's leaf")
        self._entries += fresh
        self._running_hash = running
        self.count = leaf.count


def _request(request_id: int, first: int) -> InboxRequest:
    return InboxRequest(request_id, first, FETCH_LIMIT)
