"""What other sequencers pass on: which of it is taken, and how much."""

from __future__ import annotations

from collections import Counter, OrderedDict

from protocol.actions import batch_id, open_batch
from protocol.errors import Code, Rejected
from sequencer.effects import PersistBatches
from sequencer.peer import PassedBatches
from sequencer.pool import BatchPool

PEER_BYTES_PER_S = 16 << 20
"""Batches that are taken from one sequencer, in each second and at once."""

BATCH_COST_BYTES = 1_024
"""Counted for each batch beside its bytes: a tiny one takes as long to look at."""

PRICE_COST_BYTES = 16 << 10
"""Counted for each price: its signature is checked, and old ones can be repeated."""

FALSE_PRICE_COST_BYTES = 1 << 20
"""Counted where that signature is false, which no honest sequencer passes on."""


EARLY_BATCHES, EARLY_BYTES = 1_024, 1 << 20
"""Kept of each other sequencer of what came before what it stands behind; the oldest go."""

DEAD_MAX = 4_096
"""Ids remembered of batches that no block can take any more."""


class PeerRate:
    """How many bytes of batches each other sequencer may still send: so many, and so many again in
    each second. It pays for nothing that a client of it can have done."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[int, int]] = {}

    def take(self, peer: int, message: PassedBatches, now_ms: int) -> None:
        """Note a message; raises `Rejected` (rate_limited)."""
        size_bytes = sum(map(len, message.batches)) + sum(map(len, message.behind))
        size_bytes += BATCH_COST_BYTES * len(message.batches)
        left, since_ms = self._left.get(peer, (PEER_BYTES_PER_S, now_ms))
        left = min(PEER_BYTES_PER_S, left + PEER_BYTES_PER_S * (now_ms - since_ms) // 1_000)
        self._left[peer] = (left - size_bytes if left > 0 else left, now_ms)
        if left <= 0:
            raise Rejected(Code.RATE_LIMITED, "more batches than a sequencer may pass on")

    def charge(self, peer: int, cost_bytes: int) -> None:
        """Count what a batch of a message that was taken costs beyond its bytes."""
        left, since_ms = self._left[peer]
        self._left[peer] = left - cost_bytes, since_ms


class EarlyBatches:
    """Batches of one sequencer whose predecessor has not come, in their order."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def add(self, identity: bytes, raw: bytes, before: bytes) -> None:
        """Keep a batch that stands behind another one; its place where it came again."""
        self._bytes += len(raw) if identity not in self._kept else 0
        self._kept[identity] = raw, before
        while len(self._kept) > EARLY_BATCHES or self._bytes > EARLY_BYTES:
            self.drop(next(iter(self._kept)))

    def drop(self, identity: bytes) -> None:
        """It is not early any more."""
        self._bytes -= len(self._kept.pop(identity, (b"", b""))[0])

    def items(self) -> list[tuple[bytes, bytes, bytes]]:
        """Id, batch and predecessor of each, oldest first."""
        return [(identity, *one) for identity, one in self._kept.items()]


class TakenBatches:
    """Lets batches of other sequencers wait in the pool.

    They may have been promised, so that only what no honest sequencer admits is refused for good;
    who fills its share has to wait, and says it again. Nonces execution looks at, but those that no
    block can take any more, and signatures, but those of prices: honest sequencers have checked
    them, so that a message with a false one is read no further. What stands behind a batch that has
    neither come nor been ordered comes `again` with it: it must not overtake it. `counters` says
    why batches were refused.
    """

    def __init__(self, pool: BatchPool, counters: Counter[str]) -> None:
        self._pool = pool
        self._counters = counters
        self._rate = PeerRate()
        self._fresh: dict[int, list[bytes]] = {}
        self._early: dict[int, EarlyBatches] = {}
        self._dead: OrderedDict[bytes, None] = OrderedDict()

    def take(self, peer: int, message: PassedBatches, now_ms: int) -> list[bytes]:
        """The ids of the batches that wait now and did not before."""
        taken: list[bytes] = []
        try:
            if len(message.behind) not in (0, len(message.batches)):
                raise Rejected(Code.MALFORMED, "`behind` names as many as there are, or none")
            self._rate.take(peer, message, now_ms)
        except Rejected as error:
            self.refuse(error)
            return taken
        for raw, before in zip(
            message.batches, message.behind or [b""] * len(message.batches), strict=True
        ):
            identity = batch_id(raw)
            if self._pool.knows(identity):
                continue
            refused = self._refused(peer, identity, raw, before)
            if refused is None:
                taken.append(identity)
            elif refused == Code.BAD_SIGNATURE:
                return taken
        return taken

    def again(self) -> list[bytes]:
        """After blocks committed: the ids of those that came early, and wait from now on."""
        taken: list[bytes] = []
        for peer, early in self._early.items():
            for identity, raw, before in early.items():
                if self._is_missing(before):
                    continue
                early.drop(identity)
                known = self._pool.knows(identity)  # it came by another way
                if not known and self._refused(peer, identity, raw, before) is None:
                    taken.append(identity)
        return taken

    def _add(self, peer: int, identity: bytes, raw: bytes, before: bytes) -> None:
        opened = open_batch(raw)
        if self._is_missing(before):
            self._early.setdefault(peer, EarlyBatches()).add(identity, raw, before)
            raise Rejected(Code.NOT_READY, "an earlier batch of the same hand is missing")
        if self._pool.is_price(*opened):
            self._rate.charge(peer, PRICE_COST_BYTES)
        self._pool.add(identity, raw, *opened, origin=peer)
        if peer in self._early:
            self._early[peer].drop(identity)
        self._fresh.setdefault(peer, []).append(raw)

    def _is_missing(self, before: bytes) -> bool:
        return bool(before) and before not in self._dead and not self._pool.knows(before)

    def _refused(self, peer: int, identity: bytes, raw: bytes, before: bytes) -> Code | None:
        """Let a batch wait; why it may not."""
        try:
            self._add(peer, identity, raw, before)
        except Rejected as error:
            self.refuse(error)
            if error.code == Code.BAD_SIGNATURE:
                self._rate.charge(peer, FALSE_PRICE_COST_BYTES)
            elif error.code in (Code.NONCE_EXPIRED, Code.ACTION_EXPIRED):
                # What stands behind it overtakes nothing: no block can take it any more.
                self._dead[identity] = None
                if len(self._dead) > DEAD_MAX:
                    self._dead.popitem(last=False)
            return error.code
        return None

    def refuse(self, error: Rejected) -> None:
        """Count a refusal."""
        self._counters[f"passed_refused_{error.code.label}"] += 1

    def to_store(self, height: int) -> list[PersistBatches]:
        """What was taken since the last call, to be stored; `height` is that of the newest
        committed block."""
        fresh, self._fresh = self._fresh, {}
        return [PersistBatches(height, raws, peer) for peer, raws in fresh.items()]
