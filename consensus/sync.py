"""Catching up: whom to ask for which blocks.

Blocks travel lowest first and are proven from above: a certified block proves its ancestors by
parent hash, and through them the QCs that they carry. The *lead* is the request for what comes
next above the blocks that we have. Close behind it is the only one; further behind than one answer
reaches, other peers are asked at the same time for the ranges above it, and their answers, checked
on arrival, wait until the blocks below them have come.
"""

from __future__ import annotations

from consensus.blocktree import BlockTree
from consensus.effects import ReplicaConfig
from consensus.sync_answers import HEADER_ALLOWANCE_BYTES, Chain
from consensus.sync_ranges import Buffer, Flight, Kept, PeerNote
from protocol.chain import QC, BlocksRequest, BlocksResponse
from protocol.errors import Code, Rejected

MAX_PARALLEL = 4
"""Requests in flight at most, each to another peer, and answers that wait for lower blocks."""

MAX_PATIENCE = 4
"""The wait for an answer doubles at most so often."""

AVOIDED_TIMEOUTS = 8
"""A peer that was silent or did not help is asked last for this many `fetch_timeout_ms`."""

TOLD_TIMEOUTS = 10
"""The shell is told that we fell behind a peer once in this many `fetch_timeout_ms`."""


class Fetcher:
    """Decides whom to ask for what. A peer that does not help is followed by the next member.

    The wait for an answer doubles when every peer has missed it, and an answer that comes late is
    taken all the same, so that a slow link delays a member and never keeps it behind for good.
    `size` members, of which we are `own` (None for an observer).
    """

    def __init__(self, config: ReplicaConfig, size: int, own: int | None) -> None:
        self._config = config
        self._size = size
        self._own = own
        self._peer = 0 if own is None else (own + 1) % size
        self._refresh_ms: int | None = None
        self._ready_ms = 0
        self._others = max(1, size - (own is not None))
        self._parallel = min(MAX_PARALLEL, self._others)
        self._peers = [PeerNote() for _ in range(size)]
        # Answers that are waited for, by peer.
        self._flights: dict[int, Flight] = {}
        # As large as an honest answer gets: two blocks come whatever their size.
        pair_bytes = 2 * (config.max_payload_bytes + HEADER_ALLOWANCE_BYTES)
        answer_bytes = max(config.max_response_bytes, pair_bytes)
        self.kept = Buffer(self._parallel, self._parallel * answer_bytes)
        self._missed = 0
        self._reached = 0
        # Height above which the lead asks, as of the last `requests`.
        self._base = 0
        self.target: QC | None = None

    def want(self, qc: QC, peer: int) -> None:
        """The block of a verified QC is missing; `peer` told us of it."""
        known = 0 <= peer < self._size
        if known:
            note = self._peers[peer]
            note.height = max(note.height or 0, qc.height)
        if self.target is not None and self.target.view >= qc.view:
            return
        self.target = qc
        if not self._flights and known and peer != self._own:
            self._peer = peer

    def refresh(self, at_ms: int) -> None:
        """Ask a member for news at `at_ms` even if nothing is known to be missing."""
        self._refresh_ms = at_ms

    def settle(self, tree: BlockTree) -> None:
        """Forget a target that has arrived or is committed."""
        target = self.target
        if target is not None and (
            target.height <= tree.tip.height or tree.get(target.block_id) is not None
        ):
            self.target = None
            self._reached = 0

    def deadline_ms(self) -> int | None:
        """When `requests` has something to do."""
        if self._alone:
            return None
        dues = [flight.due_ms for flight in self._flights.values()]
        if not self._leading and len(self._flights) < self._parallel:
            lead_ms = self._lead_due_ms()
            if lead_ms is not None:
                dues.append(lead_ms)
        return min(dues, default=None)

    @property
    def _alone(self) -> bool:
        return self._size == 1 and self._own is not None

    @property
    def _leading(self) -> bool:
        """Whether what comes next is being waited for."""
        return any(flight.above <= self._base for flight in self._flights.values())

    def _lead_due_ms(self) -> int | None:
        return self._refresh_ms if self.target is None else self._ready_ms

    def requests(self, now_ms: int, tip_height: int) -> list[tuple[int, BlocksRequest]]:
        """The requests to send now, with the peers to send them to; at most `MAX_PARALLEL`."""
        if self._alone:
            return []
        self._expire(now_ms)
        base = self._base = max(tip_height, self._reached)
        self._forget_below(base)
        due_ms = self._lead_due_ms()
        leading = self._leading
        if not leading and (due_ms is None or now_ms < due_ms):
            return []
        horizon = self._horizon(now_ms)
        sent: list[tuple[int, BlocksRequest]] = []
        if horizon - base <= self._config.fetch_limit:
            if not leading and len(self._flights) < self._parallel:
                self._ask(sent, self._next_lead(base, now_ms), base, None, now_ms)
            return sent
        while len(self._flights) < self._parallel:
            above, end = self._gap(base, horizon)
            if above >= end:
                break
            if above == base:
                peer: int | None = self._next_lead(base, now_ms)
            else:
                peer = self._next_ahead(above, now_ms)
            if peer is None:
                break
            # One block more than counted on: it proves the last one where nothing else does.
            upto = min(above + self._config.fetch_limit - 1, end)
            self._ask(sent, peer, above, upto if upto < horizon else None, now_ms)
        return sent

    def _ask(
        self,
        sent: list[tuple[int, BlocksRequest]],
        peer: int,
        above: int,
        upto: int | None,
        now_ms: int,
    ) -> None:
        """Ask for the blocks up to a height, or with None for as many as an answer holds."""
        limit = self._config.fetch_limit
        if upto is not None:
            limit = min(limit, upto - above + 1)
        target = b"" if self.target is None else self.target.block_id
        request = BlocksRequest(target, above, limit)
        self._peers[peer].ask(request)
        upto = above + limit if upto is None else upto
        self._flights[peer] = Flight(request, upto, now_ms, now_ms + self._patience_ms())
        sent.append((peer, request))

    def _expire(self, now_ms: int) -> None:
        """Give up waiting for answers that are overdue."""
        for peer, flight in list(self._flights.items()):
            if now_ms < flight.due_ms:
                continue
            del self._flights[peer]
            self._missed += 1
            self.avoid(peer, now_ms)
            if flight.above <= self._base:
                self._next_peer(peer)

    def _forget_below(self, base: int) -> None:
        for peer in [p for p, flight in self._flights.items() if flight.upto <= base]:
            del self._flights[peer]
        self.kept.forget_from_below(base + 1)

    def _horizon(self, now_ms: int) -> int:
        """Height up to which blocks are worth asking for."""
        heights = [0 if self.target is None else self.target.height]
        for peer, note in enumerate(self._peers):
            if peer != self._own and note.height is not None and now_ms >= note.avoid_until_ms:
                heights.append(note.height)
        return max(heights)

    def _gap(self, base: int, horizon: int) -> tuple[int, int]:
        """The lowest blocks that nobody was asked for: above one height up to another one."""
        spans = [(flight.above, flight.upto) for flight in self._flights.values()]
        above = base
        for start, end in sorted(spans + self.kept.spans()):
            if start > above:
                return above, min(start, horizon)
            above = max(above, end)
        return above, horizon

    def _patience_ms(self) -> int:
        doubled = min(self._missed // self._others, MAX_PATIENCE)
        return self._config.fetch_timeout_ms << doubled

    def _free_peers(self) -> list[int]:
        """Members of whom no answer is waited for, beginning with the one whose turn it is."""
        turn = [(self._peer + step) % self._size for step in range(self._size)]
        return [peer for peer in turn if peer != self._own and peer not in self._flights]

    def _next_lead(self, above: int, now_ms: int) -> int:
        """Whom to ask for what comes next: the first that did not fail lately, or else anybody."""
        free = self._free_peers()
        good = (peer for peer in free if self._may_serve(peer, above, now_ms))
        self._peer = next(good, free[0])
        return self._peer

    def _next_ahead(self, above: int, now_ms: int) -> int | None:
        """Whom to ask for blocks that will have to wait for lower ones."""
        ahead = 1 + sum(flight.above > self._base for flight in self._flights.values())
        if len(self.kept) + ahead > self._parallel:
            return None
        for peer in self._free_peers():
            height = self._peers[peer].height
            if self._may_serve(peer, above, now_ms) and (height is None or height > above):
                return peer
        return None

    def _may_serve(self, peer: int, above: int, now_ms: int) -> bool:
        note = self._peers[peer]
        if note.ends_at is not None and above >= note.ends_at:
            return False
        return now_ms >= note.avoid_until_ms and note.retained_from <= above + 1

    def answered(
        self, peer: int, now_ms: int, answer: BlocksResponse
    ) -> tuple[BlocksRequest, bool]:
        """Close the request that an answer belongs to; raises `Rejected` when unasked for.

        Also says whether it was the lead. Blocks from a height that was not asked for may answer
        what was asked in an epoch that is over, and are looked at without closing anything.
        """
        note = self._peers[peer]
        blocks = answer.blocks
        request = note.answered(blocks[0].header.height if blocks else None, len(blocks))
        if request is None:
            request = note.stray()
            if request is None:
                raise Rejected(Code.NOT_AUTHORISED, "blocks that were not asked for")
            return request, False
        lead = False
        flight = self._flights.get(peer)
        if flight is not None and flight.request is request:
            if now_ms <= flight.since_ms + self._config.fetch_timeout_ms:
                self._missed = 0
            lead = flight.above <= self._base
            note.avoid_until_ms = 0
            del self._flights[peer]
        self._refresh_ms = None
        return request, lead

    def lied(self, peer: int, now_ms: int) -> None:
        """A peer's answer was refused: it is asked last, and nothing more is waited for from it."""
        self.avoid(peer, now_ms)
        flight = self._flights.get(peer)
        if flight is not None:
            flight.due_ms = now_ms

    def heard(self, peer: int, height: int | None, retained_from: int) -> None:
        """A peer says how high its chain is (None: nothing) and from where on it serves it."""
        note = self._peers[peer]
        note.height = height
        note.retained_from = retained_from

    def reached(self, height: int, *, lead: bool = True) -> None:
        """The last answer led up to a block of this height that is in the tree (0: to none).

        The next request goes on from there: a way that commits nothing may be longer than one
        answer.
        """
        self._reached = height if lead else max(height, self._reached)

    def no_progress(self, peer: int, now_ms: int) -> None:
        """A peer's answer to the lead did not help: ask another member after a pause."""
        self._next_peer(peer)
        self._reached = 0
        self._ready_ms = now_ms + self._config.fetch_timeout_ms // 4 + 1

    def avoid(self, peer: int, now_ms: int) -> None:
        """A peer was silent or sent what does not help: the others are asked first for a while."""
        until_ms = now_ms + AVOIDED_TIMEOUTS * self._config.fetch_timeout_ms
        self._peers[peer].avoid_until_ms = until_ms

    def ends_below(self, peer: int, request: BlocksRequest) -> None:
        """A peer's answer was of another epoch: it has no more of ours above that height."""
        note = self._peers[peer]
        height = request.above_height
        note.ends_at = height if note.ends_at is None else min(height, note.ends_at)

    def keep(self, peer: int, chain: Chain, answer: BlocksResponse, now_ms: int) -> bool:
        """Hold a proven answer until the blocks below have come; False where that will not do.

        `chain` begins with the height that was asked for.
        """
        kept = Kept(peer, chain, answer)
        if kept.above <= self._base:
            return False
        if self.kept.add(kept):
            return True
        self.avoid(peer, now_ms)
        return False

    def mismatch(self, kept: Kept, tip_height: int, now_ms: int) -> None:
        """A kept answer does not connect: it is of another branch, or what came below it is.

        What a commit certificate proves stays, as the blocks below it are wrong; else it goes. The
        lead goes back to the committed blocks, which are certain.
        """
        if not kept.final or kept.above <= tip_height:
            self.kept.remove(kept)
            self.avoid(kept.peer, now_ms)
        self._reached = 0
        self._next_peer(self._peer)

    @property
    def unheard(self) -> bool:
        """Whether every member has missed an answer since the last one that came."""
        return self._missed >= self._others

    def tell(self, peer: int, now_ms: int) -> bool:
        """Whether the shell may be told now that we fell behind this peer."""
        note = self._peers[peer]
        pause_ms = TOLD_TIMEOUTS * self._config.fetch_timeout_ms
        if note.told_ms is not None and now_ms < note.told_ms + pause_ms:
            return False
        note.told_ms = now_ms
        return True

    def _next_peer(self, peer: int) -> None:
        """Pass the turn from a peer to the next member."""
        self._peer = (peer + 1) % self._size
        if self._peer == self._own:
            self._peer = (self._peer + 1) % self._size
