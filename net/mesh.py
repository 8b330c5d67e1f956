"""Full mesh among validators over TLS, whose peers are known by their keys and change at run time.

Each node dials every other one to send, and accepts connections to receive: one connection for
each ordered pair. Frames are taken only when the certificate's key is a peer's. A peer that
floods is stopped by not reading from it: its inbox is bounded, and no other peer waits for it.
"""

from __future__ import annotations

import asyncio
import ssl as tls
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from net.faults import LinkFaults
from net.frames import NODE_FRAME_LIMIT
from net.injection import injection
from net.link import Backoff, Link, QueueLimits
from net.server import FrameServer
from net.session import NODE_LIMITS, Session, SessionLimits
from net.tls import let_follow, peer_public_key, require_peer_version
from net.traffic import PEERS
from protocol.errors import Code, Rejected

_log = structlog.get_logger()

TURN_S = 0.005
"""A peer's frames are handled for so long at a stretch."""

SPARE_SESSIONS = 8
"""Incoming sessions beyond two for each peer: one that stands, and one that replaces it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: its Ed25519 key (32 bytes), and where it listens."""

    public_key: bytes
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """Bounds of frames of one peer that wait for the handler; beyond them its input is paused.

    One read (256 KiB, or one large frame) may go over.
    """

    max_frames: int = 1024
    max_bytes: int = 2 * NODE_FRAME_LIMIT


class _Inbox:
    """What one peer sent and the handler has not taken; owner of the peer's connection."""

    def __init__(self, public_key: bytes, limits: InboxLimits) -> None:
        self.public_key = public_key
        self.session: Session | None = None
        self._limits = limits
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    @property
    def full(self) -> bool:
        limits = self._limits
        return len(self._frames) >= limits.max_frames or self._bytes >= limits.max_bytes

    def put(self, session: Session, frames: list[bytes]) -> None:
        self._frames.extend(frames)
        self._bytes += sum(map(len, frames))
        if self.full:
            session.pause_input()
        self._arrived.set()

    async def get(self) -> bytes:
        while not self._frames:
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        if self.session is not None and (
            len(self._frames) <= self._limits.max_frames // 2
            and self._bytes <= self._limits.max_bytes // 2
        ):
            self.session.resume_input()
        return frame


class _Outgoing:
    """Owner of a link: accepts only the peer that should answer there."""

    def __init__(self, mesh: PeerMesh, peer: Peer) -> None:
        self._mesh = mesh
        self._peer = peer

    def on_connect(self, session: Session) -> None:
        injection.member(session, self._peer.public_key)
        if peer_public_key(session.transport) != self._peer.public_key:
            self._mesh.rejected["wrong_member"] += 1
            raise Rejected(
                Code.BAD_CERTIFICATE,
                f"{self._peer.host}:{self._peer.port} answers with another key than "
                f"{self._peer.public_key.hex()[:16]}",
            )
        self._mesh.require_version(self._peer.public_key, session)

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        raise Rejected(Code.MALFORMED, "a peer sends on the connection that it dialled")

    def on_disconnect(self, error: Exception | None) -> None:
        self._mesh.disconnects += 1


