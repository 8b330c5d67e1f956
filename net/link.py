"""An outgoing connection that comes back: reconnects with back-off, queues within bounds.

Delivery is at most once and in order: frames handed to a connection that then breaks are lost, the
machines above repeat what matters.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from net.faults import LinkFaults
from net.session import NODE_LIMITS, Session, SessionLimits
from net.traffic import PEERS
from protocol.errors import Rejected


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubling from `first_ms` to `cap_ms`, each drawn from its upper half.

    A connection that stood for `stable_ms` counts as a success and starts the waits anew; a
    handshake alone does not, since a TLS 1.3 server refuses a client only after it.
    """

    first_ms: int = 50
    cap_ms: int = 5_000
    stable_ms: int = 1_000

    def wait_ms(self, failures: int, random: Random) -> int:
        """The wait in milliseconds after so many failures in a row (at least 1)."""
        span_ms = min(self.cap_ms, self.first_ms << min(failures - 1, 20))
        return span_ms - random.randint(0, span_ms // 2)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of frames that wait for the connection.

    When full, `drop_oldest` chooses between losing the oldest frame and refusing the new one.
    """

    max_frames: int = 4096
    max_bytes: int = 32 * 1024 * 1024
    drop_oldest: bool = True


class LinkOwner(Protocol):
    """Who is told about a link."""

    def on_connect(self, session: Session) -> None:
        """Connected. Raising `Rejected` refuses the peer (wrong identity) and tries again later."""

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Frames came back on the connection."""

    def on_disconnect(self, error: Exception | None) -> None:
        """The connection broke; called once for each `on_connect` that returned."""


class Link:
    """Keeps one connection to `host:port` from `start` to `close`.

    `ssl` may be replaced at any time: the next handshake uses it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        owner: LinkOwner,
        *,
        limits: SessionLimits = NODE_LIMITS,
        queue: QueueLimits | None = None,
        backoff: Backoff | None = None,
        ssl: tls.SSLContext | None = None,
        faults: LinkFaults | None = None,
        random: Random | None = None,
        connect_timeout_ms: int = 5_000,
    ) -> None:
        self.host = host
        self.port = port
        self.connects = 0
        self.failed_attempts = 0
        self.dropped_frames = 0
        self.last_error = ""
        self._owner = owner
        self._limits = limits
        self._bounds = queue or QueueLimits()
        self._backoff = backoff or Backoff()
        self.ssl = ssl
        self._faults = faults
        self._random = random or Random()
        self._connect_timeout_ms = connect_timeout_ms
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._accepted = False
        self._error: Exception | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection stands now."""
        return self._session is not None and self._session.open

    @property
    def session(self) -> Session | None:
        """The current session, if any."""
        return self._session

    @property
    def queued_frames(self) -> int:
        """Frames that wait for the connection."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to connect, and keep at it until `close`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop for good; what is queued in the session is sent within its close time-out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._session is not None:
            self._gone.clear()
            self._session.close("closed")
            await self._gone.wait()
        self._queue.clear()
        self._queue_bytes = 0

    def send(self, frame: bytes) -> bool:
        """Send or queue one frame; False when it was refused because the queue is full."""
        session = self._session
        if session is not None and not self._queue and session.writable:
            return session.send(frame)
        bounds = self._bounds
        while self._queue and (
            len(self._queue) >= bounds.max_frames
            or self._queue_bytes + len(frame) > bounds.max_bytes
        ):
            if not bounds.drop_oldest:
                return False
            self._queue_bytes -= len(self._queue.popleft())
            self.dropped_frames += 1
        if len(frame) > bounds.max_bytes or bounds.max_frames < 1:
            self.dropped_frames += bounds.drop_oldest
            return False
        self._queue.append(frame)
        self._queue_bytes += len(frame)
        return True

    def send_many(self, frames: Sequence[bytes]) -> bool:
        """Send or queue several frames in order; False when any was refused."""
        refused = 0
        for frame in frames:
            refused += not self.send(frame)
        return refused == 0

    def _pump(self, session: Session) -> None:
        while self._queue and session.writable:
            frame = self._queue.popleft()
            self._queue_bytes -= len(frame)
            session.send(frame)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            if await self._connect():
                await self._gone.wait()
                stood_ms = (loop.time() - began) * 1000
                failures = 1 if stood_ms >= self._backoff.stable_ms else failures + 1
            else:
                failures += 1
                self.failed_attempts += 1
            await asyncio.sleep(self._backoff.wait_ms(failures, self._random) / 1000)

    async def _connect(self) -> bool:
        loop = asyncio.get_running_loop()
        self._gone.clear()
        try:
            async with asyncio.timeout(self._connect_timeout_ms / 1000):
                await loop.create_connection(
                    lambda: Session(self, self._limits, faults=self._faults, link_kind=PEERS),
                    self.host,
                    self.port,
                    ssl=self.ssl,
                    server_hostname="" if self.ssl is not None else None,
                )
        except (OSError, tls.SSLError, TimeoutError) as error:
            self.last_error = str(error) or type(error).__name__
            self._give_up("connect_timeout")
            return False
        except asyncio.CancelledError:
            self._give_up("closed")
            raise
        return True

    def _give_up(self, reason: str) -> None:
        """The connection may stand all the same."""
        if self._session is not None:
            self._session.give_up(reason)

    # --- session owner

    def on_open(self, session: Session) -> None:
        """Called by the session."""
        self._session = session
        self._accepted = False
        try:
            self._owner.on_connect(session)
        except Rejected as fault:
            self.last_error = str(fault)
            session.abort(fault.code.label)
            return
        self._accepted = True
        self.connects += 1
        session.on_writable = self._pump
        self._pump(session)

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Called by the session."""
        self._owner.on_frames(session, frames)

    def on_close(self, session: Session, error: Exception | None) -> None:
        """Called by the session."""
        self._session = None
        self._gone.set()
        if error is not None or session.close_reason:
            self.last_error = session.close_reason or str(error)
        if self._accepted:
            self._accepted = False
            self._owner.on_disconnect(error)
