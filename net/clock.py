"""The clock of a process: the wall clock in milliseconds, never going back, set wrong on purpose
by fault injection."""

from __future__ import annotations

import time


class WallClock:
    """Milliseconds since 1970, as the machines want them: a call never returns less than the last.

    `skew_ms` is added to the system's clock; a skew that goes back holds the time until it is
    caught up with.
    """

    def __init__(self) -> None:
        self.skew_ms = 0
        self._last_ms = 0

    def __call__(self) -> int:
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000 + self.skew_ms)
        return self._last_ms


now_ms = WallClock()
"""The one clock of this process."""
