"""Random numbers that are the same on every Python: SplitMix64, with a stream for each purpose.

A stream's seed hashes the run's seed and the stream's name, so that a draw for one purpose never
shifts the draws for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

MASK = (1 << 64) - 1
PPM = 1_000_000


def derive_seed(seed: int, name: str) -> int:
    """Seed of the stream `name` in the run of `seed` (both 64 bits)."""
    text = (seed & MASK).to_bytes(8, "big") + name.encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


class SplitMix64:
    """SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014)."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & MASK

    def next(self) -> int:
        """64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """An integer in [0, bound); `bound` at least 1."""
        return (self.next() * bound) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + ((self.next() * (high - low + 1)) >> 64)

    def chance(self, ppm: int) -> bool:
        """True with a probability of `ppm` in a million; draws nothing where that is 0."""
        return ppm > 0 and self.below(PPM) < ppm

    def pick(self, choices: Sequence[T]) -> T:
        """One element of a non-empty sequence."""
        return choices[self.below(len(choices))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A copy in random order (Fisher and Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different elements (all where there are fewer), in random order."""
        return self.shuffled(items)[:count]
