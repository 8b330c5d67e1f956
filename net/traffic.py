"""Bytes and frames that this process has carried, in and out, by kind of link.

Every session of the process counts itself, from its first byte to its last, whoever opened it; so
nothing is missed between two looks, and nothing is counted twice.
"""

from __future__ import annotations

from typing import Protocol

PUBLIC = "public"
"""Clients, and other processes, on the own public port."""

PEERS = "peers"
"""Members of the own chain, whichever side dialled."""

UPSTREAMS = "upstreams"
"""Public ports of other processes that this one has dialled."""

KINDS = (PUBLIC, PEERS, UPSTREAMS)

COUNTS = ("bytes_in", "bytes_out", "frames_in", "frames_out")


class Carries(Protocol):
    """A session, as far as it is counted; `link_kind` is one of `KINDS`, or empty: not counted."""

    @property
    def link_kind(self) -> str: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def frames_in(self) -> int: ...
    @property
    def frames_out(self) -> int: ...


class Traffic:
    """Counts over sessions that come and go."""

    def __init__(self) -> None:
        self._ended = {kind: dict.fromkeys(COUNTS, 0) for kind in KINDS}
        self._live: dict[Carries, None] = {}

    def joined(self, session: Carries) -> None:
        """A connection stands."""
        if session.link_kind:
            self._live[session] = None

    def left(self, session: Carries) -> None:
        """A connection is gone."""
        if session in self._live:
            del self._live[session]
            _add(self._ended[session.link_kind], session)

    def totals(self) -> dict[str, dict[str, int]]:
        """Everything so far, by kind and then by `COUNTS`."""
        found = {kind: dict(counts) for kind, counts in self._ended.items()}
        for session in self._live:
            _add(found[session.link_kind], session)
        return found


def _add(counts: dict[str, int], session: Carries) -> None:
    for name in COUNTS:
        counts[name] += getattr(session, name)


traffic = Traffic()
"""The one of this process."""
