"""One session with a process: hello, proven signers, typed requests, and sinks for pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from net.rpc import Connection, peek_prefix
from net.session import Session
from net.upstream import prove_signer, say_hello
from protocol.codec import Wire, encode
from protocol.errors import Rejected, RemoteFault
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import Welcome, decode_answer

A = TypeVar("A", bound=Wire)

Sink = Callable[[int, bytes], None]
"""Takes the tag and the frame of everything that arrives for one request id."""

CLIENT_NAME = "trilemma-client"


@contextmanager
def _their_fault() -> Iterator[None]:
    """An answer that cannot be read is as good as a refusal."""
    try:
        yield
    except Rejected as error:
        raise RemoteFault(error.code, error.text) from None


class Endpoint(Connection):
    """A connection that has said hello.

    `on_lost` is called once when it is gone. Sinks take frames in the loop's callback, without a
    queue in between: for streams of which a client handles many thousands a second.
    """

    def __init__(self, host: str, port: int, chain: Chain, **options: int) -> None:
        super().__init__(host, port, **options)  # type: ignore[arg-type]
        self.chain = chain
        self.welcome: Welcome | None = None
        self.on_lost: Callable[[], None] | None = None
        self._sinks: dict[int, Sink] = {}

    async def greet(self) -> Welcome:
        """Connect and say hello; raises `ConnectionError` or `RemoteFault` (wrong_chain, ...)."""
        await self.open()
        with _their_fault():
            self.welcome = await say_hello(self, self.chain.chain_id, CLIENT_NAME)
        return self.welcome

    async def prove(self, key: Key) -> None:
        """Prove that this session may speak for `key`."""
        if self.welcome is None:
            raise ConnectionError("a session says hello before it proves a signer")
        await prove_signer(self, self.welcome, key)

    async def ask(
        self,
        answer: type[A],
        request: Callable[..., Wire],
        *fields: object,
        timeout_ms: int = 10_000,
    ) -> A:
        """Send `request(request_id, *fields)` and wait for an `answer`.

        Raises `RemoteFault`, `ConnectionError` or `TimeoutError`.
        """
        request_id = self.next_request_id()
        frame = encode(request(request_id, *fields))
        with _their_fault():
            value = decode_answer(await self.request(frame, request_id, timeout_ms))
        if not isinstance(value, answer):
            got = type(value).__name__
            raise RemoteFault(0, f"a {got} came where a {answer.__name__} was due")
        return value

    def attach(self, request_id: int, sink: Sink) -> None:
        """Give every frame of this request id to `sink` until `detach`."""
        self._sinks[request_id] = sink

    def detach(self, request_id: int) -> None:
        """Forget the sink of a request id."""
        self._sinks.pop(request_id, None)

    def on_frames(self, session: Session, frames: list[bytes]) -> None:
        """Called by the session: sinks first, everything else as `Connection` routes it."""
        sinks = self._sinks
        if not sinks:
            super().on_frames(session, frames)
            return
        others = []
        for frame in frames:
            prefix = peek_prefix(frame)
            sink = None if prefix is None else sinks.get(prefix[1])
            if sink is None or prefix is None:
                others.append(frame)
            else:
                sink(prefix[0], frame)
        if others:
            super().on_frames(session, others)

    def on_close(self, session: Session, error: Exception | None) -> None:
        """Called by the session."""
        super().on_close(session, error)
        self._sinks.clear()
        lost, self.on_lost = self.on_lost, None
        if lost is not None:
            lost()
