"""Whether a sequencer takes part and keeps up, in one sentence, and how fast it orders."""

from __future__ import annotations

from collections.abc import Iterable

from execution.process_health import WatchedInbox
from net.metrics import Histogram
from net.readiness import Participation, first
from sequencer.machine import Sequencer, Ticket


class SequencerHealth:
    """Watches one sequencer's machine, and the inbox that it follows."""

    def __init__(self, machine: Sequencer, inbox: WatchedInbox, ordering: Histogram) -> None:
        self._machine = machine
        self._inbox = inbox
        self._ordering = ordering
        self._part = Participation("sequencers", "ordered blocks")
        self._accepted_ms: dict[int, dict[int, int]] = {}

    def accepted(self, ticket: Ticket, now_ms: int) -> None:
        """A submission has its receipt."""
        session, request_id = ticket
        self._accepted_ms.setdefault(session, {})[request_id] = now_ms

    def ordered(self, ticket: Ticket, now_ms: int) -> None:
        """A submission has its place in the log."""
        session, request_id = ticket
        since_ms = self._accepted_ms.get(session, {}).pop(request_id, None)
        if since_ms is not None:
            self._ordering.observe((now_ms - since_ms) / 1000)

    def left(self, session: int) -> None:
        """A session is gone; nobody waits for what it submitted."""
        self._accepted_ms.pop(session, None)

    def committed(self) -> None:
        """A block has committed."""
        self._part.committed(self._timeouts)

    @property
    def _timeouts(self) -> int:
        return self._machine.replica.counters.get("timeouts_sent", 0)

    def trouble(self, own_key: bytes, connected: Iterable[bytes]) -> str:
        """Why the sequencer does not take part or keep up; empty where it does. `connected`: keys
        of the other sequencers that can be sent to."""
        if not self._machine.signs:
            return "not taking part: it was restored from a backup, and its key must not sign"
        replica = self._machine.replica
        height = replica.committed_height
        unsettled = self._machine.settled.trouble(height)
        part = self._part.trouble(
            self._machine.members, {own_key, *connected}, self._timeouts, height,
            replica.high_qc.height - height,
        )  # fmt: skip
        return first([unsettled, part, self._inbox.hearing.trouble()])
