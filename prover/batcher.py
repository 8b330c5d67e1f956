"""Makes batches: ordered blocks and the state diffs that execution gave for them, into settlement.

A pure machine. Blocks and diffs arrive separately, in order; `build` takes the longest prefix that
has both and fits, updates the state tree with the coalesced changes, and packs the data. What
was built last can be taken back, and with it batches before it that the ledger removed.
"""

from __future__ import annotations

from collections import deque

import msgspec

from protocol.batch_data import pack_blocks
from protocol.chain import CommitCertificate
from protocol.codec import encode
from protocol.errors import SafetyViolation
from protocol.events import BlockDiff
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock, OrderedChunk
from protocol.prices import BlockPrices
from protocol.settlement import BatchHeader
from prover.prices import most_price_bytes, posted_prices
from prover.tree import StateTree
from prover.waiting import WAITING_BYTES, Sizes, chunk_bytes, diff_bytes

BATCH_BYTES_MAX = 1_900_000
"""Encoded blocks, outbox and prices of one batch; packed they are smaller, so that any data fits a
ledger transaction."""

BATCH_BLOCKS_MAX = 4_000


class Position(msgspec.Struct, frozen=True):
    """Where settlement stands after a batch."""

    number: int
    block: int
    block_id: bytes
    state_root: bytes
    inbox_cursor: int
    outbox_next: int


class Batch(msgspec.Struct, frozen=True):
    """A built batch: what is posted, and what the prover keeps of it.

    `certificate` is None where the log as it was streamed has none at the last block: such a batch
    can be compared with a settled one, not posted. `before` is where the batch before it ended, and
    `undo` takes the leaves back there (None: absent); None where no batch can ever be removed.
    `prices`: changes of each block, where the chain has native checks.
    """

    header: BatchHeader
    data: bytes
    certificate: CommitCertificate | None
    changes: dict[bytes, bytes | None]
    outbox: list[bytes]
    actions: int
    before: Position
    undo: dict[bytes, bytes | None] | None = None
    prices: list[BlockPrices] = []


class _Parts(msgspec.Struct, frozen=True):
    """What a batch was built of, to be put back."""

    batch: Batch
    blocks: list[tuple[OrderedBlock, bytes]]
    diffs: list[BlockDiff]
    certificates: dict[int, CommitCertificate]
    block_sizes: list[int]
    diff_sizes: list[int]


