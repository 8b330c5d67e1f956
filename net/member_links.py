"""Links of a member of a chain with the others, and their messages that wait for its next turn."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

import structlog

from net.clock import now_ms
from net.link import QueueLimits
from net.mesh import Peer, PeerMesh
from net.tls import certificate_end_s, client_context, server_context
from protocol.codec import Wire, encode
from protocol.keys import Key
from store.config import parse_address

E = TypeVar("E")

WARN_DAYS = 30
"""From so many days before the end of the own certificate on, each start and each change of peers
says so."""

DAY_MS = 86_400_000

_log = structlog.get_logger()

MAX_EVENTS = 1024
"""Messages that may wait for the next turn; beyond them the links are not read."""

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Bytes of messages that may wait for the next turn."""

QUEUE = QueueLimits(max_frames=1024, max_bytes=16 * 1024 * 1024)
"""What may wait for one peer: its oldest messages are worth least."""


class MemberLinks(Generic[E]):
    """The mesh of one member of a chain, over TLS with the certificate `own` (DER).

    `read(key, frame)` makes an event of a peer's frame, or None where it has dealt with it; it may
    raise `Rejected`, which is counted. Events wait for `take`, and `wake` is called. Peers are set
    by `connect`, before `start` and whenever they change. `renewal` says what to do about a
    certificate that expires.
    """

    renewal: ClassVar[str] = "genesis names it: only a new chain has another"

    def __init__(
        self,
        key: Key,
        own: bytes,
        listen: str,
        read: Callable[[bytes, bytes], E | None],
        wake: Callable[[], None],
    ) -> None:
        self._key = key
        self._read = read
        self._wake = wake
        self._events: deque[E] = deque()
        self._event_bytes = 0
        self._room = asyncio.Event()
        self._stopping = False
        host, port = parse_address(listen)
        self.mesh = PeerMesh(
            key.public,
            *self._contexts(own, []),
            self._on_message,
            listen_host=host,
            listen_port=port,
            queue=QUEUE,
        )
        self.certificate_end_s = certificate_end_s(own)
        """When the own certificate expires, in seconds since 1970."""

    async def start(self) -> None:
        """Listen and dial; raises `ConfigError` when the port cannot be had."""
        await self.mesh.start()

    async def close(self) -> None:
        """Close every connection."""
        await self.mesh.close()

    def stop_waiting(self) -> None:
        """No further turn will come: whoever waits for room goes on."""
        self._stopping = True
        self._room.set()

    def connect(self, peers: Sequence[Peer], own: bytes, trusted: Sequence[bytes]) -> None:
        """Have links with these peers, under the certificates (DER) of oneself and of them."""
        self.certificate_end_s = certificate_end_s(own)
        days = (self.certificate_end_s * 1000 - now_ms()) // DAY_MS
        if days < WARN_DAYS:
            _log.warning("the own certificate expires", days=days, advice=self.renewal)
        self.mesh.set_peers(peers, *self._contexts(own, trusted))

    def _contexts(
        self, own: bytes, trusted: Sequence[bytes]
    ) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return (
            server_context(self._key, own, trusted),
            client_context(self._key, own, trusted),
        )

    # --- messages

    def post(self, messages: Iterable[tuple[bytes | None, Wire]]) -> None:
        """Queue messages on the links, each for the peer with this key (None: for all of them); one
        for a peer that has left is dropped."""
        for to, message in messages:
            frame = encode(message)
            if to is None:
                self.mesh.broadcast(frame)
            else:
                with suppress(KeyError):
                    self.mesh.send(to, frame)

    @property
    def waiting(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._events)

    def take(self) -> list[E]:
        """Everything that waits; makes room for more."""
        events = list(self._events)
        self._events.clear()
        self._event_bytes = 0
        self._room.set()
        return events

    async def _on_message(self, sender: bytes, frame: bytes) -> None:
        while self._crowded and not self._stopping:
            self._room.clear()
            await self._room.wait()
        event = self._read(sender, frame)
        if event is None:
            return
        self._event_bytes += len(frame)
        self._events.append(event)
        self._wake()

    @property
    def _crowded(self) -> bool:
        return len(self._events) >= MAX_EVENTS or self._event_bytes >= MAX_EVENT_BYTES
