"""The exchange's event stream: every event once, in order, whatever happens to the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from client.channel import RETRIED, Channel, Unreachable
from client.endpoint import Endpoint
from net.rpc import Subscription
from protocol.codec import encode
from protocol.errors import Code, RemoteFault, SafetyViolation
from protocol.events import BlockEvents, decode_block_events
from protocol.messages import Status, StatusRequest, decode_answer
from protocol.messages_trading import EventsPush, SubscribeEvents

RESUME_WAIT_S = 0.1
QUEUED_PUSHES = 256
RESUMED = RETRIED | {Code.SLOW_CONSUMER}
SILENCE_S = 2.0
"""After so long without an event it is asked whether another node is further."""
STATUS_TIMEOUT_MS = 2_000
"""A node that takes longer to say how far it is hangs."""


class EventStream:
    """Blocks of events from a sequence number on.

    `next_seq` is the first sequence number not yet delivered. With `accounts`, the events are those
    of the accounts and marks, and `seqs` of each block gives their numbers. Where there are several
    execution nodes the stream goes on at the next one when its own is gone, hangs, or has fallen
    behind; `others` is a channel of its own for asking how far they are.
    """

    def __init__(
        self,
        channel: Channel,
        from_seq: int,
        accounts: list[int] | None = None,
        others: Channel | None = None,
    ) -> None:
        self.next_seq = from_seq
        self.reconnects = -1
        self._channel = channel
        self._accounts = accounts or []
        self._others = others
        self._refusals = 0

    async def blocks(self) -> AsyncIterator[BlockEvents]:
        """Deliver blocks for ever.

        Raises `SafetyViolation` for a gap, `RemoteFault` (not_retained) where the stream cannot be
        resumed any more, `Unreachable` where execution stays away for longer than patience.
        """
        loop = asyncio.get_running_loop()
        stood_at = loop.time()
        while True:
            endpoint = await self._channel.session()
            request_id = endpoint.next_request_id()
            request = SubscribeEvents(request_id, self.next_seq, self._accounts)
            try:
                pushes = endpoint.subscribe(encode(request), request_id, QUEUED_PUSHES)
                self.reconnects += 1
                async for frame in self._watched(endpoint, pushes):
                    stood_at = loop.time()
                    self._refusals = 0
                    block = self._accept(frame)
                    if block is not None:
                        yield block
            except ConnectionError:
                await asyncio.sleep(RESUME_WAIT_S)
            except RemoteFault as fault:
                patient = loop.time() < stood_at + self._channel.patience_ms / 1000
                again = fault.code == Code.NOT_RETAINED and await self._may_have_it(
                    endpoint, patient
                )
                if fault.code not in RESUMED and not again:
                    raise
                await asyncio.sleep(RESUME_WAIT_S)

    async def _watched(self, endpoint: Endpoint, pushes: Subscription) -> AsyncIterator[bytes]:
        """The frames of a subscription; raises `ConnectionError` where its node hangs, or another
        one is further."""
        while True:
            try:
                if pushes.waiting:
                    frame = await pushes.get()
                else:
                    async with asyncio.timeout(SILENCE_S):
                        frame = await pushes.get()
            except EOFError:
                return
            except TimeoutError:
                if await self._left_behind(endpoint):
                    await self._channel.move_on()
                    raise ConnectionError("another execution node is further") from None
                continue
            yield frame

    async def _left_behind(self, endpoint: Endpoint) -> bool:
        """Whether a node hangs, or is at an earlier event now than another one was before."""
        others = self._others
        if others is None or others.places < 2:
            return False
        furthest = 0
        for _ in range(others.places):
            try:
                furthest = max(furthest, _next_seq(await others.ask(Status, StatusRequest)))
            except (Unreachable, RemoteFault):
                continue
            finally:
                await others.move_on()
        if furthest == 0:
            return False  # Nobody else answers: wherever one is, is best.
        try:
            own = await endpoint.ask(Status, StatusRequest, timeout_ms=STATUS_TIMEOUT_MS)
        except (TimeoutError, ConnectionError):
            return True
        except RemoteFault:
            return False
        return _next_seq(own) < furthest

    async def _may_have_it(self, endpoint: Endpoint, patient: bool) -> bool:
        """Whether to ask again after a node refused to go on from here, and at which node.

        A node that was killed, or lags, has yet to execute (again) what another one sent before;
        one that deleted the events will never have them, another one perhaps.
        """
        places = self._channel.places
        try:
            status = await endpoint.ask(Status, StatusRequest, timeout_ms=STATUS_TIMEOUT_MS)
            lags = _next_seq(status) < self.next_seq
        except (TimeoutError, ConnectionError, RemoteFault):
            lags = True
        self._refusals += not lags
        again = (
            (patient and (self.reconnects > 0 or places > 1)) if lags else (self._refusals < places)
        )
        if again and places > 1:
            await self._channel.move_on()
        return again

    def _accept(self, frame: bytes) -> BlockEvents | None:
        push = decode_answer(frame)
        if not isinstance(push, EventsPush):
            return None
        return self.take(decode_block_events(push.block))

    def take(self, block: BlockEvents) -> BlockEvents | None:
        """The part of `block` that is new; None where there is none."""
        expected = self.next_seq
        if block.next_seq <= expected:
            return None
        if not self._accounts:
            if expected and block.first_seq > expected:
                raise SafetyViolation(
                    f"the event stream jumps from {expected} to {block.first_seq}"
                )
            skip = expected - block.first_seq if expected else 0
            if skip > 0:
                block = BlockEvents(
                    block.height, block.time_ms, expected, block.next_seq, [], block.events[skip:]
                )
        elif expected:
            kept = [place for place, seq in enumerate(block.seqs) if seq >= expected]
            if len(kept) < len(block.seqs):
                block = BlockEvents(
                    block.height, block.time_ms, expected, block.next_seq,
                    [block.seqs[place] for place in kept], [block.events[place] for place in kept],
                )  # fmt: skip
        self.next_seq = block.next_seq
        return block


def _next_seq(status: Status) -> int:
    value = status.values.get("next_seq", 0)
    return value if isinstance(value, int) else 0
