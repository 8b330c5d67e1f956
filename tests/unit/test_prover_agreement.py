"""A prover notices when execution nodes contradict each other, and says which and where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pipeline_world import PipelineWorld
from service_world import Serve, serving_ports, until
from structlog.testing import capture_logs

from net.service import ClientSession, PublicService
from net.upstream import Upstream
from protocol.errors import Code, Rejected, RemoteFault
from protocol.messages_trading import DiffPush, SubscribeDiffs
from prover.agreement import WINDOW, Agreement
from prover.process_agreement import Address, ExecutionWatch
from prover.process_contest import ProcessContest

A, B, C = "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"


def digest(text: str) -> bytes:
    return text.encode().ljust(32, b"\0")


# --- the machine


def test_those_that_say_the_same_agree_whoever_speaks_first() -> None:
    agreement = Agreement()
    for height in range(1, 50):
        for node in (A, B, C) if height % 2 else (C, A, B):
            assert agreement.told(node, height, digest(f"{height}"))
    assert (agreement.sentence(), agreement.disagreements) == ("", 0)


def test_the_first_block_and_both_nodes_are_named_and_each_block_counts() -> None:
    agreement = Agreement()
    for height in range(1, 10):
        agreement.told(B, height, digest(f"{height}"))
    assert [agreement.told(A, at, digest("lie")) for at in (3, 4)] == [False, True]
    assert agreement.told(A, 5, digest("5"))  # right again, which mends nothing
    assert agreement.sentence() == f"execution nodes {A} and {B} disagree on block 3"
    assert agreement.disagreements == 2


def test_a_node_that_is_heard_anew_begins_anew() -> None:
    agreement = Agreement()
    agreement.told(A, 3, digest("lie"))
    agreement.told(B, 3, digest("3"))
    agreement.told(C, 3, digest("3"))
    assert agreement.disagreements == 2
    agreement.began(A)
    assert agreement.sentence() == ""
    for node in (A, B, C):
        assert agreement.told(node, 3, digest("3"))
    agreement.told(A, 4, digest("lie"))
    assert not agreement.told(B, 4, digest("4"))


def test_what_is_remembered_is_bounded() -> None:
    agreement = Agreement()
    for height in range(3 * WINDOW):
        agreement.told(A, height, digest("x"))
    assert len(agreement._said) == WINDOW
    assert agreement.told(B, 0, digest("y")), "too long ago to be compared"


def test_one_that_lags_pushes_out_nothing_that_it_will_come_to_itself() -> None:
    agreement = Agreement()
    for height in range(2 * WINDOW):
        agreement.told(A, height, digest(f"{height}"))
    for height in range(WINDOW - 100, WINDOW + 3):
        agreement.told(B, height, digest("lie"))
    assert agreement.sentence() == f"execution nodes {A} and {B} disagree on block {WINDOW}"
    assert agreement.disagreements == 3


# --- with nodes


def saying(*diffs: bytes) -> Serve:
    """An execution node whose diffs of blocks 1, 2, ... are these."""

    def serve(session: ClientSession, request: SubscribeDiffs) -> None:
        for diff in diffs[request.from_height - 1 :]:
            session.send(DiffPush(request.request_id, diff))

    return serve


def nodes(
    world: PipelineWorld, *handlers: Serve
) -> AbstractAsyncContextManager[list[tuple[str, int]]]:
    return serving_ports(world.chain, "execution", SubscribeDiffs, handlers)


@asynccontextmanager
async def watching(world: PipelineWorld, addresses: list[Address]) -> AsyncIterator[ExecutionWatch]:
    others = ExecutionWatch(world.chain, addresses, "prover-0", lambda: 1)
    async with running(others):
        yield others


@asynccontextmanager
async def running(others: ExecutionWatch) -> AsyncIterator[None]:
    task = asyncio.ensure_future(others.run())
    try:
        yield
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def heard(others: ExecutionWatch) -> int:
    return len(others.agreement._said)


async def test_the_others_are_heard_and_compared_with_the_one_that_is_followed() -> None:
    world = PipelineWorld()
    async with nodes(
        world, saying(b"1", b"2", b"3"), saying(b"1", b"2", b"3"), saying(b"1", b"lie", b"3")
    ) as (first, second, liar):
        name = f"127.0.0.1:{liar[1]}"
        async with watching(world, [first, second]) as others:
            others.follows(first)
            await until(lambda: heard(others) == 3)
            for height, diff in enumerate([b"1", b"2", b"3"], 1):
                others.told(first, diff, height)
            assert others.agreement.sentence() == ""
        async with watching(world, [first, second, liar]) as others:
            others.follows(first)
            await until(lambda: others.agreement.sentence() != "")
            assert name in others.agreement.sentence()
            assert others.agreement.sentence().endswith("on block 2")


async def test_who_is_heard_changes_with_who_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prover.process_agreement.RETRY_S", 0.01)
    world, asked = PipelineWorld(), [0, 0]

    def counting(at: int) -> Serve:
        def serve(session: ClientSession, request: SubscribeDiffs) -> None:
            asked[at] += 1
            saying(b"1")(session, request)

        return serve

    async with (
        nodes(world, counting(0), counting(1)) as (first, second),
        watching(world, [first, second]) as others,
    ):
        others.follows(first)
        await until(lambda: asked == [0, 1])
        others.follows(second)
        await until(lambda: asked == [1, 1])
        others.follows(second)  # the prover asks again: nothing changes for the others
        others.told(second, b"another", 1)
        await until(lambda: "on block 1" in others.agreement.sentence())
        assert asked == [1, 1]


async def test_one_that_runs_ahead_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prover.process_agreement.RETRY_S", 0.01)
    monkeypatch.setattr("prover.process_agreement.AHEAD_MAX", 10)
    world = PipelineWorld()
    taken = 1
    async with nodes(world, saying(), saying(*[b"x"] * 200)) as addresses:
        others = ExecutionWatch(world.chain, addresses, "prover-0", lambda: taken)
        async with running(others):
            others.follows(addresses[0])
            await until(lambda: heard(others) == 11)
            await asyncio.sleep(0.2)
            assert heard(others) == 11
            others.told(addresses[0], b"x", 1)
            taken = 6
            await until(lambda: heard(others) == 16)


async def test_alone_a_node_is_compared_with_nobody() -> None:
    world = PipelineWorld()
    async with nodes(world, saying(b"1")) as addresses, watching(world, addresses) as others:
        others.follows(addresses[0])
        others.told(addresses[0], b"1", 1)
        await asyncio.sleep(0.05)
        assert (others.agreement.sentence(), heard(others)) == ("", 1)


async def test_one_that_keeps_too_little_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prover.process_agreement.RETRY_S", 0.01)
    world, asked, kept = PipelineWorld(), 0, False

    def keeps_too_little(session: ClientSession, request: SubscribeDiffs) -> None:
        nonlocal asked
        asked += 1
        if not kept:
            raise Rejected(Code.NOT_RETAINED, "diffs are retained from 7 on")
        saying(b"1")(session, request)

    async with nodes(world, saying(b"1"), keeps_too_little) as (first, other):
        with capture_logs() as logs:
            async with watching(world, [first, other]) as others:
                others.follows(first)
                await until(lambda: asked > 4)
                kept = True
                await until(lambda: heard(others) == 1)
    told = [one for one in logs if one["event"] == "execution node keeps too little"]
    assert len(told) == 1 and told[0]["log_level"] == "warning", logs
    assert told[0]["node"] == f"127.0.0.1:{other[1]}"
    assert "retained from 7 on" in told[0]["error"] and "not compared" in told[0]["meaning"]


async def test_a_defence_without_diffs_says_what_it_means() -> None:
    world = PipelineWorld()

    def keeps_nothing(session: ClientSession, request: SubscribeDiffs) -> None:
        raise Rejected(Code.NOT_RETAINED, "diffs are retained from 7 on")

    async with nodes(world, keeps_nothing) as addresses:
        nothing: Any = None
        execution = Upstream(addresses, world.chain.chain_id, "prover-0")
        contest = ProcessContest(nothing, nothing, nothing, execution)
        header: Any = SimpleNamespace(first_block=1, last_block=2)
        with capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(RemoteFault, match="retained from 7 on"):
                    await contest.diffs(header)
        (told,) = [one for one in logs if "meaning" in one]
        assert "the dispute is lost" in told["meaning"]


async def test_one_that_hangs_is_dialled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("net.upstream.QUIET_S", 0.02)
    monkeypatch.setattr("net.upstream.ANSWER_MS", 50)
    monkeypatch.setattr("prover.process_agreement.RETRY_S", 0.01)
    monkeypatch.setattr(PublicService, "_answer_status", lambda *_: None)
    world, asked = PipelineWorld(), 0

    def hangs_at_first(session: ClientSession, request: SubscribeDiffs) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            saying(b"1", b"2")(session, request)

    async with (
        nodes(world, saying(), hangs_at_first) as (first, other),
        watching(world, [first, other]) as others,
    ):
        others.follows(first)
        await until(lambda: heard(others) == 2)
    assert asked >= 2
