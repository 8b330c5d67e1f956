"""When a peer has stalled: a frame begun but not completed in time, or no frame for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from net.limits import SessionLimits


class Deadlines:
    """Watches one session with at most one timer; calls `expire(reason)` once.

    Time while `paused` (we do not read) is not held against the peer.
    """

    __slots__ = (
        "_begun_at",
        "_expire",
        "_frame_at",
        "_limits",
        "_loop",
        "_spoken",
        "_timer",
        "paused",
    )

    def __init__(
        self,
        limits: SessionLimits,
        loop: asyncio.AbstractEventLoop,
        expire: Callable[[str], None],
    ) -> None:
        self._limits = limits
        self._loop = loop
        self._expire = expire
        self._begun_at = 0.0  # when the incomplete frame began; 0 where there is none
        self._frame_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._spoken = False  # whether a frame was ever complete
        self.paused = False

    def start(self) -> None:
        """The session is open."""
        self._frame_at = self._loop.time()
        self._arm()

    def stop(self) -> None:
        """The session is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def progress(self, completed: bool, pending: bool) -> None:
        """Bytes came: whether they completed a frame, and whether they left one incomplete."""
        if completed:
            self._frame_at = self._loop.time()
            self._spoken = True
        if not pending:
            self._begun_at = 0.0
        elif completed or not self._begun_at:
            self._begun_at = self._loop.time()
            self._arm_sooner()

    def restart(self) -> None:
        """Count from now."""
        self._frame_at = self._loop.time()
        if self._begun_at:
            self._begun_at = self._frame_at

    def _arm(self) -> None:
        due = self._partial_due(), self._idle_due()
        coming = [at for at in due if at]
        if coming:
            self._timer = self._loop.call_at(min(coming), self._check)

    def _arm_sooner(self) -> None:
        """A frame has begun: its deadline may come before the one that is waited for."""
        if self._timer is not None:
            due = self._partial_due()
            if not due or self._timer.when() <= due:
                return
            self._timer.cancel()
        self._arm()

    def _partial_due(self) -> float:
        timeout_ms = self._limits.partial_timeout_ms
        return self._begun_at + timeout_ms / 1000 if self._begun_at and timeout_ms else 0.0

    def _idle_due(self) -> float:
        limits = self._limits
        timeout_ms = limits.idle_timeout_ms
        if not self._spoken and limits.silent_timeout_ms:
            timeout_ms = min(timeout_ms or limits.silent_timeout_ms, limits.silent_timeout_ms)
        return self._frame_at + timeout_ms / 1000 if timeout_ms else 0.0

    def _check(self) -> None:
        self._timer = None
        if self.paused:
            self.restart()
        now = self._loop.time()
        if 0.0 < self._partial_due() <= now:
            self._expire("partial_frame_timeout")
        elif 0.0 < self._idle_due() <= now:
            self._expire("idle_timeout" if self._spoken else "silent")
        else:
            self._arm()
