"""Sentences for ``/readyz``: a process takes no part in its chain, or hears nothing of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

SILENCE_MS = 15_000
"""A chain that is never idle for long has stalled after so long without a block."""

TIMEOUTS = 3
"""Views given up since the newest block; so many, and no quorum seems to answer."""

BEHIND_BLOCKS = 20
"""Certified blocks that are not committed here yet; more, and the member is catching up."""


def silent_s(silence_ms: int, idle_ms: int | None) -> int:
    """Seconds of silence of a chain where they are more than it is ever idle for, else 0.

    `idle_ms`: how long it waits with a block while there is nothing to do; None or 0: for ever.
    """
    return silence_ms // 1000 if idle_ms and silence_ms > max(SILENCE_MS, 3 * idle_ms) else 0


class Members(Protocol):
    """A member set, as `consensus.MemberSet`."""

    @property
    def keys(self) -> Sequence[bytes]: ...
    @property
    def stakes(self) -> Sequence[int]: ...
    def quorum(self, stake: int, /) -> bool:
        """Whether the stake is a quorum."""


class Participation:
    """Whether one member of a chain takes part in its consensus and keeps up.

    `who` are its members, `what` its blocks, in the plural.
    """

    def __init__(self, who: str, what: str) -> None:
        self._who = who
        self._what = what
        self._before = 0

    def committed(self, timeouts: int) -> None:
        """A block has committed, after so many timeouts since the start."""
        self._before = timeouts

    def trouble(
        self, members: Members, reached: Collection[bytes], timeouts: int, height: int, behind: int
    ) -> str:
        """Why the member cannot do its part; empty where it can.

        `reached`: keys of the members that can be talked with, its own among them; `timeouts` since
        the start; `behind`: certified blocks above `height` that are missing here.
        """
        if behind > BEHIND_BLOCKS:
            return f"catching up: {behind} {self._what} are missing after {height}"
        stakes = zip(members.keys, members.stakes, strict=True)
        if not members.quorum(sum(stake for key, stake in stakes if key in reached)):
            count = sum(key in reached for key in members.keys)
            return f"no quorum: {count} of {len(members.keys)} {self._who} are connected"
        timeouts -= self._before
        if timeouts >= TIMEOUTS:
            return f"no quorum: {timeouts} timeouts since block {height} of the {self._what}"
        return ""


class Hearing:
    """How long a process has heard nothing of a chain that it follows."""

    def __init__(
        self, what: str, idle_ms: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._idle_ms = idle_ms
        self._clock = clock
        self._began_s = clock()
        self._heard_s: float | None = None

    def heard(self) -> None:
        """Something came."""
        self._heard_s = self._clock()

    def silence_ms(self) -> int:
        """Time since something came, or since the start."""
        since_s = self._began_s if self._heard_s is None else self._heard_s
        return int(1000 * (self._clock() - since_s))

    def trouble(self) -> str:
        """Why nothing can be known; empty where it is known well enough."""
        if self._heard_s is None:
            return f"nothing was heard of the {self._what} yet"
        silence_s = silent_s(self.silence_ms(), self._idle_ms)
        return f"nothing was heard of the {self._what} for {silence_s} s" if silence_s else ""


def first(sentences: Iterable[str]) -> str:
    """The first that is not empty, or an empty one."""
    return next((text for text in sentences if text), "")
