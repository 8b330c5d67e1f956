"""TLS between nodes: pinned certificates only, TLS 1.3 only; the mesh maps keys to members."""

# ruff: noqa: ASYNC110 - what is awaited here has no event
from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from net import member_links, mesh
from net.link import Backoff
from net.member_links import MemberLinks
from net.mesh import InboxLimits, Peer, PeerMesh
from net.server import FrameServer
from net.session import Session
from net.tls import (
    certificate_end_s,
    certificate_public_key,
    client_context,
    is_usable,
    make_certificate,
    peer_public_key,
    server_context,
)
from protocol.errors import Code, ConfigError, Rejected
from protocol.keys import Key

KEYS = [Key(bytes([i]) * 32) for i in range(1, 6)]
CERTIFICATES = [make_certificate(key, f"validator {i}") for i, key in enumerate(KEYS)]
FAST = Backoff(first_ms=5, cap_ms=20, stable_ms=50)


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Run a coroutine on either event loop, bounded by twenty seconds."""

    def runner(work: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.get_loop().set_exception_handler(lambda loop, context: None)
            loop.run(asyncio.wait_for(work, 20))

    return runner


class Recorder:
    """An owner of sessions on either side."""

    def __init__(self) -> None:
        self.opened = 0
        self.keys: list[bytes] = []
        self.frames: list[bytes] = []
        self.closed = 0
        self.changed = asyncio.Event()

    def on_open(self, session: Session) -> None:
        self.opened += 1
        self.keys.append(peer_public_key(session.transport))
        self.changed.set()

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        self.frames += frames
        self.changed.set()

    def on_close(self, session: Session, error: Exception | None) -> None:
        self.closed += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


async def connect(port: int, owner: Recorder, context: ssl.SSLContext) -> Session:
    _, session = await asyncio.get_running_loop().create_connection(
        lambda: Session(owner), "127.0.0.1", port, ssl=context, server_hostname=""
    )
    return session


def test_a_certificate_is_the_same_each_time_and_holds_its_key() -> None:
    assert make_certificate(KEYS[0], "validator 0") == CERTIFICATES[0]
    assert [certificate_public_key(der) for der in CERTIFICATES] == [key.public for key in KEYS]
    with pytest.raises(Rejected):
        certificate_public_key(b"junk")


def test_a_certificate_of_another_key_is_refused_by_the_context() -> None:
    with pytest.raises(ConfigError, match="certificate cannot be used"):
        server_context(KEYS[0], CERTIFICATES[1], CERTIFICATES)
    with pytest.raises(ConfigError):
        client_context(KEYS[0], b"junk", CERTIFICATES)


def test_two_members_talk_and_know_each_others_key(run: Any) -> None:
    async def work() -> None:
        accepted, dialled = Recorder(), Recorder()
        context = server_context(KEYS[0], CERTIFICATES[0], CERTIFICATES[:3])
        server = FrameServer("127.0.0.1", 0, lambda: accepted, ssl=context)
        await server.start()
        mine = client_context(KEYS[1], CERTIFICATES[1], CERTIFICATES[:3])
        session = await connect(server.port, dialled, mine)
        assert dialled.keys == [KEYS[0].public]
        session.send(b"x" * 200_000)
        await accepted.until(lambda: accepted.frames == [b"x" * 200_000])
        assert accepted.keys == [KEYS[1].public]
        assert session.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        session.close()
        await server.stop()

    run(work())


@pytest.mark.parametrize("certificate", ["unknown", "same name", "none"])
def test_an_unknown_client_is_never_served(run: Any, certificate: str) -> None:
    async def work() -> None:
        accepted, dialled = Recorder(), Recorder()
        context = server_context(KEYS[0], CERTIFICATES[0], CERTIFICATES[:3])
        server = FrameServer("127.0.0.1", 0, lambda: accepted, ssl=context)
        await server.start()
        if certificate == "none":
            mine = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            mine.check_hostname = False
            mine.verify_mode = ssl.CERT_NONE
        else:
            name = "validator 1" if certificate == "same name" else "stranger"
            mine = client_context(KEYS[4], make_certificate(KEYS[4], name), CERTIFICATES[:3])
        try:
            session = await connect(server.port, dialled, mine)
            # A TLS 1.3 client learns of the refusal after its own handshake.
            session.send(b"let me in")
            await dialled.until(lambda: dialled.closed == 1)
        except (ssl.SSLError, ConnectionError):
            pass
        known = Recorder()
        member = client_context(KEYS[1], CERTIFICATES[1], CERTIFICATES[:3])
        (await connect(server.port, known, member)).send(b"member")
        await accepted.until(lambda: bool(accepted.frames))
        assert accepted.frames == [b"member"]
        assert accepted.keys == [KEYS[1].public]
        assert accepted.opened == 1
        await server.stop()

    run(work())


def test_an_unknown_server_is_refused_by_the_client(run: Any) -> None:
    async def work() -> None:
        context = server_context(KEYS[4], CERTIFICATES[4], CERTIFICATES)
        server = FrameServer("127.0.0.1", 0, Recorder, ssl=context)
        await server.start()
        mine = client_context(KEYS[1], CERTIFICATES[1], CERTIFICATES[:3])
        dialled = Recorder()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(server.port, dialled, mine)
        assert dialled.keys == []
        await server.stop()

    run(work())


@pytest.mark.parametrize("old_side", ["client", "server"])
def test_tls_1_2_is_refused(run: Any, old_side: str) -> None:
    async def work() -> None:
        listening = server_context(KEYS[0], CERTIFICATES[0], CERTIFICATES[:3])
        mine = client_context(KEYS[1], CERTIFICATES[1], CERTIFICATES[:3])
        old = mine if old_side == "client" else listening
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        server = FrameServer("127.0.0.1", 0, Recorder, ssl=listening)
        await server.start()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(server.port, Recorder(), mine)
        await server.stop()

    run(work())


# --- the mesh


async def reserve_ports(count: int) -> list[int]:
    servers = [FrameServer("127.0.0.1", 0, Recorder) for _ in range(count)]
    for server in servers:
        await server.start()
    for server in servers:
        await server.stop()
    return [server.port for server in servers]


class Member:
    """One member of a mesh and what it received, by indexes in the list of keys."""

    def __init__(self, index: int, ports: list[int], keys: list[Key], **options: Any) -> None:
        self.keys = keys
        self.key = keys[index]
        self.received: list[tuple[int, bytes]] = []
        self.changed = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        peers = [Peer(key.public, "127.0.0.1", port) for key, port in zip(keys, ports, strict=True)]
        self.mesh = PeerMesh(
            self.key.public,
            *self.contexts(keys),
            self.on_message,
            listen_host="127.0.0.1",
            listen_port=ports[index],
            backoff=FAST,
            **options,
        )
        self.mesh.set_peers(peers, *self.contexts(keys))

    def contexts(self, keys: list[Key]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        trusted = [make_certificate(key, "member") for key in keys]
        own = self.key, make_certificate(self.key, "member"), trusted
        return server_context(*own), client_context(*own)

    def set_peers(self, ports: list[int], keys: list[Key]) -> None:
        """Other peers from here on; their indexes stay those of the first list of keys."""
        peers = [Peer(key.public, "127.0.0.1", port) for key, port in zip(keys, ports, strict=True)]
        self.mesh.set_peers(peers, *self.contexts(keys))

    def send(self, index: int, frame: bytes) -> bool:
        return self.mesh.send(self.keys[index].public, frame)

    @property
    def connected(self) -> list[int]:
        return sorted(i for i, key in enumerate(self.keys) if key.public in self.mesh.connected)

    async def on_message(self, public_key: bytes, frame: bytes) -> None:
        index = [key.public for key in KEYS].index(public_key)
        if index == 1:
            await self.gate.wait()
        if frame == b"bad":
            raise Rejected(Code.MALFORMED, "bad")
        if frame == b"bug":
            raise KeyError("our own fault")
        self.received.append((index, frame))
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def full(member: Member) -> bool:
    return len(member.received) == 3


def test_every_member_reaches_every_other(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(4)
        members = [Member(i, ports, KEYS[:4]) for i in range(4)]
        for i, member in enumerate(members):
            await member.mesh.start()
            assert member.mesh.broadcast(b"from %d" % i) == 3
        for i, member in enumerate(members):
            await member.until(partial(full, member))
            assert sorted(member.received) == [(j, b"from %d" % j) for j in range(4) if j != i]
        assert members[0].connected == [1, 2, 3]
        members[2].send(0, b"x" * 8_000_000)
        await members[0].until(lambda: len(members[0].received) == 4)
        assert members[0].received[3] == (2, b"x" * 8_000_000)
        members[2].send(0, b"bad")
        members[2].send(0, b"good")
        await members[0].until(lambda: members[0].received[-1] == (2, b"good"))
        assert members[0].mesh.rejected == {"malformed": 1}
        members[2].send(0, b"bug")
        with pytest.raises(KeyError):
            await members[0].mesh.failure
        await asyncio.gather(*(member.mesh.close() for member in members))

    run(work())


@pytest.mark.parametrize("offered", [[], ["trilemma-peer/2"]], ids=["none", "newer"])
@pytest.mark.parametrize("other_dials", [True, False], ids=["dials", "answers"])
def test_a_member_of_another_version_is_refused_and_told_once(
    run: Any, monkeypatch: pytest.MonkeyPatch, offered: list[str], other_dials: bool
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(mesh._log, "warning", lambda _, **fields: told.append(fields))

    async def work() -> None:
        ports = await reserve_ports(2)
        ours, other = (Member(index, ports, KEYS[:2]) for index in range(2))
        for context in (other.mesh._server_context, other.mesh._client_context):
            context.set_alpn_protocols(offered)
        monkeypatch.setattr(other.mesh, "require_version", lambda *_: None)
        # Each dials the other; only the one connection that the test is about may stand.
        silent = ours if other_dials else other
        silent.mesh.link(silent.keys[other_dials].public).port = 1
        refusals = ours.mesh.rejected
        await ours.mesh.start()
        await other.mesh.start()
        other.send(0, b"never heard")
        while refusals["wrong_version"] < 3:  # it tries again and again
            await asyncio.sleep(0.01)
        assert ours.received == [] and ours.connected == []
        mine = [one for one in told if one["key"] == other.key.public.hex()[:16]]
        assert len(mine) == 1 and "run the same release" in mine[0]["why"], mine
        await ours.mesh.close()
        await other.mesh.close()

    run(work())


def test_a_member_that_comes_back_is_heard_again(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(2)
        zero, one = (Member(i, ports, KEYS[:2]) for i in range(2))
        await zero.mesh.start()
        await one.mesh.start()
        zero.send(1, b"first")
        one.send(0, b"first")
        await zero.until(lambda: bool(zero.received))
        await one.until(lambda: bool(one.received))
        await one.mesh.close()
        one = Member(1, ports, KEYS[:2])
        await one.mesh.start()
        one.send(0, b"second")
        await zero.until(lambda: len(zero.received) == 2)
        while not zero.mesh.connected:
            await asyncio.sleep(0.01)
        zero.send(1, b"again")
        await one.until(lambda: one.received == [(0, b"again")])
        await asyncio.gather(zero.mesh.close(), one.mesh.close())

    run(work())


def test_the_wrong_member_behind_an_address_gets_nothing(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(3)
        members = [Member(i, ports, KEYS[:3]) for i in range(3)]
        # Member 0 believes that 1 and 2 listen at each other's address.
        swapped = Member(0, [ports[0], ports[2], ports[1]], KEYS[:3])
        for member in (swapped, *members[1:]):
            await member.mesh.start()
        swapped.send(1, b"for one's eyes only")
        while swapped.mesh.rejected["wrong_member"] < 3:
            await asyncio.sleep(0.01)
        assert swapped.connected == []
        assert members[2].received == []
        await asyncio.gather(*(m.mesh.close() for m in (swapped, *members[1:])))
        members[0].mesh.failure.cancel()

    run(work())


def test_a_flooding_member_is_held_back_and_others_are_served(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(3)
        inbox = InboxLimits(max_frames=16, max_bytes=1_000_000)
        members = [Member(i, ports, KEYS[:3], inbox=inbox) for i in range(3)]
        for member in members:
            await member.mesh.start()
        victim, flooder, good = members
        while 0 not in flooder.connected or 0 not in good.connected:
            await asyncio.sleep(0.01)
        victim.gate.clear()
        sent = 0
        link = flooder.mesh.link(KEYS[0].public)
        while link.queued_frames < 50 and sent < 5000:
            flooder.send(0, b"%020000d" % sent)
            sent += 1
            await asyncio.sleep(0)
        assert link.queued_frames == 50
        held = victim.mesh._inboxes[KEYS[1].public]
        assert held._bytes < 3_000_000
        good.send(0, b"a vote")
        await victim.until(lambda: victim.received == [(2, b"a vote")])
        victim.gate.set()
        await victim.until(lambda: len(victim.received) == sent + 1)
        assert [int(frame[-9:]) for _, frame in victim.received[1:]] == list(range(sent))
        await asyncio.gather(*(member.mesh.close() for member in members))

    run(work())


def test_a_flood_already_read_gives_others_their_turn(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "TURN_S", 0.0)  # one frame a turn

    async def work() -> None:
        member = Member(0, await reserve_ports(3), KEYS[:3])
        inboxes = [member.mesh._inboxes.get(key.public) for key in KEYS[:3]]
        for index, count in ((1, 500), (2, 5)):
            inbox = inboxes[index]
            assert inbox is not None
            inbox._frames.extend([b"%d" % index] * count)
            inbox._arrived.set()
        waiting = [inbox for inbox in inboxes if inbox is not None]
        tasks = [asyncio.ensure_future(member.mesh._handle(inbox)) for inbox in waiting]
        await member.until(lambda: member.received.count((2, b"2")) == 5)
        assert member.received.count((1, b"1")) < 50
        for task in tasks:
            task.cancel()

    run(work())


def test_dialling_again_does_not_make_room_in_a_full_inbox() -> None:
    async def work() -> None:
        ports = await reserve_ports(2)
        inbox = InboxLimits(max_frames=4, max_bytes=100_000)
        victim = Member(0, ports, KEYS[:2], inbox=inbox)
        victim.gate.clear()
        await victim.mesh.start()
        certificates = [make_certificate(key, "member") for key in KEYS[:2]]
        mine = client_context(KEYS[1], certificates[1], certificates)
        held = victim.mesh._inboxes[KEYS[1].public]
        full_bytes = 0
        for _ in range(6):
            dialled = Recorder()
            session = await connect(ports[0], dialled, mine)
            session.send_many([b"x" * 20_000] * 20)
            while session.buffered_bytes and held.session is None:
                await asyncio.sleep(0.01)
            while not held.full:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            full_bytes = full_bytes or held._bytes
            assert held._bytes == full_bytes
        session.abort("end")
        await victim.mesh.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(asyncio.wait_for(work(), 20))


# --- peers that change


def test_a_peer_that_joins_is_trusted_only_from_then_on(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(3)
        members = [Member(i, ports[:2], KEYS[:2]) for i in range(2)]
        joining = Member(2, ports, KEYS[:3])
        for member in (*members, joining):
            await member.mesh.start()
        joining.send(0, b"too early")
        link = joining.mesh.link(KEYS[0].public)
        while link.connects + link.failed_attempts < 3:
            await asyncio.sleep(0.01)
        assert members[0].received == []
        standing = members[0].mesh.link(KEYS[1].public).session
        while standing is None:
            await asyncio.sleep(0.01)
            standing = members[0].mesh.link(KEYS[1].public).session
        for member in members:
            member.keys = KEYS[:3]
            member.set_peers(ports, KEYS[:3])
        while joining.connected != [0, 1] or members[0].connected != [1, 2]:
            await asyncio.sleep(0.01)
        while (2, b"now") not in members[0].received:
            joining.send(0, b"now")
            await asyncio.sleep(0.01)
        members[0].send(2, b"welcome")
        await joining.until(lambda: (0, b"welcome") in joining.received)
        assert members[0].mesh.link(KEYS[1].public).session is standing
        await asyncio.gather(*(m.mesh.close() for m in (*members, joining)))

    run(work())


def test_a_peer_that_leaves_is_cut_off_and_cannot_come_back(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(3)
        members = [Member(i, ports, KEYS[:3]) for i in range(3)]
        for member in members:
            await member.mesh.start()
        zero, one, leaving = members
        leaving.send(0, b"still here")
        one.send(0, b"here")
        await zero.until(lambda: len(zero.received) == 2)
        zero.set_peers(ports[:2], KEYS[:2])
        with pytest.raises(KeyError):
            zero.send(2, b"gone")
        link = leaving.mesh.link(KEYS[0].public)
        attempts = link.connects + link.failed_attempts
        while link.connects + link.failed_attempts < attempts + 3:
            leaving.send(0, b"let me in")
            await asyncio.sleep(0.01)
        one.send(0, b"after")
        await zero.until(lambda: zero.received[-1] == (1, b"after"))
        assert (2, b"let me in") not in zero.received and zero.connected == [1]
        assert set(zero.mesh._tasks) == set(zero.mesh._inboxes) == {KEYS[1].public}
        await asyncio.gather(*(member.mesh.close() for member in members))

    run(work())


def test_a_peer_that_moved_is_dialled_at_its_new_address(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(3)
        zero, one = (Member(i, ports[:2], KEYS[:2]) for i in range(2))
        await zero.mesh.start()
        await one.mesh.start()
        zero.send(1, b"first")
        await one.until(lambda: one.received == [(0, b"first")])
        await one.mesh.close()
        moved = Member(1, [ports[0], ports[2]], KEYS[:2])
        await moved.mesh.start()
        zero.set_peers([ports[0], ports[2]], KEYS[:2])
        zero.send(1, b"second")
        await moved.until(lambda: moved.received == [(0, b"second")])
        moved.send(0, b"heard")
        await zero.until(lambda: zero.received == [(1, b"heard")])
        await asyncio.gather(zero.mesh.close(), moved.mesh.close())

    run(work())


def test_a_peer_that_changes_its_certificate_is_trusted_with_the_new_one(run: Any) -> None:
    async def work() -> None:
        ports = await reserve_ports(2)
        zero, one = (Member(i, ports, KEYS[:2]) for i in range(2))
        await zero.mesh.start()
        await one.mesh.start()
        old, new = make_certificate(KEYS[1], "member"), make_certificate(KEYS[1], "renewed")
        own = make_certificate(KEYS[0], "member")
        peers = [Peer(KEYS[1].public, "127.0.0.1", ports[1])]
        both = [own, old, new]
        zero.mesh.set_peers(
            peers, server_context(KEYS[0], own, both), client_context(KEYS[0], own, both)
        )
        await one.mesh.close()
        renewed = Member(1, ports, KEYS[:2])
        mine = KEYS[1], new, [own, new]
        renewed.mesh = PeerMesh(
            KEYS[1].public, server_context(*mine), client_context(*mine), renewed.on_message,
            listen_host="127.0.0.1", listen_port=ports[1], backoff=FAST,
        )  # fmt: skip
        others = [Peer(KEYS[0].public, "127.0.0.1", ports[0])]
        renewed.mesh.set_peers(others, server_context(*mine), client_context(*mine))
        await renewed.mesh.start()
        while (1, b"hello") not in zero.received or (0, b"hello") not in renewed.received:
            renewed.send(0, b"hello")
            zero.send(1, b"hello")
            await asyncio.sleep(0.01)
        await asyncio.gather(zero.mesh.close(), renewed.mesh.close())

    run(work())


def test_a_certificate_that_would_hide_another_nodes_is_not_usable() -> None:
    key, victim = KEYS[0], KEYS[1]
    assert is_usable(make_certificate(key, "any name"), key.public)
    assert not is_usable(make_certificate(key, "any name"), victim.public)
    name = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, victim.public.hex())])
    moment = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)

    def certificate(subject: x509.Name, issuer: x509.Name, signer: Key) -> bytes:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(key.private.public_key()).serial_number(5)
        builder = builder.not_valid_before(moment).not_valid_after(moment)
        return builder.sign(signer.private, None).public_bytes(Encoding.DER)

    own = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, key.public.hex())])
    two = x509.Name([*name, *own])
    assert is_usable(certificate(own, own, key), key.public)
    for bad in (
        certificate(name, name, key), certificate(two, two, key), certificate(own, name, victim),
        certificate(own, own, victim), b"", b"\x30\x00",
    ):  # fmt: skip
        assert not is_usable(bad, key.public)


def test_a_certificate_tells_how_long_it_lasts_and_a_member_warns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end_s = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC).timestamp()
    day_s = 86_400
    assert certificate_end_s(CERTIFICATES[0]) == end_s
    with pytest.raises(Rejected):
        certificate_end_s(b"junk")
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(member_links._log, "warning", lambda _, **fields: told.append(fields))

    async def work() -> None:
        links = MemberLinks[bytes](
            KEYS[0], CERTIFICATES[0], "127.0.0.1:1", lambda *_: None, lambda: None
        )
        for days in (31, 29, -1):
            now_ms = int(end_s + (-days * day_s)) * 1000 + 500
            monkeypatch.setattr(member_links, "now_ms", lambda now_ms=now_ms: now_ms)
            links.connect([], CERTIFICATES[0], [])
            assert links.certificate_end_s == end_s

    asyncio.run(work())
    assert [one["days"] for one in told] == [28, -2], told
