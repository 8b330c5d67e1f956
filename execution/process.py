"""The execution process: ordered blocks in, results, events and state diffs out."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import structlog

from execution.engine import Engine
from execution.log import log_genesis_id
from execution.process_inbox import InboxFollower
from execution.process_light import CHECKPOINT_NAME
from execution.process_log import LogFollower
from execution.store import BlockRecord, ExecutionStore, Snapshot
from execution.stream import select
from net.runner import run_process, until_stopped
from net.service import ClientSession, PublicService, StatusValues
from protocol.codec import Wire, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.events import BatchExecuted, BlockDiff, BlockEvents, Fill, decode_block_events
from protocol.genesis import Chain
from protocol.inbox import next_cursor
from protocol.keys import Key
from protocol.messages import (
    AccountRequest,
    BookRequest,
    DiffPush,
    EventsPush,
    OrdersRequest,
    OrdersView,
    ResultRequest,
    ResultView,
    SubscribeDiffs,
    SubscribeEvents,
)
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from store.config import ProcessConfig, parse_address

SNAPSHOT_BLOCKS = 500
"""A snapshot is written after so many blocks."""

SUBSCRIBED_ACCOUNTS_MAX = 1_024

_log = structlog.get_logger()


class ExecutionProcess:
    """Runs one execution node."""

    def __init__(self, config: ProcessConfig, chain: Chain) -> None:
        self._config = config
        self._chain = chain
        self._store = ExecutionStore(config.data)
        self._restore()
        validators = [parse_address(one) for one in config.validators]
        sequencers = [parse_address(one) for one in config.sequencers]
        self._inbox = InboxFollower(
            chain, validators, config.name, checkpoint=config.data / CHECKPOINT_NAME
        )
        self._log = LogFollower(chain, sequencers, config.name, self._height, self._block_id)
        self._service = PublicService(chain, "execution", config.name, self._status)
        for request, handler in (
            (SubscribeEvents, self._subscribe_events),
            (SubscribeDiffs, self._subscribe_diffs),
            (AccountRequest, self._account),
            (BookRequest, self._book),
            (OrdersRequest, self._orders),
            (ResultRequest, self._result),
        ):
            self._service.on(request, handler)
        self._grown = asyncio.Event()
        self._snapshot_height = self._height
        self._snapshot_task: asyncio.Task[None] | None = None
        self._actions = 0
        self._batches = 0
        self._fills = 0
        self._busy_ns = 0

    def _restore(self) -> None:
        chain = self._chain
        for snapshot in self._store.snapshots():
            if snapshot.chain_id != chain.chain_id:
                raise SafetyViolation("the snapshots in the data directory are of another chain")
            self._engine = Engine.restore(chain, snapshot.leaves)
            self._leaves = dict(snapshot.leaves)
            self._height, self._block_id = snapshot.height, snapshot.block_id
            self._time_ms = snapshot.time_ms
            self._inbox_height, self._cursor = snapshot.inbox_height, snapshot.inbox_cursor
            self._seq = snapshot.next_seq
            return
        self._engine = Engine(chain)
        self._leaves = dict(self._engine.leaves())
        self._height, self._block_id = 0, log_genesis_id(chain)
        self._time_ms = chain.genesis.time_ms
        self._inbox_height = self._cursor = 0
        self._seq = 1

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        host, port = parse_address(self._config.public)
        await self._service.start(host, port)
        # The engine makes no reference cycles; full collections would only stall matching.
        gc.set_threshold(50_000, 50, 1_000)
        tasks = [asyncio.ensure_future(self._inbox.run()), asyncio.ensure_future(self._execute())]
        _log.info("execution ready", height=self._height, retained=self._store.height, port=port)
        try:
            fatal = self._service.fatal
            await until_stopped(stop, *tasks, *([] if fatal is None else [fatal]))
        finally:
            for task in tasks:
                task.cancel()
            await self._service.stop()
            if self._snapshot_task is not None:
                await asyncio.wait([self._snapshot_task])
            self._store.sync()
            if self._height > self._snapshot_height:
                self._store.write_snapshot(self._snapshot())
            self._store.close()

    # --- execution

    async def _execute(self) -> None:
        async for chunk in self._log.chunks():
            for block in chunk.blocks:
                await self._apply(block)
            self._store.flush()
            self._grown.set()
            self._grown = asyncio.Event()
            if self._height - self._snapshot_height >= SNAPSHOT_BLOCKS:
                self._begin_snapshot()

    async def _apply(self, block: OrderedBlock) -> None:
        payload: OrderedPayload | None = decode_payload(block.payload) if block.payload else None
        inbox_height = self._inbox_height if payload is None else payload.inbox_height
        await self._inbox.wait_covered(inbox_height)
        started = time.perf_counter_ns()
        limit = self._chain.genesis.limits.inbox_per_block
        cursor = next_cursor(self._cursor, self._inbox.count_at(inbox_height), limit)
        entries = self._inbox.entries(self._cursor, cursor)
        header = block.header
        block_id = header.block_id()
        batches = [] if payload is None else payload.batches
        result = self._engine.apply(
            header.height, header.time_ms, block_id, entries, cursor, batches
        )
        next_seq = self._seq + len(result.events)
        events = BlockEvents(header.height, header.time_ms, self._seq, next_seq, [], result.events)
        diff = BlockDiff(
            header.height, block_id, cursor, list(result.changes.items()),
            [encode(entry) for entry in result.outbox], result.actions,
        )  # fmt: skip
        self._keep(
            BlockRecord(header.height, block_id, self._seq, next_seq, encode(events), encode(diff))
        )
        for key, value in result.changes.items():
            if value is None:
                self._leaves.pop(key, None)
            else:
                self._leaves[key] = value
        self._height, self._block_id, self._time_ms = header.height, block_id, header.time_ms
        self._inbox_height, self._cursor, self._seq = inbox_height, cursor, next_seq
        self._inbox.release(cursor)
        self._actions += result.actions
        for event in result.events:
            if isinstance(event, Fill):
                self._fills += 1
            elif isinstance(event, BatchExecuted):
                self._batches += 1
        self._busy_ns += time.perf_counter_ns() - started

    def _keep(self, record: BlockRecord) -> None:
        if record.height > self._store.height:
            self._store.append(record)
        elif record != self._store.record(record.height):
            # Replayed from a snapshot: the same log must give the same bytes again.
            raise SafetyViolation(f"executing block {record.height} again gave another result")

    # --- snapshots

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            self._chain.chain_id, self._height, self._block_id, self._time_ms,
            self._inbox_height, self._cursor, self._seq, list(self._leaves.items()),
        )  # fmt: skip

    def _begin_snapshot(self) -> None:
        if self._snapshot_task is not None and not self._snapshot_task.done():
            return
        self._snapshot_height = self._height
        self._snapshot_task = asyncio.ensure_future(self._write_snapshot(self._snapshot()))

    async def _write_snapshot(self, snapshot: Snapshot) -> None:
        """The history before it first; what waits for the disk waits in a thread."""
        pending = self._store.start_sync()
        if pending is not None:
            await asyncio.to_thread(pending.wait)
            self._store.finish_sync(pending)
        await asyncio.to_thread(self._store.write_snapshot, snapshot)

    # --- streams

    async def _subscribe_events(
        self, session: ClientSession, request: SubscribeEvents
    ) -> Wire | None:
        if len(request.accounts) > SUBSCRIBED_ACCOUNTS_MAX:
            raise Rejected(
                Code.TOO_MANY_SUBSCRIPTIONS, f"name at most {SUBSCRIBED_ACCOUNTS_MAX} accounts"
            )
        if request.from_seq < 0:
            raise Rejected(Code.WRONG_TYPE, "event numbers start at 1; 0 asks for events from now")
        store, accounts = self._store, frozenset(request.accounts)
        # While replaying, the history reaches further than the engine.
        last_seq = store.record(store.height).next_seq if store.height else 1
        from_seq = request.from_seq or last_seq
        height = store.height_of(from_seq)
        if height < store.first_height or from_seq > last_seq:
            raise Rejected(
                Code.NOT_RETAINED, f"event {from_seq} is not retained; events go to {last_seq - 1}"
            )
        while not session.closed:
            grown = self._grown
            if height > store.height:
                await grown.wait()
                continue
            record = store.record(height)
            events: bytes | None = record.events
            if accounts or from_seq > record.first_seq:
                events = select(decode_block_events(record.events), from_seq, accounts)
            if events is not None and record.next_seq > record.first_seq:
                session.send(EventsPush(request.request_id, events))
                await session.link.drain()
            height += 1
        return None

    async def _subscribe_diffs(
        self, session: ClientSession, request: SubscribeDiffs
    ) -> Wire | None:
        store, height = self._store, request.from_height
        if height < store.first_height:
            raise Rejected(Code.NOT_RETAINED, f"diffs are retained from {store.first_height} on")
        while not session.closed:
            grown = self._grown
            if height > store.height:
                await grown.wait()
                continue
            session.send(DiffPush(request.request_id, store.record(height).diff))
            height += 1
            await session.link.drain()
        return None

    # --- queries

    def _account(self, session: ClientSession, request: AccountRequest) -> Wire:
        del session
        account = request.account
        if account == 0 and request.address:
            account = self._engine.account_of(request.address)
        return self._engine.account_view(request.request_id, account)

    def _book(self, session: ClientSession, request: BookRequest) -> Wire:
        del session
        depth = max(1, min(request.depth, 1_000))
        return self._engine.book_view(request.request_id, request.market, depth, self._seq)

    def _orders(self, session: ClientSession, request: OrdersRequest) -> Wire:
        del session
        return OrdersView(request.request_id, self._engine.orders_of(request.account))

    def _result(self, session: ClientSession, request: ResultRequest) -> Wire:
        del session
        event = self._engine.kept_result(request.signer, request.nonce_ms)
        if event is None:
            raise Rejected(Code.NOT_FOUND, "no result of this signer and nonce is kept")
        return ResultView(request.request_id, encode(event))

    def _status(self) -> StatusValues:
        return {
            "height": self._height,
            "next_seq": self._seq,
            "inbox_cursor": self._cursor,
            "executed_batches": self._batches,
            "executed_actions": self._actions,
            "fills": self._fills,
            "busy_ms": self._busy_ns // 1_000_000,
            "leaves": len(self._leaves),
            "store_bytes": self._store.stored_bytes,
            "money_conserved": "yes" if self._engine.money_conserved() else "no",
        }


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    del key  # execution signs nothing: whoever doubts it re-executes
    await ExecutionProcess(config, chain).serve(stop)


def main(config_path: Path) -> int:
    """Run the execution node of a configuration file; returns the exit status."""
    return run_process(config_path, "execution", _serve)
