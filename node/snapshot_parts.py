"""The parts of a snapshot as they come in: leaves by key ranges, blocks by parent hashes; and what
was asked of whom."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence

from msgspec.structs import replace

from node.peer import Snapshot
from node.snapshots import reputation_floor
from protocol.chain import Block, Header, payload_hash
from protocol.errors import Code, Rejected


class Leaves:
    """Verified leaves, and the key ranges that are still missing.

    Missing ranges lie between the `splits`, so that several can be fetched at a time. Splits come
    from a peer and may be anything that ascends: they decide what is asked, never what is believed.
    """

    __slots__ = ("_ends", "_starts", "found")

    def __init__(self, splits: Sequence[bytes] = ()) -> None:
        """All keys are missing."""
        self.found: dict[bytes, bytes] = {}
        self._starts: list[bytes] = [b"", *(split for split in splits if split)]
        self._ends: list[bytes | None] = [*self._starts[1:], None]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self._starts

    def next_start(self, busy: Collection[bytes]) -> bytes | None:
        """Start of the first missing range that is not among those asked for; None for none."""
        return next((start for start in self._starts if start not in busy), None)

    def take(
        self, first: bytes, leaves: Sequence[tuple[bytes, bytes]], behind: bytes | None
    ) -> None:
        """Take all leaves from `first` up to `behind`, exclusive (None: up to the end)."""
        self.found.update(leaves)
        low = max(bisect_right(self._starts, first) - 1, 0)
        keep_starts, keep_ends = self._starts[:low], self._ends[:low]
        for start, end in zip(self._starts[low:], self._ends[low:], strict=True):
            if end is not None and end <= first:
                keep_starts.append(start)
                keep_ends.append(end)
                continue
            if start < first:
                keep_starts.append(start)
                keep_ends.append(first)
            if behind is not None and (end is None or behind < end):
                keep_starts.append(max(start, behind))
                keep_ends.append(end)
        self._starts, self._ends = keep_starts, keep_ends


class RecentBlocks:
    """The tip's block and those below it that leader reputation needs, from the tip downwards.

    Only blocks of the tip's epoch count, and none where the next epoch (`epoch`) begins behind it.
    """

    __slots__ = ("_expected", "_floor", "blocks", "complete")

    def __init__(self, tip: Header, epoch: int) -> None:
        self.blocks: list[Block] = []
        self.complete = False
        self._expected = (tip.height, tip.block_id())
        self._floor = tip.height if epoch > tip.epoch else reputation_floor(tip)

    @property
    def below(self) -> int:
        """The next block wanted is the one right below this height."""
        return self._expected[0] + 1

    def take(self, blocks: Sequence[Block]) -> None:
        """Take blocks that follow downwards; raises `Rejected` for one that does not belong."""
        for block in blocks:
            if self.complete:
                return
            header = block.header
            if (
                (header.height, header.block_id()) != self._expected
                or header.payload_hash != payload_hash(block.payload)
                or header.justify_hash != block.justify.digest()
            ):
                raise Rejected(Code.BAD_CERTIFICATE, "a recent block is not of the chain")
            # A timeout certificate is not under the block's id, and served its purpose.
            self.blocks.append(replace(block, timeout=None))
            self._expected = (header.height - 1, header.parent_id)
            # An epoch starts from a block that is certified by definition, without signatures.
            self.complete = header.height <= self._floor or not block.justify.signatures


class PeerState:
    """What was asked of a peer, and what it offers. Moments in milliseconds, None: nothing out."""

    __slots__ = (
        "asked_ms", "chunks", "missed", "next_ms", "recent_ms", "snapshot", "timeout_ms",
        "useless",
    )  # fmt: skip

    def __init__(self, now_ms: int, timeout_ms: int) -> None:
        self.snapshot: Snapshot | None = None
        self.asked_ms: int | None = None
        self.next_ms = now_ms
        self.chunks: dict[bytes, int] = {}
        self.recent_ms: int | None = None
        self.timeout_ms = timeout_ms
        self.missed = 0
        self.useless = 0

    def oldest_ms(self) -> int | None:
        """When the oldest question that is not answered was asked."""
        out = [*self.chunks.values(), self.asked_ms, self.recent_ms]
        return min((one for one in out if one is not None), default=None)

    def release(self) -> None:
        """Count on no answer to what was asked."""
        self.asked_ms = self.recent_ms = None
        self.chunks.clear()
