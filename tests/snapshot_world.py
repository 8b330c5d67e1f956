"""A chain with a made state and made epochs, its archive, and peers that serve snapshots of it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

from node.peer import SnapshotAnswer, SnapshotQuestion, decode_peer_message
from node.snapshot_sync import SnapshotSync, SyncLimits
from node.snapshots import SnapshotBase, SnapshotSource
from protocol.chain import (
    EMPTY_HASH,
    QC,
    Block,
    CommitCertificate,
    Header,
    Member,
    Signature,
    origin_qc,
    payload_hash,
    vote_digest,
)
from protocol.codec import encode
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    CurrentEpoch,
    EpochLeaf,
    EpochMember,
    epoch_key,
)
from protocol.light import Checkpoint
from prover.tree import StateTree

CHAIN = sha256(b"snapshot chain").digest()
START_MS = 1_700_000_000_000
BLOCK_MS = 100
NEVER_MS = 1 << 60
LIMITS = SyncLimits(chunk_bytes=512)


class FakeKey:
    """Signs with a hash of key and digest; `verify` knows it."""

    def __init__(self, name: str) -> None:
        self.public = sha256(name.encode()).digest()

    def sign(self, digest: bytes) -> bytes:
        return sha256(self.public + digest).digest()


def verify(public_key: bytes, signature: bytes, digest: bytes) -> bool:
    return signature == sha256(public_key + digest).digest()


def leaf(number: int) -> tuple[bytes, bytes]:
    """A leaf of the made state; neighbours have neighbouring keys, and every value its own size."""
    return b"\x40" + number.to_bytes(4, "big"), sha256(b"%d" % number).digest()[: 8 + number % 24]


class SnapshotChain:
    """Grows block by block, each of them certified, one commit step per three blocks.

    With `epoch_blocks` an epoch's boundary comes after so many, and the members change. `start` is
    the height of the newest block before those that this world knows.
    """

    def __init__(self, leaves: int = 300, start: int = 0, epoch_blocks: int = 0) -> None:
        self.tree = StateTree(leaf(number) for number in range(leaves))
        self.start = start
        self.epoch_blocks = epoch_blocks
        self.epoch = 0
        self.boundary: int | None = None
        self.ends_ms = self._end_after(START_MS)
        self.first_ends_ms = self.ends_ms
        # The same as in genesis, as far as headers are concerned.
        self.tip = Header(
            CHAIN, 0, start, start, EMPTY_HASH, max(start - 1, 0), START_MS, 0, payload_hash(b""),
            EMPTY_HASH, max(start - 1, 0), self.tree.root,
        )  # fmt: skip
        self.roots = {start: self.tree.root, start - 1: self.tree.root}
        self.blocks: dict[int, Block] = {}
        self.changes: dict[int, dict[bytes, bytes | None]] = {}
        self.genesis_leaves = dict(self.tree.iterate())
        self.lasts: dict[int, tuple[Header, bytes]] = {}
        self._origin = QC(CHAIN, 0, start, start, self.tip.block_id(), [])

    def names(self, epoch: int) -> list[str]:
        """Members of an epoch: each has one that the epoch before did not have."""
        return [f"validator-{number}" for number in range(epoch, epoch + 4)]

    def keys(self, epoch: int) -> list[FakeKey]:
        return [FakeKey(name) for name in self.names(epoch)]

    def _end_after(self, moment_ms: int) -> int:
        return moment_ms + self.epoch_blocks * BLOCK_MS if self.epoch_blocks else 0

    @property
    def now_ms(self) -> int:
        return self.tip.time_ms + 50

    def checkpoint(self, time_ms: int = START_MS) -> Checkpoint:
        members = [Member(key.public, 1) for key in self.keys(0)]
        return Checkpoint(CHAIN, 0, members, 0, 0, b"", self.first_ends_ms, time_ms)

    # --- growing

    def grow(self, blocks: int, writes: int = 3) -> None:
        """So many more blocks; each writes some leaves and deletes one now and then."""
        for _ in range(blocks):
            self._block(writes)

    def _block(self, writes: int) -> None:
        parent = self.tip
        height = parent.height + 1
        starts = bool(self.lasts) and parent == self.lasts[max(self.lasts)][0]
        app_height = parent.height if starts else max(parent.height - 1, parent.app_height)
        justify = self._origin if starts or not self.blocks else self.qc(parent)
        payload = b"" if height % 4 else b"payload of %d" % height
        header = Header(
            CHAIN, self.epoch, parent.view + 1, height, parent.block_id(), parent.view,
            parent.time_ms + BLOCK_MS, height % 4, payload_hash(payload), justify.digest(),
            app_height, self.roots[app_height],
        )  # fmt: skip
        changes = self.changes_of(height, writes)
        self._follow_epochs(header, changes)
        self.blocks[height] = Block(header, payload, justify, None)
        self.changes[height] = changes
        self.roots[height] = self.tree.update(changes)
        self.tip = header

    def changes_of(self, height: int, writes: int) -> dict[bytes, bytes | None]:
        """What the block of a height writes and deletes."""
        changes: dict[bytes, bytes | None] = {
            leaf(number)[0]: b"written at %d" % height
            for number in range(height * 7, height * 7 + writes)
        }
        if height % 5 == 0:
            changes[leaf(height % 50)[0]] = None
        return changes

    def _follow_epochs(self, header: Header, changes: dict[bytes, bytes | None]) -> None:
        number = self.epoch + 1
        if self.boundary is not None and header.app_height >= self.boundary:
            last_id = header.block_id()
            changes[CURRENT_EPOCH_KEY] = encode(
                CurrentEpoch(number, header.height, header.view, last_id)
            )
            proof = encode(self.tree_at(header.app_height).prove([epoch_key(number)]))
            self.lasts[number] = (header, proof)
            self._origin = origin_qc(number, header, last_id)
            self.epoch, self.boundary = number, None
        elif self.boundary is None and self.epoch_blocks and header.time_ms >= self.ends_ms:
            self.boundary = header.height
            self.ends_ms = self._end_after(header.time_ms)
            members = [EpochMember(key.public, 1, b"", "") for key in self.keys(number)]
            changes[epoch_key(number)] = encode(
                EpochLeaf(number, header.height, members, self.ends_ms)
            )

    def tree_at(self, height: int) -> StateTree:
        """The state after a block."""
        tree = StateTree(self.genesis_leaves.items())
        for one in range(self.start + 1, height + 1):
            tree.update(self.changes[one])
        return tree

    # --- signing

    def qc(self, header: Header, signers: Sequence[int] = (0, 1, 3)) -> QC:
        block_id = header.block_id()
        digest = vote_digest(CHAIN, header.epoch, header.view, header.height, block_id)
        keys = self.keys(header.epoch)
        votes = [Signature(i, keys[i].sign(digest)) for i in signers]
        return QC(CHAIN, header.epoch, header.view, header.height, block_id, votes)

    def certificate(self, header: Header) -> CommitCertificate:
        """A certificate of the block itself; its child is made where the chain ends or changes."""
        qc = self.qc(header)
        child = Header(
            CHAIN, header.epoch, header.view + 1, header.height + 1, header.block_id(), header.view,
            header.time_ms + BLOCK_MS, 0, payload_hash(b""), qc.digest(), header.app_height,
            header.app_root,
        )  # fmt: skip
        return CommitCertificate(qc, child, self.qc(child))

    # --- the archive of a validator that has everything

    def block(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        found = self.blocks.get(height)
        if found is None:
            return None
        last = any(one[0].height == height for one in self.lasts.values())
        ends = height % 3 == 0 or last or height == self.tip.height
        return found, self.certificate(found.header) if ends else None

    def proven(self, height: int) -> tuple[Block, CommitCertificate] | None:
        path: list[Header] = []
        for above in range(height, self.tip.height + 1):
            found = self.block(above)
            if found is None:
                return None
            path.append(found[0].header)
            if found[1] is not None:
                end = found[1]
                return self.blocks[height], msgspec.structs.replace(end, path=path[1:])
        return None

    def epoch_start(self, number: int) -> tuple[Header, CommitCertificate, bytes] | None:
        if number not in self.lasts:
            return None
        header, proof = self.lasts[number]
        return header, self.certificate(header), proof

    def source(self, interval: int = 10, chunk_bytes: int = LIMITS.chunk_bytes) -> SnapshotSource:
        """A source that has followed the whole chain."""
        base = SnapshotBase(self.start, self.genesis_leaves)
        source = SnapshotSource(ChainArchive(self), base, interval, chunk_bytes=chunk_bytes)
        for height, block in sorted(self.blocks.items()):
            source.executed(block.header, self.changes[height], block.header.time_ms)
        return source


class ChainArchive:
    """The archive of the chain as validators have it."""

    def __init__(self, chain: SnapshotChain) -> None:
        self.block = chain.block
        self.proven = chain.proven
        self.epoch = chain.epoch_start


Peer = Callable[[SnapshotQuestion, int], SnapshotAnswer | None]


def honest(source: SnapshotSource) -> Peer:
    return lambda question, now_ms: source.answer(b"joiner", question, now_ms)


class Wires:
    """Carries messages between one who syncs and peers, late, out of order, and some not at all."""

    def __init__(
        self, sync: SnapshotSync, peers: dict[bytes, Peer], now_ms: int, seed: int = 1,
        loss: float = 0.0,
    ) -> None:  # fmt: skip
        self.sync = sync
        self.peers = peers
        self.now_ms = now_ms
        self.loss = loss
        self.questions = 0
        self.answered: dict[bytes, int] = {}
        self._random = random.Random(seed)
        self._queue: list[tuple[int, int, bytes, bytes, bool]] = []
        self._sequence = 0

    def _put(self, peer: bytes, raw: bytes, to_peer: bool) -> None:
        if self._random.random() < self.loss:
            return
        self._sequence += 1
        due_ms = self.now_ms + self._random.randrange(1, 40)
        heapq.heappush(self._queue, (due_ms, self._sequence, peer, raw, to_peer))

    def _send(self, messages: list[tuple[bytes, SnapshotQuestion]]) -> None:
        for peer, question in messages:
            self.questions += 1
            self._put(peer, encode(question), True)

    def run(self, until: Callable[[], bool] | None = None, steps: int = 20_000) -> None:
        """Run until the sync is over (or `until` holds)."""
        self._send(self.sync.step(self.now_ms))
        for _ in range(steps):
            if self.sync.finished or (until is not None and until()):
                return
            deadline_ms = self.sync.next_deadline_ms()
            assert deadline_ms is not None
            if self._queue and self._queue[0][0] <= deadline_ms:
                self.now_ms, _, peer, raw, to_peer = heapq.heappop(self._queue)
                self._deliver(peer, decode_peer_message(raw), to_peer)
            else:
                self.now_ms = max(self.now_ms, deadline_ms)
                self._send(self.sync.step(self.now_ms))
        raise AssertionError("the sync does not come to an end")

    def _deliver(self, peer: bytes, message: object, to_peer: bool) -> None:
        if to_peer:
            assert isinstance(message, SnapshotQuestion)
            answer = self.peers[peer](message, self.now_ms)
            if answer is not None:
                self.answered[peer] = self.answered.get(peer, 0) + 1
                self._put(peer, encode(answer), False)
        else:
            assert isinstance(message, SnapshotAnswer)
            self._send(self.sync.receive(peer, message, self.now_ms))


def joiner(
    chain: SnapshotChain, peers: Sequence[bytes], own_height: int = 0, **changes: object
) -> SnapshotSync:
    """One who is behind, with the members of epoch 0."""
    values: dict[str, object] = {"trusting_ms": NEVER_MS, "limits": LIMITS, "verifier": verify}
    return SnapshotSync(
        chain.checkpoint(), own_height, peers, chain.now_ms, **(values | changes)  # type: ignore[arg-type]
    )  # fmt: skip
