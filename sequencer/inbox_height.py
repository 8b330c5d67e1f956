"""Which base-layer height blocks name: the one at which the inbox grew last.

Everybody who knows of an entry has covered that height. The height up to which somebody happens to
have followed the base layer would be ahead of what others have verified, for no use.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable


def grown_at(count_at: Callable[[int], int], covered_height: int) -> int:
    """The lowest height with as many inbox entries as the covered one has."""
    return bisect_left(range(covered_height + 1), count_at(covered_height), key=count_at)
