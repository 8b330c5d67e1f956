"""Full mesh among the members of a set (validators, or sequencers) over TLS.

Each member dials every other one to send, and accepts connections to receive: one connection for
each ordered pair. Frames are taken only when the certificate's key is a member's. A member that
floods is stopped by not reading from it: its inbox is bounded, and no other member waits for it.
"""

from __future__ import annotations

import asyncio
import ssl as tls
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from net.faults import LinkFaults
from net.frames import NODE_FRAME_LIMIT
from net.link import Backoff, Link, QueueLimits
from net.server import FrameServer
from net.session import NODE_LIMITS, Session, SessionLimits
from net.tls import peer_public_key
from protocol.errors import Code, Rejected

TURN_S = 0.005
"""A peer's frames are handled for so long at a stretch."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member: its index in the set, where it listens, its Ed25519 key (32 bytes)."""

    index: int
    host: str
    port: int
    public_key: bytes


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """Bounds of frames of one peer that wait for the handler; beyond them its input is paused.

    One read (256 KiB, or one large frame) may go over.
    """

    max_frames: int = 1024
    max_bytes: int = 2 * NODE_FRAME_LIMIT


class _Inbox:
    """What one peer sent and the handler has not taken; owner of the peer's connection."""

    def __init__(self, index: int, limits: InboxLimits) -> None:
        self.index = index
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
    """Owner of a link: accepts only the member that should answer there."""

    def __init__(self, mesh: PeerMesh, peer: Peer) -> None:
        self._mesh = mesh
        self._peer = peer

    def on_connect(self, session: Session) -> None:
        if peer_public_key(session.transport) != self._peer.public_key:
            self._mesh.rejected["wrong_member"] += 1
            raise Rejected(
                Code.BAD_CERTIFICATE,
                f"{self._peer.host}:{self._peer.port} answers with another key than member "
                f"{self._peer.index}'s",
            )

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        raise Rejected(Code.MALFORMED, "a member sends on the connection that it dialled")

    def on_disconnect(self, error: Exception | None) -> None:
        self._mesh.disconnects += 1


class PeerMesh:
    """Connections of member `own_index` with its `peers` (an own entry among them is ignored).

    `on_message(peer_index, frame)` is awaited for one frame of a peer after the other; peers are
    handled side by side. A `Rejected` from it is counted and the frame dropped; any other
    exception ends up in `failure`, which the process should await beside its work.
    """

    def __init__(
        self,
        own_index: int,
        peers: Sequence[Peer],
        server_context: tls.SSLContext,
        client_context: tls.SSLContext,
        on_message: Callable[[int, bytes], Awaitable[None]],
        *,
        listen_host: str,
        listen_port: int,
        queue: QueueLimits | None = None,
        inbox: InboxLimits | None = None,
        limits: SessionLimits = NODE_LIMITS,
        backoff: Backoff | None = None,
        faults: dict[int, LinkFaults] | None = None,
    ) -> None:
        self.own_index = own_index
        self.rejected: Counter[str] = Counter()
        self.disconnects = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._server_context = server_context
        others = [peer for peer in peers if peer.index != own_index]
        self._index_of = {peer.public_key: peer.index for peer in others}
        self._inboxes = {peer.index: _Inbox(peer.index, inbox or InboxLimits()) for peer in others}
        self._inbox_of: dict[Session, _Inbox] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._links = {
            peer.index: Link(
                peer.host,
                peer.port,
                _Outgoing(self, peer),
                limits=limits,
                queue=queue,
                backoff=backoff,
                ssl=client_context,
                faults=(faults or {}).get(peer.index),
            )
            for peer in others
        }
        self._server = FrameServer(
            listen_host,
            listen_port,
            lambda: self,
            limits=limits,
            max_sessions=2 * len(others) + 8,
            ssl=server_context,
        )

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._server.port

    @property
    def connected(self) -> list[int]:
        """Indexes of the peers that can be sent to now."""
        return [index for index, link in self._links.items() if link.connected]

    def link(self, index: int) -> Link:
        """The outgoing link of a peer, for its counters; raises `KeyError`."""
        return self._links[index]

    async def start(self) -> None:
        """Listen and dial; raises `ConfigError` when the port cannot be had."""
        await self._server.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._handle(inbox)) for inbox in self._inboxes.values()]
        for link in self._links.values():
            link.start()

    async def close(self) -> None:
        """Close every connection and stop handling; frames not yet handled are dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(link.close() for link in self._links.values()))
        await self._server.stop()
        self.failure.cancel()

    def send(self, index: int, frame: bytes) -> bool:
        """Queue a frame for a peer; False when its queue refused it. Raises `KeyError`."""
        return self._links[index].send(frame)

    def broadcast(self, frame: bytes) -> int:
        """Queue a frame for every peer; returns how many took it."""
        return sum(link.send(frame) for link in self._links.values())

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
                await self._on_message(inbox.index, frame)
            except Rejected as fault:
                self.rejected[fault.code.label] += 1
            except Exception as error:
                if not self.failure.done():
                    self.failure.set_exception(error)
                return

    # --- incoming sessions

    def on_open(self, session: Session) -> None:
        """Called by an incoming session: map its certificate to a member."""
        try:
            index = self._index_of.get(peer_public_key(session.transport))
        except Rejected:
            index = None
        if index is None:
            self.rejected["unknown_member"] += 1
            session.abort("unknown_member")
            return
        inbox = self._inboxes[index]
        if inbox.session is not None:
            # A member that came back is served at once; its old connection may be half open.
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
