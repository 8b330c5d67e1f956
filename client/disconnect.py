"""Cancel on disconnect: a signed cancel that the sequencer submits when the session ends.

The batch is signed ahead of time, so its nonce has to be younger than what is submitted until then:
it lies `AHEAD_MS` ahead of the clock, and a new one takes its place every `RENEW_MS` and with every
new session. A sequencer that dies submits nothing; against that set a dead-man's switch as well.
"""

from __future__ import annotations

import asyncio

import structlog

from client.channel import Channel
from client.endpoint import Endpoint
from client.nonces import NonceSource, wall_clock_ms
from protocol.actions import ALL_MARKETS, ActionBatch, CancelAll, sign_batch
from protocol.errors import RemoteFault
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import Done, SubmitOnDisconnect

AHEAD_MS = 60_000
RENEW_MS = 20_000
RETRY_MS = 500
"""A batch that was not taken is signed anew and given again after so long."""

_log = structlog.get_logger()


class CancelOnDisconnect:
    """Keeps a `CancelAll` of `account`, signed by `key`, with the sequencer of the channel.

    `armed` says whether the session that stands now has one, `problem` why not (a refusal), `given`
    how many were left. Closing the channel ends the session, which cancels; `release` before that
    keeps the orders.
    """

    def __init__(
        self,
        chain: Chain,
        channel: Channel,
        nonces: NonceSource,
        key: Key,
        account: int,
        market: int = ALL_MARKETS,
    ) -> None:
        self.given = 0
        self.problem: RemoteFault | None = None
        self._chain = chain
        self._channel = channel
        self._nonces = nonces
        self._key = key
        self._account = account
        self._market = market
        self._session: Endpoint | None = None
        self._renewal: asyncio.Task[None] | None = None

    @property
    def armed(self) -> bool:
        """Whether the end of the session that stands now cancels."""
        return self._session is not None and self._session is self._channel.endpoint

    async def arm(self) -> None:
        """Leave a batch now, with every new session, and anew from time to time.

        Raises `RemoteFault` where the sequencer refuses it, `Unreachable`, `ConfigError`.
        """
        await self._channel.add_signer(self._key)
        await self._give(await self._channel.session())
        self._channel.on_open.append(self._give_or_note)
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def release(self) -> None:
        """Take the batch back: the end of the session cancels nothing any more.

        All batches of the channel's session are taken back. Raises `RemoteFault`, `TimeoutError`.
        """
        await self.stop()
        endpoint = self._channel.endpoint
        if endpoint is not None:
            await endpoint.ask(Done, SubmitOnDisconnect, b"")
        self._session = None

    async def stop(self) -> None:
        """Leave no further batches; the one that was left stands."""
        if self._give_or_note in self._channel.on_open:
            self._channel.on_open.remove(self._give_or_note)
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None

    async def _give(self, endpoint: Endpoint) -> None:
        nonce_ms = self._nonces.reserve(wall_clock_ms(), AHEAD_MS)
        batch = ActionBatch(self._account, nonce_ms, 0, [CancelAll(self._market)])
        raw = sign_batch(self._key, self._chain.chain_id, self._chain.genesis.shard, batch)
        await endpoint.ask(Done, SubmitOnDisconnect, raw)
        self._session = endpoint
        self.problem = None
        self.given += 1

    async def _give_or_note(self, endpoint: Endpoint) -> None:
        """A refusal must not keep the session from being used; whoever asks sees it."""
        try:
            await self._give(endpoint)
        except RemoteFault as fault:
            self.problem = fault
            _log.warning("cancel on disconnect is refused", error=str(fault))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep((RENEW_MS if self.armed else RETRY_MS) / 1000)
            endpoint = self._channel.endpoint
            if endpoint is None:
                continue  # the next session begins with a new one
            try:
                await self._give_or_note(endpoint)
            except (ConnectionError, TimeoutError) as error:
                _log.debug("cancel on disconnect was not renewed", error=str(error))
