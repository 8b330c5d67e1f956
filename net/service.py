"""The public port: sessions, authentication and dispatch of typed requests.

A process registers one handler per request type. A handler answers with a message, with None where
pushes follow, or with an awaitable of either; it refuses by raising `Rejected`, which becomes an
error frame. Whatever a client sends, the process lives and other sessions notice nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from net.clock import now_ms
from net.injection import injection
from net.metrics import Metrics
from net.observe import Observer, observed
from net.pacing import Pacing, SessionPace
from net.server import FrameServer
from net.session import CLIENT_LIMITS, Session
from net.traffic import PUBLIC
from protocol.codec import Wire, encode
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.keys import SCHEME_ED25519, require_signature
from protocol.messages import (
    NODE_FRAME_BYTES,
    WIRE_VERSION,
    Authenticate,
    Done,
    ErrorFrame,
    Hello,
    Request,
    Status,
    StatusRequest,
    Welcome,
    decode_request,
    session_digest,
)
from store.client_limits import ClientLimits
from store.config import ProcessConfig, parse_address

Handler = Callable[["ClientSession", Any], Wire | Awaitable[Wire | None] | None]
StatusValues = dict[str, int | str]

MAX_SIGNERS = 256
MAX_PENDING = 1024
MAX_BAD_FRAMES = 100
STALLED = frozenset(("partial_frame_timeout", "idle_timeout", "silent"))
"""Ends of sessions that the client is to blame for though it sent nothing wrong."""

TURN_S = 0.005
"""A session's requests are handled for so long at a stretch; then the others have their turn."""


_peek = msgspec.msgpack.Decoder(list[Any])
_log = structlog.get_logger()


class ClientSession:
    """One connection to the public port: its proven signers and what is under way for it."""

    def __init__(self, link: Session, challenge: bytes, pace: SessionPace) -> None:
        self.link = link
        self.pace = pace
        self.unread_until_s = 0.0
        self.read_later: asyncio.TimerHandle | None = None
        self.challenge = challenge
        self.signers: set[bytes] = set()
        self.pending = 0
        self.bad_frames = 0
        self.closed = False
        # Frames that arrived and wait, and whether a turn for them is coming.
        self.backlog: deque[bytes] = deque()
        self.turn_due = False
        self.on_close: list[Callable[[], object]] = []

    def send(self, answer: Wire) -> None:
        """Send an answer or a push; ignored once the session is closed."""
        if not self.closed:
            self.link.send(encode(answer))

    def takes_along(self, task: asyncio.Task[Any] | None) -> None:
        """End a stream of answers with the session, not only when it would have gone on."""
        if task is not None:
            self.on_close.append(task.cancel)


