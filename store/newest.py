"""The newest of numbered values, as many as fit into a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Keeps values by number, each number above those before, within `most_bytes` of memory, and
    no more than `most` of them (None: any number).

    A bound of entries alone bounds no memory: blocks grow as a log gets slower.
    """

    def __init__(self, most_bytes: int, most: int | None = None) -> None:
        self._most_bytes = most_bytes
        self._most = most
        self._kept: OrderedDict[int, tuple[T, int]] = OrderedDict()
        self.size_bytes = 0
        """Bytes of what is kept, as they were told."""

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, number: int, value: T, size_bytes: int) -> None:
        """Keep a value that takes so many bytes; the oldest ones make room for it."""
        self._kept[number] = value, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._most_bytes or (
            self._most is not None and len(self._kept) > self._most
        ):
            self.size_bytes -= self._kept.popitem(last=False)[1][1]

    def get(self, number: int) -> T | None:
        """The value of this number, None where it is not kept."""
        found = self._kept.get(number)
        return None if found is None else found[0]
