"""An execution node of the simulator: what `execution.process` does, without asyncio."""

from __future__ import annotations

from execution.engine import Engine
from execution.log import log_genesis_id
from execution.store import BlockRecord, Snapshot
from protocol.codec import Wire, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.events import BlockDiff, BlockEvents
from protocol.inbox import next_cursor
from protocol.messages import (
    AccountRequest,
    DiffPush,
    EventsPush,
    ResultRequest,
    ResultView,
    SubscribeDiffs,
    SubscribeEvents,
)
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from sim.actors_followers import InboxFollower, LogFollower
from sim.actors_process import Process, Setting, StreamServer
from sim.actors_stores import SimExecutionStore

SNAPSHOT_BLOCKS = 60


class SimExecution(Process):
    """One execution node."""

    role = "execution"

    def __init__(
        self,
        setting: Setting,
        name: str,
        validators: list[str],
        sequencers: list[str],
        skew_us: int = 0,
    ) -> None:
        super().__init__(setting, name, ("history",), skew_us)
        self._validators = validators
        self.next_sequencers = sequencers
        self.engine: Engine
        self.store: SimExecutionStore
        self.inbox: InboxFollower
        self.height = 0
        self.next_seq = 1

    def start(self) -> None:
        """Take up the newest snapshot, or genesis."""
        self.store = SimExecutionStore(self.disks["history"])
        self._restore()
        self._snapshot_height = self.height
        self.inbox = InboxFollower(self, self._validators)
        self.log = LogFollower(self, self.next_sequencers, self.height, self._block_id)
        self._events: StreamServer[EventsPush] = StreamServer(self, self._read_events)
        self._diffs: StreamServer[DiffPush] = StreamServer(self, self._read_diff)
        self.on(SubscribeEvents, self._subscribe_events)
        self.on(SubscribeDiffs, self._subscribe_diffs)
        self.on(AccountRequest, self._account)
        self.on(ResultRequest, self._result)
        self.inbox.start()
        self.log.start()
        self.spawn(self._execute())

    def _restore(self) -> None:
        chain = self.chain
        for snapshot in self.store.snapshots():
            self.history.count("snapshots_restored")
            self.engine = Engine.restore(chain, snapshot.leaves)
            self._leaves = dict(snapshot.leaves)
            self.height, self._block_id = snapshot.height, snapshot.block_id
            self._time_ms = snapshot.time_ms
            self._inbox_height, self._cursor = snapshot.inbox_height, snapshot.inbox_cursor
            self.next_seq = snapshot.next_seq
            return
        self.engine = Engine(chain)
        self._leaves = dict(self.engine.leaves())
        self.height, self._block_id = 0, log_genesis_id(chain)
        self._time_ms = chain.genesis.time_ms
        self._inbox_height = self._cursor = 0
        self.next_seq = 1

    # --- execution

    async def _execute(self) -> None:
        while True:
            while not self.log.chunks:
                await self.log.grown.wait()
            for block in self.log.chunks.popleft().blocks:
                await self._apply(block)
            self.store.flush()
            self._events.grown()
            self._diffs.grown()
            if self.height - self._snapshot_height >= SNAPSHOT_BLOCKS:
                self._snapshot_height = self.height
                # The history before it first.
                snapshot = self._snapshot()
                await self.synced()
                self.store.write_snapshot(snapshot)
                await self.synced()
                self.history.count("snapshots_written")

    async def _apply(self, block: OrderedBlock) -> None:
        payload: OrderedPayload | None = decode_payload(block.payload) if block.payload else None
        inbox_height = self._inbox_height if payload is None else payload.inbox_height
        await self.inbox.wait_covered(inbox_height)
        limit = self.chain.genesis.limits.inbox_per_block
        cursor = next_cursor(self._cursor, self.inbox.count_at(inbox_height), limit)
        entries = self.inbox.entries(self._cursor, cursor)
        header = block.header
        block_id = header.block_id()
        batches = [] if payload is None else payload.batches
        result = self.engine.apply(
            header.height, header.time_ms, block_id, entries, cursor, batches
        )
        next_seq = self.next_seq + len(result.events)
        seq, height = self.next_seq, header.height
        events = BlockEvents(height, header.time_ms, seq, next_seq, [], result.events)
        diff = BlockDiff(
            height, block_id, cursor, list(result.changes.items()),
            [encode(entry) for entry in result.outbox], result.actions,
        )  # fmt: skip
        self._keep(BlockRecord(height, block_id, seq, next_seq, encode(events), encode(diff)))
        for key, value in result.changes.items():
            if value is None:
                self._leaves.pop(key, None)
            else:
                self._leaves[key] = value
        self.height, self._block_id, self._time_ms = header.height, block_id, header.time_ms
        self._inbox_height, self._cursor, self.next_seq = inbox_height, cursor, next_seq
        self.history.executed(self.name, result.events, diff)

    def _keep(self, record: BlockRecord) -> None:
        if record.height > self.store.height:
            self.store.append(record)
            return
        self.history.count("blocks_executed_again")
        if record != self.store.record(record.height):
            raise SafetyViolation(f"executing block {record.height} again gave another result")

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            self.chain.chain_id, self.height, self._block_id, self._time_ms,
            self._inbox_height, self._cursor, self.next_seq, list(self._leaves.items()),
        )  # fmt: skip

    # --- streams and queries

    def _subscribe_events(self, client: str, request: SubscribeEvents) -> Wire | None:
        last_seq = self.store.record(self.store.height).next_seq if self.store.height else 1
        if not 1 <= request.from_seq <= last_seq:
            raise Rejected(Code.NOT_RETAINED, f"events go to {last_seq - 1}")
        height = self.store.height_of(request.from_seq)
        self._events.subscribe(client, request.request_id, height)
        return None

    def _read_events(self, request_id: int, height: int) -> tuple[EventsPush, int] | None:
        if height > self.store.height:
            return None
        return EventsPush(request_id, self.store.record(height).events), height + 1

    def _subscribe_diffs(self, client: str, request: SubscribeDiffs) -> Wire | None:
        if request.from_height < self.store.first_height:
            raise Rejected(Code.NOT_RETAINED, "diffs start later")
        self._diffs.subscribe(client, request.request_id, request.from_height)
        return None

    def _read_diff(self, request_id: int, height: int) -> tuple[DiffPush, int] | None:
        if height > self.store.height:
            return None
        return DiffPush(request_id, self.store.record(height).diff), height + 1

    def _account(self, client: str, request: AccountRequest) -> Wire:
        del client
        account = request.account
        if account == 0 and request.address:
            account = self.engine.account_of(request.address)
        return self.engine.account_view(request.request_id, account)

    def _result(self, client: str, request: ResultRequest) -> Wire:
        del client
        event = self.engine.kept_result(request.signer, request.nonce_ms)
        if event is None:
            raise Rejected(Code.NOT_FOUND, "no result of this signer and nonce is kept")
        return ResultView(request.request_id, encode(event))
