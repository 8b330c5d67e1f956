"""What a process holds is read from it block by block, whole, and a process that stops is named."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pipeline_world import PipelineWorld

from cluster import faults_collect
from cluster.faults_collect import NotTold, executed_blocks
from net.service import ClientSession, PublicService
from protocol.codec import encode
from protocol.events import BlockDiff, BlockEvents, MarkChanged
from protocol.messages_trading import DiffPush, EventsPush, SubscribeDiffs, SubscribeEvents
from store.testnet import ProcessEntry

BLOCKS = 3_000
EVERY = 2
"""Something happens in each second block: more blocks than wait for a reader at once."""


class Node:
    """An execution node of so many blocks, of which it tells the first `told`."""

    def __init__(self, told: int = BLOCKS) -> None:
        self.told = told

    async def diffs(self, session: ClientSession, request: SubscribeDiffs) -> None:
        for height in range(request.from_height, self.told + 1):
            diff = BlockDiff(height, bytes(32), 0, [], [], 1)
            session.send(DiffPush(request.request_id, encode(diff)))
            await session.link.drain()

    async def events(self, session: ClientSession, request: SubscribeEvents) -> None:
        for number, height in enumerate(range(EVERY, self.told + 1, EVERY), 1):
            block = BlockEvents(height, 0, number, number + 1, [], [MarkChanged(0, height)])
            session.send(EventsPush(request.request_id, encode(block)))
            await session.link.drain()


@asynccontextmanager
async def serving(world: PipelineWorld, node: Node) -> AsyncIterator[ProcessEntry]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    status: dict[str, int | str] = {"height": BLOCKS, "next_seq": BLOCKS // EVERY + 1}
    service = PublicService(world.chain, "execution", "fake", lambda: status)
    service.on(SubscribeDiffs, node.diffs)
    service.on(SubscribeEvents, node.events)
    await service.start("127.0.0.1", port)
    try:
        yield ProcessEntry("execution-0", "execution", 0, f"127.0.0.1:{port}")
    finally:
        await service.stop()


async def test_every_block_comes_with_its_own_events() -> None:
    world = PipelineWorld()
    async with serving(world, Node()) as entry, asyncio.timeout(60):
        found = [one async for one in executed_blocks(world.chain, entry)]
    assert [one.diff.height for one in found] == list(range(1, BLOCKS + 1))
    for one in found:
        height = one.diff.height
        assert one.events == ([] if height % EVERY else [MarkChanged(0, height)])


@pytest.mark.parametrize("told", [0, BLOCKS - 1])
async def test_a_node_that_stops_telling_is_named(
    told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults_collect, "SILENCE_S", 0.5)
    world = PipelineWorld()
    async with serving(world, Node(told)) as entry, asyncio.timeout(60):
        with pytest.raises(NotTold, match=r"^execution-0 gives no more: silence$"):
            async for _ in executed_blocks(world.chain, entry):
                pass


async def test_a_node_that_is_not_there_is_named() -> None:
    world = PipelineWorld()
    async with serving(world, Node()) as entry:
        pass
    with pytest.raises(NotTold, match=r"^execution-0 does not answer: \S"):
        async for _ in executed_blocks(world.chain, entry):
            pass
