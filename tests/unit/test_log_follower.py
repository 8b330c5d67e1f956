"""A follower of the log leaves sequencers that are silent, hang, or send what does not verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from pipeline_world import PipelineWorld
from service_world import Serve, serving_ports, until

from execution.log import log_genesis_id
from execution.process_log import LogFollower
from net.service import ClientSession, PublicService
from protocol.actions import Order
from protocol.messages import LogChunk, SubscribeLog
from protocol.ordering import OrderedChunk


def silent(session: ClientSession, request: SubscribeLog) -> None:
    """Say nothing."""


def serving(world: PipelineWorld, blocks: int) -> Serve:
    """Serve the blocks up to this height, one in a chunk, and then say nothing."""

    def serve(session: ClientSession, request: SubscribeLog) -> None:
        for block in world.log.blocks[request.from_height - 1 : blocks]:
            chunk = OrderedChunk([block], world.log.certificate(block.header))
            session.send(LogChunk(request.request_id, chunk))

    return serve


def lying(world: PipelineWorld) -> Serve:
    """Serve blocks of another height than was asked for."""

    def serve(session: ClientSession, request: SubscribeLog) -> None:
        block = world.log.blocks[request.from_height % len(world.log.blocks)]
        chunk = OrderedChunk([block], world.log.certificate(block.header))
        session.send(LogChunk(request.request_id, chunk))

    return serve


def sequencers(
    world: PipelineWorld, *handlers: Serve | None
) -> AbstractAsyncContextManager[list[tuple[str, int]]]:
    return serving_ports(world.chain, "sequencer", SubscribeLog, handlers)


def ordered_world() -> PipelineWorld:
    world = PipelineWorld()
    for price in (600_000, 600_001, 600_002, 600_003):
        world.order(world.sign(world.alice, Order(0, 0, price, 1)))
    return world


async def followed(world: PipelineWorld, addresses: list[tuple[str, int]], name: str) -> list[int]:
    """Heights that a follower gets until it has the whole log."""
    log = LogFollower(world.chain, addresses, name, 0, log_genesis_id(world.chain))
    heights: list[int] = []
    async with asyncio.timeout(20):
        async for chunk in log.chunks():
            heights += [block.header.height for block in chunk.blocks]
            if len(heights) == len(world.log.blocks):
                return heights
    raise AssertionError("the log has no end")


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
async def test_a_follower_gets_the_whole_log_whoever_it_asks_first(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("execution.process_log.QUIET_S", 0.1)
    monkeypatch.setattr("execution.process_log.OPEN_S", 0.2)
    world = ordered_world()
    handlers = silent, serving(world, 2), None, serving(world, 4)
    async with sequencers(world, *handlers) as addresses:
        assert await followed(world, addresses, name) == [1, 2, 3, 4]


async def test_a_follower_leaves_a_sequencer_that_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("execution.process_log.QUIET_S", 0.1)
    world = ordered_world()
    async with sequencers(world, lying(world), serving(world, 4)) as addresses:
        for name in ("a", "b"):
            assert await followed(world, addresses, name) == [1, 2, 3, 4]


async def test_the_only_sequencer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("net.upstream.QUIET_S", 0.05)
    world, asked = ordered_world(), 0

    def late(session: ClientSession, request: SubscribeLog) -> None:
        nonlocal asked
        asked += 1
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, serving(world, 4), session, request)

    async with sequencers(world, late) as addresses:
        assert await followed(world, addresses, "a") == [1, 2, 3, 4]
    assert asked == 1


# --- noticing that nobody is reached


@asynccontextmanager
async def following(log: LogFollower) -> AsyncIterator[list[OrderedChunk]]:
    """What a follower has got so far, while it goes on."""
    chunks: list[OrderedChunk] = []

    async def follow() -> None:
        async for chunk in log.chunks():
            chunks.append(chunk)  # noqa: PERF401 - each one counts as soon as it comes

    task = asyncio.ensure_future(follow())
    try:
        yield chunks
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in less time."""
    monkeypatch.setattr("execution.process_log.QUIET_S", 0.05)
    monkeypatch.setattr("execution.process_log.OPEN_S", 0.05)
    monkeypatch.setattr("net.upstream.QUIET_S", 0.05)
    monkeypatch.setattr("net.upstream.ANSWER_MS", 100)
    monkeypatch.setattr("net.readiness.SILENCE_MS", 500)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_log_that_stands_still_is_no_silence(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    impatient(monkeypatch)
    world = ordered_world()
    async with sequencers(world, *[serving(world, 4)] * count) as addresses:
        log = LogFollower(world.chain, addresses, "a", 0, log_genesis_id(world.chain))
        assert "nothing was heard of the ordered log yet" in log.trouble()
        async with following(log) as chunks:
            await until(lambda: len(chunks) == 4)
            for _ in range(10):  # far longer than a silence may last
                await asyncio.sleep(0.1)
                await until(lambda: log.silence_ms() < 500)
                assert log.trouble() == ""


@pytest.mark.parametrize("count", [1, 3])
async def test_sequencers_that_hang_or_are_gone_are_a_silence(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Their connections may well stand: nothing comes."""
    impatient(monkeypatch)
    world = ordered_world()
    async with sequencers(world, *[serving(world, 4)] * count) as addresses:
        log = LogFollower(world.chain, addresses, "a", 0, log_genesis_id(world.chain))
        async with following(log) as chunks:
            await until(lambda: len(chunks) == 4)
            with monkeypatch.context() as hanging:
                hanging.setattr(PublicService, "on_frames", lambda *_: None)
                await until(lambda: "nothing was heard of the ordered log for" in log.trouble())
                assert log.silence_ms() > 500
            await until(lambda: log.trouble() == "")


@pytest.mark.parametrize("count", [1, 4])
async def test_a_log_that_does_not_follow_is_told_and_is_not_hearing(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Sequencers that order a second log from the beginning are reached, and yet of no use."""
    monkeypatch.setattr("execution.process_log.REFUSED_S", 0.05)
    first, second = ordered_world(), ordered_world()
    async with sequencers(second, *[serving(second, 4)] * count) as addresses:
        assert first.chain.chain_id == second.chain.chain_id
        log = LogFollower(first.chain, addresses, "a", 2, b"\1" * 32)
        async with following(log) as chunks:
            await until(lambda: len(log._refused) == count)
            assert "does not go on behind block 2: block 3 does not follow" in log.trouble()
            heard = log._hearing._heard_s
            refused = log.refused
            await until(lambda: log.refused > refused + 2 * count)
            assert log._hearing._heard_s == heard, "who is not believed is not heard"
            assert chunks == [] and log.height == 2


async def test_one_liar_of_four_is_no_trouble_and_a_true_chunk_ends_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch)
    monkeypatch.setattr("execution.process_log.REFUSED_S", 0.05)
    world = ordered_world()
    async with sequencers(world, lying(world), *[silent] * 3) as addresses:
        log = LogFollower(world.chain, addresses, "a", 0, log_genesis_id(world.chain))
        async with following(log):
            await until(lambda: log.refused > 1)
            assert "does not go on" not in log.trouble()
    served = False

    def mends(session: ClientSession, request: SubscribeLog) -> None:
        (serving(world, 4) if served else lying(world))(session, request)

    async with sequencers(world, mends) as addresses:
        log = LogFollower(world.chain, addresses, "a", 0, log_genesis_id(world.chain))
        async with following(log) as chunks:
            await until(lambda: "does not go on behind block 0" in log.trouble())
            served = True
            await until(lambda: len(chunks) == 4)
            await until(lambda: log.trouble() == "")


async def test_a_sequencer_that_has_nothing_wrong_to_say_any_more_is_heard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch)
    monkeypatch.setattr("execution.process_log.REFUSED_S", 0.05)
    world, rests = ordered_world(), False

    def stills(session: ClientSession, request: SubscribeLog) -> None:
        (silent if rests else lying(world))(session, request)

    async with sequencers(world, stills) as addresses:
        log = LogFollower(world.chain, addresses, "a", 0, log_genesis_id(world.chain))
        async with following(log):
            await until(lambda: log.trouble() != "" and log.refused > 0)
            rests = True
            await until(lambda: log.trouble() == "")


async def test_a_chunk_that_takes_long_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    world = ordered_world()
    async with sequencers(world, serving(world, 4)) as addresses:
        log = LogFollower(world.chain, addresses, "a", 0, log_genesis_id(world.chain))
        async for _ in log.chunks():
            await asyncio.sleep(0.7)
            assert (log.silence_ms(), log.trouble()) == (0, "")
            break
