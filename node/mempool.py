"""Transactions that wait for a block, in their senders' nonce order; bounded and de-duplicated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from node.envelopes import OpenedTransaction
from protocol.errors import Code, Rejected
from protocol.settlement import PostBatch

NonceOf = Callable[[bytes], int]
"""Next ledger nonce of an address."""


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """Bounds: transactions and bytes in all, transactions per sender, and how long one may wait.

    A quarter of the pool is left to batches, so that settlement goes on whatever clients send. What
    cannot be executed yet, as an earlier nonce of its sender is missing, costs its sender nothing:
    it is taken while the pool is less than half full.
    """

    transactions: int = 10_000
    total_bytes: int = 32 * 1024 * 1024
    per_sender: int = 64
    wait_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction in the pool and when it came."""

    raw: bytes
    opened: OpenedTransaction
    since_ms: int


class Mempool:
    """The pool. `nonce_of` gives the next nonce of an address on the ledger."""

    def __init__(self, nonce_of: NonceOf, limits: MempoolLimits | None = None) -> None:
        self._nonce_of = nonce_of
        self._limits = limits or MempoolLimits()
        self._waiting: dict[bytes, Waiting] = {}
        self._of_sender: dict[bytes, dict[int, bytes]] = {}
        # Senders whose next nonce is here, in the order in which blocks serve them.
        self._ready: dict[bytes, None] = {}
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, identity: object) -> bool:
        return identity in self._waiting

    @property
    def ready(self) -> bool:
        """Whether some sender's next transaction is here."""
        return bool(self._ready)

    def get(self, identity: bytes) -> Waiting | None:
        """A waiting transaction by id."""
        return self._waiting.get(identity)

    def add(self, raw: bytes, opened: OpenedTransaction, now_ms: int) -> bool:
        """Take a transaction; False where it is here already.

        Raises `Rejected` (bad_ledger_nonce, busy).
        """
        if opened.id in self._waiting:
            return False
        limits = self._limits
        next_nonce = self._nonce_of(opened.address)
        if not next_nonce <= opened.nonce < next_nonce + limits.per_sender:
            raise Rejected(
                Code.BAD_LEDGER_NONCE,
                f"the nonce is {opened.nonce}, the sender's next one is {next_nonce}; "
                f"at most {limits.per_sender} may wait",
            )
        of_sender = self._of_sender.get(opened.address, {})
        if opened.nonce in of_sender:
            raise Rejected(
                Code.BAD_LEDGER_NONCE,
                f"another transaction with nonce {opened.nonce} waits already",
            )
        self._require_room(opened, next_nonce, of_sender)
        self._waiting[opened.id] = Waiting(raw, opened, now_ms)
        self._of_sender.setdefault(opened.address, of_sender)[opened.nonce] = opened.id
        self.total_bytes += opened.size_bytes
        if opened.nonce == next_nonce:
            self._ready[opened.address] = None
        return True

    def _require_room(
        self, opened: OpenedTransaction, next_nonce: int, of_sender: Mapping[int, bytes]
    ) -> None:
        quarters, whose = 4, "the pool of waiting transactions"
        if any(nonce not in of_sender for nonce in range(next_nonce, opened.nonce)):
            quarters, whose = 2, f"nonce {next_nonce} is missing, and the pool's half for such"
        elif not isinstance(opened.action, PostBatch):
            quarters = 3
        limits = self._limits
        if (
            4 * len(self._waiting) >= quarters * limits.transactions
            or 4 * (self.total_bytes + opened.size_bytes) > quarters * limits.total_bytes
        ):
            raise Rejected(Code.BUSY, f"{whose} is full; try again later")

    def settle(self, identities: Iterable[bytes], senders: Iterable[bytes]) -> list[bytes]:
        """A block was executed: drop its transactions, and what its senders' nonces outdate.

        Returns the ids of the latter.
        """
        outdated = []
        for identity in identities:
            self._drop(identity)
        for address in dict.fromkeys(senders):
            next_nonce = self._nonce_of(address)
            for nonce, identity in list(self._of_sender.get(address, {}).items()):
                if nonce < next_nonce:
                    self._drop(identity)
                    outdated.append(identity)
            self._refresh(address)
        return outdated

    def expire(self, now_ms: int) -> list[bytes]:
        """Drop what waited too long; returns the ids."""
        expired = []
        for identity, waiting in self._waiting.items():
            if waiting.since_ms + self._limits.wait_ms > now_ms:
                break
            expired.append(identity)
        for identity in expired:
            address = self._waiting[identity].opened.address
            self._drop(identity)
            self._refresh(address)
        return expired

    def select(
        self,
        ahead: Mapping[bytes, int],
        excluded: Collection[bytes],
        max_bytes: int,
        max_count: int,
        overhead_bytes: int,
    ) -> list[bytes]:
        """Encoded transactions for a block, each sender's in nonce order.

        `ahead`: next nonces of senders with transactions in uncommitted blocks; `excluded`: ids of
        those. Each costs its size plus `overhead_bytes`.
        """
        chosen: list[bytes] = []
        left = max_bytes
        for address in self._ready:
            of_sender = self._of_sender[address]
            nonce = ahead.get(address, self._nonce_of(address))
            while (identity := of_sender.get(nonce)) is not None:
                waiting = self._waiting[identity]
                cost = waiting.opened.size_bytes + overhead_bytes
                if identity in excluded or cost > left or len(chosen) >= max_count:
                    break
                chosen.append(waiting.raw)
                left -= cost
                nonce += 1
        return chosen

    def _drop(self, identity: bytes) -> None:
        waiting = self._waiting.pop(identity, None)
        if waiting is None:
            return
        opened = waiting.opened
        self.total_bytes -= opened.size_bytes
        of_sender = self._of_sender[opened.address]
        del of_sender[opened.nonce]
        if not of_sender:
            del self._of_sender[opened.address]
            self._ready.pop(opened.address, None)

    def _refresh(self, address: bytes) -> None:
        """Whether the sender can be served; one that was served goes behind the others."""
        self._ready.pop(address, None)
        if self._nonce_of(address) in self._of_sender.get(address, {}):
            self._ready[address] = None
