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

    __slots__ = ("_reserved", "last_ms")

    def __init__(self, last_ms: int = 0) -> None:
        self.last_ms = last_ms
        self._reserved: list[int] = []
        """Nonces ahead of `last_ms` that were given out already, ascending."""

    def take(self, now_ms: int) -> int:
        """The next nonce at clock `now_ms`."""
        nonce_ms = max(now_ms, self.last_ms + 1)
        while self._reserved and self._reserved[0] <= nonce_ms:
            if self._reserved.pop(0) == nonce_ms:
                nonce_ms += 1
        self.last_ms = nonce_ms
        return nonce_ms

    def reserve(self, now_ms: int, ahead_ms: int) -> int:
        """A nonce so far ahead of all others, for a batch that is to be submitted later: those
        taken meanwhile do not make it too old."""
        while self._reserved and self._reserved[0] <= now_ms:
            self.last_ms = max(self.last_ms, self._reserved.pop(0))
        nonce_ms = max(now_ms, self.last_ms) + ahead_ms
        if self._reserved:
            nonce_ms = max(nonce_ms, self._reserved[-1] + 1)
        self._reserved.append(nonce_ms)
        return nonce_ms