class Batcher:
    """Blocks and diffs in, batches out; `position` is the end of the last batch built.

    `bond_uusd` is what each batch offers as its bond. With `removable` batches can be taken back,
    with `priced` they come with the prices of their blocks. `waiting_bytes`: see `WAITING_BYTES`.
    """

    def __init__(
        self,
        chain_id: bytes,
        shard: int,
        prover: bytes,
        tree: StateTree,
        position: Position,
        *,
        bond_uusd: int = 0,
        removable: bool = False,
        priced: bool = False,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        if tree.root != position.state_root:
            raise SafetyViolation("the stored leaves do not hash to the stored state root")
        self.position = position
        self.tree = tree
        self._chain_id = chain_id
        self._shard = shard
        self._prover = prover
        self._bond_uusd = bond_uusd
        self._removable = removable
        self._priced = priced
        self._last: _Parts | None = None
        self._blocks: deque[tuple[OrderedBlock, bytes]] = deque()
        self._certificates: dict[int, CommitCertificate] = {}
        self._diffs: deque[BlockDiff] = deque()
        self._price_bytes: dict[int, int] = {}
        """What the prices of each waiting diff take at most."""
        self._last_block = position.block
        self._last_diff = position.block
        self._most_bytes = waiting_bytes
        self._block_sizes = Sizes()
        self._diff_sizes = Sizes()
        self.wanted_block = 0
        """Up to here there is always room: a settled batch is followed whole."""

    @property
    def next_block(self) -> int:
        """Height of the ordered block expected next."""
        return self._last_block + 1

    @property
    def next_diff(self) -> int:
        """Height of the diff expected next."""
        return self._last_diff + 1

    @property
    def waiting_blocks(self) -> int:
        """Blocks not yet in a batch."""
        return len(self._blocks)

    @property
    def waiting_diffs(self) -> int:
        """Diffs not yet in a batch."""
        return len(self._diffs)

    @property
    def waiting_bytes(self) -> int:
        """Memory of what is not yet in a batch."""
        return self._block_sizes.total + self._diff_sizes.total

    def takes_blocks(self) -> bool:
        """Whether there is room for more blocks."""
        return self._block_sizes.total < self._most_bytes or self._last_block < self.wanted_block

    def takes_diffs(self) -> bool:
        """Whether there is room for more diffs; always for those of the first commit step that
        waits, as nothing is built before."""
        needed = max(self.wanted_block, next(iter(self._certificates), 0))
        return self._diff_sizes.total < self._most_bytes or self._last_diff < needed

    def add_chunk(self, chunk: OrderedChunk) -> None:
        """Verified ordered blocks that follow the ones before."""
        encoded: list[tuple[OrderedBlock, bytes]] = []
        for block in chunk.blocks:
            if block.header.height != self.next_block:
                raise SafetyViolation(f"block {block.header.height} instead of {self.next_block}")
            encoded.append((block, encode(block)))
            self._last_block += 1
        self._blocks += encoded
        self._block_sizes.add(chunk_bytes(encoded, chunk.certificate))
        self._certificates[self._last_block] = chunk.certificate

    def add_diff(self, diff: BlockDiff) -> None:
        """The diff of the block that follows the ones before."""
        if diff.height != self.next_diff:
            raise SafetyViolation(f"diff of block {diff.height} instead of {self.next_diff}")
        self._diffs.append(diff)
        self._diff_sizes.add([diff_bytes(diff)])
        self._count_prices(diff)
        self._last_diff += 1

    def _count_prices(self, diff: BlockDiff) -> None:
        if self._priced:
            self._price_bytes[diff.height] = most_price_bytes(key for key, _ in diff.changes)

    def end_of_next(self) -> int:
        """Last block of the batch that could be built now; the position's when there is none.

        A batch ends where a certificate stands. A commit step beyond the bounds goes alone: its
        data may still pack into a ledger transaction, and otherwise nothing would settle again.
        """
        size, end = 0, self.position.block
        for (block, encoded), diff in zip(self._blocks, self._diffs, strict=False):
            size += len(encoded) + sum(map(len, diff.outbox))
            height = block.header.height
            size += self._price_bytes.get(height, 0)
            beyond = size > BATCH_BYTES_MAX or height - self.position.block > BATCH_BLOCKS_MAX
            if beyond and end > self.position.block:
                break
            if height in self._certificates:
                end = height
        return end

    def full(self) -> bool:
        """Whether more is waiting than one batch holds."""
        return self.end_of_next() < min(self._last_block, self._last_diff)

    def actions_waiting(self) -> bool:
        """Whether any block that could be settled now did something."""
        return any(diff.actions or diff.outbox or diff.inbox_cursor > self.position.inbox_cursor
                   for diff in self._diffs)  # fmt: skip

    def build(self, end: int) -> Batch:
        """The batch from the position to block `end`; moves the position and the tree on."""
        count = end - self.position.block
        blocks = [self._blocks.popleft() for _ in range(count)]
        diffs = [self._diffs.popleft() for _ in range(count)]
        sizes = self._block_sizes.take(count), self._diff_sizes.take(count)
        changes: dict[bytes, bytes | None] = {}
        outbox: list[bytes] = []
        for (block, _), diff in zip(blocks, diffs, strict=True):
            self._price_bytes.pop(diff.height, None)
            if diff.block_id != block.header.block_id():
                raise SafetyViolation(f"execution's block {diff.height} is not the ordered one")
            changes.update(diff.changes)
            outbox += diff.outbox
        before = self.position
        wrote = [dict(diff.changes) for diff in diffs]
        prices = posted_prices(self.tree, wrote) if self._priced else []
        undo: dict[bytes, bytes | None] | None = {} if self._removable else None
        root = self.tree.update(changes, undo)
        last = blocks[-1][0].header
        header = BatchHeader(
            self._chain_id, self._shard, before.number + 1, before.block + 1, end,
            last.block_id(), before.state_root, root, list_root([raw for _, raw in blocks]),
            diffs[-1].inbox_cursor, list_root(outbox), before.outbox_next, len(outbox),
            self._prover, self._bond_uusd,
        )  # fmt: skip
        data = pack_blocks([block for block, _ in blocks])
        certificate = self._certificates.get(end)
        passed = [height for height in self._certificates if height <= end]
        certificates = {height: self._certificates.pop(height) for height in passed}
        self.position = Position(
            header.number, end, header.last_block_id, root, header.inbox_cursor,
            before.outbox_next + len(outbox),
        )  # fmt: skip
        actions = sum(diff.actions for diff in diffs)
        batch = Batch(header, data, certificate, changes, outbox, actions, before, undo, prices)
        self._last = _Parts(batch, blocks, diffs, certificates, *sizes) if self._removable else None
        return batch

    # --- the way back

    @property
    def can_take_back(self) -> bool:
        """Whether the last batch was built here, so that its blocks and diffs can wait again."""
        return self._last is not None

    def take_back(self) -> None:
        """Undo the last `build`: its blocks and diffs wait again, before the others."""
        last, self._last = self._last, None
        if last is None or last.batch.undo is None:
            raise SafetyViolation("there is no batch that could be taken back")
        self.position = self._undone(last.batch.before, last.batch.undo)
        self._blocks.extendleft(reversed(last.blocks))
        self._diffs.extendleft(reversed(last.diffs))
        self._block_sizes.put_back(last.block_sizes)
        self._diff_sizes.put_back(last.diff_sizes)
        for diff in last.diffs:
            self._count_prices(diff)
        self._certificates = {**last.certificates, **self._certificates}

    def rewind(self, position: Position, undo: dict[bytes, bytes | None]) -> None:
        """Go back to an earlier position; blocks and diffs have to come again from there on."""
        self.position = self._undone(position, undo)
        self._last = None
        self._blocks.clear()
        self._diffs.clear()
        self._block_sizes.clear()
        self._diff_sizes.clear()
        self._price_bytes.clear()
        self._certificates.clear()
        self._last_block = self._last_diff = position.block
        self.wanted_block = 0

    def _undone(self, position: Position, undo: dict[bytes, bytes | None]) -> Position:
        if self.tree.update(undo) != position.state_root:
            raise SafetyViolation("what was kept for undoing does not lead to the earlier root")
        return position
