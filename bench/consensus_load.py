"""Load for the consensus benchmark: a pool of distinct transactions, and the application over it.

A transaction is `TRANSACTION_BYTES` long: member and number (8 bytes), then filler that differs
from one transaction to the next. Each member makes its own and proposes them when it leads, in the
order in which they entered its pool.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256

from consensus import MemberSet
from protocol.chain import Block, CommitCertificate
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected

TRANSACTION_BYTES = 250
NUMBER_BITS = 48
FILLER_BYTES = 1 << 16
KNOWN_PAYLOADS = 4096


class Batch(Wire, frozen=True):
    """Payload of a block: `transactions` of `member`, numbered on from `first`."""

    member: int
    first: int
    transactions: list[bytes]


decode_batch: Decoder[Batch] = Decoder(Batch)


class Pool:
    """Transactions of one member from when they enter until they are committed.

    `rate` per second is an open loop of at most `bound` waiting transactions, the rest is refused
    and counted. Rate 0 is saturation: one batch always waits to be proposed.
    Times are nanoseconds of the monotonic clock.
    """

    def __init__(self, member: int, batch: int, rate: int, bound: int) -> None:
        self.refused = 0
        self.base = 0
        self._member = member
        self._batch = batch
        self._rate = rate
        self._bound = bound
        self._waiting: list[bytes] = []
        self._entered_ns: list[int] = []
        self._proposed_ns: dict[int, int] = {}
        self._filler = os.urandom(FILLER_BYTES + TRANSACTION_BYTES)
        self._began_ns = 0
        self._made = 0
        self._taken = 0
        self.stopped = False

    def begin(self, now_ns: int) -> None:
        """The clock of the open loop starts."""
        self._began_ns = now_ns

    def arrive(self, now_ns: int) -> int:
        """Transactions that are due by now enter; returns how many."""
        due = (now_ns - self._began_ns) * self._rate // 1_000_000_000 - self._made
        if self.stopped or due <= 0:
            return 0
        self._made += due
        room = max(0, min(due, self._bound - len(self._waiting)))
        self.refused += due - room
        self._enter(room, now_ns)
        return room

    def _enter(self, count: int, now_ns: int) -> None:
        filler, size = self._filler, TRANSACTION_BYTES - 8
        first = self.base + len(self._waiting)
        head = self._member << NUMBER_BITS
        for number in range(first, first + count):
            start = number * 251 % FILLER_BYTES
            self._waiting.append((head | number).to_bytes(8, "big") + filler[start : start + size])
        self._entered_ns += [now_ns] * count

    def waiting(self, first: int) -> bool:
        """Whether there is a transaction of number `first` or above."""
        return self.base + len(self._waiting) > first

    def take(self, first: int, now_ns: int) -> list[bytes]:
        """At most a batch of transactions from number `first` on; they stay until committed."""
        place = first - self.base
        taken = self._waiting[place : place + self._batch]
        self._proposed_ns[first] = now_ns
        self._taken = place + len(taken)
        return taken

    def refill(self, now_ns: int) -> None:
        """At saturation: a batch begins to wait as soon as the one before is proposed."""
        if self._rate == 0 and not self.stopped:
            self._enter(max(0, self._taken + self._batch - len(self._waiting)), now_ns)

    def committed(self, count: int) -> tuple[list[int], int]:
        """The oldest `count` are final; returns when each entered, and when they were proposed."""
        entered = self._entered_ns[:count]
        proposed = self._proposed_ns.pop(self.base)
        del self._waiting[:count], self._entered_ns[:count]
        self.base += count
        self._taken = max(0, self._taken - count)
        return entered, proposed


class BatchApplication:
    """Orders batches. Its root is a hash chain over the payloads of all committed blocks."""

    def __init__(self, member: int, members: int, pool: Pool, batch: int) -> None:
        self._member = member
        self._pool = pool
        self._batch = batch
        self._next = [0] * members
        self._known: dict[bytes, tuple[int, int]] = {}
        self._root = (0, sha256(b"bench").digest())
        self.now_ns = 0
        self.finished: list[tuple[list[int], int]] = []
        self.transactions = 0

    def has_work(self) -> bool:
        return self._pool.waiting(self._next[self._member])

    def propose(self, ancestors: Sequence[Block], time_ms: int) -> bytes:
        first = self._expected(self._member, ancestors)
        taken = self._pool.take(first, self.now_ns) if self._pool.waiting(first) else []
        if not taken:
            return b""
        return encode(Batch(self._member, first, taken))

    def _note(self, digest: bytes, first: int, count: int) -> None:
        if len(self._known) >= KNOWN_PAYLOADS:
            del self._known[next(iter(self._known))]
        self._known[digest] = first, count

    def check(self, block: Block, ancestors: Sequence[Block]) -> None:
        if not block.payload:
            return
        member, first, count = self._parsed(block)
        if first != self._expected(member, ancestors):
            raise Rejected(Code.BAD_LEDGER_NONCE, "the batch does not follow its member's last one")
        if not 0 < count <= self._batch:
            raise Rejected(Code.TOO_MANY_ACTIONS, "a batch of the wrong size")

    def _parsed(self, block: Block) -> tuple[int, int, int]:
        """Member, first number and count of a block's batch, which is decoded once."""
        key = block.header.payload_hash
        known = self._known.get(key)
        if known is None:
            batch = decode_batch(block.payload)
            if batch.member != block.header.proposer:
                raise Rejected(Code.NOT_AUTHORISED, "a batch of another member")
            if any(len(one) != TRANSACTION_BYTES for one in batch.transactions):
                raise Rejected(Code.MALFORMED, "a transaction of another size")
            known = batch.first, len(batch.transactions)
            self._note(key, *known)
        return block.header.proposer, *known

    def _expected(self, member: int, ancestors: Sequence[Block]) -> int:
        first = self._next[member]
        for block in ancestors:
            if block.payload and block.header.proposer == member:
                _, start, count = self._parsed(block)
                first = start + count
        return first

    def commit(self, block: Block, certificate: CommitCertificate) -> None:
        if block.payload:
            member, first, count = self._parsed(block)
            self._next[member] = first + count
            self.transactions += count
            if member == self._member:
                self.finished.append(self._pool.committed(count))
        root = sha256(self._root[1] + block.header.payload_hash).digest()
        self._root = block.header.height, root

    def root(self) -> tuple[int, bytes]:
        return self._root

    def epoch(self) -> MemberSet | None:
        return None
