"""Which base-layer height blocks name: the one at which the inbox grew last.

Everybody who knows of an entry has covered that height. The height up to which somebody happens to
have followed the base layer would be ahead of what others have verified, for no use. How far blocks
take the inbox in follows from how many entries there are at the heights that they name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import islice

from protocol.inbox import next_cursor

COUNTS_KEPT = 4_096
"""Heights whose count is remembered until a block names them: the inbox grows, too, while the log
stands still."""


def grown_at(count_at: Callable[[int], int], covered_height: int) -> int:
    """The lowest height with as many inbox entries as the covered one has."""
    return bisect_left(range(covered_height + 1), count_at(covered_height), key=count_at)


class InboxCounts:
    """How many inbox entries there are at the heights that blocks may name; a block takes in at
    most `per_block` of them."""

    def __init__(self, per_block: int) -> None:
        self._per_block = per_block
        self._counts: dict[int, int] = {}
        """By height, ascending."""

    def __len__(self) -> int:
        return len(self._counts)

    def at(self, height: int) -> int | None:
        """The count at a height that was noted."""
        return self._counts.get(height)

    def note(self, height: int, count: int) -> None:
        """This height, at or above those before, has so many entries."""
        self._counts[height] = count
        if len(self._counts) > COUNTS_KEPT:
            # Those above the first: below it nothing would be known of what is named next.
            del self._counts[next(islice(self._counts, 1, None))]

    def advance(self, cursor: int, inbox_height: int) -> int:
        """The inbox cursor after a block under this inbox height, as far as its count is known.

        Another sequencer may have named a height between two that we heard of: the lower one's
        count is certain.
        """
        count = self._counts.get(self._heard(inbox_height), cursor)
        return next_cursor(cursor, count, self._per_block)

    def forget_below(self, inbox_height: int) -> None:
        """Blocks name no lower height any more."""
        heard = self._heard(inbox_height)
        for known in [known for known in self._counts if known < heard]:
            del self._counts[known]

    def _heard(self, inbox_height: int) -> int:
        """The highest height up to this one of which the count is known."""
        if inbox_height in self._counts:
            return inbox_height
        return max((known for known in self._counts if known <= inbox_height), default=-1)
