"""What every batch of a run leads to: known to checks and to liars, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from execution.engine import Engine
from node.ledger_state import LedgerState
from protocol.codec import encode
from protocol.genesis import Chain
from protocol.merkle import list_root
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, InboxEntry, OutboxEntry, decode_outbox_entry
from prover.game import BatchSteps, Trace
from prover.tree import StateTree
from sim.lying_engines import Given
from sim.pipeline_history import History


class Truth:
    """The state after every block that any execution node has executed. `ledger`: one that has the
    newest inbox entries."""

    def __init__(self, chain: Chain, history: History, ledger: Callable[[], LedgerState]) -> None:
        self.chain = chain
        self._history = history
        self._ledger = ledger
        tree = StateTree(sorted(Engine(chain).leaves().items()))
        self.trace = Trace(tree, 0)
        self._roots = [tree.root]
        self._tree = tree
        self._inbox: list[InboxEntry] = []

    def root(self, block: int) -> bytes | None:
        """State root (32 bytes) after a block; None where nobody has executed it yet."""
        diffs = self._history.diffs
        while len(self._roots) <= min(block, len(diffs)):
            self.trace.extend([dict(diffs[len(self._roots) - 1].changes)])
            self._roots.append(self._tree.root)
        return self._roots[block] if block < len(self._roots) else None

    def right(self, header: BatchHeader) -> bool:
        """Whether a batch says what its blocks lead to."""
        if self.root(header.last_block) != header.post_state_root:
            return False
        outbox = sum(len(diff.outbox) for diff in self._history.diffs[: header.last_block])
        cursor = self._cursor(header.last_block)
        return (cursor, outbox) == (
            header.inbox_cursor, header.outbox_first + header.outbox_count
        )  # fmt: skip

    def _cursor(self, block: int) -> int:
        return self._history.diffs[block - 1].inbox_cursor if block else 0

    def changes(self, block: int) -> dict[bytes, bytes | None]:
        """What a block changed."""
        return dict(self._history.diffs[block - 1].changes)

    def outbox(self, block: int) -> list[OutboxEntry]:
        """What it wrote into the outbox."""
        return [decode_outbox_entry(raw) for raw in self._history.diffs[block - 1].outbox]

    def told(self, first: int, last: int) -> tuple[list[OrderedBlock], list[OutboxEntry]]:
        """Ordered blocks, and what they wrote into the outbox."""
        heights = range(first, last + 1)
        outbox = [entry for height in heights for entry in self.outbox(height)]
        return [self._history.blocks[height] for height in heights], outbox

    def part(self, header: BatchHeader, first: int, last: int) -> BatchHeader:
        """The header of a part of a batch that is right."""
        blocks, outbox = self.told(first, last)
        before, root = self.root(first - 1), self.root(last)
        if before is None or root is None:
            raise LookupError(f"block {last} is not executed")
        skipped = len(self.told(header.first_block, first - 1)[1])
        return replace(
            header, first_block=first, last_block=last, pre_state_root=before,
            post_state_root=root, last_block_id=blocks[-1].header.block_id(),
            data_root=list_root([encode(block) for block in blocks]),
            inbox_cursor=self._cursor(last), outbox_count=len(outbox),
            outbox_root=list_root([encode(entry) for entry in outbox]),
            outbox_first=header.outbox_first + skipped,
        )  # fmt: skip

    def leaves(self, block: int) -> list[tuple[bytes, bytes]]:
        """All leaves after a block, in key order."""
        return self.trace.leaves(block)

    def steps(self, header: BatchHeader) -> BatchSteps:
        """What a game on a batch is about; raises `LookupError` where something is not there."""
        heights = range(header.first_block, header.last_block + 1)
        if self.root(header.last_block) is None:
            raise LookupError(f"block {header.last_block} is not executed")
        blocks = [self._history.blocks[height] for height in heights]
        cursors = [self._cursor(height) for height in range(header.first_block - 1, heights.stop)]
        return BatchSteps(header, blocks, cursors, self._entries(cursors[0], cursors[-1]))

    def _entries(self, first: int, end: int) -> list[InboxEntry]:
        found = self.inbox(self._ledger())[first:end]
        if len(found) != end - first:
            raise LookupError(f"inbox entries {first} to {end} are not there")
        return found

    def inbox(self, ledger: LedgerState) -> list[InboxEntry]:
        """All inbox entries up to a ledger, which may have forgotten some that were seen before."""
        known = len(self._inbox)
        new = ledger.entries(known, ledger.inbox().count - known, ledger.height)
        self._inbox += [entry for _, entry in new]
        return self._inbox


def given_of(steps: BatchSteps, index: int) -> Given:
    """What execution takes of a batch's block."""
    step = steps.step(index)
    header = step.block.header
    return Given(
        header.height, header.time_ms, step.inbox, step.inbox_cursor, step.payload().batches
    )


def after(
    leaves: Sequence[tuple[bytes, bytes]], changes: dict[bytes, bytes | None]
) -> list[tuple[bytes, bytes]]:
    """The leaves (in key order) after changes."""
    found = {**dict(leaves), **changes}
    return [(key, value) for key, value in sorted(found.items()) if value is not None]
