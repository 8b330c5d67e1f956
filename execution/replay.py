"""From ordered blocks to what an execution node keeps of each: events, state diff, snapshot."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from execution.derived import Derived
from execution.engine import Engine
from execution.inbox import VerifiedInbox
from execution.log import log_genesis_id
from execution.market_data_liquidations import LiquidationFeed, MemoryLog, receipts_in
from execution.store import BlockRecord, Snapshot
from protocol.chain import Header
from protocol.codec import encode
from protocol.errors import SafetyViolation
from protocol.events import BlockDiff, BlockEvents, Event
from protocol.genesis import Chain
from protocol.inbox import next_cursor
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload


class Replay:
    """The engine behind the block `block_id` of `height`, and where its streams stand.

    A pure machine: blocks come in order, from the snapshot on, or from genesis where it is None.
    `feed`: liquidations up to the snapshot at least; without it the feed begins there, in memory.
    """

    def __init__(
        self, chain: Chain, snapshot: Snapshot | None, feed: LiquidationFeed | None = None
    ) -> None:
        """Raises `SafetyViolation` where the snapshot is of another chain."""
        self._chain = chain
        if snapshot is None:
            self.engine = Engine(chain)
            snapshot = Snapshot(
                chain.chain_id, 0, log_genesis_id(chain), chain.genesis.time_ms, 0, 0, 1,
                list(self.engine.leaves().items()), [],
            )  # fmt: skip
        elif snapshot.chain_id != chain.chain_id:
            raise SafetyViolation("the snapshots in the data directory are of another chain")
        else:
            self.engine = Engine.restore(chain, snapshot.leaves)
        self.leaves = dict(snapshot.leaves)
        self.height, self.block_id = snapshot.height, snapshot.block_id
        self.inbox_cursor, self.next_seq = snapshot.inbox_cursor, snapshot.next_seq
        self._time_ms, self._inbox_height = snapshot.time_ms, snapshot.inbox_height
        if feed is None:
            feed = LiquidationFeed(MemoryLog(), receipts_in(snapshot.leaves))
        self.derived = Derived(chain, snapshot.derived, feed)
        """Market data, the status of orders and the liquidation feed."""

    def payload(self, block: OrderedBlock) -> OrderedPayload:
        """What the next block orders; the inbox must be covered up to its height for `apply`."""
        if not block.payload:
            return OrderedPayload(self._inbox_height, [])
        return decode_payload(block.payload)

    def apply(
        self,
        header: Header,
        payload: OrderedPayload,
        inbox: VerifiedInbox,
        known: BlockRecord | None,
    ) -> tuple[list[Event], BlockDiff, BlockRecord]:
        """Execute the next block: its events, its state diff, and both as they are kept.

        `known`: the record of the same block from before a restart. Raises `SafetyViolation` where
        that is another: the same log must give the same bytes again. `snapshot` then still gives
        the state before the block.
        """
        limit = self._chain.genesis.limits.inbox_per_block
        cursor = next_cursor(self.inbox_cursor, inbox.count_at(payload.inbox_height), limit)
        entries = inbox.entries(self.inbox_cursor, cursor)
        height, time_ms, block_id = header.height, header.time_ms, header.block_id()
        result = self.engine.apply(height, time_ms, block_id, entries, cursor, payload.batches)
        seq, next_seq = self.next_seq, self.next_seq + len(result.events)
        events = BlockEvents(height, time_ms, seq, next_seq, [], result.events)
        diff = BlockDiff(
            height, block_id, cursor, list(result.changes.items()),
            [encode(entry) for entry in result.outbox], result.actions,
        )  # fmt: skip
        record = BlockRecord(height, block_id, seq, next_seq, encode(events), encode(diff))
        if known is not None and record != known:
            raise SafetyViolation(f"executing block {height} again gave another result")
        for key, value in result.changes.items():
            if value is None:
                self.leaves.pop(key, None)
            else:
                self.leaves[key] = value
        self.height, self.block_id, self._time_ms = height, block_id, time_ms
        self._inbox_height, self.inbox_cursor = payload.inbox_height, cursor
        self.next_seq = next_seq
        self.derived.take(height, time_ms, seq, result.events, result.executed)
        inbox.release(cursor)
        return result.events, diff, record

    def freeze(self) -> Callable[[], Snapshot]:
        """The whole state as it stands: what is returned encodes it, in another thread if need be,
        while further blocks are applied."""
        snapshot = Snapshot(
            self._chain.chain_id, self.height, self.block_id, self._time_ms,
            self._inbox_height, self.inbox_cursor, self.next_seq, list(self.leaves.items()), [],
        )  # fmt: skip
        derived = self.derived.freeze()
        return lambda: replace(snapshot, derived=list(derived))

    def snapshot(self) -> Snapshot:
        """The whole state as it stands."""
        return self.freeze()()
