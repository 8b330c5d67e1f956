"""When things happened at this process, by its own clock: the newest so many."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

KEPT = 20_000

K = TypeVar("K", bound=Hashable)


class Moments(Generic[K]):
    """Times in milliseconds by key. The first time of a key stands; the oldest keys go first."""

    __slots__ = ("_at_ms", "_kept", "_order")

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._at_ms: dict[K, int] = {}
        self._order: deque[K] = deque()

    def note(self, key: K, now_ms: int) -> None:
        """It happened now."""
        if key in self._at_ms:
            return
        self._at_ms[key] = now_ms
        self._order.append(key)
        if len(self._order) > self._kept:
            del self._at_ms[self._order.popleft()]

    def forget(self, key: K) -> None:
        """It was undone: the next time counts as the first."""
        if self._at_ms.pop(key, None) is not None:
            self._order.remove(key)

    def at_ms(self, key: K) -> int:
        """When it happened; 0 where that is not known (any more)."""
        return self._at_ms.get(key, 0)
