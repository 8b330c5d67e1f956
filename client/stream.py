"""The exchange's event stream: every event once, in order, whatever happens to the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from client.channel import RETRIED, Channel
from protocol.codec import encode
from protocol.errors import Code, RemoteFault, SafetyViolation
from protocol.events import BlockEvents, decode_block_events
from protocol.messages import decode_answer
from protocol.messages_trading import EventsPush, SubscribeEvents

RESUME_WAIT_S = 0.1
QUEUED_PUSHES = 256
RESUMED = RETRIED | {Code.SLOW_CONSUMER}


class EventStream:
    """Blocks of events from a sequence number on.

    `next_seq` is the first sequence number not yet delivered. With `accounts`, the events are those
    of the accounts and marks, and `seqs` of each block gives their numbers.
    """

    def __init__(self, channel: Channel, from_seq: int, accounts: list[int] | None = None) -> None:
        self.next_seq = from_seq
        self.reconnects = -1
        self._channel = channel
        self._accounts = accounts or []

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
                async for frame in pushes:
                    stood_at = loop.time()
                    block = self._accept(frame)
                    if block is not None:
                        yield block
            except ConnectionError:
                await asyncio.sleep(RESUME_WAIT_S)
            except RemoteFault as fault:
                # An execution node that was killed may have to execute its last blocks again
                # before it has the events that it sent.
                patient = loop.time() < stood_at + self._channel.patience_ms / 1000
                again = self.reconnects > 0 and fault.code == Code.NOT_RETAINED and patient
                if fault.code not in RESUMED and not again:
                    raise
                await asyncio.sleep(RESUME_WAIT_S)

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
