"""The clock of a process: the wall clock in milliseconds, never going back, set wrong on purpose
by fault injection."""

from __future__ import annotations

import time
from collections.abc import Callable


class WallClock:
    """Milliseconds since 1970, as the machines want them: a call never returns less than the last.

    `skew_ms` is added to the system's clock. A clock that was ahead and is set back goes on at half
    its speed until the right time has caught up, so that deadlines still come.
    """

    __slots__ = (
        "_last_ms",
        "_monotonic_ns",
        "_slow_from_ms",
        "_slow_from_ns",
        "_wall_ns",
        "skew_ms",
    )

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.skew_ms = 0
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._last_ms = 0
        self._slow_from_ms = self._slow_from_ns = 0

    def __call__(self) -> int:
        wall_ms = self._wall_ns() // 1_000_000 + self.skew_ms
        if wall_ms >= self._last_ms:
            self._last_ms = wall_ms
            self._slow_from_ms = 0
            return wall_ms
        return self._slowly()

    def off_ms(self) -> int:
        """How far the time that it tells is ahead of the system's clock."""
        return self() - self._wall_ns() // 1_000_000

    def _slowly(self) -> int:
        """The time while the clock is ahead of what it should say."""
        passed_ns = self._monotonic_ns()
        if not self._slow_from_ms:
            self._slow_from_ms, self._slow_from_ns = self._last_ms, passed_ns
        slow_ms = self._slow_from_ms + (passed_ns - self._slow_from_ns) // 2_000_000
        self._last_ms = max(self._last_ms, slow_ms)
        return self._last_ms


now_ms = WallClock()
"""The one clock of this process."""
