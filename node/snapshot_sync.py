"""Getting a snapshot of the ledger from peers of whom any may lie.

The way: ask everybody what they have; follow the changes of the member set up to the newest known
epoch; take the snapshot that most peers offer, under a root that a final header names; fetch its
leaves in chunks from all who have it, each chunk proven complete between its ends; beside them the
tip and the blocks that leader reputation counts, by parent hashes down from the certified tip. A
peer whose answer does not hold is never asked again; one that is silent is waited for longer each
time. Only certified leaves are kept, so memory is bounded by the size of the certified state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from consensus.light import LightClient
from consensus.verify import Verifier
from node.peer import (
    CHUNK_BYTES,
    CHUNK_LEAVES,
    ChunkRequest,
    ChunkResponse,
    EpochStep,
    RecentRequest,
    RecentResponse,
    Snapshot,
    SnapshotAnswer,
    SnapshotOffer,
    SnapshotQuestion,
    SnapshotRequest,
)
from node.snapshot_parts import Leaves, PeerState, RecentBlocks
from node.snapshots import SyncedSnapshot
from protocol.chain import Header
from protocol.errors import Code, Rejected
from protocol.keys import verify
from protocol.ledger_leaves import CURRENT_EPOCH_KEY, decode_current_epoch
from protocol.light import Checkpoint
from protocol.tree_proof import decode_tree_proof
from protocol.tree_range import verify_range

MAX_USELESS = 3
"""When every peer has so often had nothing to offer, there is nothing to be had."""

PATIENCE = 3
"""A peer is waited for so many times as long as its last answer took."""

Message = tuple[bytes, SnapshotQuestion]
"""(key of the peer, what to send to it)"""


@dataclass(frozen=True)
class SyncLimits:
    """Pace and bounds of getting a snapshot; times in milliseconds.

    `timeout_ms`: first and least wait for an answer; it doubles with each one that a peer misses,
    up to `timeout_max_ms`.
    `gather_ms`: how long to wait for more offers after the first. `offer_interval_ms`: pause before
    a peer without the wanted snapshot is asked again. `give_up_ms`: without any progress for that
    long it is over. `window`: chunks that one peer is asked for at a time.
    """

    timeout_ms: int = 3_000
    timeout_max_ms: int = 48_000
    gather_ms: int = 1_000
    offer_interval_ms: int = 2_000
    give_up_ms: int = 120_000
    window: int = 2
    chunk_bytes: int = CHUNK_BYTES


class SnapshotSync:
    """One attempt to get a snapshot above `own_height`, as a pure machine.

    `step` and `receive` return what to send; `next_deadline_ms` says when to call `step`. It is
    over when `result` is set or `failure` says why nothing came of it; `blamed` are peers that
    lied, with the reason. `checkpoint`: members of the own ledger's epoch, trusted for
    `trusting_ms`; an older one makes the attempt fail. `now_ms` (Unix) must not decrease.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        own_height: int,
        peers: Iterable[bytes],
        now_ms: int,
        *,
        trusting_ms: int,
        limits: SyncLimits | None = None,
        verifier: Verifier = verify,
    ) -> None:
        self.limits = limits or SyncLimits()
        self.own_height = own_height
        self.result: SyncedSnapshot | None = None
        self.failure: str | None = None
        self.blamed: dict[bytes, str] = {}
        self.counters: dict[str, int] = {}
        self._checkpoint = checkpoint
        self._trusting_ms = trusting_ms
        self._verifier = verifier
        self._peers = {
            peer: PeerState(now_ms, self.limits.timeout_ms) for peer in dict.fromkeys(peers)
        }
        self._first_offer_ms: int | None = None
        self._progress_ms = now_ms
        self._target: Snapshot | None = None
        self._leaves = Leaves()
        self._recent: RecentBlocks | None = None
        self._light: LightClient | None = None
        self._steps: dict[int, tuple[EpochStep, bytes]] = {}
        self._reset(now_ms)

    # --- reading

    @property
    def finished(self) -> bool:
        """Whether there is a result or a failure."""
        return self.result is not None or self.failure is not None

    @property
    def target_height(self) -> int:
        """Height of the snapshot that is being fetched, 0 for none yet."""
        return 0 if self._target is None else self._target.tip.height

    def next_deadline_ms(self) -> int | None:
        """When `step` has something to do; None once it is over."""
        if self.finished:
            return None
        due = [self._progress_ms + self.limits.give_up_ms]
        if self._target is None and self._first_offer_ms is not None:
            due.append(self._first_offer_ms + self.limits.gather_ms)
        for peer in self._peers.values():
            oldest_ms = peer.oldest_ms()
            if oldest_ms is not None:
                due.append(oldest_ms + peer.timeout_ms)
            if peer.asked_ms is None and not self._serves(peer):
                due.append(peer.next_ms)
        return min(due)

    # --- input

    def add_peer(self, peer: bytes, now_ms: int) -> None:
        """A peer that can be asked from now on; nothing changes for a known or blamed one."""
        if peer not in self.blamed:
            self._peers.setdefault(peer, PeerState(now_ms, self.limits.timeout_ms))

    def remove_peer(self, peer: bytes) -> None:
        """The peer is gone; what it was asked for others will be."""
        self._peers.pop(peer, None)

    def step(self, now_ms: int) -> list[Message]:
        """Ask whoever is due."""
        if self.finished:
            return []
        for peer in self._peers.values():
            oldest_ms = peer.oldest_ms()
            if oldest_ms is not None and now_ms >= oldest_ms + peer.timeout_ms:
                self._count("timeouts")
                peer.release()
                peer.missed += 1
                peer.timeout_ms = min(2 * peer.timeout_ms, self.limits.timeout_max_ms)
                peer.next_ms = now_ms
        if now_ms >= self._progress_ms + self.limits.give_up_ms:
            self.failure = "no peer that can be reached helps with a snapshot"
        elif self._peers and all(one.useless >= MAX_USELESS for one in self._peers.values()):
            self.failure = "no peer has a snapshot above our own height"
        if self.failure is not None:
            return []
        self._choose(now_ms)
        return self._ask(now_ms)

    def receive(self, peer: bytes, answer: SnapshotAnswer, now_ms: int) -> list[Message]:
        """Take an answer; what was not asked for is dropped, what does not hold ends the peer."""
        known = self._peers.get(peer)
        if self.finished or known is None:
            return []
        try:
            if isinstance(answer, SnapshotOffer):
                self._on_offer(peer, known, answer, now_ms)
            elif isinstance(answer, ChunkResponse):
                self._on_chunk(known, answer, now_ms)
            else:
                self._on_recent(known, answer, now_ms)
        except Rejected as fault:
            if fault.code == Code.UNTRUSTED_CHECKPOINT:
                self.failure = fault.text
                return []
            self._blame(peer, fault.text)
        self._finish(now_ms)
        return self.step(now_ms)

    # --- offers

    def _on_offer(self, key: bytes, peer: PeerState, offer: SnapshotOffer, now_ms: int) -> None:
        if peer.asked_ms is None:
            self._count("unasked")
            return
        self._answered(peer, peer.asked_ms, now_ms)
        peer.asked_ms = None
        peer.next_ms = now_ms + self.limits.offer_interval_ms
        light = self._followed()
        before = light.epoch
        for step in offer.steps:
            if step.header.epoch < light.epoch:
                continue
            light.advance(step.header, step.certificate, decode_tree_proof(step.proof), now_ms)
            self._steps[light.epoch] = (step, key)
        if light.epoch > before:
            self._progress_ms = now_ms
        snapshot = offer.snapshot
        if snapshot is None and light.epoch > before:
            peer.next_ms = now_ms
            return
        if snapshot is None or not self._check_snapshot(light, snapshot, now_ms):
            self._count("useless_offers")
            peer.useless += 1
            return
        peer.useless = 0
        peer.snapshot = snapshot
        if self._first_offer_ms is None:
            self._first_offer_ms = now_ms
            self._progress_ms = now_ms

    def _check_snapshot(self, light: LightClient, snapshot: Snapshot, now_ms: int) -> bool:
        """Whether the snapshot is of use: above our own height, and of an epoch still known.

        Raises `Rejected` unless the header names the state after the tip, and both are final.
        """
        header, tip, splits = snapshot.header, snapshot.tip, snapshot.splits
        if tip.height <= self.own_height:
            return False
        if header.app_height != tip.height or tip.epoch not in (header.epoch, header.epoch - 1):
            raise Rejected(Code.BAD_CERTIFICATE, "the header does not name the snapshot's height")
        if any(low >= high for low, high in pairwise(splits)):
            raise Rejected(Code.BAD_PROOF, "the snapshot's splits do not ascend")
        for one, certificate in (
            (header, snapshot.certificate),
            (tip, snapshot.tip_certificate),
        ):
            try:
                light.verify_header(one, certificate, now_ms)
            except Rejected as fault:
                if fault.code == Code.WRONG_EPOCH and one.epoch <= light.epoch:
                    return False
                raise
        return True

    def _serves(self, peer: PeerState) -> bool:
        """Whether the peer offers the snapshot that is being fetched."""
        return (
            self._target is not None
            and peer.snapshot is not None
            and peer.snapshot.tip.height == self._target.tip.height
        )

    def _choose(self, now_ms: int) -> None:
        """Decide for the snapshot that most peers offer, the newest of those."""
        serving = any(self._serves(one) for one in self._peers.values())
        if self._target is not None and not serving and not self._awaited():
            # Those who had it have moved on to a newer one.
            self._count("targets_dropped")
            self._drop_target(now_ms)
        if self._target is not None or self._first_offer_ms is None:
            return
        waiting = any(
            one.asked_ms is not None or (one.snapshot is None and one.next_ms <= now_ms)
            for one in self._peers.values()
        )
        if waiting and now_ms < self._first_offer_ms + self.limits.gather_ms:
            return
        offers: dict[int, list[Snapshot]] = {}
        for peer in self._peers.values():
            if peer.snapshot is not None:
                offers.setdefault(peer.snapshot.tip.height, []).append(peer.snapshot)
        if offers:
            height = max(offers, key=lambda one: (len(offers[one]), one))
            chosen = offers[height][0]
            self._target = chosen
            self._leaves = Leaves(chosen.splits)
            self._recent = RecentBlocks(chosen.tip, chosen.header.epoch)
            self._count("targets")

    def _awaited(self) -> bool:
        """Whether a peer may still turn out to have the snapshot."""
        return any(one.asked_ms is not None for one in self._peers.values())

    # --- parts

    def _ask(self, now_ms: int) -> list[Message]:
        """Everything that may be asked now, by peers in their order."""
        out: list[Message] = []
        # What is out at a peer that has missed an answer, one that has not may be asked for too.
        good = [peer for peer in self._peers.values() if not peer.missed]
        busy = {first for peer in good for first in peer.chunks}
        recent_out = any(peer.recent_ms is not None for peer in good)
        shaky = False
        for key, peer in sorted(self._peers.items(), key=lambda one: one[1].missed):
            if peer.missed and not shaky:
                shaky = True
                busy.update(first for one in self._peers.values() for first in one.chunks)
                recent_out |= any(one.recent_ms is not None for one in self._peers.values())
            if not self._serves(peer):
                if peer.asked_ms is None and now_ms >= peer.next_ms:
                    peer.asked_ms = now_ms
                    out.append((key, SnapshotRequest(self._followed().epoch)))
                continue
            height = self.target_height
            recent = self._recent
            if recent is not None and not recent.complete and not recent_out:
                recent_out = True
                peer.recent_ms = now_ms
                out.append((key, RecentRequest(height, recent.below)))
            while len(peer.chunks) < self.limits.window:
                first = self._leaves.next_start(busy)
                if first is None:
                    break
                busy.add(first)
                peer.chunks[first] = now_ms
                out.append((key, ChunkRequest(height, first, self.limits.chunk_bytes)))
        self.counters["asked"] = self.counters.get("asked", 0) + len(out)
        return out

    def _on_chunk(self, peer: PeerState, answer: ChunkResponse, now_ms: int) -> None:
        if answer.height != self.target_height or answer.first not in peer.chunks:
            self._count("unasked")
            return
        self._answered(peer, peer.chunks.pop(answer.first), now_ms)
        target = self._target
        if not answer.proof or target is None:
            self._not_served(peer, now_ms)
            return
        proof = decode_tree_proof(answer.proof)
        leaves, behind = verify_range(target.header.app_root, proof, answer.first)
        size = sum(len(key) + len(value) for key, value in leaves)
        if behind is not None and size < self.limits.chunk_bytes and len(leaves) < CHUNK_LEAVES:
            raise Rejected(Code.BAD_PROOF, "the chunk ends before it is full")
        self._leaves.take(answer.first, leaves, behind)
        self._count("chunks")
        self._progress_ms = now_ms

    def _on_recent(self, peer: PeerState, answer: RecentResponse, now_ms: int) -> None:
        recent = self._recent
        if (
            recent is None
            or peer.recent_ms is None
            or (answer.height, answer.below) != (self.target_height, recent.below)
        ):
            self._count("unasked")
            return
        self._answered(peer, peer.recent_ms, now_ms)
        peer.recent_ms = None
        if not answer.blocks:
            self._not_served(peer, now_ms)
            return
        recent.take(answer.blocks)
        self._count("recent")
        self._progress_ms = now_ms

    def _not_served(self, peer: PeerState, now_ms: int) -> None:
        """The peer no longer serves what it offered: ask it for what it has now."""
        self._count("not_served")
        peer.snapshot = None
        peer.release()
        peer.next_ms = now_ms + self.limits.offer_interval_ms

    # --- the end

    def _finish(self, now_ms: int) -> None:
        target, recent = self._target, self._recent
        if target is None or recent is None or not (self._leaves.complete and recent.complete):
            return
        liar = self._false_step(target.tip)
        if liar is not None:
            self._blame(liar, "the last block of an epoch that it gave is not the last one")
            self._reset(now_ms)
            return
        epochs = [
            (number, step.header, step.certificate, step.proof)
            for number, (step, _) in sorted(self._steps.items())
            if step.header.height <= target.tip.height
        ]
        self.result = SyncedSnapshot(
            target.header.app_root, self._leaves.found, recent.blocks[0], target.tip_certificate,
            recent.blocks[:0:-1], epochs,
        )  # fmt: skip

    def _false_step(self, tip: Header) -> bytes | None:
        """Who gave us another block as the last one of its epoch than the one that the ledger
        names; a block above the last one may be certified too, as long as nothing follows it."""
        raw = self._leaves.found.get(CURRENT_EPOCH_KEY)
        if raw is None:
            return None
        current = decode_current_epoch(raw)
        step, giver = self._steps.get(current.number, (None, b""))
        if step is None or step.header.block_id() == current.origin_id:
            return None
        return giver

    def _reset(self, now_ms: int) -> None:
        """Begin anew from our own checkpoint."""
        try:
            self._light = LightClient(
                self._checkpoint,
                trusting_ms=self._trusting_ms,
                now_ms=now_ms,
                verifier=self._verifier,
            )
        except Rejected as fault:
            self.failure = fault.text
        self._steps.clear()
        self._drop_target(now_ms)

    def _drop_target(self, now_ms: int) -> None:
        self._target = self._recent = self._first_offer_ms = None
        self._leaves = Leaves()
        for peer in self._peers.values():
            peer.snapshot = None
            peer.release()
            peer.next_ms = max(peer.next_ms, now_ms)

    def _followed(self) -> LightClient:
        if self._light is None:
            raise Rejected(Code.UNTRUSTED_CHECKPOINT, self.failure or "there is no checkpoint")
        return self._light

    def _answered(self, peer: PeerState, since_ms: int, now_ms: int) -> None:
        """The peer answers: wait as long as it needs, and not as long as lost messages made us."""
        needed_ms = PATIENCE * (now_ms - since_ms)
        limits = self.limits
        peer.timeout_ms = min(max(limits.timeout_ms, needed_ms), limits.timeout_max_ms)
        peer.missed = 0

    def _blame(self, peer: bytes, why: str) -> None:
        self._count("blamed")
        self.blamed[peer] = why
        self._peers.pop(peer, None)

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1
