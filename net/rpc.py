"""Client side of a public port: requests, their answers, and subscriptions on one connection.

Knows of messages only the prefix ``[tag, request_id, ...``: answers and pushes carry the id of the
request they belong to, and tag 0 is the error frame ``[0, request_id, code, text]``.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import deque
from dataclasses import replace
from typing import Any

import msgspec

from net.frames import NODE_FRAME_LIMIT
from net.injection import injection
from net.session import CLIENT_LIMITS, Session
from net.traffic import UPSTREAMS
from protocol.errors import Code, ConfigError, Rejected, RemoteFault

ERROR_TAG = 0
"""Tag of the error frame."""

MAX_PENDING_REQUESTS = 65_536
"""Most requests of one connection that may wait for an answer."""

CLOSE_S = 5.0
"""Longer than a session takes to abort itself."""

_UINT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_decode_error = msgspec.msgpack.Decoder(tuple[int, int, int, str]).decode


def peek_prefix(frame: bytes) -> tuple[int, int] | None:
    """The tag and the request id of a message, or None when it does not begin with the two."""
    try:
        head = frame[0]
        if 0x92 <= head <= 0x9F:
            place = 1
        elif head == 0xDC and frame[1] << 8 | frame[2] >= 2:
            place = 3
        else:
            return None
        tag = frame[place]
        place += 1
        if tag > 0x7F:
            size = _UINT_BYTES[tag]
            tag = int.from_bytes(frame[place : place + size], "big")
            place += size
        request_id = frame[place]
        if request_id > 0x7F:
            size = _UINT_BYTES[request_id]
            raw = frame[place + 1 : place + 1 + size]
            if len(raw) < size:
                return None
            request_id = int.from_bytes(raw, "big")
    except (IndexError, KeyError):
        return None
    return tag, request_id


def peek_request_id(frame: bytes) -> int | None:
    """The request id of a message, or None when the frame has no such prefix."""
    prefix = peek_prefix(frame)
    return None if prefix is None else prefix[1]


class Subscription:
    """Frames pushed for one request id, in order, as an async iterator; includes the first answer.

    When `capacity` frames wait, reading from the connection stops until some are taken. Ends with
    `RemoteFault` (error frame), `ConnectionError`, or quietly after `close`.
    """

    def __init__(self, connection: Connection, request_id: int, capacity: int) -> None:
        self.request_id = request_id
        self.capacity = max(1, capacity)
        self._connection = connection
        self._frames: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._end: Exception | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Frames not yet taken."""
        return len(self._frames)

    @property
    def full(self) -> bool:
        """Whether the connection should not read on."""
        return len(self._frames) >= self.capacity

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.get()
        except EOFError:
            raise StopAsyncIteration from None

    async def get(self) -> bytes:
        """The next frame; raises as the class says, and `EOFError` after `close`."""
        while not self._frames:
            if self._closed:
                raise EOFError("the subscription is closed")
            if self._end is not None:
                raise self._end
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._connection.relieve(self)
        return frame

    def take_all(self) -> list[bytes]:
        """Every frame that waits, at once; never waits itself."""
        frames = list(self._frames)
        self._frames.clear()
        self._connection.relieve(self)
        return frames

    def close(self) -> None:
        """Stop taking frames; telling the server is the caller's message."""
        self._closed = True
        self._frames.clear()
        self._arrived.set()
        self._connection.forget(self)

    def push(self, frame: bytes) -> None:
        """Called by the connection."""
        self._frames.append(frame)
        self._arrived.set()

    def finish(self, error: Exception) -> None:
        """Called by the connection: no frame follows the ones that wait."""
        self._end = self._end or error
        self._arrived.set()


