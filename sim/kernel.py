"""Virtual time: a queue of events in order of time, then of scheduling, and the trace of the run.

Times are integers in microseconds since the run's start. Everything that happens in a run hangs
on the seed alone, so the hash of the trace is the same for the same seed on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from protocol.errors import TrilemmaError
from sim.random import SplitMix64, derive_seed

US_PER_MS = 1_000
US_PER_S = 1_000_000
TRACE_CHUNK = 512


class SimulationLimit(TrilemmaError):
    """A run scheduled or handled more events than it may: something in it never rests."""


class Timer:
    """A scheduled callback, for `Kernel.cancel`."""

    __slots__ = ("args", "at_us", "callback")

    def __init__(self, at_us: int, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.at_us = at_us
        self.callback: Callable[..., None] | None = callback
        self.args = args


class Kernel:
    """The clock and the event queue of one run.

    `max_events` bounds what the run handles, `max_pending` what may wait; both raise
    `SimulationLimit`. With `keep_trace` the newest lines of the trace stay readable in `lines`.
    """

    def __init__(
        self,
        seed: int,
        *,
        max_events: int = 20_000_000,
        max_pending: int = 1_000_000,
        keep_trace: int = 0,
    ) -> None:
        self.seed = seed
        self.now_us = 0
        self.events = 0
        self.lines: list[str] = []
        self._keep_trace = keep_trace
        self._max_events = max_events
        self._max_pending = max_pending
        self._queue: list[tuple[int, int, Timer]] = []
        self._sequence = 0
        self._streams: dict[str, SplitMix64] = {}
        self._hash = blake2b(digest_size=16)
        self._unhashed: list[str] = []

    @property
    def now_ms(self) -> int:
        """Virtual time in milliseconds, rounded down."""
        return self.now_us // US_PER_MS

    def stream(self, name: str) -> SplitMix64:
        """The generator of this name; the same object on every call."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = SplitMix64(derive_seed(self.seed, name))
        return found

    def at(self, at_us: int, callback: Callable[..., None], *args: Any) -> Timer:
        """Call `callback(*args)` at a time; one in the past counts as now."""
        if len(self._queue) >= self._max_pending:
            raise SimulationLimit(f"more than {self._max_pending} events wait")
        at_us = max(at_us, self.now_us)
        timer = Timer(at_us, callback, args)
        self._sequence += 1
        heapq.heappush(self._queue, (at_us, self._sequence, timer))
        return timer

    def after(self, delay_us: int, callback: Callable[..., None], *args: Any) -> Timer:
        """Call `callback(*args)` after a delay."""
        return self.at(self.now_us + delay_us, callback, *args)

    def cancel(self, timer: Timer | None) -> None:
        """Never call a timer's callback; harmless for None, and after it was called."""
        if timer is not None:
            timer.callback = None

    def run(self, until_us: int) -> None:
        """Handle every event up to and including `until_us`, which is the time afterwards."""
        queue = self._queue
        while queue and queue[0][0] <= until_us:
            at_us, _, timer = heapq.heappop(queue)
            callback = timer.callback
            if callback is None:
                continue
            self.events += 1
            if self.events > self._max_events:
                raise SimulationLimit(f"more than {self._max_events} events in one run")
            self.now_us = at_us
            timer.callback = None
            callback(*timer.args)
        self.now_us = max(self.now_us, until_us)

    def trace(self, kind: str, *values: int | str | bytes | None) -> None:
        """Add a line to the trace: the time, what happened, and plain values."""
        line = f"{self.now_us} {kind} {values!r}\n"
        self._unhashed.append(line)
        if len(self._unhashed) >= TRACE_CHUNK:
            self._fold()
        if self._keep_trace:
            self.lines.append(line)
            if len(self.lines) > 2 * self._keep_trace:
                del self.lines[: -self._keep_trace]

    def trace_hash(self) -> str:
        """Hash of the trace so far (32 hexadecimal digits)."""
        self._fold()
        return self._hash.hexdigest()

    def _fold(self) -> None:
        self._hash.update("".join(self._unhashed).encode())
        self._unhashed.clear()
