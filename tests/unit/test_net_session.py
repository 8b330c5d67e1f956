"""Sessions and servers: back-pressure, slow consumers, limits, deadlines, graceful ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from net.faults import LinkFaults
from net.frames import encode_frame
from net.server import FrameServer
from net.session import Session, SessionLimits
from protocol.errors import Code, ConfigError, Rejected

SMALL = SessionLimits(
    frame_bytes=1000,
    write_high_bytes=64 * 1024,
    write_hard_bytes=2 * 1024 * 1024,
    partial_timeout_ms=0,
    close_timeout_ms=300,
)

Test = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine on either event loop, bounded by ten seconds."""

    def runner(work: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(work, 10))

    return runner


class Recorder:
    """An owner that keeps what it is told."""

    def __init__(self, on_frames: Callable[[Session, list[bytes]], None] | None = None) -> None:
        self.opened: list[Session] = []
        self.frames: list[bytes] = []
        self.closed: list[tuple[Session, Exception | None]] = []
        self._on_frames = on_frames
        self.changed = asyncio.Event()

    def on_open(self, session: Session) -> None:
        self.opened.append(session)
        self.changed.set()

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        self.frames += frames
        self.changed.set()
        if self._on_frames is not None:
            self._on_frames(session, frames)

    def on_close(self, session: Session, error: Exception | None) -> None:
        self.closed.append((session, error))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def serving(owner: Recorder, **options: Any) -> AsyncIterator[FrameServer]:
    options.setdefault("limits", SMALL)
    server = FrameServer("127.0.0.1", 0, lambda: owner, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def dial(server: FrameServer, owner: Recorder, **options: Any) -> Session:
    options.setdefault("limits", SMALL)
    limits = options.pop("limits")
    _, session = await asyncio.get_running_loop().create_connection(
        lambda: Session(owner, limits, **options), server.host, server.port
    )
    return session


def echo(session: Session, frames: list[bytes]) -> None:
    session.send_many(frames)


def test_frames_come_back_in_order_and_are_counted(run: Any) -> None:
    async def work() -> None:
        owner, client = Recorder(echo), Recorder()
        async with serving(owner) as server:
            session = await dial(server, client)
            sent = [b"%d" % i for i in range(500)]
            session.send_many(sent[:100])
            for frame in sent[100:]:
                session.send(frame)
            await client.until(lambda: len(client.frames) == len(sent))
            assert client.frames == sent
            size = sum(len(frame) + 4 for frame in sent)
            assert (session.frames_in, session.bytes_in) == (500, size)
            assert (session.frames_out, session.bytes_out) == (500, size)
            assert server.sessions == owner.opened
            session.close()
            await owner.until(lambda: bool(owner.closed))
            assert server.sessions == []
            assert session.send(b"late") is False

    run(work())


def test_an_oversized_frame_is_answered_and_ends_that_session_only(run: Any) -> None:
    async def work() -> None:
        owner, client, other = Recorder(echo), Recorder(), Recorder()

        def reject_frame(fault: Rejected) -> bytes:
            return fault.code.label.encode()

        async with serving(owner, reject_frame=reject_frame) as server:
            bystander = await dial(server, other)
            session = await dial(server, client)
            session.send(b"x" * 1001)
            await client.until(lambda: bool(client.closed))
            assert client.frames == [b"frame_too_large"]
            await owner.until(lambda: bool(owner.closed))
            closed, error = owner.closed[0]
            assert (closed.rejects, closed.close_reason) == (1, "frame_too_large")
            assert isinstance(error, Rejected)
            bystander.send(b"still here")
            await other.until(lambda: other.frames == [b"still here"])

    run(work())


def test_the_error_frame_arrives_although_input_is_left_unread(run: Any) -> None:
    async def work() -> None:
        owner = Recorder()
        async with serving(owner, reject_frame=lambda fault: b"refused") as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(encode_frame(b"x" * 1_000_000))
            assert await reader.read() == encode_frame(b"refused")
            writer.close()

    run(work())


def test_an_owner_may_reject_and_may_raise_the_frame_limit(run: Any) -> None:
    async def work() -> None:
        def judge(session: Session, frames: list[bytes]) -> None:
            if frames[0] == b"prove":
                session.frame_limit = 5000
                session.send(b"proven")
            elif len(frames[0]) > 1000:
                session.send(b"large")
            else:
                raise Rejected(Code.UNKNOWN_MESSAGE, "no")

        client = Recorder()
        async with serving(Recorder(judge)) as server:
            session = await dial(server, client)
            session.send(b"prove")
            await client.until(lambda: client.frames == [b"proven"])
            session.send(b"x" * 5000)
            await client.until(lambda: len(client.frames) == 2)
            session.send(b"nonsense")
            await client.until(lambda: bool(client.closed))
            assert client.frames == [b"proven", b"large"]

    run(work())


def test_a_reader_that_stops_pushes_back_and_nothing_is_lost(run: Any) -> None:
    async def work() -> None:
        owner, client = Recorder(), Recorder()
        async with serving(owner) as server:
            session = await dial(server, client)
            await owner.until(lambda: bool(owner.opened))
            owner.opened[0].pause_input()
            sent = 0
            while session.writable:
                session.send(b"%0999d" % sent)
                sent += 1
                if sent % 50 == 0:
                    await asyncio.sleep(0)
            assert session.buffered_bytes < SMALL.write_hard_bytes
            blocked = asyncio.create_task(session.drain())
            await asyncio.sleep(0.05)
            assert not blocked.done()
            assert session.open
            owner.opened[0].resume_input()
            await blocked
            await owner.until(lambda: len(owner.frames) == sent)
            assert owner.frames == [b"%0999d" % i for i in range(sent)]

    run(work())


def test_a_slow_consumer_is_closed_and_others_notice_nothing(run: Any) -> None:
    async def work() -> None:
        owner, slow, good = Recorder(), Recorder(), Recorder()
        async with serving(owner) as server:
            stuck = await dial(server, slow)
            stuck.pause_input()
            await dial(server, good)
            await owner.until(lambda: len(owner.opened) == 2)
            slow_side, good_side = owner.opened
            peak = sent = 0
            while slow_side.open:
                slow_side.send(b"x" * 900)
                good_side.send(b"x" * 900)
                sent += 1
                peak = max(peak, slow_side.buffered_bytes)
                if sent % 20 == 0:
                    await good_side.drain()
                    await asyncio.sleep(0)
            assert slow_side.close_reason == "slow_consumer"
            assert peak <= SMALL.write_hard_bytes + 256 * 1024 + 1000
            await owner.until(lambda: bool(owner.closed))
            assert isinstance(owner.closed[0][1], Rejected)
            await good.until(lambda: len(good.frames) == sent)
            assert good_side.open
            with pytest.raises(ConnectionError, match="slow_consumer"):
                await slow_side.drain()
            assert slow_side.buffered_bytes == 0

    run(work())


@pytest.mark.parametrize("reason", ["partial_frame_timeout", "idle_timeout"])
def test_a_session_that_stalls_is_closed(run: Any, reason: str) -> None:
    async def work() -> None:
        owner = Recorder()
        timeouts = {"partial_timeout_ms": 60} if reason[0] == "p" else {"idle_timeout_ms": 60}
        limits = SessionLimits(frame_bytes=1000, **timeouts)
        async with serving(owner, limits=limits) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(encode_frame(b"whole") + encode_frame(b"part")[:5])
            assert await reader.read() == b""
            writer.close()
            await owner.until(lambda: bool(owner.closed))
            assert owner.frames == [b"whole"]
            assert owner.closed[0][0].close_reason == reason

    run(work())


def test_trickling_bytes_do_not_extend_the_deadline_of_a_frame(run: Any) -> None:
    async def work() -> None:
        owner = Recorder()
        async with serving(owner, limits=SessionLimits(partial_timeout_ms=100)) as server:
            _, writer = await asyncio.open_connection(server.host, server.port)
            for byte in encode_frame(b"z" * 100_000):
                if owner.closed:
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
            assert owner.closed[0][0].close_reason == "partial_frame_timeout"
            writer.close()

    run(work())


@pytest.mark.parametrize("sent", [b"\x00\x00", encode_frame(b"part")[:5]])
def test_a_first_frame_that_stalls_is_not_given_the_time_of_a_silent_peer(
    run: Any, sent: bytes
) -> None:
    async def work() -> None:
        owner = Recorder()
        limits = SessionLimits(partial_timeout_ms=60, silent_timeout_ms=600_000)
        async with serving(owner, limits=limits) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()
            await owner.until(lambda: bool(owner.closed))
            assert owner.closed[0][0].close_reason == "partial_frame_timeout"

    run(work())


def test_our_own_pause_is_not_held_against_the_peer(run: Any) -> None:
    async def work() -> None:
        owner, client = Recorder(), Recorder()
        limits = SessionLimits(partial_timeout_ms=50, idle_timeout_ms=60)
        async with serving(owner, limits=limits) as server:
            session = await dial(server, client)
            await owner.until(lambda: bool(owner.opened))
            owner.opened[0].pause_input()
            session.send(b"waits")
            await asyncio.sleep(0.25)
            assert not owner.closed
            owner.opened[0].resume_input()
            await owner.until(lambda: owner.frames == [b"waits"])

    run(work())


def test_over_the_session_limit_a_frame_says_so(run: Any) -> None:
    async def work() -> None:
        owner = Recorder(echo)
        async with serving(owner, max_sessions=2, refusal_frame=lambda _: b"full") as server:
            clients = [Recorder() for _ in range(3)]
            sessions = [await dial(server, client) for client in clients[:2]]
            await owner.until(lambda: len(owner.opened) == 2)
            third = await dial(server, clients[2])
            third.send(b"hello?")
            await clients[2].until(lambda: bool(clients[2].closed))
            assert clients[2].frames == [b"full"]
            assert server.refused_sessions == 1
            assert len(owner.opened) == 2
            sessions[0].close()
            await owner.until(lambda: len(owner.closed) == 1)
            again = Recorder()
            (await dial(server, again)).send(b"room")
            await again.until(lambda: again.frames == [b"room"])

    run(work())


def test_a_port_in_use_is_one_clear_sentence(run: Any) -> None:
    async def work() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            server = FrameServer("127.0.0.1", port, Recorder)
            with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is already in use"):
                await server.start()

    run(work())


def test_stopping_sends_what_is_queued_and_frees_the_port(run: Any) -> None:
    async def work() -> None:
        owner, client = Recorder(), Recorder()
        server = FrameServer("127.0.0.1", 0, lambda: owner, limits=SMALL)
        await server.start()
        await dial(server, client)
        await owner.until(lambda: bool(owner.opened))
        for i in range(100):
            owner.opened[0].send(b"%d" % i)
        await server.stop()
        await client.until(lambda: bool(client.closed))
        assert client.frames == [b"%d" % i for i in range(100)]
        again = FrameServer("127.0.0.1", server.port, lambda: owner)
        await again.start()
        await again.stop()

    run(work())


def test_closing_does_not_wait_for_a_peer_that_never_reads(run: Any) -> None:
    async def work() -> None:
        owner, client = Recorder(), Recorder()
        async with serving(owner) as server:
            stuck = await dial(server, client)
            stuck.pause_input()
            await owner.until(lambda: bool(owner.opened))
            while owner.opened[0].writable:
                owner.opened[0].send(b"x" * 900)
                await asyncio.sleep(0)
            owner.opened[0].close("test")
            await owner.until(lambda: bool(owner.closed))
            assert owner.closed[0][0].close_reason == "test"

    run(work())


def test_our_own_fault_reaches_the_exception_handler(run: Any) -> None:
    async def work() -> None:
        def fail(session: Session, frames: list[bytes]) -> None:
            raise OSError(28, "no space left")

        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        owner, client = Recorder(fail), Recorder()
        async with serving(owner) as server:
            session = await dial(server, client)
            session.send(b"x")
            await client.until(lambda: bool(client.closed))
        assert [str(context["exception"]) for context in told] == ["[Errno 28] no space left"]

    run(work())


def test_faults_lose_and_delay_whole_frames_in_order(run: Any) -> None:
    async def work() -> None:
        owner, client = Recorder(), Recorder()
        faults = LinkFaults(delay_ms=5, jitter_ms=5, loss_ppm=300_000, seed=7)
        async with serving(owner) as server:
            session = await dial(server, client, faults=faults)
            for i in range(200):
                session.send(b"%d" % i)
            await owner.until(lambda: len(owner.frames) == 200 - faults.lost_frames)
            assert 30 < faults.lost_frames < 90
            assert owner.frames == sorted(set(owner.frames), key=int)
            faults.blocked = True
            session.send(b"lost")
            faults.blocked = False
            faults.loss_ppm = 0
            session.send(b"999")
            await owner.until(lambda: owner.frames[-1] == b"999")
            assert b"lost" not in owner.frames

    run(work())


def test_faults_are_reproduced_by_their_seed() -> None:
    def draws(seed: int) -> list[int | None]:
        faults = LinkFaults(delay_ms=1, jitter_ms=50, loss_ppm=500_000, seed=seed)
        return [faults.draw_delay_ms() for _ in range(50)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
