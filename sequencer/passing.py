"""Accepted batches on their way to the other sequencers, so that whoever leads can order them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from protocol.errors import Code, Rejected
from sequencer.peer import MAX_PASSED_BATCHES, PASSED_BYTES, PassedBatches

REPEAT_MS = 1_000
"""A batch that still waits is passed on again after so long, then after twice that, ..."""

OTHERS_REPEAT_MS = 10_000
"""What another sequencer accepted is passed on here in a log that stands still for so long: that
one may be gone. In one that goes on it is ordered in this one's turn, and takes no room of it."""

REPEAT_MAX_MS = 60_000

PEER_BYTES_PER_S = 16 << 20
"""Batches that are taken from one sequencer, in each second and at once."""

BATCH_COST_BYTES = 1_024
"""Counted for each batch beside its bytes: a tiny one takes as long to look at."""

PRICE_COST_BYTES = 16 << 10
"""Counted for each price: its signature is checked, and old ones can be repeated."""

FALSE_PRICE_COST_BYTES = 1 << 20
"""Counted where that signature is false, which no honest sequencer passes on."""


def messages(batches: Iterable[bytes]) -> Iterator[PassedBatches]:
    """The messages that carry these batches, in their order."""
    part: list[bytes] = []
    size_bytes = 0
    for raw in batches:
        part.append(raw)
        size_bytes += len(raw)
        if len(part) >= MAX_PASSED_BATCHES or size_bytes >= PASSED_BYTES:
            yield PassedBatches(part)
            part, size_bytes = [], 0
    if part:
        yield PassedBatches(part)


class RepeatedBatches:
    """Batches that wait, until they are ordered, and when each is passed on again.

    Links lose what was under way when they break, and a sequencer that was away knows nothing of
    what it missed: what still waits is repeated, ever more rarely, one message at a time, so that
    a log that stands still does not fill the links with the same batches.
    """

    def __init__(self) -> None:
        self._due_at: dict[bytes, tuple[int, int]] = {}
        """When each batch is passed on again, and the wait after that."""
        self._next_ms: int | None = None

    def __len__(self) -> int:
        return len(self._due_at)

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._due_at

    def add(self, identity: bytes, now_ms: int, wait_ms: int = REPEAT_MS) -> None:
        """A batch was accepted; it is passed on again after a while."""
        self._due_at[identity] = (now_ms + wait_ms, 2 * REPEAT_MS)
        if self._next_ms is None:
            self._next_ms = now_ms + wait_ms

    def wait_until(self, moment_ms: int) -> None:
        """Nothing is due before."""
        if self._next_ms is not None:
            self._next_ms = max(self._next_ms, moment_ms)

    def forget(self, identity: bytes) -> None:
        """A batch is ordered."""
        self._due_at.pop(identity, None)

    def deadline_ms(self) -> int | None:
        """When `due` has something to say."""
        return self._next_ms if self._due_at else None

    def due(self, raw_of: Callable[[bytes], bytes | None], now_ms: int) -> PassedBatches | None:
        """One message of what to pass on again now, oldest first."""
        if not self._due_at or self._next_ms is None or now_ms < self._next_ms:
            return None
        chosen: list[bytes] = []
        size_bytes = 0
        for identity, (due_ms, wait_ms) in list(self._due_at.items()):
            if len(chosen) >= MAX_PASSED_BATCHES or size_bytes >= PASSED_BYTES:
                break
            raw = raw_of(identity)
            if raw is None:
                del self._due_at[identity]
            elif due_ms <= now_ms:
                self._due_at[identity] = (now_ms + wait_ms, min(2 * wait_ms, REPEAT_MAX_MS))
                chosen.append(raw)
                size_bytes += len(raw)
        # Looking through all that waits costs something: not more often than this.
        self._next_ms = now_ms + REPEAT_MS if self._due_at else None
        return PassedBatches(chosen) if chosen else None


class PeerRate:
    """How many bytes of batches each other sequencer may still send: so many, and so many again in
    each second. It pays for nothing that a client of it can have done."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[int, int]] = {}

    def take(self, peer: int, batches: Sequence[bytes], now_ms: int) -> None:
        """Note a message; raises `Rejected` (rate_limited)."""
        size_bytes = sum(map(len, batches)) + BATCH_COST_BYTES * len(batches)
        left, since_ms = self._left.get(peer, (PEER_BYTES_PER_S, now_ms))
        left = min(PEER_BYTES_PER_S, left + PEER_BYTES_PER_S * (now_ms - since_ms) // 1_000)
        self._left[peer] = (left - size_bytes if left > 0 else left, now_ms)
        if left <= 0:
            raise Rejected(Code.RATE_LIMITED, "more batches than a sequencer may pass on")

    def charge(self, peer: int, cost_bytes: int) -> None:
        """Count what a batch of a message that was taken costs beyond its bytes."""
        left, since_ms = self._left[peer]
        self._left[peer] = left - cost_bytes, since_ms
