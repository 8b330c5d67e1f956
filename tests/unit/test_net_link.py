"""Links come back after a server restart, wait between attempts, and queue within bounds."""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
import uvloop

from net.link import Backoff, Link, QueueLimits
from net.server import FrameServer
from net.session import Session
from protocol.errors import Code, Rejected

FAST = Backoff(first_ms=5, cap_ms=20, stable_ms=50)


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(work, 10))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """Owner of accepted sessions."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.frames: list[bytes] = []
        self.changed = asyncio.Event()

    def on_open(self, session: Session) -> None:
        self.sessions.append(session)
        self.changed.set()

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        self.frames += frames
        self.changed.set()

    def on_close(self, session: Session, error: Exception | None) -> None:
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Dialler:
    """Owner of a link."""

    def __init__(self, refuse: bool = False) -> None:
        self.events: list[str] = []
        self.frames: list[bytes] = []
        self.refuse = refuse
        self.changed = asyncio.Event()

    def on_connect(self, session: Session) -> None:
        self.changed.set()
        if self.refuse:
            self.events.append("refused")
            raise Rejected(Code.BAD_CERTIFICATE, "not whom I wanted")
        self.events.append("connect")

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        self.frames += frames
        self.changed.set()

    def on_disconnect(self, error: Exception | None) -> None:
        self.events.append("disconnect")
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def test_it_reconnects_when_the_server_restarts() -> None:
    async def work() -> None:
        accepted, dialler = Server(), Dialler()
        server = FrameServer("127.0.0.1", 0, lambda: accepted)
        await server.start()
        link = Link("127.0.0.1", server.port, dialler, backoff=FAST)
        link.start()
        link.send(b"before the connection stands")
        await accepted.until(lambda: len(accepted.frames) == 1)
        accepted.sessions[0].send(b"answer")
        await dialler.until(lambda: dialler.frames == [b"answer"])
        await server.stop()
        await dialler.until(lambda: dialler.events == ["connect", "disconnect"])
        assert not link.connected
        while link.failed_attempts < 3:
            await asyncio.sleep(0.005)
        link.send(b"while it was down 1")
        link.send(b"while it was down 2")
        assert link.queued_frames == 2
        server = FrameServer("127.0.0.1", server.port, lambda: accepted)
        await server.start()
        await accepted.until(lambda: len(accepted.frames) == 3)
        assert accepted.frames[1:] == [b"while it was down 1", b"while it was down 2"]
        assert dialler.events == ["connect", "disconnect", "connect"]
        assert link.connects == 2
        await link.close()
        assert dialler.events[-1] == "disconnect"
        await server.stop()

    run(work())


def test_a_slow_start_of_the_server_loses_nothing_queued() -> None:
    async def work() -> None:
        accepted, dialler = Server(), Dialler()
        port = free_port()
        link = Link("127.0.0.1", port, dialler, backoff=FAST)
        link.start()
        sent = [b"%d" % i for i in range(1000)]
        assert link.send_many(sent)
        while link.failed_attempts == 0:
            await asyncio.sleep(0.005)
        server = FrameServer("127.0.0.1", port, lambda: accepted)
        await server.start()
        await accepted.until(lambda: len(accepted.frames) == len(sent))
        assert accepted.frames == sent
        await link.close()
        await server.stop()

    run(work())


def test_a_full_queue_drops_the_oldest_or_pushes_back() -> None:
    async def work() -> None:
        by_count = Link("127.0.0.1", 1, Dialler(), queue=QueueLimits(max_frames=3))
        for i in range(5):
            assert by_count.send(b"%d" % i)
        assert list(by_count._queue) == [b"2", b"3", b"4"]
        assert by_count.dropped_frames == 2
        by_bytes = Link("127.0.0.1", 1, Dialler(), queue=QueueLimits(max_bytes=10))
        for i in range(5):
            assert by_bytes.send(b"%04d" % i)
        assert list(by_bytes._queue) == [b"0003", b"0004"]
        assert not by_bytes.send(b"x" * 11)
        firm = Link("127.0.0.1", 1, Dialler(), queue=QueueLimits(max_frames=2, drop_oldest=False))
        assert [firm.send(b"%d" % i) for i in range(4)] == [True, True, False, False]
        assert list(firm._queue) == [b"0", b"1"]
        assert firm.dropped_frames == 0
        assert not firm.send_many([b"a", b"b"])

    run(work())


def test_a_reader_that_stops_fills_the_queue_and_then_gets_the_rest_in_order() -> None:
    async def work() -> None:
        accepted, dialler = Server(), Dialler()
        server = FrameServer("127.0.0.1", 0, lambda: accepted)
        await server.start()
        bounds = QueueLimits(max_bytes=1_000_000, drop_oldest=False)
        link = Link("127.0.0.1", server.port, dialler, queue=bounds, backoff=FAST)
        link.start()
        await accepted.until(lambda: len(accepted.sessions) == 1)
        await dialler.until(lambda: bool(dialler.events))
        accepted.sessions[0].pause_input()
        sent = 0
        while link.send(b"%010000d" % sent):
            sent += 1
            await asyncio.sleep(0)
        assert link.connected
        assert link.queued_frames > 90
        accepted.sessions[0].resume_input()
        await accepted.until(lambda: len(accepted.frames) == sent)
        assert [int(frame[-9:]) for frame in accepted.frames] == list(range(sent))
        await link.close()
        await server.stop()

    run(work())


def test_a_refused_peer_is_tried_again_and_never_counts_as_connected() -> None:
    async def work() -> None:
        accepted, dialler = Server(), Dialler(refuse=True)
        server = FrameServer("127.0.0.1", 0, lambda: accepted)
        await server.start()
        link = Link("127.0.0.1", server.port, dialler, backoff=FAST)
        link.start()
        link.send(b"secret")
        await dialler.until(lambda: len(dialler.events) >= 3)
        assert set(dialler.events) == {"refused"}
        assert link.connects == 0
        assert accepted.frames == []
        await link.close()
        await server.stop()

    run(work())


@pytest.mark.parametrize("failures", [1, 2, 5, 50, 5000])
def test_waits_double_to_a_cap_with_jitter(failures: int) -> None:
    backoff = Backoff(first_ms=50, cap_ms=5000)
    waits = [backoff.wait_ms(failures, Random(seed)) for seed in range(200)]
    span = min(5000, 50 * 2 ** min(failures - 1, 20))
    assert span // 2 <= min(waits) < max(waits) <= span
    assert len(set(waits)) > 10


def test_closing_at_the_moment_at_which_the_connection_stands_returns() -> None:
    """uvloop closes a connection whose dialling is cancelled, and never calls `connection_lost`."""

    async def work() -> None:
        class Hasty(Dialler):
            def on_connect(self, session: Session) -> None:
                closing.append(asyncio.ensure_future(link.close()))
                super().on_connect(session)

        closing: list[asyncio.Future[None]] = []
        server = FrameServer("127.0.0.1", 0, Server)
        await server.start()
        dialler = Hasty()
        link = Link("127.0.0.1", server.port, dialler, backoff=FAST)
        link.start()
        await dialler.until(lambda: bool(closing))
        await closing[0]
        assert dialler.events == ["connect", "disconnect"]
        assert not link.connected
        await server.stop()

    run(work())
