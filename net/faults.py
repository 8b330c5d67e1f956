"""Faults of a link on purpose: delay, jitter, loss and blocking of whole outgoing frames.

Used by tests and by the cluster's fault injection. Frames keep their order, as on a TCP stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random


class LinkFaults:
    """What is wrong with a link; the fields may change while it is in use.

    `delay_ms` is added to each frame, plus a uniform part of `jitter_ms`; `loss_ppm` frames of a
    million are lost; `blocked` loses all of them. The draws come from a PRNG seeded by `seed`.
    """

    __slots__ = ("_random", "blocked", "delay_ms", "jitter_ms", "loss_ppm", "lost_frames")

    def __init__(
        self,
        *,
        delay_ms: int = 0,
        jitter_ms: int = 0,
        loss_ppm: int = 0,
        blocked: bool = False,
        seed: int = 0,
    ) -> None:
        self.delay_ms = delay_ms
        self.jitter_ms = jitter_ms
        self.loss_ppm = loss_ppm
        self.blocked = blocked
        self.lost_frames = 0
        self._random = Random(seed)

    def draw_delay_ms(self) -> int | None:
        """The next frame's delay in milliseconds, or None when it is lost."""
        lost = self.loss_ppm > 0 and self._random.randrange(1_000_000) < self.loss_ppm
        if self.blocked or lost:
            self.lost_frames += 1
            return None
        jitter_ms = self._random.randint(0, self.jitter_ms) if self.jitter_ms > 0 else 0
        return self.delay_ms + jitter_ms


class DelayLine:
    """Carries frames to `deliver` under the faults; the session bounds what it holds."""

    __slots__ = ("_deliver", "_faults", "_loop", "_queue", "_timer", "held_bytes")

    def __init__(
        self,
        faults: LinkFaults,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[bytes], object],
    ) -> None:
        self._faults = faults
        self._loop = loop
        self._deliver = deliver
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.held_bytes = 0

    def push(self, frame: bytes) -> None:
        """Deliver the frame after its delay, or never."""
        delay_ms = self._faults.draw_delay_ms()
        if delay_ms is None:
            return
        if delay_ms == 0 and not self._queue:
            self._deliver(frame)
            return
        due = self._loop.time() + delay_ms / 1000
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, frame))
        self.held_bytes += len(frame)
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._release)

    def close(self) -> None:
        """Forget what is still on its way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()
        self.held_bytes = 0

    def _release(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now:
            frame = self._queue.popleft()[1]
            self.held_bytes -= len(frame)
            self._deliver(frame)
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self._release)
