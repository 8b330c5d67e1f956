"""Keys of peers and the numbers by which the replica knows them."""

from __future__ import annotations

from consensus import MemberSet

OUTSIDER_FIRST = 1_000_000
"""Peers that are no members of the epoch have numbers from here on."""

MAX_OUTSIDERS = 1_024
"""Most outsiders that are remembered; the one unheard of for longest is forgotten."""


class PeerNumbers:
    """A member's number is its index in the current set. An outsider keeps its number while it is
    remembered, and no number is given twice."""

    def __init__(self, members: MemberSet) -> None:
        self._members = members
        self._numbers: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}
        self._next = OUTSIDER_FIRST

    def follow(self, members: MemberSet) -> None:
        """Another epoch began: indices are those of its members from now on."""
        self._members = members

    def number(self, key: bytes) -> int:
        """The number of a peer."""
        index = self._members.index_of(key)
        if index is not None:
            return index
        number = self._numbers.pop(key, None)
        if number is None:
            number = self._next
            self._next += 1
            self._keys[number] = key
            if len(self._numbers) >= MAX_OUTSIDERS:
                oldest = next(iter(self._numbers))
                del self._keys[self._numbers.pop(oldest)]
        self._numbers[key] = number
        return number

    def key(self, number: int) -> bytes | None:
        """The key behind a number, None where nobody has it (any more)."""
        if number in self._members:
            return self._members.keys[number]
        return self._keys.get(number)
