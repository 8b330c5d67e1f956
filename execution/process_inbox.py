"""Follows the inbox of a shard on the base layer, trusting certificates and proofs only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from execution.inbox import VerifiedInbox
from execution.process_light import LightFollower, wall_clock_ms
from net.rpc import Subscription
from net.upstream import Upstream
from protocol.codec import encode
from protocol.errors import Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.messages import LedgerNews, SubscribeLedger, decode_answer

RETRY_S = 0.05

_log = structlog.get_logger()


class InboxFollower(VerifiedInbox):
    """Verified inbox entries with their ledger heights, and how far the ledger is covered.

    `on_news(covered_height, count)` is called whenever either grows. `checkpoint`: file from which
    the chain's members are followed, and that is kept up to date; without it, from genesis.
    `needed`: as in `VerifiedInbox`.
    """

    def __init__(
        self,
        chain: Chain,
        validators: Sequence[tuple[str, int]],
        name: str,
        on_news: Callable[[int, int], None] | None = None,
        checkpoint: Path | None = None,
        clock: Callable[[], int] = wall_clock_ms,
        *,
        needed: int | None = 0,
    ) -> None:
        super().__init__(chain.genesis.shard, needed)
        self._upstream = Upstream(validators, chain.chain_id, name)
        self._light = LightFollower(chain, self._upstream, checkpoint, clock)
        self._on_news = on_news
        self._grown = asyncio.Event()
        self._wake = asyncio.Event()

    async def wait_covered(self, height: int) -> None:
        """Wait until the base layer is covered up to `height`."""
        while self.covered_height < height:
            self.want(height)
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

        Raises `ConfigError` once the validators that we know are not to be trusted any more, and
        where the base layer has forgotten entries that are needed here.
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
            self.forget()
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
                while self.behind:
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
                if isinstance(answer, LedgerNews) and self.told(answer.inbox_count):
                    self._wake.set()
        finally:
            self._wake.set()

    def begin_behind(self, forgotten: bytes | None) -> None:
        """As below."""
        super().begin_behind(forgotten)
        _log.info("older inbox entries are forgotten", begins_at=self.count)

    async def _fetch(self) -> None:
        header = await self._light.extend(self)
        if header.app_height < self.covered_height:
            return  # this validator lags behind one that we asked before
        self._grown.set()
        self._grown = asyncio.Event()
        if self._on_news is not None:
            self._on_news(self.covered_height, self.count)
