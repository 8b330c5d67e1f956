"""A way to one role of the chain that survives restarts of its processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from client.endpoint import Endpoint
from protocol.codec import Wire
from protocol.errors import Code, ConfigError, RemoteFault, TrilemmaError
from protocol.genesis import Chain
from protocol.keys import Key
from store.config import parse_address

A = TypeVar("A", bound=Wire)

RETRIED = frozenset((Code.BUSY, Code.NOT_READY, Code.RATE_LIMITED))
"""Refusals that say: ask again later."""

FIRST_WAIT_MS = 20
WAIT_CAP_MS = 1_000
OPEN_TIMEOUT_MS = 2_000
"""A process that takes longer to say hello is passed over where there is another one."""

NO_ANSWER = "nothing in time"
START_HINT = "start it with: trilemma up"


class Unreachable(TrilemmaError):
    """No process of a role answered in time (exit 4)."""


class Backoff:
    """Waits that double from `FIRST_WAIT_MS` to `WAIT_CAP_MS`, until `patience_ms` have passed."""

    def __init__(self, patience_ms: int) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience_ms / 1000
        self._wait_ms = FIRST_WAIT_MS

    async def wait(self) -> bool:
        """Wait; False, without waiting, once patience is over."""
        if asyncio.get_running_loop().time() >= self._deadline:
            return False
        await asyncio.sleep(self._wait_ms / 1000)
        self._wait_ms = min(2 * self._wait_ms, WAIT_CAP_MS)
        return True


class Channel:
    """Sessions with the processes of one role, one at a time.

    A lost session is opened again at the next address, its signers are proven again, and questions
    are asked again, for at most `patience_ms`. The first address is number `first`; with `spread`
    the first signer's key chooses it, so that clients do not all begin with the same process.
    Where nobody ever answered, patience ends after `first_patience_ms`; `start_hint` says how to
    start the processes or, where it is called, what to do about them by then.
    """

    def __init__(
        self,
        chain: Chain,
        role: str,
        addresses: list[str],
        patience_ms: int,
        first: int = 0,
        *,
        spread: bool = False,
        first_patience_ms: int | None = None,
        start_hint: str | Callable[[], str] = START_HINT,
    ) -> None:
        if not addresses:
            raise ConfigError(f"no address of a {role} is known")
        self.role = role
        self.patience_ms = patience_ms
        self.connects = 0
        self._chain = chain
        self._addresses = [parse_address(address) for address in addresses]
        self._next = first % len(addresses)
        self._spread = spread
        self._first_patience_ms = first_patience_ms
        self._start_hint = start_hint
        self._signers: dict[bytes, Key] = {}
        self.on_open: list[Callable[[Endpoint], Awaitable[None]]] = []
        """Awaited with every new session, after its signers are proven and before it is used."""
        self._endpoint: Endpoint | None = None
        self._lock = asyncio.Lock()

    @property
    def places(self) -> int:
        """Addresses of the role."""
        return len(self._addresses)

    @property
    def endpoint(self) -> Endpoint | None:
        """The session that stands now, if any."""
        endpoint = self._endpoint
        return endpoint if endpoint is not None and endpoint.connected else None

    async def add_signer(self, key: Key) -> None:
        """Prove `key` to this session and to every later one; one that fails may be added again."""
        if key.public in self._signers:
            return
        if self._spread and not (self._signers or self.connects):
            self._next = int.from_bytes(key.public[:8], "big") % len(self._addresses)
        self._signers[key.public] = key
        endpoint = self.endpoint
        if endpoint is None:
            return
        try:
            await endpoint.prove(key)
        except BaseException:
            self._signers.pop(key.public, None)
            raise

    async def session(self) -> Endpoint:
        """The standing session, or a new one.

        Raises `Unreachable` when patience is over, `ConfigError` for another chain.
        """
        endpoint = self.endpoint
        if endpoint is not None:
            return endpoint
        async with self._lock:
            endpoint = self.endpoint
            if endpoint is not None:
                return endpoint
            backoff = Backoff(self._patience_now_ms)
            others = len(self._addresses) - 1
            limit_s = OPEN_TIMEOUT_MS / 1000 if others else None
            while True:
                try:
                    async with asyncio.timeout(limit_s):
                        self._endpoint = await self._open()
                    return self._endpoint
                except (ConnectionError, TimeoutError) as error:
                    problem: Exception = error
                except RemoteFault as fault:
                    if fault.code == Code.WRONG_CHAIN:
                        raise ConfigError(
                            f"the {self.role} process is of another chain: {fault.text}"
                        ) from None
                    problem = fault
                # Every address gets its try, however long the first ones hung.
                if not await backoff.wait() and others <= 0:
                    raise Unreachable(
                        f"no {self.role} process answers ({str(problem) or NO_ANSWER}); "
                        f"{self._hint}"
                    ) from None
                others -= 1

    @property
    def _hint(self) -> str:
        if isinstance(self._start_hint, str):
            return f"is the cluster up? {self._start_hint}"
        return self._start_hint()

    @property
    def _patience_now_ms(self) -> int:
        if self.connects or self._first_patience_ms is None:
            return self.patience_ms
        return min(self.patience_ms, self._first_patience_ms)

    async def _open(self) -> Endpoint:
        host, port = self._addresses[self._next]
        self._next = (self._next + 1) % len(self._addresses)
        endpoint = Endpoint(host, port, self._chain)
        try:
            await endpoint.greet()
            proven: set[bytes] = set()
            await self._prove_all(endpoint, proven)
            for greeting in list(self.on_open):
                await greeting(endpoint)
            await self._prove_all(endpoint, proven)
        except BaseException:
            await endpoint.close()
            raise
        self.connects += 1
        return endpoint

    async def _prove_all(self, endpoint: Endpoint, proven: set[bytes]) -> None:
        """Prove every signer, also those that are added meanwhile: no session stands yet that they
        could be proven to."""
        while fresh := [key for public, key in self._signers.items() if public not in proven]:
            for key in fresh:
                await endpoint.prove(key)
                proven.add(key.public)

    async def ask(
        self,
        answer: type[A],
        request: Callable[..., Wire],
        *fields: object,
        timeout_ms: int = 10_000,
    ) -> A:
        """Ask until there is an answer; for requests that may be asked twice.

        Raises `RemoteFault` for refusals other than `RETRIED`, `Unreachable`, `ConfigError`.
        """
        backoff = Backoff(self.patience_ms)
        while True:
            endpoint = await self.session()
            try:
                return await endpoint.ask(answer, request, *fields, timeout_ms=timeout_ms)
            except RemoteFault as fault:
                if fault.code not in RETRIED:
                    raise
                problem: Exception = fault
            except ConnectionError as error:
                problem = error
            except TimeoutError as error:
                problem = error
                if len(self._addresses) > 1:
                    # It hangs: whoever asks next asks another one.
                    await endpoint.close()
            if not await backoff.wait():
                if isinstance(problem, RemoteFault):
                    raise problem
                raise Unreachable(
                    f"the {self.role} process does not answer ({str(problem) or NO_ANSWER})"
                ) from None

    async def move_on(self) -> None:
        """Give the session up: the next question goes to the next address (this one lied, or
        does not keep what is asked for)."""
        await self.close()

    async def close(self) -> None:
        """Close the session."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.close()
