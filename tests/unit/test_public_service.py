"""The public port under clients that ask too much: each waits for itself, the others are served."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from ledger_world import LedgerWorld

from net import service
from net.frames import FrameSplitter, encode_frame
from net.pacing import DEBT_S_MAX, HOSTS_MAX, Bucket, Pacing, address_group
from net.service import ClientSession, PublicService
from protocol.codec import Wire, encode
from protocol.errors import Code
from protocol.messages import Done, ErrorFrame, Status, StatusRequest, decode_answer
from protocol.messages_market_data import BookRequest
from protocol.messages_trading import OrdersRequest, ResultView
from store.client_limits import ClientLimits

ANSWER_BYTES = 1024 * 1024


class Served(PublicService):
    """Answers a book request with a mebibyte, and an orders request by counting it."""

    def __init__(self) -> None:
        super().__init__(LedgerWorld().chain, "node", "test", dict)
        self.asked: list[int] = []
        self.on(BookRequest, self._large)
        self.on(OrdersRequest, self._small)

    def _large(self, session: ClientSession, request: BookRequest) -> Wire:
        self.asked.append(request.request_id)
        return ResultView(request.request_id, bytes(ANSWER_BYTES))

    def _small(self, session: ClientSession, request: OrdersRequest) -> Wire:
        self.asked.append(request.request_id)
        return Done(request.request_id)

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.port


@asynccontextmanager
async def serving(limits: ClientLimits | None = None) -> AsyncIterator[Served]:
    served = Served()
    served.limits = limits or served.limits
    await served.start("127.0.0.1", 0)
    yield served
    await served.stop()


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(work, 20))


async def answers(reader: asyncio.StreamReader, count: int) -> list[Any]:
    splitter, found = FrameSplitter(8 << 20), list[Any]()
    while len(found) < count:
        data = await reader.read(1 << 20)
        assert data, "the session was closed"
        found += [decode_answer(frame) for frame in splitter.feed(data)]
    return found


def frames(*requests: Wire) -> bytes:
    return b"".join(encode_frame(encode(request)) for request in requests)


def test_answers_that_nobody_reads_stop_the_questions_and_lose_none() -> None:
    async def scenario() -> None:
        async with serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1 << 16)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            count = 200
            writer.write(frames(*(BookRequest(n, 0, 1) for n in range(1, count + 1))))
            await writer.drain()
            other = await asyncio.open_connection("127.0.0.1", served.port)
            for request_id in range(1, 20):
                other[1].write(frames(StatusRequest(request_id)))
                assert isinstance((await answers(other[0], 1))[0], Status)
            assert 0 < len(served.asked) < 50
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            found = await answers(reader, count)
            assert [one.request_id for one in found] == list(range(1, count + 1))
            assert served.asked == list(range(1, count + 1))

    run(scenario())


def test_requests_behind_the_end_of_a_session_are_not_carried_out() -> None:
    async def scenario() -> None:
        async with serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            garbage = encode_frame(b"\xc1") * service.MAX_BAD_FRAMES
            writer.write(garbage + frames(*(OrdersRequest(n, 0) for n in range(1, 500))))
            found = await answers(reader, service.MAX_BAD_FRAMES + 1)
            assert isinstance(found[-1], ErrorFrame) and found[-1].code == Code.RATE_LIMITED
            while await reader.read(1 << 16):
                pass
            assert served.asked == []

    run(scenario())


def test_a_long_stretch_of_requests_gives_others_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "TURN_S", 0.0)  # one request a turn

    async def scenario() -> None:
        async with serving() as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            other = await asyncio.open_connection("127.0.0.1", served.port)
            other[1].write(frames(StatusRequest(1)))
            await answers(other[0], 1)
            count = 5_000
            writer.write(frames(*(OrdersRequest(n, 0) for n in range(1, count + 1))))
            other[1].write(frames(StatusRequest(2)))
            await answers(other[0], 1)
            assert len(served.asked) < count
            found = await answers(reader, count)
            assert [one.request_id for one in found] == list(range(1, count + 1))

    run(scenario())


def test_one_address_does_not_take_all_sessions() -> None:
    async def scenario() -> None:
        async with serving(ClientLimits(sessions_of_host=3)) as served:
            mine = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
            for reader, writer in mine:
                writer.write(frames(StatusRequest(1)))
                await answers(reader, 1)
            refused, _ = await asyncio.open_connection("127.0.0.1", served.port)
            (fault,) = await answers(refused, 1)
            assert isinstance(fault, ErrorFrame) and fault.code == Code.BUSY
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, local_addr=("127.0.0.2", 0)
            )
            writer.write(frames(StatusRequest(7)))
            assert (await answers(reader, 1))[0].request_id == 7
            mine[0][1].close()
            for _ in range(200):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(frames(StatusRequest(8)))
                (answer,) = await answers(reader, 1)
                if isinstance(answer, Status):
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError("a closed session does not make room")

    run(scenario())


# --- the pace of clients


def test_who_asks_too_fast_is_read_slower_and_loses_nothing() -> None:
    async def scenario() -> None:
        limits = ClientLimits(requests_per_s=200, burst_s=1)
        async with serving(limits) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(frames(*(OrdersRequest(n, 0) for n in range(1, 301))))
            assert len(await answers(reader, 300)) == 300  # one read may go over
            began_s = time.monotonic()
            writer.write(frames(*(OrdersRequest(n, 0) for n in range(301, 311))))
            other = await asyncio.open_connection("127.0.0.1", served.port)
            other[1].write(frames(StatusRequest(1)))
            (status,) = await answers(other[0], 1)
            assert isinstance(status, Status) and status.values["throttled"] == 1
            assert len(await answers(reader, 10)) == 10
            assert time.monotonic() - began_s > 0.3, "a hundred too many, at 200 a second"
            assert served.asked == list(range(1, 311))

    run(scenario())


def test_an_address_has_a_pace_of_its_own_beside_its_sessions() -> None:
    async def scenario() -> None:
        limits = ClientLimits(requests_per_s=0, host_requests_per_s=100, burst_s=1)
        async with serving(limits) as served:
            for _ in range(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(frames(*(OrdersRequest(n, 0) for n in range(1, 81))))
                assert len(await answers(reader, 80)) == 80
            assert served.throttled == 1, "each was within its own bounds"
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, local_addr=("127.0.0.2", 0)
            )
            writer.write(frames(*(OrdersRequest(n, 0) for n in range(1, 81))))
            assert len(await answers(reader, 80)) == 80
            assert served.throttled == 1

    run(scenario())


def test_an_address_has_its_share_of_the_processor_and_others_are_served() -> None:
    """Requests that cost much, over many sessions of one address, beside one of another."""

    async def scenario() -> None:
        async with serving(ClientLimits(host_busy_ppm=200_000, burst_s=1)) as served:

            def slow(session: ClientSession, request: OrdersRequest) -> Wire:
                time.sleep(0.002)
                return served._small(session, request)

            served.on(OrdersRequest, slow)
            greedy = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(10)]
            for _, writer in greedy:
                writer.write(frames(*(OrdersRequest(n, 0) for n in range(1, 31))))
            other = await asyncio.open_connection(
                "127.0.0.1", served.port, local_addr=("127.0.0.2", 0)
            )
            while served.throttled < 10:
                other[1].write(frames(StatusRequest(1)))
                await answers(other[0], 1)
            asked = len(served.asked)
            assert asked < 10 * 30, "at its share after a second's worth at most"
            other[1].write(frames(*(StatusRequest(n) for n in range(1, 100))))
            assert len(await answers(other[0], 99)) == 99
            assert len(served.asked) < asked + 100
            for reader, _ in greedy:
                assert len(await answers(reader, 30)) == 30, "late, but none is lost"

    run(scenario())


def test_an_address_that_connects_too_often_is_turned_away() -> None:
    async def scenario() -> None:
        limits = ClientLimits(host_connections_per_s=1, sessions_of_host=3, burst_s=1)
        async with serving(limits) as served:
            for _ in range(6):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                writer.write(frames(StatusRequest(1)))
                await answers(reader, 1)
                writer.close()
                while served.metrics and served._sessions:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            refused, _ = await asyncio.open_connection("127.0.0.1", served.port)
            (fault,) = await answers(refused, 1)
            assert isinstance(fault, ErrorFrame) and fault.code == Code.RATE_LIMITED
            assert served.rejected["rate_limited"] == 1
            assert await refused.read() == b"", "and closed"

    run(scenario())


def test_who_says_nothing_is_closed_and_who_has_spoken_may_be_silent() -> None:
    async def scenario() -> None:
        async with serving(ClientLimits(silent_ms=150)) as served:
            spoken = await asyncio.open_connection("127.0.0.1", served.port)
            spoken[1].write(frames(StatusRequest(1)))
            await answers(spoken[0], 1)
            silent = await asyncio.open_connection("127.0.0.1", served.port)
            assert await silent[0].read() == b""
            assert served.rejected["silent"] == 1
            spoken[1].write(frames(StatusRequest(2)))
            assert (await answers(spoken[0], 1))[0].request_id == 2

    run(scenario())


def test_a_bucket_saves_up_to_its_burst_and_forgives_endless_debts() -> None:
    bucket = Bucket(10, 20, 0.0)
    assert bucket.charge(20, 0.0) == 0.0
    assert bucket.charge(5, 0.0) == 0.5
    assert bucket.charge(0, 0.5) == 0.0
    assert bucket.charge(20, 100.0) == 0.0, "no more than the burst is saved up"
    assert bucket.charge(10**9, 100.0) == DEBT_S_MAX
    assert not bucket.take(100.0) and bucket.take(111.0)
    free = Bucket(0, 0, 0.0)
    assert free.charge(10**9, 0.0) == 0.0 and free.take(0.0)


def test_an_address_is_one_machine_or_one_network_of_ipv6() -> None:
    assert address_group("10.0.0.7") == "10.0.0.7" == address_group("::ffff:10.0.0.7")
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff:1") == "2001:db8::/64"
    assert address_group("2001:db8:0:1::1") != address_group("2001:db8::1")
    assert address_group("fe80::1%eth0") == "fe80::/64" and address_group("?") == "?"


def test_remembered_addresses_are_bounded() -> None:
    pacing = Pacing(ClientLimits(host_connections_per_s=1), lambda: 0.0)
    for number in range(HOSTS_MAX + 100):
        assert pacing.connects(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(pacing) == HOSTS_MAX
