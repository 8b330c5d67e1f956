"""One connection to any of several equivalent servers, renewed with back-off when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import structlog

from net.injection import injection
from net.link import Backoff
from net.rpc import Connection, Subscription
from protocol.codec import Wire, encode
from protocol.errors import Code, Rejected, RemoteFault
from protocol.keys import SCHEME_ED25519, Key
from protocol.messages import (
    WIRE_VERSION,
    Answer,
    Authenticate,
    Hello,
    StatusRequest,
    Welcome,
    decode_answer,
    session_digest,
)

A = TypeVar("A")

QUIET_S = 3.0
"""A server that says nothing for so long is asked whether it lives."""

ANSWER_MS = 5_000
"""It answers in this time, or hangs."""

_log = structlog.get_logger()


async def say_hello(connection: Connection, chain_id: bytes, name: str) -> Welcome:
    """Open the session on a fresh connection.

    Raises `ConnectionError`, `TimeoutError`, `RemoteFault` (wrong_chain, wrong_version), or
    `Rejected`.
    """
    request_id = connection.next_request_id()
    hello = encode(Hello(request_id, WIRE_VERSION, chain_id, name))
    welcome = expect(Welcome, decode_answer(await connection.request(hello, request_id)))
    if welcome.version != WIRE_VERSION:
        raise Rejected(
            Code.WRONG_VERSION,
            f"the server speaks wire version {welcome.version}, not {WIRE_VERSION}; "
            "run the same release on both sides",
        )
    if welcome.chain_id != chain_id:
        raise Rejected(Code.WRONG_CHAIN, "the server is of another chain")
    injection.welcomed(connection.session, (connection.host, connection.port), welcome.name)
    return welcome


async def next_frame(
    connection: Connection,
    frames: Subscription,
    on_answer: Callable[[], None] | None = None,
) -> bytes:
    """What a server sends next for a subscription, however long it has nothing to say: after each
    `QUIET_S` it is asked for its status. Raises `TimeoutError` where it does not answer (it hangs,
    or the connection is half open), and as `Subscription.get`."""
    while True:
        try:
            async with asyncio.timeout(QUIET_S):
                return await frames.get()
        except TimeoutError:
            request_id = connection.next_request_id()
        await connection.request(encode(StatusRequest(request_id)), request_id, ANSWER_MS)
        if on_answer is not None:
            on_answer()


async def prove_signer(connection: Connection, welcome: Welcome, key: Key) -> None:
    """Prove that the session may speak for `key`; raises as `say_hello`."""
    request_id = connection.next_request_id()
    signature = key.sign(session_digest(welcome.chain_id, welcome.challenge))
    proof = encode(Authenticate(request_id, SCHEME_ED25519, key.public, signature))
    await connection.request(proof, request_id)


class Upstream:
    """Keeps a session with one of `addresses`, moving to the next when it fails."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        chain_id: bytes,
        name: str,
        key: Key | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._addresses = list(addresses)
        self._chain_id = chain_id
        self._name = name
        self._key = key
        self._backoff = backoff or Backoff(first_ms=50, cap_ms=2_000)
        self._random = Random()
        self._connection: Connection | None = None
        self._at = 0
        self._failures = 0
        self._lock = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """Whether the session stands."""
        return self._connection is not None and self._connection.connected

    async def connection(self) -> Connection:
        """A greeted connection; keeps trying until there is one."""
        async with self._lock:
            while self._connection is None or not self._connection.connected:
                await self._connect_once()
            return self._connection

    async def _connect_once(self) -> None:
        if self._failures:
            wait_ms = self._backoff.wait_ms(self._failures, self._random)
            await asyncio.sleep(wait_ms / 1000)
        host, port = self._addresses[self._at % len(self._addresses)]
        connection = Connection(host, port)
        try:
            await connection.open()
            welcome = await say_hello(connection, self._chain_id, self._name)
            if self._key is not None:
                await prove_signer(connection, welcome, self._key)
        except (ConnectionError, TimeoutError, RemoteFault, Rejected) as error:
            self._failures += 1
            self._at += 1
            if self._failures in (1, 10) or self._failures % 100 == 0:
                _log.warning("upstream unreachable", address=f"{host}:{port}", error=str(error))
            await connection.close()
            return
        except asyncio.CancelledError:
            await connection.close()
            raise
        self._failures = 0
        self._connection = connection

    async def drop(self) -> None:
        """Give the connection up and move to the next server (it lied, or does not answer)."""
        connection, self._connection = self._connection, None
        self._at += 1
        self._failures += 1
        if connection is not None:
            await connection.close()

    async def ask(self, kind: type[A], make: Callable[[int], Wire], timeout_ms: int = 10_000) -> A:
        """One request and its answer of type `kind`.

        Raises `ConnectionError`, `TimeoutError`, `RemoteFault`, or `Rejected` for another answer.
        """
        connection = await self.connection()
        request_id = connection.next_request_id()
        frame = await connection.request(encode(make(request_id)), request_id, timeout_ms)
        return expect(kind, decode_answer(frame))

    async def close(self) -> None:
        """Close the session."""
        if self._connection is not None:
            await self._connection.close()


def expect(kind: type[A], answer: Answer) -> A:
    """The answer as a `kind`; raises `Rejected` where it is something else."""
    if not isinstance(answer, kind):
        raise Rejected(
            Code.UNKNOWN_MESSAGE, f"expected {kind.__name__}, got {type(answer).__name__}"
        )
    return answer
