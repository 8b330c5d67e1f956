"""Proposals that wait for news of the base layer.

Consensus votes for a block when it comes, or never. A block may name a base-layer height a moment
before this sequencer has verified it: it waits for that, but not long, and in nobody's way.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.chain import Block, Proposal
from protocol.errors import Rejected
from sequencer.pool import BatchPool

UNVERIFIED_KEPT = 64
"""Proposals that named a height of which nothing was heard here, remembered."""

FromPeer = tuple[int, Proposal]


class HeldProposals:
    """Holds one proposal of each sequencer at most, which its next one sets free; those of others
    do not, as anybody can send a false one. Methods return what consensus is to be given now, in
    order."""

    def __init__(self, pool: BatchPool, max_payload_bytes: int, patience_ms: int) -> None:
        self._pool = pool
        self._max_payload_bytes = max_payload_bytes
        self._patience_ms = patience_ms
        self._held: dict[int, tuple[Proposal, int]] = {}
        """By sequencer: its proposal, and until when it is held."""
        self._unverified: dict[bytes, int] = {}
        self.count = 0
        """Proposals that were held."""

    def __len__(self) -> int:
        return len(self._held)

    def deadline_ms(self) -> int | None:
        """When `due` has something to say."""
        return min((due_ms for _, due_ms in self._held.values()), default=None)

    def offer(self, peer: int, proposal: Proposal, now_ms: int) -> list[FromPeer]:
        """A proposal came."""
        if peer != proposal.block.header.proposer:
            return [(peer, proposal)]
        before = self._held.pop(peer, None)
        released = [] if before is None else [(peer, before[0])]
        known = self._known(proposal.block)
        if not known or self._unverified:
            self._note_unverified(proposal.block)
        if known:
            return [*released, (peer, proposal)]
        self._held[peer] = proposal, now_ms + self._patience_ms
        self.count += 1
        return released

    def heard(self) -> list[FromPeer]:
        """The base layer is verified further than before."""
        return self._release(lambda proposal, _: self._known(proposal.block))

    def passed(self, view: int) -> list[FromPeer]:
        """Consensus is in this view: what is held of earlier ones it has gone on by, or beside."""
        return self._release(lambda proposal, _: proposal.block.header.view < view)

    def due(self, now_ms: int) -> list[FromPeer]:
        """Time has passed."""
        return self._release(lambda _, due_ms: now_ms >= due_ms)

    def _release(self, is_free: Callable[[Proposal, int], bool]) -> list[FromPeer]:
        free = [peer for peer, held in self._held.items() if is_free(*held)]
        return [(peer, self._held.pop(peer)[0]) for peer in free]

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
