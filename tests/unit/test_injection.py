"""Faults that a process is told to suffer: each toxic on real sessions, plans, who may order."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import uvloop
from aiohttp import web

from cluster.testnet import TestnetOptions, create_testnet
from net.clock import WallClock, now_ms
from net.injection import injection
from net.injection_http import fault_routes
from net.injection_plan import (
    NOTHING,
    PLAN_BYTES_MAX,
    SKEW_MAX_MS,
    SYNC_DELAY_MAX_MS,
    Clock,
    Disk,
    Plan,
    parse_plan,
)
from net.link import Backoff, Link
from net.mesh import Peer, PeerMesh
from net.server import FrameServer
from net.session import Session, SessionLimits
from net.tls import client_context, make_certificate, server_context
from protocol.errors import ConfigError
from protocol.keys import Key
from store.config import load_config
from store.faults import disk

LIMITS = SessionLimits(write_high_bytes=64 * 1024, write_hard_bytes=1024 * 1024)
PEER = "validator-2"
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on either event loop, bounded in time."""

    def runner(work: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(work, 30))

    return runner


@pytest.fixture(scope="module")
def testnet_config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Configuration and chain of the first validator of a testnet."""
    options = TestnetOptions(traders=1, free_ports=True)
    testnet = create_testnet(tmp_path_factory.mktemp("faults") / "testnet", options)
    return load_config(testnet.config_path("validator-1")), testnet.chain()


@pytest.fixture(autouse=True)
def this_process(testnet_config: Any) -> Iterator[None]:
    """This process is the first validator, and suffers nothing before and after."""
    injection.__init__()  # type: ignore[misc]
    injection.enable(*testnet_config)
    yield
    injection.apply(NOTHING)
    injection.__init__()  # type: ignore[misc]


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.frames: list[bytes] = []
        self.reads: list[int] = []
        self.errors: list[Exception | None] = []
        self.changed = asyncio.Event()

    def on_open(self, session: Session) -> None:
        self.sessions.append(session)
        self.changed.set()

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        self.frames += frames
        self.changed.set()

    def on_close(self, session: Session, error: Exception | None) -> None:
        self.errors.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def linked(name: str = PEER) -> AsyncIterator[tuple[Session, Recorder, Recorder]]:
    """A session to a peer of this name, its owner, and the far end's."""
    near, far = Recorder(), Recorder()
    server = FrameServer("127.0.0.1", 0, lambda: far)
    await server.start()
    try:
        yield await dial(server, near, name), near, far
    finally:
        await server.stop()


async def dial(server: FrameServer, owner: Recorder, name: str | None = None) -> Session:
    _, session = await asyncio.get_running_loop().create_connection(
        lambda: Session(owner, LIMITS), server.host, server.port
    )
    if name is not None:
        injection.greeted(session, name)
    return session


def order(
    kind: str, peers: list[str] | None = None, toxicity_ppm: int = 10**6, **numbers: int
) -> None:
    """Suffer one toxic and nothing else."""
    toxic = {
        "name": "it", "type": kind, "peers": peers or [PEER], "toxicity_ppm": toxicity_ppm,
        "attributes": numbers,
    }  # fmt: skip
    injection.apply(parse_plan(json.dumps({"toxics": [toxic], "seed": 7}).encode()))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)


def bit(name: str = PEER) -> dict[str, int]:
    found: dict[str, int] = injection.state()["bit"]["peers"].get(name, {})
    return found


# --- toxics


