"""Millisecond nonces that are never used twice."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class NonceSource:
    """Rising millisecond nonces of one signer.

    A nonce is the clock, or one more than the last where that is not above it: faster than one
    per millisecond, nonces run ahead of the clock, and a clock set back repeats none.
    """

    __slots__ = ("last_ms",)

    def __init__(self, last_ms: int = 0) -> None:
        self.last_ms = last_ms

    def take(self, now_ms: int) -> int:
        """The next nonce at clock `now_ms`."""
        self.last_ms = max(now_ms, self.last_ms + 1)
        return self.last_ms