class PublicService:
    """Serves the public port of one process."""

    def __init__(
        self, chain: Chain, role: str, name: str, status: Callable[[], StatusValues]
    ) -> None:
        self._chain = chain
        self._role = role
        self._name = name
        self._status = status
        self._provers = {bytes.fromhex(key) for key in chain.genesis.provers}
        self.takes_large: Callable[[bytes], bool] = self._provers.__contains__
        """Whether a signer (public key) may send frames as large as a batch."""
        self._handlers: dict[type, Handler] = {
            Hello: self._hello,
            Authenticate: self._authenticate,
            StatusRequest: self._answer_status,
        }
        self._sessions: dict[Session, ClientSession] = {}
        self._server: FrameServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.limits = ClientLimits()
        self._pacing = Pacing(self.limits)
        self.throttled = 0
        self._started = time.time()
        self.rejected: Counter[str] = Counter()
        self.metrics = Metrics(role, self._values, self.rejected)
        self.trouble: Callable[[], str] = str
        """One sentence on why the process does not serve or keep up; empty where it does."""
        self.note: Callable[[], str] = str
        """What else people should know of a process that is ready."""
        self._observer: Observer | None = None
        self.fatal: asyncio.Future[BaseException] | None = None

    def on(self, request: type, handler: Handler) -> None:
        """Register the handler of a request type."""
        self._handlers[request] = handler

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `ConfigError` when the port is in use."""
        self.fatal = asyncio.get_running_loop().create_future()
        self._pacing = Pacing(self.limits)
        self._server = FrameServer(
            host,
            port,
            lambda: self,
            limits=replace(CLIENT_LIMITS, silent_timeout_ms=self.limits.silent_ms),
            max_sessions=self.limits.sessions,
            max_sessions_of_host=self.limits.sessions_of_host,
            pacing=self._pacing,
            refusal_frame=self._refusal,
            reject_frame=lambda fault: encode(ErrorFrame(0, fault.code, fault.text)),
            link_kind=PUBLIC,
        )
        await self._server.start()

    async def open(self, config: ProcessConfig) -> int:
        """Listen where the configuration says, for clients and for whoever observes; the public
        port. Raises `ConfigError` as `start` does."""
        self.limits = config.clients
        host, port = parse_address(config.public)
        await self.start(host, port)
        if config.observe:
            try:
                self._observer = await observed(config, self.metrics, self._trouble, self._note)
            except ConfigError:
                await self.stop()
                raise
        return port

    async def stop(self) -> None:
        """Close the ports and every session."""
        if self._observer is not None:
            await self._observer.stop()
        if self._server is not None:
            await self._server.stop()
        for task in list(self._tasks):
            task.cancel()

    # --- sessions

    def _refusal(self, reason: str) -> bytes:
        code, text = Code.BUSY, "serves as many sessions as it may, or of your address; try later"
        if reason == "too_many_connections":
            code, text = Code.RATE_LIMITED, "gets too many connections of your address; wait"
        self.rejected[code.label] += 1
        return encode(ErrorFrame(0, code, f"{self._name} {text}"))

    def on_open(self, link: Session) -> None:
        """A connection was accepted."""
        pace = self._pacing.session(link.host)
        session = self._sessions[link] = ClientSession(link, os.urandom(32), pace)
        link.on_writable = lambda _: self._take_turn(session)

    def on_close(self, link: Session, error: Exception | None) -> None:
        """A connection is gone; whatever waited for it is told."""
        session = self._sessions.pop(link, None)
        if session is None:
            return
        session.closed = True
        if session.read_later is not None:
            session.read_later.cancel()
        if link.rejects or link.close_reason in STALLED:
            self.rejected[link.close_reason] += link.rejects or 1
        for callback in session.on_close:
            callback()

    def on_frames(self, link: Session, frames: list[bytes]) -> None:
        """Frames arrived: decode, dispatch, answer."""
        session = self._sessions[link]
        session.backlog.extend(frames)
        now_s = self._pacing.now_s()
        debt_s = session.pace.charge(len(frames), link.bytes_in, now_s)
        if debt_s > 0.0:
            session.unread_until_s = now_s + debt_s
            self.throttled += 1
        if not session.turn_due:
            self._take_turn(session)

    def _take_turn(self, session: ClientSession) -> None:
        """Handle waiting frames, but no more than a stretch of them, and only while the answers
        are read: whoever asks without reading waits, and is not read from meanwhile."""
        if session.read_later is not None:
            return  # it rests; its turn comes
        session.turn_due = False
        link, began_s = session.link, time.monotonic()
        now_s = began_s
        while session.backlog and link.open and _keeps_up(link):
            self._handle(session, session.backlog.popleft())
            now_s = time.monotonic()
            if now_s >= began_s + TURN_S:
                break
        rest_s = session.pace.worked(now_s - began_s, now_s)
        self.throttled += rest_s > 0.0
        if not link.open:
            session.backlog.clear()
            return
        if not session.backlog:
            rest_s = max(rest_s, session.unread_until_s and session.unread_until_s - now_s)
        if session.backlog or rest_s > 0.0:
            link.pause_input()
            session.turn_due = True
            loop = asyncio.get_running_loop()
            if rest_s > 0.0:
                session.read_later = loop.call_later(rest_s, self._rested, session)
            elif link.writable:  # otherwise `on_writable` comes
                loop.call_soon(self._take_turn, session)
        else:
            session.unread_until_s = 0.0
            link.resume_input()

    def _rested(self, session: ClientSession) -> None:
        """A session has been waited for, since it had used more than is its own."""
        session.read_later = None
        self._take_turn(session)

    def _handle(self, session: ClientSession, frame: bytes) -> None:
        try:
            request = decode_request(frame)
        except Rejected as error:
            self._refuse_frame(session, frame, error)
            return
        self._dispatch(session, request)

    def _refuse_frame(self, session: ClientSession, frame: bytes, error: Rejected) -> None:
        request_id, error = _explain(frame, error)
        self.refuse(session, request_id, error)
        session.bad_frames += 1
        if session.bad_frames >= MAX_BAD_FRAMES:
            text = f"{MAX_BAD_FRAMES} frames of this session were no requests; it is closed"
            session.link.close_with(encode(ErrorFrame(0, Code.RATE_LIMITED, text)), "abuse")

    def refuse(self, session: ClientSession, request_id: int, error: Rejected) -> None:
        """Count and answer a refusal."""
        self.rejected[error.code.label] += 1
        session.send(ErrorFrame(request_id, error.code, error.text[:500]))

    def _dispatch(self, session: ClientSession, request: Request) -> None:
        handler = self._handlers.get(type(request))
        try:
            if handler is None:
                name = type(request).__name__
                raise Rejected(Code.UNKNOWN_MESSAGE, f"a {self._role} does not answer {name}")
            if request.request_id <= 0:
                raise Rejected(Code.WRONG_TYPE, "request ids start at 1")
            answer = handler(session, request)
        except Rejected as error:
            self.refuse(session, request.request_id, error)
            return
        except Exception as error:
            self._fail(error)
            return
        if isinstance(answer, Wire):
            session.send(answer)
        elif answer is not None:
            self._await_answer(session, request.request_id, answer)

    def _await_answer(
        self, session: ClientSession, request_id: int, answer: Awaitable[Wire | None]
    ) -> None:
        if session.pending >= MAX_PENDING:
            if asyncio.iscoroutine(answer):
                answer.close()
            error = Rejected(Code.BUSY, f"more than {MAX_PENDING} requests are under way")
            self.refuse(session, request_id, error)
            return
        session.pending += 1
        task = asyncio.ensure_future(self._finish(session, request_id, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(
        self, session: ClientSession, request_id: int, answer: Awaitable[Wire | None]
    ) -> None:
        try:
            value = await answer
            if value is not None:
                session.send(value)
        except Rejected as error:
            self.refuse(session, request_id, error)
        except (asyncio.CancelledError, ConnectionError):
            return
        except Exception as error:
            self._fail(error)
        finally:
            session.pending -= 1

    def _fail(self, error: Exception) -> None:
        """A handler of ours broke: the process must stop, not answer on."""
        if not isinstance(error, SafetyViolation):
            _log.error("handler failed", exc_info=error)
        if self.fatal is not None and not self.fatal.done():
            self.fatal.set_result(error)

    # --- handlers that every process has

    def _hello(self, session: ClientSession, request: Hello) -> Wire:
        if request.version != WIRE_VERSION:
            raise Rejected(
                Code.WRONG_VERSION,
                f"wire version {request.version} is not spoken here; use {WIRE_VERSION}",
            )
        if request.chain_id not in (b"", self._chain.chain_id):
            raise Rejected(
                Code.WRONG_CHAIN,
                f"this is chain {self._chain.chain_id.hex()[:16]}, another than yours",
            )
        injection.greeted(session.link, request.client)
        return Welcome(
            request.request_id, WIRE_VERSION, self._chain.chain_id, self._chain.genesis.shard,
            self._role, self._name, now_ms(), session.challenge,
        )  # fmt: skip

    def _authenticate(self, session: ClientSession, request: Authenticate) -> Wire:
        if request.scheme != SCHEME_ED25519:
            raise Rejected(Code.SCHEME_UNKNOWN, f"scheme {request.scheme}; 1 is Ed25519")
        if len(session.signers) >= MAX_SIGNERS:
            raise Rejected(Code.BUSY, f"a session proves at most {MAX_SIGNERS} signers")
        digest = session_digest(self._chain.chain_id, session.challenge)
        require_signature(request.signer, request.signature, digest)
        session.signers.add(request.signer)
        if self.takes_large(request.signer):
            session.link.frame_limit = NODE_FRAME_BYTES
        return Done(request.request_id)

    def _answer_status(self, session: ClientSession, request: StatusRequest) -> Wire:
        return Status(request.request_id, self._values())

    def _values(self) -> StatusValues:
        values: StatusValues = {
            "role": self._role,
            "name": self._name,
            "uptime_s": int(time.time() - self._started),
            "sessions": len(self._sessions),
            "rejected": sum(self.rejected.values()),
            "throttled": self.throttled,
        }
        values.update(self._status())
        return values

    def _trouble(self) -> str:
        if self.fatal is not None and self.fatal.done():
            return "the process is stopping: something of its own broke"
        return self.trouble()

    def _note(self) -> str:
        return self.note()


def _keeps_up(link: Session) -> bool:
    return link.writable and link.buffered_bytes <= link.limits.write_high_bytes


def _explain(frame: bytes, error: Rejected) -> tuple[int, Rejected]:
    """Request id of a frame that did not decode, as far as it can be told, and a better error."""
    try:
        head = _peek.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return 0, error
    if not head or type(head[0]) is not int:
        return 0, Rejected(Code.WRONG_TYPE, "a request is an array [tag, request_id, ...]")
    request_id = head[1] if len(head) > 1 and type(head[1]) is int and head[1] > 0 else 0
    if head[0] not in _TAGS:
        return request_id, Rejected(Code.UNKNOWN_MESSAGE, f"there is no request with tag {head[0]}")
    return request_id, error


_TAGS = {kind.__struct_config__.tag for kind in Request.__args__}
