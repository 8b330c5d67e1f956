"""Who waits for which transaction: sessions that submitted it get its outcome once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.messages import Committed, ErrorFrame

MAX_WAITERS = 8192
"""Most submissions that may wait for their block."""

MAX_WAITERS_OF_SESSION = 512
"""Most of them for one session, so that none shuts out the others."""


class Recipient(Protocol):
    """A session that can be answered; sending to a closed one does nothing."""

    closed: bool

    def send(self, answer: Wire) -> None:
        """Send an answer."""


class SubmissionDesk:
    """Open submissions by transaction id."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[tuple[Recipient, int]]] = {}
        self._count = 0
        self._of_session: Counter[Recipient] = Counter()

    def __len__(self) -> int:
        return self._count

    def require_room(self, session: Recipient) -> None:
        """Raise `Rejected(busy)` where the session may wait for no more."""
        if self._of_session[session] >= MAX_WAITERS_OF_SESSION:
            text = f"{MAX_WAITERS_OF_SESSION} submissions of this session wait already"
            raise Rejected(Code.BUSY, f"{text}; await their answers")
        if self._count >= MAX_WAITERS:
            raise Rejected(Code.BUSY, f"{MAX_WAITERS} submissions wait already; try again later")

    def wait(self, identity: bytes, session: Recipient, request_id: int) -> None:
        """Remember a submission."""
        self._waiting.setdefault(identity, []).append((session, request_id))
        self._count += 1
        self._of_session[session] += 1

    def committed(self, identity: bytes, height: int, code: int, text: str) -> None:
        """Answer everybody who submitted the transaction."""
        for session, request_id in self._take(identity):
            session.send(Committed(request_id, identity, height, code, text))

    def dropped(self, identity: bytes, code: Code, text: str) -> None:
        """Tell everybody who submitted the transaction why it left the pool without a block."""
        for session, request_id in self._take(identity):
            session.send(ErrorFrame(request_id, code, text))

    def drop_all(self, code: Code, text: str) -> None:
        """Tell everybody who waits for whatever transaction why no answer will come."""
        for identity in list(self._waiting):
            self.dropped(identity, code, text)

    def forget_closed(self) -> None:
        """Drop submissions of sessions that are gone."""
        for identity, waiting in list(self._waiting.items()):
            kept = [one for one in waiting if not one[0].closed]
            self._release(one for one in waiting if one[0].closed)
            if kept:
                self._waiting[identity] = kept
            else:
                del self._waiting[identity]

    def _take(self, identity: bytes) -> list[tuple[Recipient, int]]:
        waiting = self._waiting.pop(identity, [])
        self._release(waiting)
        return waiting

    def _release(self, waiting: Iterable[tuple[Recipient, int]]) -> None:
        for session, _ in waiting:
            self._count -= 1
            self._of_session[session] -= 1
            if not self._of_session[session]:
                del self._of_session[session]
