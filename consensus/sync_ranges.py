"""Ranges of blocks on their way: requests in flight, and answers that wait for lower blocks."""

from __future__ import annotations

from consensus.sync_answers import Chain, answer_bytes, certified_block
from protocol.chain import BlocksRequest, BlocksResponse

MAX_UNANSWERED = 4
"""Newest requests of each peer whose answers are taken, also after their time."""


class PeerNote:
    """What answers tell of one peer. Heights are its own claims: they choose whom to ask."""

    __slots__ = (
        "asked", "avoid_until_ms", "ends_at", "height", "retained_from", "strayed", "told_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.asked: list[BlocksRequest] = []
        self.avoid_until_ms = 0
        self.height: int | None = None
        self.ends_at: int | None = None
        self.retained_from = 1
        self.told_ms: int | None = None
        self.strayed: BlocksRequest | None = None

    def ask(self, request: BlocksRequest) -> None:
        """Remember a request until it is answered or older than `MAX_UNANSWERED` others."""
        self.asked.append(request)
        del self.asked[:-MAX_UNANSWERED]

    def answered(self, first_height: int | None, count: int) -> BlocksRequest | None:
        """Take out the request for so many blocks from this height (None: no blocks came): the
        newest one that allows as many, else the newest from that height."""
        same = [
            place
            for place in range(len(self.asked) - 1, -1, -1)
            if first_height in (None, self.asked[place].above_height + 1)
        ]
        room = [place for place in same if self.asked[place].limit >= count]
        for place in (*room, *same):
            return self.asked.pop(place)
        return None

    def stray(self) -> BlocksRequest | None:
        """The newest request, which an answer from another height leaves open; once for each."""
        if not self.asked or self.strayed is self.asked[-1]:
            return None
        self.strayed = self.asked[-1]
        return self.strayed


class Flight:
    """A request that is waited for: blocks above `above` up to `upto`."""

    __slots__ = ("above", "due_ms", "request", "since_ms", "upto")

    def __init__(self, request: BlocksRequest, upto: int, since_ms: int, due_ms: int) -> None:
        self.request = request
        self.above = request.above_height
        self.upto = upto
        self.since_ms = since_ms
        self.due_ms = due_ms


class Kept:
    """A proven answer whose first block's parent has not arrived yet."""

    __slots__ = ("above", "answer", "chain", "final", "peer", "size", "upto")

    def __init__(self, peer: int, chain: Chain, answer: BlocksResponse) -> None:
        self.peer = peer
        self.chain = chain
        self.answer = answer
        self.above = chain[0][1].header.height - 1
        self.upto = chain[-1][1].header.height
        self.size = answer_bytes(answer)
        proof = answer.certificate
        # Its certificate verified: these blocks are committed, whatever lies below them here.
        self.final = proof is not None and certified_block(chain, proof) is not None


class Buffer:
    """Kept answers by the height that they start above; bounded in number and bytes."""

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self._capacity = capacity
        self.capacity_bytes = capacity_bytes
        self._kept: dict[int, Kept] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def spans(self) -> list[tuple[int, int]]:
        """(above, upto) of everything kept."""
        return [(kept.above, kept.upto) for kept in self._kept.values()]

    def add(self, kept: Kept) -> bool:
        """Keep an answer; False where there is no room, or its place is taken."""
        if (
            kept.above in self._kept
            or len(self._kept) >= self._capacity
            or self.size_bytes + kept.size > self.capacity_bytes
        ):
            return False
        self._kept[kept.above] = kept
        self.size_bytes += kept.size
        return True

    def lowest(self) -> Kept | None:
        """The kept answer that starts lowest."""
        return self._kept[min(self._kept)] if self._kept else None

    def remove(self, kept: Kept) -> None:
        if self._kept.pop(kept.above, None) is not None:
            self.size_bytes -= kept.size

    def forget_from_below(self, height: int) -> None:
        """Drop what starts below a height that was reached: it came another way."""
        for kept in [k for k in self._kept.values() if k.above < height]:
            self.remove(kept)
