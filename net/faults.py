"""Faults of a link on purpose: what befalls whole outgoing frames, and the line that carries them.

Used by tests and by the cluster's fault injection. Frames keep their order, as on a TCP stream.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from random import Random
from typing import Protocol

from net.frames import pack_length

RESENT_AFTER_MS = 200
RESENT_MAX = 6
"""When TCP sends again what was lost: after its least time-out (RFC 6298, with Linux's bound), then
after twice as long each time; so often at most."""


class LinkFaults:
    """What is wrong with a link; the fields may change while it is in use.

    `delay_ms` is added to each frame, plus a uniform part of `jitter_ms`; `loss_ppm` frames of a
    million are lost, where the link is `reliable` only for the times until TCP has sent them again;
    `blocked` loses all of them. `stalled` holds them until it ends, as a network
    does that is cut for a while. `rate_kib_s` (0: no bound) is what the link carries,
    `slice_bytes` (0: none) the most bytes of one write, and after `limit_bytes` (0: none) the
    connection is closed. The draws come from a PRNG seeded by `seed`. `bit` counts what hit.
    """

    __slots__ = (
        "_random", "bit", "blocked", "delay_ms", "jitter_ms", "limit_bytes", "loss_ppm",
        "rate_kib_s", "reliable", "slice_bytes", "stalled",
    )  # fmt: skip

    def __init__(
        self,
        *,
        delay_ms: int = 0,
        jitter_ms: int = 0,
        loss_ppm: int = 0,
        blocked: bool = False,
        stalled: bool = False,
        rate_kib_s: int = 0,
        slice_bytes: int = 0,
        limit_bytes: int = 0,
        reliable: bool = False,
        seed: int | str = 0,
        bit: Counter[str] | None = None,
    ) -> None:
        self.delay_ms = delay_ms
        self.jitter_ms = jitter_ms
        self.loss_ppm = loss_ppm
        self.blocked = blocked
        self.stalled = stalled
        self.rate_kib_s = rate_kib_s
        self.slice_bytes = slice_bytes
        self.limit_bytes = limit_bytes
        self.reliable = reliable
        self.bit: Counter[str] = Counter() if bit is None else bit
        self._random = Random(seed)

    @property
    def lost_frames(self) -> int:
        """Frames lost so far."""
        return self.bit["lost_frames"]

    @property
    def none(self) -> bool:
        """Whether nothing is wrong with the link."""
        return not (
            self.blocked or self.stalled or self.delay_ms or self.jitter_ms or self.loss_ppm
            or self.rate_kib_s or self.slice_bytes or self.limit_bytes
        )  # fmt: skip

    def draw_delay_ms(self) -> int | None:
        """The next frame's delay in milliseconds, or None when it is lost."""
        resent_ms, times = 0, 0
        while self.loss_ppm > 0 and self._random.randrange(1_000_000) < self.loss_ppm:
            self.bit["lost_frames"] += 1
            if not self.reliable:
                return None
            resent_ms += RESENT_AFTER_MS << times
            times += 1
            if times == RESENT_MAX:
                break
        if self.blocked:
            self.bit["lost_frames"] += 1
            return None
        jitter_ms = self._random.randint(0, self.jitter_ms) if self.jitter_ms > 0 else 0
        delay_ms = self.delay_ms + jitter_ms
        if delay_ms:
            self.bit["delayed_frames"] += 1
        return delay_ms + resent_ms


class Carrier(Protocol):
    """The connection at the end of a line."""

    def carry(self, frame: bytes) -> object:
        """Send a frame."""

    def carry_bytes(self, data: bytes) -> object:
        """Send a part of a frame in a write of its own."""

    def line_moved(self) -> None:
        """The line holds less than before."""

    def cut(self) -> None:
        """The line carries no more: close the connection."""


class DelayLine:
    """Carries frames to a connection under the faults; the session bounds what it holds."""

    __slots__ = (
        "_carrier", "_faults", "_free_at", "_loop", "_pieces", "_queue", "_sent_bytes", "_timer",
        "held_bytes",
    )  # fmt: skip

    def __init__(
        self, faults: LinkFaults, loop: asyncio.AbstractEventLoop, carrier: Carrier
    ) -> None:
        self._faults = faults
        self._loop = loop
        self._carrier = carrier
        self._queue: deque[tuple[float, bytes]] = deque()
        self._pieces: deque[bytes] = deque()
        self._free_at = 0.0
        self._sent_bytes = 0
        self._timer: asyncio.Handle | None = None
        self.held_bytes = 0

    @property
    def stalled(self) -> bool:
        """Whether nothing leaves it at present."""
        return self._faults.stalled

    @property
    def idle(self) -> bool:
        """Whether it holds nothing and has no faults, so that the link can do without it."""
        return not self._queue and not self._pieces and self._faults.none

    def push(self, frame: bytes) -> None:
        """Carry the frame after its delay, or never."""
        faults = self._faults
        delay_ms = faults.draw_delay_ms()
        if delay_ms is None:
            return
        if faults.stalled:
            faults.bit["blocked_frames"] += 1
        due = self._due(len(frame) + 4, delay_ms)
        if due == 0 and not (self._queue or self._pieces or faults.stalled or faults.slice_bytes):
            self._emit(frame)
            return
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, frame))
        self.held_bytes += len(frame)
        self._arm()

    def change(self, faults: LinkFaults) -> None:
        """Other faults from here on; what waited for the old ones may go, unless it is stalled."""
        self._faults = faults
        self._free_at = 0.0
        self._queue = deque((0.0, frame) for _, frame in self._queue)
        self._disarm()
        self._arm()

    def close(self) -> None:
        """Forget what is still on its way."""
        self._disarm()
        self._queue.clear()
        self._pieces.clear()
        self.held_bytes = 0

    def _due(self, size: int, delay_ms: int) -> float:
        """When a frame of this size arrives by the loop's clock; 0 for at once."""
        rate_kib_s = self._faults.rate_kib_s
        if not rate_kib_s:
            return self._loop.time() + delay_ms / 1000 if delay_ms else 0.0
        self._faults.bit["throttled_bytes"] += size
        self._free_at = max(self._free_at, self._loop.time()) + size / (rate_kib_s * 1024)
        return self._free_at + delay_ms / 1000

    def _arm(self) -> None:
        if self._timer is not None or self._faults.stalled:
            return
        if self._pieces:
            self._timer = self._loop.call_soon(self._release)
        elif self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self._release)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self) -> None:
        self._timer = None
        if self._pieces:
            self._carrier.carry_bytes(self._pieces.popleft())
        else:
            now = self._loop.time()
            while self._queue and self._queue[0][0] <= now and not self._pieces:
                frame = self._queue.popleft()[1]
                self.held_bytes -= len(frame)
                self._emit(frame)
        self._arm()
        self._carrier.line_moved()

    def _emit(self, frame: bytes) -> None:
        faults = self._faults
        size = len(frame) + 4
        room = faults.limit_bytes - self._sent_bytes
        if faults.limit_bytes and size > room:
            faults.bit["cut_connections"] += 1
            self.close()
            if room > 0:
                self._carrier.carry_bytes((pack_length(len(frame)) + frame)[:room])
            self._carrier.cut()
            return
        self._sent_bytes += size
        step = faults.slice_bytes
        if step and size > step:
            faults.bit["sliced_frames"] += 1
            data = pack_length(len(frame)) + frame
            self._pieces.extend(data[at : at + step] for at in range(0, size, step))
        else:
            self._carrier.carry(frame)
