"""A listening port whose connections are sessions, bounded in number."""

from __future__ import annotations

import asyncio
import errno
import ssl as tls
from collections import Counter
from collections.abc import Callable

from net.pacing import Pacing, address_group
from net.session import CLIENT_LIMITS, Session, SessionLimits, SessionOwner
from protocol.errors import ConfigError, Rejected

HANDSHAKE_TIMEOUT_S = 5.0
"""A TLS handshake that takes longer is given up."""


class FrameServer:
    """Accepts connections; `make_owner()` gives the owner of each (it may be one for all).

    Over `max_sessions`, or `max_sessions_of_host` from one address (``too_many_sessions``), and
    faster than `pacing` allows (``too_many_connections``), a connection gets
    `refusal_frame(reason)` (where given) and is closed. A peer whose input is refused gets
    `reject_frame(fault)`. Port 0 lets the system choose. `max_sessions` may be changed; sessions
    that stand are not closed by it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        make_owner: Callable[[], SessionOwner],
        *,
        limits: SessionLimits = CLIENT_LIMITS,
        max_sessions: int = 1024,
        max_sessions_of_host: int | None = None,
        pacing: Pacing | None = None,
        refusal_frame: Callable[[str], bytes] | None = None,
        reject_frame: Callable[[Rejected], bytes] | None = None,
        ssl: tls.SSLContext | None = None,
        link_kind: str = "",
    ) -> None:
        self.host = host
        self.port = port
        self.refused_sessions = 0
        self._make_owner = make_owner
        self._limits = limits
        self.max_sessions = max_sessions
        self._max_of_host = max_sessions_of_host
        self._of_host: Counter[str] = Counter()
        self._pacing = pacing
        self._refusal_frame = refusal_frame
        self._reject_frame = reject_frame
        self._ssl = ssl
        self._link_kind = link_kind
        self._server: asyncio.Server | None = None
        self._sessions: dict[Session, str] = {}
        self._refused: dict[Session, None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def sessions(self) -> list[Session]:
        """The admitted sessions, oldest first."""
        return list(self._sessions)

    async def start(self) -> None:
        """Listen; raises `ConfigError` with one sentence when the port cannot be had."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._make_session,
                self.host,
                self.port,
                ssl=self._ssl,
                backlog=512,
                reuse_address=True,
                ssl_handshake_timeout=None if self._ssl is None else HANDSHAKE_TIMEOUT_S,
            )
        except OSError as error:
            raise ConfigError(self._explain(error)) from None
        self.port = self._server.sockets[0].getsockname()[1]

    def _explain(self, error: OSError) -> str:
        where = f"port {self.port} on {self.host}"
        if error.errno == errno.EADDRINUSE:
            return f"{where} is already in use; stop the other process or choose another port"
        if error.errno == errno.EACCES:
            return f"{where} needs privileges this process lacks; choose a port above 1023"
        return f"cannot listen at {where}: {error.strerror or error}"

    async def stop(self) -> None:
        """Stop listening, let the sessions send what is queued, then close them."""
        if self._server is None:
            return
        self._server.close()
        for session in [*self._sessions, *self._refused]:
            session.close("shutdown")
        try:
            await asyncio.wait_for(self._empty.wait(), self._limits.close_timeout_ms / 1000 + 1)
        except TimeoutError:
            for session in self.sessions:
                session.abort("shutdown")
        self._server = None

    def _make_session(self) -> Session:
        return Session(
            self._make_owner(), self._limits, reject_frame=self._reject_frame, registry=self,
            link_kind=self._link_kind,
        )  # fmt: skip

    def admit(self, session: Session) -> bool:
        """Register a new session, or turn it away when the server is full or stopping."""
        host = address_group(session.host)
        reason = self._refusal(session.host, host)
        if not reason:
            self._sessions[session] = host
            self._of_host[host] += 1
            self._empty.clear()
            return True
        self.refused_sessions += 1
        last = b"" if self._refusal_frame is None else self._refusal_frame(reason)
        if self._server is None or len(self._refused) >= self.max_sessions:
            session.abort(reason)
            return False
        self._refused[session] = None
        if last:
            session.close_with(last, reason)
        else:
            session.close(reason)
        return False

    def _refusal(self, address: str, host: str) -> str:
        """Why a new session is turned away; empty where it is not."""
        if self._pacing is not None and not self._pacing.connects(address):
            return "too_many_connections"
        if self._server is None or len(self._sessions) >= self.max_sessions:
            return "too_many_sessions"
        if self._max_of_host is not None and self._of_host.get(host, 0) >= self._max_of_host:
            return "too_many_sessions"
        return ""

    def forget(self, session: Session) -> None:
        """Drop a session whose connection is gone."""
        self._refused.pop(session, None)
        host = self._sessions.pop(session, None)
        if host is not None:
            self._of_host[host] -= 1
            if not self._of_host[host]:
                del self._of_host[host]
        if not self._sessions:
            self._empty.set()
