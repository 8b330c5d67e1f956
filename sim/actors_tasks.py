"""Coroutines on virtual time: what asyncio is to the shells, without asyncio.

A process of the simulator runs in turns: the kernel gives it a message or a timer, its machines
step, and then every coroutine that became ready goes on, in the order in which it became so. A
crash drops them all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Wake = Callable[[], None]


class Promise(Generic[T]):
    """A value or an error that comes later; who awaits it goes on in the turn that brings it."""

    __slots__ = ("_error", "_value", "_wakes", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: Exception | None = None
        self._wakes: list[Wake] = []

    def resolve(self, value: T) -> None:
        """Give the value; later ones are ignored."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: Exception) -> None:
        """Give an error, which is raised where the promise is awaited."""
        if not self.done:
            self._error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def on_done(self, wake: Wake) -> None:
        """Call `wake` once the promise is done."""
        if self.done:
            wake()
        else:
            self._wakes.append(wake)

    def __await__(self) -> Generator[Promise[Any], None, T]:
        if not self.done:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Pulse:
    """Something happened: `wait` gives what the next `set` resolves."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: Promise[None] = Promise()

    def set(self) -> None:
        """Wake everybody who waits now."""
        happened, self._next = self._next, Promise()
        happened.resolve(None)

    def wait(self) -> Promise[None]:
        """The next time that it happens."""
        return self._next


class Tasks:
    """The coroutines of one process."""

    def __init__(self) -> None:
        self._ready: deque[Coroutine[Promise[Any], None, None]] = deque()
        self._alive: dict[Coroutine[Promise[Any], None, None], None] = {}

    def __len__(self) -> int:
        return len(self._alive)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine from the next turn's end on."""
        self._alive[work] = None
        self._ready.append(work)

    @property
    def ready(self) -> bool:
        """Whether a coroutine can go on."""
        return bool(self._ready)

    def run_ready(self, blocked: Callable[[], bool]) -> None:
        """Run what can go on until nothing can, or the process is blocked (it waits for its disk).

        What a coroutine raises comes out here.
        """
        while self._ready and not blocked():
            work = self._ready.popleft()
            if work not in self._alive:
                continue
            try:
                waits_for = work.send(None)
            except StopIteration:
                del self._alive[work]
                continue
            except BaseException:
                del self._alive[work]
                raise
            waits_for.on_done(lambda work=work: self._ready.append(work))  # type: ignore[misc]

    def drop(self) -> None:
        """The process is gone: nothing goes on."""
        alive, self._alive = self._alive, {}
        self._ready.clear()
        for work in alive:
            work.close()