class Connection:
    """One connection to a public port; `open` it, or use it as an async context manager."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        frame_limit: int = NODE_FRAME_LIMIT,
        ssl: tls.SSLContext | None = None,
        connect_timeout_ms: int = 5_000,
    ) -> None:
        self.host = host
        self.port = port
        self.unrouted_frames = 0
        self._limits = replace(CLIENT_LIMITS, frame_bytes=frame_limit)
        self._ssl = ssl
        self._connect_timeout_ms = connect_timeout_ms
        self._session: Session | None = None
        self._lost = asyncio.Event()
        self._fault = ""
        self._last_id = 0
        self._pending: dict[int, asyncio.Future[bytes]] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._full: set[int] = set()

    @property
    def connected(self) -> bool:
        """Whether requests can be sent."""
        return self._session is not None and self._session.open

    @property
    def session(self) -> Session:
        """The session below, for its counters; raises `ConnectionError` when not connected."""
        if self._session is None:
            raise ConnectionError(self._lost_text())
        return self._session

    def next_request_id(self) -> int:
        """A request id not used on this connection before, from 1."""
        self._last_id += 1
        return self._last_id

    async def open(self) -> Connection:
        """Connect; raises `ConnectionError` (also for a time-out or failed TLS)."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_ms / 1000):
                await loop.create_connection(
                    lambda: Session(self, self._limits, link_kind=UPSTREAMS),
                    self.host,
                    self.port,
                    ssl=self._ssl,
                )
        except BaseException as error:
            if self._session is not None:
                self._session.give_up("given up while it opened")
            if not isinstance(error, OSError):
                raise
            text = str(error) or "no answer in time"
            raise ConnectionError(f"cannot connect to {self.host}:{self.port}: {text}") from None
        return self

    async def close(self) -> None:
        """Close; what still waits ends with `ConnectionError`."""
        session = self._session
        if session is None:
            return
        session.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._lost.wait()
        except TimeoutError:
            # The session aborts itself before; whoever closes waits for nothing that may not come.
            session.abort("not closed in time")
            self.on_close(session, None)

    async def __aenter__(self) -> Connection:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- requests

    def post(self, frame: bytes) -> None:
        """Send a message without waiting for an answer; raises `ConnectionError`."""
        if not self.session.send(frame):
            raise ConnectionError(self._lost_text())

    async def drain(self) -> None:
        """Wait until the server keeps up with what is sent; raises `ConnectionError`."""
        await self.session.drain()

    def start_request(self, frame: bytes, request_id: int) -> asyncio.Future[bytes]:
        """Send a request and return the future of its answer, for pipelining.

        Raises `ConnectionError`, or `ConfigError` for an id in use or too many open requests.
        """
        self._require_free(request_id)
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            raise ConfigError(f"more than {MAX_PENDING_REQUESTS} requests wait for an answer")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = answer
        try:
            self.post(frame)
        except ConnectionError:
            self._pending.pop(request_id, None)
            answer.cancel()
            raise
        return answer

    async def request(self, frame: bytes, request_id: int, timeout_ms: int = 10_000) -> bytes:
        """Send a request and wait for its answer.

        Raises `RemoteFault` (error frame), `ConnectionError` or `TimeoutError`.
        """
        answer = self.start_request(frame, request_id)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await answer
        finally:
            self._pending.pop(request_id, None)

    def subscribe(self, frame: bytes, request_id: int, capacity: int = 1024) -> Subscription:
        """Send a subscribing request; every frame with its id goes to the subscription."""
        self._require_free(request_id)
        subscription = Subscription(self, request_id, capacity)
        self._subscriptions[request_id] = subscription
        try:
            self.post(frame)
        except ConnectionError:
            del self._subscriptions[request_id]
            raise
        return subscription

    def _require_free(self, request_id: int) -> None:
        if request_id in self._pending or request_id in self._subscriptions:
            raise ConfigError(f"request id {request_id} is in use on this connection")

    def relieve(self, subscription: Subscription) -> None:
        """Called by a subscription from which frames were taken."""
        if subscription.request_id in self._full and (
            subscription.waiting <= subscription.capacity // 2
        ):
            self._full.discard(subscription.request_id)
            if not self._full and self._session is not None:
                self._session.resume_input()

    def forget(self, subscription: Subscription) -> None:
        """Called by a subscription that was closed."""
        if self._subscriptions.get(subscription.request_id) is subscription:
            del self._subscriptions[subscription.request_id]
        self.relieve(subscription)

    # --- session owner

    def on_open(self, session: Session) -> None:
        """Called by the session."""
        self._lost.clear()
        self._fault = ""
        self._session = session
        injection.dialled(session, (self.host, self.port))

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Called by the session: route each frame by its request id."""
        for frame in frames:
            prefix = peek_prefix(frame)
            if prefix is None:
                raise Rejected(Code.MALFORMED, "the server sent a frame without a request id")
            tag, request_id = prefix
            answer = self._pending.pop(request_id, None)
            if answer is not None:
                if not answer.done():
                    self._answer(answer, tag, frame)
                continue
            subscription = self._subscriptions.get(request_id)
            if subscription is None:
                self._unrouted(tag, frame)
            elif tag == ERROR_TAG:
                del self._subscriptions[request_id]
                subscription.finish(_fault_of(frame))
            else:
                subscription.push(frame)
                if subscription.full:
                    self._full.add(request_id)
        if self._full:
            session.pause_input()

    def _answer(self, answer: asyncio.Future[bytes], tag: int, frame: bytes) -> None:
        if tag == ERROR_TAG:
            answer.set_exception(_fault_of(frame))
        else:
            answer.set_result(frame)

    def _unrouted(self, tag: int, frame: bytes) -> None:
        # Answers to requests given up, and faults of the session as a whole.
        self.unrouted_frames += 1
        if tag == ERROR_TAG:
            self._fault = str(_fault_of(frame))

    def on_close(self, session: Session, error: Exception | None) -> None:
        """Called by the session: everything that waits ends."""
        if session is not self._session:
            return
        if not self._fault and error is not None:
            self._fault = str(error)
        self._session = None
        lost = self._lost_text()
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(ConnectionError(lost))
                answer.exception()  # whoever waits gets it; a caller gone leaves no warning
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.finish(ConnectionError(lost))
        self._full.clear()
        self._lost.set()

    def _lost_text(self) -> str:
        text = f"no connection to {self.host}:{self.port}"
        return f"{text} ({self._fault})" if self._fault else text


def _fault_of(frame: bytes) -> RemoteFault:
    try:
        fields: Any = _decode_error(frame)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return RemoteFault(Code.MALFORMED, "the server sent a malformed error frame")
    return RemoteFault(fields[2], fields[3])
