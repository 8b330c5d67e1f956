"""Transactions of own clients, passed on to the other validators until they are in a block."""

from __future__ import annotations

from node.mempool import Mempool
from node.peer import MAX_GOSSIP_TRANSACTIONS

REPEAT_MS = 1_000
"""A transaction that still waits is passed on again after so long, then after twice that, ..."""


class OwnTransactions:
    """Repeats what still waits ever more rarely: links are reliable while they stand, and a cluster
    that stands still must not fill them with the same batches."""

    def __init__(self, mempool: Mempool) -> None:
        self._mempool = mempool
        # When each is passed on again, and the wait after that.
        self._own: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._own)

    def add(self, identity: bytes, now_ms: int) -> None:
        """A transaction was passed on for the first time."""
        self._own[identity] = (now_ms + REPEAT_MS, 2 * REPEAT_MS)

    def forget(self, identity: bytes) -> None:
        """A transaction is in a block, or can never be in one."""
        self._own.pop(identity, None)

    def due(self, now_ms: int) -> list[bytes]:
        """Encoded transactions to pass on now."""
        chosen: list[bytes] = []
        for identity, (due_ms, wait_ms) in list(self._own.items()):
            waiting = self._mempool.get(identity)
            if waiting is None:
                del self._own[identity]
            elif due_ms <= now_ms and len(chosen) < MAX_GOSSIP_TRANSACTIONS:
                self._own[identity] = (now_ms + wait_ms, 2 * wait_ms)
                chosen.append(waiting.raw)
        return chosen