class PeerMesh:
    """Connections of the node with the key `own_key` with its peers; `set_peers` names them.

    `on_message(public_key, frame)` is awaited for one frame of a peer after the other; peers are
    handled side by side. A `Rejected` from it is counted and the frame dropped; any other
    exception ends up in `failure`, which the process should await beside its work.
    """

    def __init__(
        self,
        own_key: bytes,
        server_context: tls.SSLContext,
        client_context: tls.SSLContext,
        on_message: Callable[[bytes, bytes], Awaitable[None]],
        *,
        listen_host: str,
        listen_port: int,
        queue: QueueLimits | None = None,
        inbox: InboxLimits | None = None,
        limits: SessionLimits = NODE_LIMITS,
        backoff: Backoff | None = None,
        faults: dict[bytes, LinkFaults] | None = None,
    ) -> None:
        self.own_key = own_key
        self.rejected: Counter[str] = Counter()
        self.disconnects = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._server_context = server_context
        self._client_context = client_context
        self._queue = queue
        self._inbox_limits = inbox or InboxLimits()
        self._limits = limits
        self._backoff = backoff
        self._faults = faults or {}
        self._peers: dict[bytes, Peer] = {}
        self._links: dict[bytes, Link] = {}
        self._inboxes: dict[bytes, _Inbox] = {}
        self._inbox_of: dict[Session, _Inbox] = {}
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._running = False
        self._other_version: set[bytes] = set()
        let_follow(server_context, lambda: self._server_context)
        self._server = FrameServer(
            listen_host,
            listen_port,
            lambda: self,
            limits=limits,
            max_sessions=SPARE_SESSIONS,
            ssl=server_context,
            link_kind=PEERS,
        )

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._server.port

    @property
    def peers(self) -> list[Peer]:
        """The peers as they were last set."""
        return list(self._peers.values())

    @property
    def connected(self) -> list[bytes]:
        """Keys of the peers that can be sent to now."""
        return [key for key, link in self._links.items() if link.connected]

    def link(self, public_key: bytes) -> Link:
        """The outgoing link of a peer, for its counters; raises `KeyError`."""
        return self._links[public_key]

    # --- life

    async def start(self) -> None:
        """Listen and dial; raises `ConfigError` when the port cannot be had."""
        await self._server.start()
        self._running = True
        for key in self._peers:
            self._run_peer(key)

    async def close(self) -> None:
        """Close every connection and stop handling; frames not yet handled are dropped."""
        self._running = False
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(link.close() for link in self._links.values()))
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._server.stop()
        self.failure.cancel()

    def set_peers(
        self,
        peers: Sequence[Peer],
        server_context: tls.SSLContext,
        client_context: tls.SSLContext,
    ) -> None:
        """Exchange the peers (an own entry among them is ignored) and the contexts.

        New peers are dialled, and so is one whose address changed; connections of peers that are
        not among them are closed, with what they sent and was not handled. Handshakes from here on
        use the new contexts; connections that stand go on.
        """
        self._server_context, self._client_context = server_context, client_context
        wanted = {peer.public_key: peer for peer in peers if peer.public_key != self.own_key}
        for key, known in list(self._peers.items()):
            peer = wanted.get(key)
            if peer is None:
                self._forget(key)
            elif (peer.host, peer.port) != (known.host, known.port):
                self._retire(self._links.pop(key))
        self._peers = wanted
        for key, peer in wanted.items():
            if key in self._links:
                self._links[key].ssl = client_context
                continue
            self._links[key] = self._make_link(peer)
            if key not in self._inboxes:
                self._inboxes[key] = _Inbox(key, self._inbox_limits)
            if self._running:
                self._run_peer(key)
        self._server.max_sessions = 2 * len(wanted) + SPARE_SESSIONS

    def _make_link(self, peer: Peer) -> Link:
        return Link(
            peer.host,
            peer.port,
            _Outgoing(self, peer),
            limits=self._limits,
            queue=self._queue,
            backoff=self._backoff,
            ssl=self._client_context,
            faults=self._faults.get(peer.public_key),
        )

    def _run_peer(self, key: bytes) -> None:
        self._links[key].start()
        if key not in self._tasks:
            handle = self._handle(self._inboxes[key])
            self._tasks[key] = asyncio.get_running_loop().create_task(handle)

    def _forget(self, key: bytes) -> None:
        """A peer is one no more: nothing of it is handled from here on."""
        self._retire(self._links.pop(key))
        inbox = self._inboxes.pop(key)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
        session, inbox.session = inbox.session, None
        if session is not None:
            self._inbox_of.pop(session, None)
            session.abort("no_member")

    def _retire(self, link: Link) -> None:
        task = asyncio.get_running_loop().create_task(link.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    # --- sending

    def send(self, public_key: bytes, frame: bytes) -> bool:
        """Queue a frame for a peer; False when its queue refused it. Raises `KeyError`."""
        return self._hand_over(self._links[public_key], frame)

    def broadcast(self, frame: bytes) -> int:
        """Queue a frame for every peer; returns how many took it."""
        return sum(self._hand_over(link, frame) for link in self._links.values())

    def _hand_over(self, link: Link, frame: bytes) -> bool:
        """Queue a frame on a link, and count what it pushed out."""
        before = link.dropped_frames
        taken = link.send(frame)
        if link.dropped_frames != before:
            self.rejected["frames_dropped"] += link.dropped_frames - before
        return taken

    # --- receiving

    async def _handle(self, inbox: _Inbox) -> None:
        """Hand a peer's frames over; after a stretch of them everybody else has a turn, since
        neither taking nor handling a waiting frame gives way by itself."""
        until = time.monotonic() + TURN_S
        while True:
            if time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + TURN_S
            frame = await inbox.get()
            try:
                await self._on_message(inbox.public_key, frame)
            except Rejected as fault:
                self.rejected[fault.code.label] += 1
            except Exception as error:
                if not self.failure.done():
                    self.failure.set_exception(error)
                return

    def require_version(self, public_key: bytes, session: Session) -> None:
        """Raise `Rejected` where a peer speaks another version; said once, until it speaks ours."""
        try:
            require_peer_version(session.transport)
        except Rejected as fault:
            self.rejected[fault.code.label] += 1
            if public_key not in self._other_version:
                self._other_version.add(public_key)
                _log.warning("peer refused", key=public_key.hex()[:16], why=fault.text)
            raise
        self._other_version.discard(public_key)

    # --- incoming sessions

    def on_open(self, session: Session) -> None:
        """Called by an incoming session: map its certificate to a peer."""
        try:
            public_key = peer_public_key(session.transport)
            inbox = self._inboxes.get(public_key)
            injection.member(session, public_key)
        except Rejected:
            inbox = None
        if inbox is None:
            self.rejected["unknown_member"] += 1
            session.abort("unknown_member")
            return
        try:
            self.require_version(inbox.public_key, session)
        except Rejected as fault:
            session.abort(fault.code.label)
            return
        if inbox.session is not None:
            # A peer that came back is served at once; its old connection may be half open.
            old, inbox.session = inbox.session, None
            self._inbox_of.pop(old, None)
            old.abort("replaced")
        inbox.session = session
        self._inbox_of[session] = inbox
        if inbox.full:
            session.pause_input()  # dialling again must not make room

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Called by an incoming session."""
        inbox = self._inbox_of.get(session)
        if inbox is not None:
            inbox.put(session, frames)

    def on_close(self, session: Session, error: Exception | None) -> None:
        """Called by an incoming session."""
        inbox = self._inbox_of.pop(session, None)
        if inbox is not None and inbox.session is session:
            inbox.session = None
        if isinstance(error, Rejected):
            self.rejected[error.code.label] += 1
