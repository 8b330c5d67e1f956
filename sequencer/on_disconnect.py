"""Batches that clients leave with the sequencer, to be submitted when their session ends.

Whatever ends a session (the client closes it, is killed, resets the connection, or is not heard of
any more) makes the sequencer submit what it holds for it, as if the client had sent it last. Only a
stop of the sequencer itself does not: then nothing is submitted, and nothing is stored. Against
that, and against a client that hangs with its session open, a dead-man's switch (`ScheduleCancel`)
is what holds. A batch is refused later like any other: when its nonce is too old by then, say.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection

from protocol.actions import batch_id
from protocol.errors import Code, Rejected
from sequencer.machine import Sequencer, Ticket

SESSION_BATCHES = 16
SESSION_BYTES = 32 * 1024
"""What one session may leave."""

TOTAL_BATCHES = 8_192
"""What is held for all sessions, those that have ended and wait for room in the pool included."""

OWN_TICKET: Ticket = (0, 0)
"""Sessions are counted from 1: nobody is told what becomes of these batches."""

LATER = frozenset((Code.BUSY, Code.RATE_LIMITED))
"""Refusals of a pool that is full for the moment."""

Owner = tuple[bytes, int]
"""(signer, account) of a batch."""


class OnDisconnect:
    """Holds one batch for each signer and account: the newest, of the session that gave it.

    So a client that has come back over a new session, before the end of the old one was noticed,
    loses nothing that it places then.
    """

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._held: dict[Owner, tuple[int, bytes]] = {}
        """(session, batch), in the order in which they were given."""
        self._counts: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()
        self._due: deque[tuple[bytes, bytes]] = deque()
        """(signer, batch) of sessions that have ended."""
        self.submitted = 0
        """Batches that were submitted in place of their clients."""
        self.refused = 0
        """Batches that were not taken when their time came."""

    @property
    def held(self) -> int:
        """Batches of sessions that stand."""
        return len(self._held)

    @property
    def due(self) -> int:
        """Batches that wait for room in the pool."""
        return len(self._due)

    def give(self, session: int, raw: bytes, signers: Collection[bytes], now_ms: int) -> None:
        """Take a batch for the end of a session that has proven `signers`; empty: forget its own.

        It is checked like a submission, its signature always. Raises `Rejected`.
        """
        if not raw:
            self._drop_session(session)
            return
        signed, batch = self._sequencer.check(raw, signers, now_ms)
        self._sequencer.require_signature(signed)
        if self._sequencer.knows(batch_id(raw)):
            raise Rejected(
                Code.NONCE_USED, "this batch was submitted before and would do nothing; sign anew"
            )
        owner = (signed.signer, batch.account)
        before = self._held.get(owner)
        mine = before is not None and before[0] == session
        count = self._counts[session] + 1 - mine
        size = self._bytes[session] + len(raw) - (len(before[1]) if mine and before else 0)
        if count > SESSION_BATCHES or size > SESSION_BYTES:
            raise Rejected(
                Code.TOO_MANY_SUBSCRIPTIONS,
                f"a session leaves at most {SESSION_BATCHES} batches of {SESSION_BYTES} bytes "
                "together, one for each signer and account",
            )
        if before is None and len(self._held) + len(self._due) >= TOTAL_BATCHES:
            raise Rejected(Code.BUSY, "the sequencer holds as many such batches as it may")
        self._drop(owner)
        self._held[owner] = (session, raw)
        self._counts[session] += 1
        self._bytes[session] += len(raw)

    def ended(self, session: int) -> None:
        """A session is gone: what it left is due."""
        for owner, raw in self._drop_session(session):
            self._due.append((owner[0], raw))

    def submit(self, now_ms: int) -> int:
        """Submit what is due, in the order in which it was given, until the pool is full; returns
        how many batches the machine's next `flush` answers."""
        taken = 0
        while self._due:
            signer, raw = self._due[0]
            try:
                self._sequencer.submit(OWN_TICKET, raw, (signer,), now_ms)
            except Rejected as error:
                if error.code in LATER:
                    break
                self.refused += 1
            else:
                taken += 1
            self._due.popleft()
        self.submitted += taken
        return taken

    def _drop_session(self, session: int) -> list[tuple[Owner, bytes]]:
        if not self._counts[session]:
            del self._counts[session]
            return []
        found = [(owner, raw) for owner, (giver, raw) in self._held.items() if giver == session]
        for owner, _ in found:
            self._drop(owner)
        return found

    def _drop(self, owner: Owner) -> None:
        before = self._held.pop(owner, None)
        if before is None:
            return
        session, raw = before
        self._counts[session] -= 1
        self._bytes[session] -= len(raw)
        if not self._counts[session]:
            del self._counts[session], self._bytes[session]
