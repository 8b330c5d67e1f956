"""The client side of the public port: routing by request id, faults, loss, flow control."""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
import uvloop

from net.rpc import Connection
from net.server import FrameServer
from net.session import Session, SessionLimits
from net.upstream import Upstream
from protocol.errors import Code, ConfigError, RemoteFault

LIMITS = SessionLimits(write_high_bytes=64 * 1024, write_hard_bytes=64 * 1024 * 1024)


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(work, 10))


def pack(*fields: object) -> bytes:
    frame: bytes = msgpack.packb(fields)
    return frame


class Service:
    """Answers [tag, id, argument]: 1 echo, 2 fault, 3 hold, 4 stream, 5 hang up, 6 stray fault."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.held: list[int] = []
        self.streamed = 0
        self.changed = asyncio.Event()

    def on_open(self, session: Session) -> None:
        self.sessions.append(session)

    def on_close(self, session: Session, error: Exception | None) -> None:
        self.changed.set()

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        for frame in frames:
            self.answer(session, *msgpack.unpackb(frame))
        self.changed.set()

    def answer(self, session: Session, tag: int, request_id: int, argument: Any) -> None:
        if tag == 1:
            session.send(pack(1, request_id, argument))
        elif tag == 2:
            session.send(pack(0, request_id, int(Code.BUSY), "come back later"))
        elif tag == 3:
            self.held.append(request_id)
        elif tag == 4:
            task = asyncio.ensure_future(self.stream(session, request_id, argument))
            task.add_done_callback(lambda task: task.exception())
        elif tag == 5:
            session.abort("hang up")
        elif tag == 6:
            session.close_with(pack(0, 0, int(Code.BUSY), "too many sessions"), "full")

    async def stream(self, session: Session, request_id: int, count: int) -> None:
        for i in range(count):
            session.send(pack(4, request_id, i, b"x" * 1000))
            self.streamed += 1
            await session.drain()
        session.send(pack(0, request_id, int(Code.NOT_RETAINED), "no more"))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[Connection]:
    server = FrameServer("127.0.0.1", 0, lambda: service, limits=LIMITS)
    await server.start()
    try:
        async with Connection("127.0.0.1", server.port) as connection:
            yield connection
    finally:
        await server.stop()


def test_answers_find_their_requests_in_any_order() -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            slow = asyncio.create_task(connection.request(pack(3, 70_000, 0), 70_000))
            frames = [pack(1, i, f"text {i}") for i in range(1, 300)]
            answers = [connection.start_request(f, i) for i, f in enumerate(frames, 1)]
            assert await asyncio.gather(*answers) == frames
            assert not slow.done()
            service.sessions[0].send(pack(3, 70_000, "late"))
            assert await slow == pack(3, 70_000, "late")

    run(work())


def test_an_error_frame_is_raised_where_it_belongs() -> None:
    async def work() -> None:
        async with connected(Service()) as connection:
            with pytest.raises(RemoteFault, match="busy: come back later") as fault:
                await connection.request(pack(2, 5, 0), 5)
            assert fault.value.code == Code.BUSY
            assert await connection.request(pack(1, 5, 0), 5) == pack(1, 5, 0)

    run(work())


def test_a_timed_out_request_frees_its_id_and_ignores_the_late_answer() -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            with pytest.raises(TimeoutError):
                await connection.request(pack(3, 9, 0), 9, timeout_ms=20)
            service.sessions[0].send(pack(3, 9, "late"))
            assert await connection.request(pack(1, 10, 0), 10) == pack(1, 10, 0)
            assert connection.unrouted_frames == 1

    run(work())


def test_an_id_in_use_is_refused() -> None:
    async def work() -> None:
        async with connected(Service()) as connection:
            waiting = connection.start_request(pack(3, 1, 0), 1)
            with pytest.raises(ConfigError, match="request id 1 is in use"):
                connection.start_request(pack(1, 1, 0), 1)
            with pytest.raises(ConfigError):
                connection.subscribe(pack(4, 1, 0), 1)
            waiting.cancel()

    run(work())


def test_losing_the_connection_ends_everything_that_waits() -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            request = asyncio.create_task(connection.request(pack(3, 1, 0), 1))
            subscription = connection.subscribe(pack(3, 2, 0), 2)
            await service.until(lambda: sorted(service.held) == [1, 2])
            service.sessions[0].send(pack(3, 2, "one push"))
            assert await subscription.get() == pack(3, 2, "one push")
            connection.post(pack(5, 3, 0))
            with pytest.raises(ConnectionError):
                await request
            with pytest.raises(ConnectionError):
                await subscription.get()
            with pytest.raises(ConnectionError):
                await connection.request(pack(1, 4, 0), 4)
            assert not connection.connected

    run(work())


def test_a_fault_of_the_whole_session_is_told_with_the_loss() -> None:
    async def work() -> None:
        async with connected(Service()) as connection:
            with pytest.raises(ConnectionError, match="too many sessions"):
                await connection.request(pack(6, 1, 0), 1)

    run(work())


def test_nobody_listening_is_a_connection_error() -> None:
    async def work() -> None:
        with pytest.raises(ConnectionError, match=r"cannot connect to 127\.0\.0\.1:1"):
            await Connection("127.0.0.1", 1).open()

    run(work())


def test_a_full_subscription_stops_the_server_and_loses_nothing() -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            total = 40_000
            subscription = connection.subscribe(pack(4, 1, total), 1, capacity=100)
            before = -1
            while service.streamed != before:
                before = service.streamed
                await asyncio.sleep(0.1)
            assert service.streamed < total
            assert 100 <= subscription.waiting < 2000
            got = 0
            with pytest.raises(RemoteFault, match="no more"):
                async for frame in subscription:
                    assert msgpack.unpackb(frame)[2] == got
                    got += 1
            assert got == total
            assert await connection.request(pack(1, 2, 0), 2) == pack(1, 2, 0)

    run(work())


def test_closing_a_full_subscription_lets_others_go_on() -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            full = connection.subscribe(pack(4, 1, 3000), 1, capacity=10)
            while not full.full:
                await asyncio.sleep(0.01)
            request = asyncio.create_task(connection.request(pack(1, 2, 0), 2))
            assert len(full.take_all()) >= 10
            while not full.full:
                await asyncio.sleep(0.01)
            full.close()
            assert await request == pack(1, 2, 0)
            assert [frame async for frame in full] == []

    run(work())


def test_a_server_that_sends_nonsense_is_dropped() -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            request = asyncio.create_task(connection.request(pack(3, 1, 0), 1))
            await service.until(lambda: service.held == [1])
            service.sessions[0].send(b"\xc0")
            with pytest.raises(ConnectionError, match="without a request id"):
                await request

    run(work())


def test_close_returns_though_the_transport_never_tells_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        service = Service()
        async with connected(service) as connection:
            monkeypatch.setattr("net.rpc.CLOSE_S", 0.05)
            held = asyncio.create_task(connection.request(pack(3, 1, 0), 1))
            await service.until(lambda: service.held == [1])
            with monkeypatch.context() as patched:
                patched.setattr(Session, "close", lambda session: None)
                patched.setattr(Session, "abort", lambda session, reason: None)
                await connection.close()
            assert not connection.connected
            with pytest.raises(ConnectionError):
                await held

    run(work())


def test_an_opening_that_is_given_up_once_the_connection_stands_leaves_nothing() -> None:
    """uvloop closes such a connection itself, and never calls `connection_lost`."""

    async def work() -> None:
        class Hasty(Connection):
            def on_open(self, session: Session) -> None:
                super().on_open(session)
                opening.cancel()

        server = FrameServer("127.0.0.1", 0, Service, limits=LIMITS)
        await server.start()
        connection = Hasty("127.0.0.1", server.port)
        opening = asyncio.create_task(connection.open())
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not connection.connected
        with pytest.raises(ConnectionError):
            connection.post(pack(1, 1, 0))
        await connection.close()
        await server.stop()

    run(work())


def test_an_upstream_that_is_given_up_while_the_server_does_not_greet_leaves_no_session() -> None:
    async def work() -> None:
        class Mute(Service):
            def on_frames(self, session: Session, frames: list[bytes]) -> None:
                self.held += [1] * len(frames)
                self.changed.set()

        service = Mute()
        server = FrameServer("127.0.0.1", 0, lambda: service, limits=LIMITS)
        await server.start()
        upstream = Upstream([("127.0.0.1", server.port)], b"\0" * 32, "tester")
        opening = asyncio.create_task(upstream.connection())
        await service.until(lambda: service.held == [1])
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await service.until(lambda: not service.sessions[0].open)
        await server.stop()

    run(work())
