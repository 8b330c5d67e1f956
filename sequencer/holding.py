"""Proposals that wait for news of the base layer.

Consensus votes for a block when it comes, or never. A block may name a base-layer height a moment
before this sequencer has verified it: it waits for that, but not long, and in nobody's way.
"""

from __future__ import annotations

from protocol.chain import Block, Proposal
from protocol.errors import Rejected
from sequencer.pool import BatchPool

UNVERIFIED_KEPT = 64
"""Proposals that named a height of which nothing was heard here, remembered."""

FromPeer = tuple[int, Proposal]


class HeldProposals:
    """Holds one proposal at most: the next one sets it free. Methods return what consensus is to be
    given now, in order."""

    def __init__(self, pool: BatchPool, max_payload_bytes: int, patience_ms: int) -> None:
        self._pool = pool
        self._max_payload_bytes = max_payload_bytes
        self._patience_ms = patience_ms
        self._held: FromPeer | None = None
        self._due_ms = 0
        self._unverified: dict[bytes, int] = {}
        self.count = 0
        """Proposals that were held."""

    def deadline_ms(self) -> int | None:
        """When `due` has something to say."""
        return None if self._held is None else self._due_ms

    def offer(self, peer: int, proposal: Proposal, now_ms: int) -> list[FromPeer]:
        """A proposal came."""
        released = self._release()
        if peer == proposal.block.header.proposer and not self._known(proposal.block):
            self._held, self._due_ms = (peer, proposal), now_ms + self._patience_ms
            self.count += 1
            return released
        if self._unverified:
            self._note_unverified(proposal.block)
        return [*released, (peer, proposal)]

    def heard(self) -> list[FromPeer]:
        """The base layer is verified further than before."""
        if self._held is None or not self._known(self._held[1].block):
            return []
        return self._release()

    def due(self, now_ms: int) -> list[FromPeer]:
        """Time has passed."""
        return self._release() if now_ms >= self._due_ms else []

    def _release(self) -> list[FromPeer]:
        if self._held is None:
            return []
        held, self._held = self._held, None
        self._note_unverified(held[1].block)
        return [held]

    def _named(self, block: Block) -> int:
        """The base-layer height that a block names; 0 where it names none, or is malformed."""
        if not block.payload or len(block.payload) > self._max_payload_bytes:
            return 0
        try:
            return self._pool.contents(block.payload).inbox_height
        except Rejected:
            return 0

    def _known(self, block: Block) -> bool:
        """Whether the height that a block names is verified: here, or by the quorum that voted for
        the block below."""
        named = self._named(block)
        if named <= self._pool.verified_height:
            return True
        return named <= self._unverified.get(block.justify.block_id, 0)

    def _note_unverified(self, block: Block) -> None:
        """Should the others go on with this block, what stands above it must not wait again."""
        named = max(self._named(block), self._unverified.get(block.justify.block_id, 0))
        if named > self._pool.verified_height:
            self._unverified[block.header.block_id()] = named
            if len(self._unverified) > UNVERIFIED_KEPT:
                del self._unverified[next(iter(self._unverified))]
