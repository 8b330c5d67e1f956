"""Batches that clients leave with the sequencer, to be submitted when their session ends.

Whatever ends a session (the client closes it, is killed, resets the connection, or is not heard of
any more) makes the sequencer submit what it holds for it, as if the client had sent it last. Only a
stop of the sequencer itself does not: then nothing is submitted, and nothing is stored. Against
that, and against a client that hangs with its session open, a dead-man's switch (`ScheduleCancel`)
is what holds. A batch is refused later like any other: when its nonce is too old by then, say.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Collection

from protocol.actions import batch_id
from protocol.errors import Code, Rejected
from sequencer.machine import Sequencer, Ticket

SESSION_BATCHES = 16
SESSION_BYTES = 32 * 1024
"""What one session may leave."""

TOTAL_BATCHES = 8_192
"""What is held for all sessions, those that have ended and wait for room in the pool included."""

TRIES = 256
"""Signers whose batches `submit` finds no room for before it leaves the others to the next time."""

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
        self._due: OrderedDict[bytes, deque[bytes]] = OrderedDict()
        """Batches of sessions that have ended, by signer."""
        self.due = 0
        """How many those are, which wait for room in the pool."""
        self.submitted = 0
        """Batches that were submitted in place of their clients."""
        self.refused = 0
        """Batches that were not taken when their time came."""

    @property
    def held(self) -> int:
        """Batches of sessions that stand."""
        return len(self._held)

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
        if before is None and len(self._held) + self.due >= TOTAL_BATCHES:
            raise Rejected(Code.BUSY, "the sequencer holds as many such batches as it may")
        self._drop(owner)
        self._held[owner] = (session, raw)
        self._counts[session] += 1
        self._bytes[session] += len(raw)

    def ended(self, session: int) -> None:
        """A session is gone: what it left is due."""
        for owner, raw in self._drop_session(session):
            self._due.setdefault(owner[0], deque()).append(raw)
            self.due += 1

    def submit(self, now_ms: int) -> int:
        """Submit what is due, of each signer in the order in which it was given, as far as there is
        room for it; returns how many batches the machine's next `flush` answers.

        Signers whose batches find no room hold up no other one: their lane may be full, or they
        may have too many batches in the pool already.
        """
        submitted, tries = self.submitted, TRIES
        for signer in list(self._due):
            if not tries:
                break
            batches = self._due.pop(signer)
            while batches and self._submit(signer, batches[0], now_ms):
                batches.popleft()
                self.due -= 1
            if batches:
                self._due[signer] = batches
                tries -= 1
        return self.submitted - submitted

    def _submit(self, signer: bytes, raw: bytes, now_ms: int) -> bool:
        """Submit a batch, or give it up; returns False where there is no room for it now."""
        try:
            self._sequencer.submit(OWN_TICKET, raw, (signer,), now_ms)
        except Rejected as error:
            if error.code in LATER:
                return False
            self.refused += 1
        else:
            self.submitted += 1
        return True

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