def test_latency_delays_frames_in_order_on_sessions_that_stand(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            session.send(b"first")
            order("latency", latency_ms=30, jitter_ms=30)
            sent = [b"%d" % i for i in range(50)]
            session.send_many(sent)
            assert session.buffered_bytes > 0
            await far.until(lambda: len(far.frames) == 51)
            assert far.frames == [b"first", *sent]
            assert bit() == {"delayed_frames": 50}

    run(work())


def test_nothing_passes_a_cut_link_until_it_heals(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            order("timeout")
            for i in range(20):
                assert session.send(b"%d" % i)
            # The other way is open, and what comes on it proves that nothing went before.
            near_frames: list[bytes] = session.owner.frames  # type: ignore[attr-defined]
            await far.until(lambda: bool(far.sessions))
            far.sessions[0].send(b"back")
            await session.owner.until(lambda: near_frames == [b"back"])  # type: ignore[attr-defined]
            assert far.frames == [] and session.open and not far.errors
            assert bit() == {"blocked_frames": 20}
            injection.apply(NOTHING)
            session.send(b"after")
            await far.until(lambda: len(far.frames) == 21)
            assert far.frames == [*(b"%d" % i for i in range(20)), b"after"]
            assert session.buffered_bytes == 0 and session._line is None

    run(work())


def test_a_cut_link_pushes_back_and_a_waiting_sender_goes_on_when_it_heals(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            order("timeout")
            told: list[Session] = []
            session.on_writable = told.append
            session.send(bytes(LIMITS.write_high_bytes))
            assert not session.writable
            waiting = asyncio.ensure_future(session.drain())
            await asyncio.sleep(0)
            injection.apply(NOTHING)
            await waiting
            assert told and session.writable
            await far.until(lambda: len(far.frames) == 1)

    run(work())


def test_a_cut_link_is_bounded(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, near, _):
            order("timeout")
            while session.send(bytes(100_000)):
                pass
            await near.until(lambda: bool(near.errors))
            assert session.close_reason == "slow_consumer"

    run(work())


def test_lost_frames_do_not_arrive_and_the_others_keep_their_order(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            key = next(iter(injection._name_of_key))
            injection.member(session, key)
            member = injection._name_of_key[key]
            order("loss", [member], loss_ppm=300_000)
            session.send_many([b"%d" % i for i in range(500)])
            lost = bit(member)["lost_frames"]
            assert 100 < lost < 200
            await far.until(lambda: len(far.frames) == 500 - lost)
            assert far.frames == sorted(set(far.frames), key=int)

    run(work())


def test_what_is_lost_of_a_stream_is_sent_again(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            order("loss", loss_ppm=100_000)
            sent = [b"%d" % i for i in range(100)]
            session.send_many(sent)
            await far.until(lambda: len(far.frames) == 100)
            assert far.frames == sent
            assert 0 < bit()["lost_frames"] < 30

    run(work())


def test_bandwidth_holds_frames_and_loses_none(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            order("bandwidth", rate_kib_s=500)
            sent = [bytes([i]) * 1000 for i in range(40)]
            session.send_many(sent)
            assert session.buffered_bytes > 30_000, "nothing waits for its turn"
            await far.until(lambda: len(far.frames) == 40)
            assert far.frames == sent
            assert bit() == {"throttled_bytes": 40 * 1004}

    run(work())


def test_sliced_frames_arrive_whole(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            order("slicer", bytes=3)
            sent = [b"x", b"a frame of some length", b"yz" * 100]
            session.send_many(sent)
            await far.until(lambda: len(far.frames) == 3)
            assert far.frames == sent
            assert bit() == {"sliced_frames": 3}

    run(work())


def test_a_link_ends_after_its_data_in_the_middle_of_a_frame(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, near, far):
            order("limit_data", bytes=50)
            session.send_many([b"0123456789"] * 10)
            await far.until(lambda: bool(far.errors) or bool(far.sessions and near.errors))
            await near.until(lambda: bool(near.errors))
            await far.until(lambda: bool(far.errors))
            assert far.frames == [b"0123456789"] * 3
            assert far.sessions[0].bytes_in == 50
            assert bit() == {"cut_connections": 1}

    run(work())


def test_a_reset_is_seen_as_one_and_later_connections_are_refused(run: Run) -> None:
    async def work() -> None:
        near, far = Recorder(), Recorder()
        server = FrameServer("127.0.0.1", 0, lambda: far)
        await server.start()
        await dial(server, near, PEER)
        other = await dial(server, near, "validator-3")
        await far.until(lambda: len(far.sessions) == 2)
        order("reset_peer")
        await far.until(lambda: len(far.errors) == 1)
        assert isinstance(far.errors[0], ConnectionResetError)
        await dial(server, near, PEER)
        await near.until(lambda: len(near.errors) == 2)
        assert bit() == {"reset_connections": 1, "refused_connections": 1}
        assert other.open
        injection.apply(NOTHING)
        again = await dial(server, near, PEER)
        again.send(b"here")
        await far.until(lambda: far.frames == [b"here"])
        await server.stop()

    run(work())


class LinkOwner:
    """Takes whoever answers for the peer."""

    def on_connect(self, session: Session) -> None:
        injection.greeted(session, PEER)

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        raise AssertionError("nothing comes back")

    def on_disconnect(self, error: Exception | None) -> None:
        pass


def test_a_link_sends_in_order_what_waited_for_a_cut_to_heal(run: Run) -> None:
    async def work() -> None:
        far = Recorder()
        server = FrameServer("127.0.0.1", 0, lambda: far)
        await server.start()
        link = Link("127.0.0.1", server.port, LinkOwner(), limits=LIMITS)
        link.start()
        await until(lambda: link.connected)
        order("timeout")
        sent = [b"%d" % i + bytes(10_000) for i in range(50)]
        for frame in sent:
            assert link.send(frame)
        assert link.queued_frames > 0, "all of it waits in the session"
        injection.apply(NOTHING)
        await far.until(lambda: len(far.frames) == 50)
        assert far.frames == sent
        await link.close()
        await server.stop()

    run(work())


def test_a_refused_peer_behind_a_cut_link_hears_nothing(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, _, far):
            order("timeout")
            session.close_with(b"the last word", "refused")
            await far.until(lambda: bool(far.errors))
            assert far.frames == []

    run(work())


def test_a_link_comes_back_after_resets_and_sends_what_waits(run: Run) -> None:
    async def work() -> None:
        far = Recorder()
        server = FrameServer("127.0.0.1", 0, lambda: far)
        await server.start()
        order("reset_peer")
        link = Link("127.0.0.1", server.port, LinkOwner(), backoff=Backoff(1, 5))
        link.start()
        await until(lambda: bit().get("refused_connections", 0) >= 3)
        injection.apply(NOTHING)
        await until(lambda: link.connects > 3 and link.connected)
        link.send(b"after")
        await far.until(lambda: b"after" in far.frames)
        await link.close()
        await server.stop()

    run(work())


# --- who is meant


def test_every_process_is_meant_by_the_star_and_clients_by_their_name_alone(run: Run) -> None:
    async def work() -> None:
        near, far = Recorder(), Recorder()
        server = FrameServer("127.0.0.1", 0, lambda: far)
        await server.start()
        names = ["validator-3", "execution-1", "a trader"]
        sessions = {name: await dial(server, near, name) for name in names}
        for toxic_peers, hit in (
            (["*"], {"validator-3", "execution-1"}),
            (["clients"], {"a trader"}),
            (["validator-3", "clients"], {"validator-3", "a trader"}),
            (["validator-0"], set()),
        ):
            order("timeout", toxic_peers)
            stalled = {name for name, session in sessions.items() if session._line is not None}
            assert stalled == hit, toxic_peers
        order("timeout", ["*"])
        dialled = await dial(server, near)
        assert dialled._line is None, "nobody has said a name"
        injection.dialled(dialled, ("127.0.0.1", server.port))
        assert dialled._line is not None, "whoever is dialled is a process"
        order("timeout", [PEER])
        assert dialled._line is None
        injection.welcomed(dialled, ("127.0.0.1", server.port), PEER)
        assert dialled._line is not None, "its name is known now"
        again = await dial(server, near)
        injection.dialled(again, ("127.0.0.1", server.port))
        assert again._line is not None, "the name is known from before"
        injection.apply(NOTHING)
        await server.stop()

    run(work())


def test_a_part_of_the_connections_is_hit_and_the_seed_says_which(run: Run) -> None:
    async def work() -> None:
        async with linked() as (_, near, far):
            server_port = far.sessions[0].transport.get_extra_info("sockname")[1]
            sessions = []
            for _ in range(60):
                _, session = await asyncio.get_running_loop().create_connection(
                    lambda: Session(near, LIMITS), "127.0.0.1", server_port
                )
                injection.greeted(session, "validator-3")
                sessions.append(session)
            order("timeout", ["validator-3"], toxicity_ppm=500_000)
            first = [session._line is not None for session in sessions]
            assert 15 < sum(first) < 45
            injection.apply(NOTHING)
            order("timeout", ["validator-3"], toxicity_ppm=500_000)
            assert [session._line is not None for session in sessions] == first
            injection.apply(NOTHING)

    run(work())


def test_members_are_named_by_genesis_or_by_their_certificates(run: Run) -> None:
    async def work() -> None:
        keys = [Key(bytes([i]) * 32) for i in (1, 2, 3)]
        injection._name_of_key[keys[1].public] = PEER
        ports = []
        for _ in keys:
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports.append(free.getsockname()[1])
        heard: list[tuple[bytes, bytes]] = []

        async def on_message(public_key: bytes, frame: bytes) -> None:
            heard.append((public_key, frame))

        def contexts(key: Key) -> tuple[ssl.SSLContext, ssl.SSLContext]:
            own = key, make_certificate(key, "the-joiner"), [
                make_certificate(each, "the-joiner") for each in keys
            ]  # fmt: skip
            return server_context(*own), client_context(*own)

        peers = [Peer(key.public, "127.0.0.1", port) for key, port in zip(keys, ports, strict=True)]
        meshes = []
        for key, port in zip(keys, ports, strict=True):
            mesh = PeerMesh(
                key.public, *contexts(key), on_message, listen_host="127.0.0.1",
                listen_port=port, backoff=Backoff(5, 20, 50),
            )  # fmt: skip
            mesh.set_peers(peers, *contexts(key))
            await mesh.start()
            meshes.append(mesh)
        await until(lambda: all(len(mesh.connected) == 2 for mesh in meshes))
        await until(lambda: injection.state()["sessions"] == {PEER: 4, "the-joiner": 8})
        order("timeout", ["the-joiner"])
        meshes[0].send(keys[1].public, b"arrives")
        meshes[0].send(keys[2].public, b"held")
        await until(lambda: heard == [(keys[0].public, b"arrives")])
        assert bit("the-joiner") == {"blocked_frames": 1}
        injection.apply(NOTHING)
        await until(lambda: heard[1:] == [(keys[0].public, b"held")])
        await asyncio.gather(*(mesh.close() for mesh in meshes))

    run(work())


def test_without_faults_a_session_has_no_line_and_is_forgotten_when_it_ends(run: Run) -> None:
    async def work() -> None:
        async with linked() as (session, near, _):
            order("timeout", ["validator-3"])
            assert session._line is None
            session.close()
            await near.until(lambda: bool(near.errors))
            assert session not in injection._joined
        assert not injection._joined

    run(work())


# --- plans


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"toxic": []}, "toxics, clock"),
        ({"toxics": [{"name": "a", "type": "latency"}]}, "peers"),
        ({"toxics": [{"name": "a", "type": "fire", "peers": ["*"]}]}, "types are latency, band"),
        ({"toxics": [{"name": "a", "type": "latency", "peers": ["*"]}]}, "lacks the attribute"),
        ({"toxics": [{"name": "a", "type": "timeout", "peers": []}]}, "1 to 256 peers"),
        ({"toxics": [{"name": "", "type": "timeout", "peers": ["*"]}]}, "1 to 64 characters"),
        ({"toxics": [{"name": "a", "type": "timeout", "peers": ["*"]}] * 2}, "used once"),
        ({"toxics": [{"name": "a", "type": "timeout", "peers": ["*"]}] * 65}, "at most 64"),
        (
            {"toxics": [{"name": "a", "type": "loss", "peers": ["*"],
                         "attributes": {"loss_ppm": 2_000_000}}]},
            "from 1 to 1000000",
        ),
        (
            {"toxics": [{"name": "a", "type": "loss", "peers": ["*"],
                         "attributes": {"lost": 1}}]},
            "loss has loss_ppm",
        ),
        ({"clocks": [{"name": "a", "skew": 5}]}, "skew_ms"),
        ({"clocks": [{"skew_ms": 5}]}, "name"),
        ({"clocks": [{"name": "a", "skew_ms": 1.5}]}, "int"),
        ({"clocks": [{"name": "a", "skew_ms": 366 * 86_400_000 + 1}]}, "clock 'a': skew_ms is"),
        ({"clocks": [{"name": "a", "skew_ms": 5}] * 2}, "two clocks are named 'a'"),
        ({"clocks": [{"name": "a" * 65, "skew_ms": 5}]}, "a clock has a name of 1 to 64"),
        ({"disks": [{"name": "a", "delay_ms": 60_000}]}, "0 to 10000"),
        ({"disks": [{"name": "a", "full": True}] * 2}, "two disks are named 'a'"),
        ({"disks": [{"name": "", "full": True}]}, "a disk has a name of 1 to 64"),
        ({"disks": [{"name": "a"}] * 65}, "at most 64 disks"),
        ({"clock": {"skew_ms": 5}}, "a plan has toxics, clocks"),
        ({"seed": -1}, "seed"),
        ([], "malformed"),
    ],
)  # fmt: skip
def test_a_plan_is_refused_with_what_is_allowed(plan: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_plan(json.dumps(plan).encode())


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[" * 10_000, b"x" * (PLAN_BYTES_MAX + 1)])
def test_garbage_is_no_plan(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_plan(raw)


def test_unknown_peers_are_refused_and_the_known_ones_named() -> None:
    plan = {"toxics": [{"name": "a", "type": "timeout", "peers": ["validator-9"]}]}
    with pytest.raises(ConfigError, match=r"validator-1, validator-2.*execution-N"):
        injection.apply(parse_plan(json.dumps(plan).encode()))
    assert injection.plan is NOTHING


# --- clock and disk


def test_a_clock_set_back_goes_on_slowly_until_the_time_has_caught_up() -> None:
    wall_ms, passed_ms = 1_000_000, 0
    clock = WallClock(lambda: wall_ms * 1_000_000, lambda: passed_ms * 1_000_000)
    assert clock() == 1_000_000
    clock.skew_ms = 10_000
    assert clock() == 1_010_000 and clock.off_ms() == 10_000
    clock.skew_ms = 0
    told = []
    for _ in range(30):
        told.append(clock())
        wall_ms += 1_000
        passed_ms += 1_000
    assert told == sorted(told), "it never goes back"
    assert told[2] == 1_011_000, "it goes on at half the speed"
    assert told[20:] == [1_000_000 + 1_000 * i for i in range(20, 30)]


def test_the_clock_and_the_disk_follow_the_plan() -> None:
    slow = Disk("slow", delay_ms=1)
    late = Clock("late", -5000)
    injection.apply(Plan(clocks=[late], disks=[slow, Disk("full", full=True)]))
    assert now_ms.skew_ms == -5000
    assert (disk.active, disk.delay_ms, disk.full, disk.read_only) == (True, 1, True, False)
    injection.apply(Plan(clocks=[late, Clock("early", 200)], disks=[slow]))
    assert now_ms.skew_ms == -4800
    assert (disk.active, disk.delay_ms, disk.full, disk.read_only) == (True, 1, False, False)
    injection.apply(Plan())
    assert now_ms.skew_ms == 0 and not disk.active


def test_clocks_and_disks_of_several_faults_come_together() -> None:
    plan = Plan(
        clocks=[Clock("a", 300), Clock("b", -500)],
        disks=[
            Disk("a", delay_ms=20),
            Disk("b", delay_ms=30, read_only=True),
            Disk("c", full=True),
        ],
    )
    assert (plan.skew_ms, plan.sync_delay_ms) == (-200, 50)
    assert plan.disk_full and plan.disk_read_only
    assert not Plan(disks=[Disk("a", delay_ms=9)]).disk_full
    assert not Plan(disks=[Disk("a", full=True)]).disk_read_only
    for sign in (1, -1):
        most = [Clock(name, sign * SKEW_MAX_MS) for name in "ab"]
        assert Plan(clocks=most).skew_ms == sign * SKEW_MAX_MS
    slowest = [Disk(name, delay_ms=SYNC_DELAY_MAX_MS) for name in "ab"]
    assert Plan(disks=slowest).sync_delay_ms == SYNC_DELAY_MAX_MS


# --- over HTTP


@asynccontextmanager
async def served() -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    app = web.Application()
    app.add_routes(fault_routes())
    runner = web.AppRunner(app)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    async with aiohttp.ClientSession() as client:
        yield client, f"http://127.0.0.1:{listening.getsockname()[1]}/faults"
    await runner.cleanup()


JSON = {"Content-Type": "application/json"}


def test_faults_are_ordered_shown_and_cleared_over_http(run: Run) -> None:
    async def work() -> None:
        async with served() as (client, url), linked() as (session, _, far):
            toxic = {"name": "cut", "type": "timeout", "peers": [PEER]}
            body = json.dumps({"toxics": [toxic], "seed": 3})
            async with client.put(url, data=body, headers=JSON) as answer:
                assert answer.status == 200
            session.send(b"x")
            async with client.get(url) as answer:
                state = await answer.json()
            assert state["process"] == "validator-1"
            assert state["plan"]["toxics"] == [toxic]
            assert state["bit"]["peers"] == {PEER: {"blocked_frames": 1}}
            assert state["sessions"] == {PEER: 1}
            async with client.delete(url) as answer:
                assert (await answer.json())["plan"]["toxics"] == []
            await far.until(lambda: far.frames == [b"x"])

    run(work())


def test_wrong_requests_are_refused_and_change_nothing(run: Run) -> None:
    async def work() -> None:
        async with served() as (client, url):
            good = b'{"clocks":[{"name":"a","skew_ms":-1}]}'
            for method, data, headers, status in (
                ("PUT", good, {"Content-Type": "text/plain"}, 415),
                ("PUT", good, {**JSON, "Origin": "http://evil.example"}, 403),
                ("DELETE", b"", {"Origin": "null"}, 403),
                ("GET", b"", {"Origin": "http://evil.example"}, 403),
                ("PUT", b"{", JSON, 400),
                ("PUT", b" " * (PLAN_BYTES_MAX + 1), JSON, 413),
            ):
                async with client.request(method, url, data=data, headers=headers) as answer:
                    assert answer.status == status, (method, headers)
                    assert (await answer.json())["error"]
            assert injection.plan is NOTHING
            injection.enabled = False
            async with client.put(url, data=good, headers=JSON) as answer:
                assert answer.status == 404
                assert "testnet" in (await answer.json())["error"]

    run(work())


def test_only_a_testnet_that_allows_it_takes_faults(testnet_config: Any, tmp_path: Path) -> None:
    config, chain = testnet_config
    injection.enable(msgspec.structs.replace(config, faults=False), chain)
    assert not injection.enabled
    genesis = msgspec.structs.replace(chain.genesis, testnet=False)
    injection.enable(config, msgspec.structs.replace(chain, genesis=genesis))
    assert not injection.enabled
