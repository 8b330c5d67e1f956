"""Follows the inbox of a shard on the base layer, trusting certificates and proofs only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from execution.process_light import LightFollower, wall_clock_ms
from net.rpc import Subscription
from net.upstream import Upstream
from protocol.codec import encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.inbox import InboxLeaf, decode_inbox_leaf, inbox_key
from protocol.messages import InboxRequest, InboxView, LedgerNews, SubscribeLedger, decode_answer
from protocol.settlement import EMPTY_INBOX_HASH, InboxEntry, extend_inbox_hash
from protocol.tree_proof import decode_tree_proof, verify_proof

FETCH_LIMIT = 4096
"""Entries asked for at once."""

RETRY_S = 0.05

_log = structlog.get_logger()


class InboxFollower:
    """Verified inbox entries with their ledger heights, and how far the ledger is covered.

    `on_news(covered_height, count)` is called whenever either grows. `checkpoint`: file from which
    the chain's members are followed, and that is kept up to date; without it, from genesis.
    """

    def __init__(
        self,
        chain: Chain,
        validators: Sequence[tuple[str, int]],
        name: str,
        on_news: Callable[[int, int], None] | None = None,
        checkpoint: Path | None = None,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.covered_height = -1
        self.count = 0
        self._chain = chain
        self._upstream = Upstream(validators, chain.chain_id, name)
        self._light = LightFollower(chain, self._upstream, checkpoint, clock)
        self._entries: list[tuple[int, InboxEntry]] = []
        self._base = 0
        self._running_hash = EMPTY_INBOX_HASH
        self._on_news = on_news
        self._grown = asyncio.Event()
        self._wanted_height = 0
        self._told_count = 0
        self._wake = asyncio.Event()

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
        return self._base + low

    def entries(self, first: int, end: int) -> list[InboxEntry]:
        """Entries number `first` to `end` - 1."""
        return [entry for _, entry in self._entries[first - self._base : end - self._base]]

    def release(self, cursor: int) -> None:
        """Entries below `cursor` are not needed any more."""
        if cursor - self._base >= FETCH_LIMIT:
            del self._entries[: cursor - self._base]
            self._base = cursor

    async def wait_covered(self, height: int) -> None:
        """Wait until the base layer is covered up to `height`."""
        while self.covered_height < height:
            self._wanted_height = max(self._wanted_height, height)
            self._wake.set()
            grown = self._grown
            await grown.wait()

    # --- following

    @property
    def epoch(self) -> int:
        """Epoch of the base layer that is followed."""
        return self._light.client.epoch

    async def run(self) -> None:
        """Follow for ever, from one validator after the other.

        Raises `ConfigError` once the validators that we know are not to be trusted any more.
        """
        tasks = [
            asyncio.ensure_future(self._follow_for_ever()),
            asyncio.ensure_future(self._light.stay_fresh()),
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _follow_for_ever(self) -> None:
        while True:
            try:
                await self._follow()
            except (ConnectionError, TimeoutError, RemoteFault, EOFError) as error:
                _log.debug("base layer lost", error=str(error))
            except Rejected as error:
                _log.warning("a validator sent what does not verify", error=str(error))
            await self._upstream.drop()

    async def _follow(self) -> None:
        connection = await self._upstream.connection()
        request_id = connection.next_request_id()
        news = connection.subscribe(encode(SubscribeLedger(request_id)), request_id)
        reader = asyncio.ensure_future(self._read_news(news))
        try:
            await self._fetch()
            while not reader.done():
                self._wake.clear()
                while self.count < self._told_count or self.covered_height < self._wanted_height:
                    before = self.covered_height
                    await self._fetch()
                    if self.covered_height == before:
                        await asyncio.sleep(RETRY_S)
                await self._wake.wait()
            await reader
        finally:
            reader.cancel()
            news.close()

    async def _read_news(self, news: Subscription) -> None:
        try:
            async for frame in news:
                answer = decode_answer(frame)
                if isinstance(answer, LedgerNews) and answer.inbox_count > self._told_count:
                    self._told_count = answer.inbox_count
                    self._wake.set()
        finally:
            self._wake.set()

    async def _fetch(self) -> None:
        """Ask for what is new, in as many parts as it takes, and verify it as a whole."""
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
            return  # this validator lags behind one that we asked before
        self._take(fresh, leaf)
        self.covered_height = height
        self._grown.set()
        self._grown = asyncio.Event()
        if self._on_news is not None:
            self._on_news(height, self.count)

    async def _verified_leaf(self, view: InboxView) -> InboxLeaf:
        await self._light.verify(view.header, view.certificate)
        key = inbox_key(self._chain.genesis.shard)
        value = verify_proof(view.header.app_root, decode_tree_proof(view.proof), [key])[key]
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
