"""Fetch from a healed cluster what its processes hold, each by itself, to compare it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from client.endpoint import Endpoint
from protocol.chain import Header
from protocol.codec import Wire, encode
from protocol.errors import RemoteFault, TrilemmaError
from protocol.events import (
    BlockDiff,
    BlockEvents,
    Event,
    decode_block_diff,
    decode_block_events,
)
from protocol.genesis import Chain
from protocol.messages import (
    BlocksFrom,
    BlocksView,
    LogChunk,
    Status,
    StatusRequest,
    SubscribeLog,
    decode_answer,
)
from protocol.messages_trading import DiffPush, EventsPush, SubscribeDiffs, SubscribeEvents
from protocol.ordering import OrderedBlock
from store.config import parse_address
from store.testnet import ProcessEntry

BLOCKS_AT_ONCE = 256
SILENCE_S = 10.0
"""A process that says nothing for so long has nothing more, though it should."""


_Request = Callable[[int], Wire]
"""A subscribing request for a request id."""


class NotTold(TrilemmaError):
    """A process did not give what it must hold (exit 1)."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A block as an execution node executed it."""

    events: list[Event]
    diff: BlockDiff


async def ledger_headers(chain: Chain, entry: ProcessEntry) -> AsyncIterator[Header]:
    """Headers of every ledger block of a validator, from the first that it keeps on."""
    async with _Connected(chain, entry) as connected:
        values = await connected.status()
        first, newest = int(values.get("blocks_from", 1)), int(values["height"])
        while first <= newest:
            limit = min(BLOCKS_AT_ONCE, newest - first + 1)
            view = await connected.endpoint.ask(BlocksView, BlocksFrom, first, limit)
            if not view.blocks:
                raise NotTold(f"{entry.name} has no ledger block {first}")
            for block in view.blocks:
                yield block.header
            first = view.blocks[-1].header.height + 1


async def ordered_blocks(chain: Chain, entry: ProcessEntry) -> AsyncIterator[OrderedBlock]:
    """Every ordered block of a sequencer, in order."""
    async with _Connected(chain, entry) as connected:
        newest = int((await connected.status())["height"])
        if not newest:
            return
        async for push in connected.stream(lambda number: SubscribeLog(number, 1)):
            for block in push.chunk.blocks if isinstance(push, LogChunk) else ():
                yield block
                if block.header.height >= newest:
                    return


async def executed_blocks(chain: Chain, entry: ProcessEntry) -> AsyncIterator[Executed]:
    """Every block of an execution node, in order, with its events and what it changed."""
    # Two sessions: a stream that is not read stops its session, and neither may stop the other.
    async with _Connected(chain, entry) as connected, _Connected(chain, entry) as second:
        values = await connected.status()
        newest, next_seq = int(values["height"]), int(values["next_seq"])
        if not newest:
            return
        told = _with_events(second, next_seq)
        try:
            block = await anext(told, None)
            async for push in connected.stream(lambda number: SubscribeDiffs(number, 1)):
                if not isinstance(push, DiffPush):
                    continue
                diff = decode_block_diff(push.diff)
                events: list[Event] = []
                if block is not None and block.height == diff.height:
                    events = list(block.events)
                    block = await anext(told, None)
                yield Executed(events, diff)
                if diff.height >= newest:
                    return
        finally:
            await told.aclose()


async def _with_events(connected: _Connected, next_seq: int) -> AsyncGenerator[BlockEvents, None]:
    """The blocks in which anything happened, up to the one before which `next_seq` is next."""
    if next_seq <= 1:
        return
    async for push in connected.stream(lambda number: SubscribeEvents(number, 1, [])):
        if isinstance(push, EventsPush):
            block = decode_block_events(push.block)
            yield block
            if block.next_seq >= next_seq:
                return


class _Connected:
    """A session with one process."""

    def __init__(self, chain: Chain, entry: ProcessEntry) -> None:
        host, port = parse_address(entry.public)
        self.endpoint = Endpoint(host, port, chain)
        self._name = entry.name

    async def __aenter__(self) -> _Connected:
        try:
            await self.endpoint.greet()
        except (OSError, RemoteFault) as error:
            await self.endpoint.close()
            trouble = str(error) or "nothing in time"
            raise NotTold(f"{self._name} does not answer: {trouble}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.endpoint.close()

    async def status(self) -> dict[str, int | str]:
        return (await self.endpoint.ask(Status, StatusRequest)).values

    async def stream(self, request: _Request) -> AsyncIterator[Wire]:
        """Pushes of a subscription; raises `NotTold` where they stop coming."""
        number = self.endpoint.next_request_id()
        pushes = aiter(self.endpoint.subscribe(encode(request(number)), number))
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    frame = await anext(pushes)
            except StopAsyncIteration:
                return
            except (TimeoutError, ConnectionError, RemoteFault) as error:
                raise NotTold(f"{self._name} gives no more: {str(error) or 'silence'}") from None
            yield decode_answer(frame)
