"""An execution node of the simulator: what `execution.process` does, without asyncio."""

from __future__ import annotations

from execution.engine import Engine
from execution.queries import Queries
from execution.replay import Replay
from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.messages_trading import (
    AccountRequest,
    DiffPush,
    EventsPush,
    OrdersRequest,
    ResultRequest,
    SubscribeDiffs,
    SubscribeEvents,
)
from protocol.ordering import OrderedBlock
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
        super().__init__(setting, name, ("history", "liquidations"), skew_us)
        self._validators = validators
        self.next_sequencers = sequencers
        self.replay: Replay
        self.store: SimExecutionStore
        self.inbox: InboxFollower

    def start(self) -> None:
        """Take up the newest snapshot, or genesis."""
        self.store = SimExecutionStore(self.disks["history"], self.disks["liquidations"])
        snapshot = next(self.store.snapshots(), None)
        if snapshot is not None:
            self.history.count("snapshots_restored")
        self.replay = Replay(self.chain, snapshot, self.store.feed(snapshot))
        self.queries = queries = Queries(self.replay)
        self._snapshot_height = self.replay.height
        self.inbox = InboxFollower(self, self._validators, needed=self.replay.inbox_cursor)
        self.log = LogFollower(self, self.next_sequencers, self.replay.height, self.replay.block_id)
        self._events: StreamServer[EventsPush] = StreamServer(self, self._read_events)
        self._diffs: StreamServer[DiffPush] = StreamServer(self, self._read_diff)
        self.on(SubscribeEvents, self._subscribe_events)
        self.on(SubscribeDiffs, self._subscribe_diffs)
        self.on(AccountRequest, lambda _, request: queries.account(request))
        self.on(OrdersRequest, lambda _, request: queries.orders(request))
        self.on(ResultRequest, lambda _, request: queries.result(request))
        self.inbox.start()
        self.log.start()
        self.spawn(self._execute())

    @property
    def engine(self) -> Engine:
        """The state behind the newest block."""
        return self.replay.engine

    @property
    def height(self) -> int:
        """Height of the newest block executed."""
        return self.replay.height

    @property
    def next_seq(self) -> int:
        """Number of the event that comes next."""
        return self.replay.next_seq

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
                snapshot = self.replay.snapshot()
                await self.synced()
                self.store.write_snapshot(snapshot)
                await self.synced()
                self.history.count("snapshots_written")

    async def _apply(self, block: OrderedBlock) -> None:
        payload = self.replay.payload(block)
        await self.inbox.wait_covered(payload.inbox_height)
        height, store = block.header.height, self.store
        known = store.record(height) if height <= store.height else None
        events, diff, record = self.replay.apply(block.header, payload, self.inbox, known)
        if known is None:
            store.append(record)
        else:
            self.history.count("blocks_executed_again")
        self.history.executed(self.name, events, diff)

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
