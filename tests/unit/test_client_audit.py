"""An audit passes over validators that do not keep what it asks for."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from pipeline_world import PipelineWorld

from client.audit_command import audit
from client.sdk import Exchange
from net.service import ClientSession, PublicService
from protocol.codec import Wire
from protocol.errors import Code, Rejected, RemoteFault
from protocol.messages import BlocksFrom, BlocksView, HeaderRequest, HeaderView


class FakeValidator:
    """The public port of a validator that keeps blocks from `keeps_from` to `height`."""

    def __init__(self, world: PipelineWorld, keeps_from: int = 1, height: int | None = None):
        self.world = world
        self.keeps_from = keeps_from
        self.height = len(world.blocks) if height is None else height
        self.asked: list[int] = []
        self.service = PublicService(world.chain, "node", "fake", dict)
        self.service.on(HeaderRequest, self.newest)
        self.service.on(BlocksFrom, self.blocks)

    def newest(self, session: ClientSession, request: HeaderRequest) -> Wire:
        header = self.world.blocks[-1].header
        return HeaderView(request.request_id, header, self.world.certificate())

    def blocks(self, session: ClientSession, request: BlocksFrom) -> Wire:
        first = request.from_height
        self.asked.append(first)
        if first < self.keeps_from:
            text = f"this validator keeps blocks from {self.keeps_from} on, not {first}"
            raise Rejected(Code.NOT_RETAINED, text)
        if first > self.height:
            raise Rejected(Code.NOT_FOUND, f"ledger block {first} is not committed")
        part = self.world.blocks[first - 1 : self.height]
        return BlocksView(request.request_id, part, self.world.certificate())


@asynccontextmanager
async def served(*validators: FakeValidator, first: int = 0) -> AsyncIterator[Exchange]:
    async with AsyncExitStack() as stack:
        addresses = []
        for one in validators:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            await one.service.start("127.0.0.1", port)
            stack.push_async_callback(one.service.stop)
            addresses.append(f"127.0.0.1:{port}")
        chain = validators[0].world.chain
        exchange = Exchange(
            chain, {"node": addresses}, patience_ms=1_000, first_address=first
        )  # fmt: skip
        yield await stack.enter_async_context(exchange)


@pytest.fixture
def world() -> PipelineWorld:
    made = PipelineWorld()
    made.order(inbox_height=0)
    made.settle()
    made.order()
    made.settle()
    made.ledger_block()
    return made


@pytest.mark.parametrize(
    "others",
    [
        lambda world: [FakeValidator(world, keeps_from=2)],
        lambda world: [FakeValidator(world, height=0), FakeValidator(world, keeps_from=3)],
    ],
)
async def test_another_validator_is_asked_for_what_the_first_has_not(
    world: PipelineWorld, others: Callable[[PipelineWorld], list[FakeValidator]]
) -> None:
    without, whole = others(world), FakeValidator(world)
    async with served(*without, whole) as exchange:
        report = await audit(exchange)
    assert report.ledger_blocks == len(world.blocks)
    assert whole.asked == [1] and all(one.asked == [1] for one in without)


async def test_where_all_prune_the_lowest_block_that_is_kept_is_named(
    world: PipelineWorld,
) -> None:
    validators = [FakeValidator(world, keeps_from=3), FakeValidator(world, keeps_from=2)]
    async with served(*validators) as exchange:
        with pytest.raises(RemoteFault) as caught:
            await audit(exchange)
    assert caught.value.code == Code.NOT_RETAINED
    assert "block 1;" in caught.value.text and "keeps is 2." in caught.value.text
    assert [one.asked for one in validators] == [[1], [1]]


async def test_a_block_that_nobody_has_yet_is_told_as_it_is(world: PipelineWorld) -> None:
    async with served(FakeValidator(world, height=0)) as exchange:
        with pytest.raises(RemoteFault) as caught:
            await audit(exchange)
    assert caught.value.code == Code.NOT_FOUND


async def test_the_validator_that_is_named_is_asked_first(world: PipelineWorld) -> None:
    validators = [FakeValidator(world), FakeValidator(world)]
    async with served(*validators, first=1) as exchange:
        await audit(exchange)
    assert [one.asked for one in validators] == [[], [1]]
