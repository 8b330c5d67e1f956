"""Snapshots of the ledger for validators that are behind: what they are, and who serves them.

A snapshot is the set of leaves after some block, frozen while the ledger goes on. The frozen leaves
stand in a tree of their own that follows the ledger at a distance: at the end of each interval it
takes the changes since the last one. So freezing costs time in proportion to what changed, and
memory once more for the tree's nodes (keys and values are shared with the ledger's). Changes wait
joined, each leaf once: however many blocks wrote, they are no more than the leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from consensus import MemberSet
from node.peer import (
    CHUNK_BYTES,
    CHUNK_LEAVES,
    MAX_EPOCH_STEPS,
    MAX_RECENT_BLOCKS,
    MAX_SPLITS,
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
from protocol.chain import Block, CommitCertificate, Header
from protocol.codec import encode
from protocol.errors import ConfigError, SafetyViolation
from protocol.ledger_leaves import epoch_key
from protocol.light import Checkpoint
from protocol.tree_range import successor
from prover.tree import StateTree

SNAPSHOT_INTERVAL = 1_000
"""Blocks between snapshots unless configured otherwise."""

REPUTATION_WINDOW = 256
"""Committed blocks, up to the state that the tip names, which leader reputation counts."""

PIN_MS = 30_000
"""A snapshot stays for so long after its last chunk was asked for."""

PIN_INTERVALS = 8
"""But for no more intervals than these."""

MAX_EPOCHS_OLD = 4
"""A snapshot is renewed early when the chain is so many epochs ahead of it."""

OFFER_BYTES = 1 << 20
"""Changes of the member set in one offer stop here, except that one always goes out."""

RECENT_BYTES = 4 << 20
"""Recent blocks in one answer stop here, except that one always goes out."""

REQUESTS_PER_SECOND = 256
"""Questions of one peer that are answered; those beyond are dropped, and asked again."""

MAX_PEERS_COUNTED = 1024
"""Peers whose questions are counted at a time."""


class Archive(Protocol):
    """The blocks that a validator has stored; `node.store.ValidatorStore` is one."""

    def block(self, height: int) -> tuple[Block, CommitCertificate | None] | None:
        """A committed block."""

    def proven(self, height: int) -> tuple[Block, CommitCertificate] | None:
        """A committed block with a certificate of this very height."""

    def epoch(self, number: int) -> tuple[Header, CommitCertificate, bytes] | None:
        """How an epoch began: last header of the one before, certificate, encoded leaf proof."""


@dataclass(frozen=True, slots=True)
class SyncedSnapshot:
    """A verified snapshot, ready to be stored.

    `leaves` have root `root` after block `tip`; `recent` are blocks right below the tip, lowest
    first; `epochs` are (number, header, certificate, encoded proof) of the epochs begun on the way.
    """

    root: bytes
    leaves: dict[bytes, bytes]
    tip: Block
    certificate: CommitCertificate
    recent: list[Block]
    epochs: list[tuple[int, Header, CommitCertificate, bytes]]

    @property
    def height(self) -> int:
        """Height of the ledger."""
        return self.tip.header.height


@dataclass(frozen=True, slots=True)
class SnapshotBase:
    """From where a source starts: the leaves at `height`, the changes of the blocks above, and the
    stored block that names the root at `height`, where there is one."""

    height: int
    leaves: Mapping[bytes, bytes]
    above: list[tuple[int, Mapping[bytes, bytes | None]]] = field(default_factory=list)
    named_by: Header | None = None


def rewound(
    leaves: Mapping[bytes, bytes],
    undo: Iterable[tuple[int, Mapping[bytes, bytes | None]]],
    tip: Header | None,
) -> SnapshotBase:
    """The base at the height that the newest block names.

    `leaves` are those after block `tip` (None: genesis), `undo` the (height, leaves before that
    block) of the blocks up to it, ascending. Where undo does not reach down to the height that the
    tip names, the base is that of the tip itself.
    """
    if tip is None:
        return SnapshotBase(0, leaves)
    back = [one for one in undo if one[0] > tip.app_height]
    if [height for height, _ in back] != list(range(tip.app_height + 1, tip.height + 1)):
        return SnapshotBase(tip.height, leaves)
    old = dict(leaves)
    above: deque[tuple[int, Mapping[bytes, bytes | None]]] = deque()
    for height, before in reversed(back):
        above.appendleft((height, {key: old.get(key) for key in before}))
        for key, value in before.items():
            if value is None:
                old.pop(key, None)
            else:
                old[key] = value
    return SnapshotBase(tip.app_height, old, list(above), tip)


def reputation_floor(tip: Header) -> int:
    """Lowest height whose block leader reputation may need on top of `tip`."""
    return max(1, tip.app_height - REPUTATION_WINDOW + 1)


def checkpoint_of(members: MemberSet, time_ms: int) -> Checkpoint:
    """What a light client starts from with the members of our own ledger.

    `time_ms`: block time of the newest own block.
    """
    origin = members.origin
    return Checkpoint(
        members.chain_id, members.epoch, list(members.members),
        0 if origin is None else origin.height,
        0 if origin is None else origin.view,
        b"" if origin is None or not members.epoch else origin.block_id,
        members.ends_ms or 0, time_ms,
    )  # fmt: skip


class SnapshotSource:
    """Keeps the newest snapshot of its validator and serves it in chunks.

    `executed` takes every executed block in order, `answer` the questions of peers. A snapshot that
    somebody is downloading stays a while, so that those who are slow come to an end.
    """

    def __init__(
        self,
        archive: Archive,
        base: SnapshotBase,
        interval: int = SNAPSHOT_INTERVAL,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """`chunk_bytes` is the least distance of the places at which offers divide the leaves."""
        if interval < 1 or not 1 <= chunk_bytes <= CHUNK_BYTES:
            raise ConfigError(
                f"a snapshot interval is at least 1 block, a chunk at most {CHUNK_BYTES} bytes"
            )
        self._archive = archive
        self._interval = interval
        self._chunk_bytes = chunk_bytes
        self._tree = StateTree(base.leaves.items())
        self._height = base.height
        self._named_by: Header | None = None
        # Blocks whose root no header names yet; what those before did since the freeze is joined.
        self._pending = deque(base.above)
        self._joined: dict[bytes, bytes | None] = {}
        named_by = base.named_by
        if named_by is not None and base.height and not self._ends_soon(named_by):
            self._named_by = named_by
            if self._tree.root != named_by.app_root:
                raise SafetyViolation("the stored leaves do not have the root that the chain names")
        self._splits: list[bytes] | None = None
        self._served_ms: int | None = None
        self._asked: dict[bytes, int] = {}
        self._second = 0
        self.counters: dict[str, int] = {}

    @property
    def height(self) -> int:
        """Height of the snapshot on offer, 0 while there is none."""
        return 0 if self._named_by is None else self._height

    @property
    def root(self) -> bytes:
        """Root of the frozen leaves (32 bytes)."""
        return self._tree.root

    def prune_below(self, tip_height: int, retain_blocks: int) -> int:
        """Height below which blocks may go when `retain_blocks` are to be kept; 0 for none.

        All that the snapshot's receivers ask for stays.
        """
        found = self._archive.block(self.height) if self.height and retain_blocks > 0 else None
        if found is None:
            return 0
        return max(0, min(tip_height - retain_blocks + 1, reputation_floor(found[0].header)))

    # --- following the ledger

    def executed(self, header: Header, changes: Mapping[bytes, bytes | None], now_ms: int) -> None:
        """The ledger executed the next block, which wrote these leaves (None: deleted)."""
        self._pending.append((header.height, changes))
        self._join(header.app_height)
        if self._due(header, now_ms):
            self._freeze(header)

    def _join(self, height: int) -> None:
        """Join the changes of the blocks up to a height: the next tree is of no lower one."""
        while self._pending and self._pending[0][0] <= height:
            for key, value in self._pending.popleft()[1].items():
                if value is None and self._tree.get(key) is None:
                    self._joined.pop(key, None)  # came and went since the frozen tree
                else:
                    self._joined[key] = value

    def _due(self, header: Header, now_ms: int) -> bool:
        height = header.app_height
        if self._named_by is None:
            return 0 < height >= self._height and not self._ends_soon(header)
        old = header.epoch >= self._named_by.epoch + MAX_EPOCHS_OLD
        if height // self._interval == self._height // self._interval and not old:
            return False
        pinned = (
            self._served_ms is not None
            and now_ms < self._served_ms + PIN_MS
            and height < self._height + PIN_INTERVALS * self._interval
        )
        return height > self._height and not pinned and not self._ends_soon(header)

    def _ends_soon(self, header: Header) -> bool:
        """Whether the state that the header names has decided the next epoch already.

        A ledger that starts from there could not prove the change of members to others.
        """
        key = epoch_key(header.epoch + 1)
        return key in self._joined or self._tree.get(key) is not None

    def _freeze(self, header: Header) -> None:
        changes, self._joined = self._joined, {}
        if self._tree.update(changes) != header.app_root:
            raise SafetyViolation(
                f"the snapshot of height {header.app_height} does not have the certified root"
            )
        self._height, self._named_by = header.app_height, header
        self._splits, self._served_ms = None, None
        self._count("snapshots")

    # --- serving

    def answer(self, peer: bytes, question: SnapshotQuestion, now_ms: int) -> SnapshotAnswer | None:
        """The answer to a question; None where the peer asks too much."""
        if now_ms // 1000 != self._second or len(self._asked) > MAX_PEERS_COUNTED:
            self._second = now_ms // 1000
            self._asked.clear()
        self._asked[peer] = self._asked.get(peer, 0) + 1
        if self._asked[peer] > REQUESTS_PER_SECOND:
            self._count("requests_refused")
            return None
        self._count("requests_served")
        if isinstance(question, SnapshotRequest):
            return self._offer(question.epoch)
        if isinstance(question, ChunkRequest):
            return self._chunk(question, now_ms)
        return self._recent(question)

    def _offer(self, epoch: int) -> SnapshotOffer:
        steps: list[EpochStep] = []
        size = 0
        number = epoch + 1
        while (found := self._archive.epoch(number)) is not None:
            step = EpochStep(*found)
            size += len(encode(step))
            if steps and (size > OFFER_BYTES or len(steps) == MAX_EPOCH_STEPS):
                return SnapshotOffer(epoch, steps, None)
            steps.append(step)
            number += 1
        return SnapshotOffer(epoch, steps, self._snapshot(number - 1))

    def _snapshot(self, epoch: int) -> Snapshot | None:
        """The snapshot for one who knows the members up to `epoch`."""
        header = self._named_by
        if header is None or header.epoch > epoch:
            return None
        naming = self._archive.proven(header.height)
        tip = self._archive.proven(self._height)
        if naming is None or tip is None:
            return None
        if self._splits is None:
            self._splits = self._divide()
        return Snapshot(header, naming[1], tip[0].header, tip[1], len(self._tree), self._splits)

    def _divide(self) -> list[bytes]:
        """Where chunks start behind one another, but the first; thinned where there are many."""
        starts: list[bytes] = []
        size, count = 0, 0
        for key, value in self._tree.iterate():
            size += len(key) + len(value)
            count += 1
            if size >= self._chunk_bytes or count == CHUNK_LEAVES:
                starts.append(successor(key))
                size, count = 0, 0
        step = -(-len(starts) // MAX_SPLITS) or 1
        return starts[step - 1 :: step]

    def _chunk(self, question: ChunkRequest, now_ms: int) -> ChunkResponse:
        proof = b""
        if question.height == self.height and question.height:
            self._served_ms = now_ms
            proof = encode(self._tree.prove_range(question.first, CHUNK_LEAVES, question.max_bytes))
        return ChunkResponse(question.height, question.first, proof)

    def _recent(self, question: RecentRequest) -> RecentResponse:
        blocks: list[Block] = []
        size = 0
        if question.height == self.height and question.height:
            height = min(question.below - 1, self._height)
            while height >= 1 and len(blocks) < MAX_RECENT_BLOCKS:
                found = self._archive.block(height)
                if found is None:
                    break
                block = replace(found[0], timeout=None)
                size += len(encode(block))
                if blocks and size > RECENT_BYTES:
                    break
                blocks.append(block)
                height -= 1
        return RecentResponse(question.height, question.below, blocks)

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1
