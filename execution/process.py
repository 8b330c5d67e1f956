"""The execution process: ordered blocks in, results, events and state diffs out."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from execution.process_health import Keeping, Produced, WatchedInbox, market_health
from execution.process_light import CHECKPOINT_NAME
from execution.process_log import LogFollower
from execution.queries import Queries
from execution.replay import Replay
from execution.store import ExecutionStore, Snapshot
from execution.stream import select
from net.clock import now_ms
from net.logs import set_log_place
from net.metrics import Rarely
from net.moments import Moments
from net.readiness import first
from net.runner import run_process, until_stopped
from net.service import ClientSession, Handler, PublicService, StatusValues
from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.events import decode_block_events
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages_market_data import (
    LIQUIDATIONS_MAX,
    LiquidationsRequest,
    SubscribeLiquidations,
)
from protocol.messages_trace import TraceMark, TraceRequest, TraceView
from protocol.messages_trading import DiffPush, EventsPush, SubscribeDiffs, SubscribeEvents
from protocol.ordering import OrderedBlock
from store.config import ProcessConfig, parse_address

SNAPSHOT_BLOCKS = 500
"""A snapshot is written after so many blocks."""

SUBSCRIBED_ACCOUNTS_MAX = 1_024

SUM_COST = 1_000
"""All cash is added up again only after so many times as long as it took."""

_log = structlog.get_logger()


class ExecutionProcess:
    """Runs one execution node."""

    def __init__(self, config: ProcessConfig, chain: Chain) -> None:
        self._config = config
        self._chain = chain
        self._store = ExecutionStore(config.data)
        snapshot = next(self._store.snapshots(), None)
        self._replay = Replay(chain, snapshot, self._store.feed(snapshot))
        validators = [parse_address(one) for one in config.validators]
        sequencers = [parse_address(one) for one in config.sequencers]
        self._inbox = WatchedInbox(
            chain, validators, config.name, checkpoint=config.data / CHECKPOINT_NAME,
            needed=self._replay.inbox_cursor,
        )  # fmt: skip
        self._log = LogFollower(
            chain, sequencers, config.name, self._replay.height, self._replay.block_id
        )
        self._service = PublicService(chain, "execution", config.name, self._status)
        self._queries = Queries(self._replay)
        for question, answer in self._queries.answers.items():
            self._service.on(question, _query(answer))
        self._service.on(SubscribeEvents, self._subscribe_events)
        self._service.on(SubscribeDiffs, self._subscribe_diffs)
        self._service.on(SubscribeLiquidations, self._subscribe_liquidations)
        self._service.on(TraceRequest, self._trace)
        self._keeping = Keeping(self._service.metrics.histogram("ordered_to_executed_seconds"))
        self._service.trouble = self._trouble
        self._conserved = Rarely(self._replay.engine.money_conserved, SUM_COST)
        set_log_place(lambda: {"height": self._replay.height})
        self._grown = asyncio.Event()
        self._snapshot_height = self._replay.height
        self._snapshot_task: asyncio.Task[None] | None = None
        self._executed: Moments[int] = Moments()
        self._produced = Produced(self._replay)
        self._actions = 0
        self._batches = 0
        self._busy_ns = 0

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        port = await self._service.open(self._config)
        # The engine makes no reference cycles; full collections would only stall matching. What
        # was restored lives on: it is never looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 1_000)
        tasks = [asyncio.ensure_future(self._inbox.run()), asyncio.ensure_future(self._execute())]
        _log.info(
            "execution ready", height=self._replay.height, retained=self._store.height, port=port
        )
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
            if self._replay.height > self._snapshot_height:
                self._store.write_snapshot(self._replay.snapshot())
            self._store.close()

    # --- execution

    async def _execute(self) -> None:
        async for chunk in self._log.chunks():
            for block in chunk.blocks:
                await self._apply(block)
            self._store.flush()
            self._grown.set()
            self._grown = asyncio.Event()
            if self._replay.height - self._snapshot_height >= SNAPSHOT_BLOCKS:
                self._begin_snapshot()

    async def _apply(self, block: OrderedBlock) -> None:
        payload = self._replay.payload(block)
        if self._inbox.covered_height < payload.inbox_height:
            self._keeping.waits(payload.inbox_height)
            await self._inbox.wait_covered(payload.inbox_height)
        started = time.perf_counter_ns()
        height, store = block.header.height, self._store
        known = store.record(height) if height <= store.height else None
        _, diff, record = self._replay.apply(block.header, payload, self._inbox, known)
        if known is None:
            store.append(record)
        else:
            self._produced.known()
        executed_ms = now_ms()
        self._executed.note(height, executed_ms)
        late_ms = executed_ms - block.header.time_ms
        self._keeping.executed(late_ms, diff.actions, known=known is not None)
        self._actions += diff.actions
        self._batches += len(payload.batches)
        self._busy_ns += time.perf_counter_ns() - started

    # --- snapshots

    def _begin_snapshot(self) -> None:
        if self._snapshot_task is not None and not self._snapshot_task.done():
            return
        self._snapshot_height = self._replay.height
        self._snapshot_task = asyncio.ensure_future(self._write_snapshot(self._replay.freeze()))

    async def _write_snapshot(self, frozen: Callable[[], Snapshot]) -> None:
        """The logs before it first; what waits for the disk waits in a thread."""
        for log in self._store.logs:
            pending = log.start_sync()
            if pending is not None:
                await asyncio.to_thread(pending.wait)
                log.finish_sync(pending)
        await asyncio.to_thread(lambda: self._store.write_snapshot(frozen()))

    def _trace(self, _: ClientSession, request: TraceRequest) -> Wire:
        """When an ordered block was executed here; no time for those before the last start."""
        height, marks = request.height, []
        if 0 < height <= self._replay.height:
            marks.append(TraceMark("executed", self._executed.at_ms(height), height))
        return TraceView(request.request_id, marks)

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
        session.takes_along(asyncio.current_task())
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
        session.takes_along(asyncio.current_task())
        while not session.closed:
            grown = self._grown
            if height > store.height:
                await grown.wait()
                continue
            session.send(DiffPush(request.request_id, store.record(height).diff))
            height += 1
            await session.link.drain()
        return None

    async def _subscribe_liquidations(
        self, session: ClientSession, request: SubscribeLiquidations
    ) -> Wire | None:
        begin = LiquidationsRequest(
            request.request_id, request.from_seq, request.from_number, LIQUIDATIONS_MAX
        )
        session.takes_along(asyncio.current_task())
        while not session.closed:
            grown = self._grown
            view = self._queries.liquidations(begin)
            if not view.entries:
                await grown.wait()
                continue
            session.send(view)
            begin = replace(begin, from_seq=view.next_seq)
            await session.link.drain()
        return None

    def _status(self) -> StatusValues:
        replay, store = self._replay, self._store
        liquidations_bytes, history_bytes = (log.stored_bytes for log in store.logs)
        stored_bytes = store.stored_bytes
        events, fills, liquidations = self._produced.counts()
        return {
            "height": replay.height,
            "ordered_height": self._log.height,
            "log_silence_ms": self._log.silence_ms(),
            "log_refused": self._log.refused,
            "time_ms": replay.engine.time_ms,
            "next_seq": replay.next_seq,
            "inbox_cursor": replay.inbox_cursor,
            "executed_batches": self._batches,
            "executed_actions": self._actions,
            "liquidation_receipts": replay.derived.feed.receipts,
            "executed_events": events,
            "executed_fills": fills,
            "executed_liquidations": liquidations,
            "busy_ms": self._busy_ns // 1_000_000,
            "leaves": len(replay.leaves),
            "store_bytes": stored_bytes,
            "history_bytes": history_bytes,
            "liquidations_bytes": liquidations_bytes,
            "snapshots_bytes": stored_bytes - history_bytes - liquidations_bytes,
            "money_conserved": "yes" if self._conserved() else "no",
            **market_health(replay.engine.state),
        }

    def _trouble(self) -> str:
        late = self._keeping.trouble(self._replay.height, self._log.height)
        return first([late, self._log.trouble(), self._inbox.hearing.trouble()])


def _query(answer: Callable[[Any], Wire]) -> Handler:
    return lambda _, request: answer(request)


async def _serve(config: ProcessConfig, chain: Chain, key: Key, stop: asyncio.Event) -> None:
    del key  # execution signs nothing: whoever doubts it re-executes
    await ExecutionProcess(config, chain).serve(stop)


def main(config_path: Path) -> int:
    """Run the execution node of a configuration file; returns the exit status."""
    return run_process(config_path, "execution", _serve)
