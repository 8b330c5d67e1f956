"""Follows submissions from the event stream and the ledger's news."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from client.channel import Channel
from client.submission import Submission
from net.upstream import next_frame
from protocol.codec import encode
from protocol.errors import Code, RemoteFault
from protocol.events import BatchExecuted, BlockEvents
from protocol.messages import BatchRequest, BatchView, LedgerNews, SubscribeLedger, decode_answer

if TYPE_CHECKING:
    from client.stream import EventStream

EXECUTED_KEPT = 500_000
"""Nonces of executed batches that are remembered, to notice a second execution."""

BlockWatcher = Callable[[BlockEvents], None]


class ResultTracker:
    """Matches `BatchExecuted` events with submissions by signer and nonce.

    A result that execution marks as a duplicate of a first one changes nothing, nor does a refusal
    of a batch that was ordered again long after it; any other second result is counted in
    `duplicated`: it would be a batch that was executed twice.
    """

    def __init__(self) -> None:
        self.duplicated = 0
        self.executed_height = 0
        self.settled_height = 0
        self.final_height = 0
        self._open: dict[tuple[bytes, int], Submission] = {}
        self._executed: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        self._unsettled: deque[tuple[int, Submission]] = deque()
        self._not_final: deque[tuple[int, Submission]] = deque()

    @property
    def open(self) -> int:
        """Submissions without a result."""
        return len(self._open)

    @property
    def unsettled(self) -> int:
        """Executed submissions that are not settled."""
        return len(self._unsettled)

    def expect(self, submission: Submission) -> None:
        """Follow a submission; call it before the batch is sent."""
        self._open[submission.key] = submission

    def drop(self, submission: Submission) -> None:
        """Forget a submission that was refused."""
        self._open.pop(submission.key, None)

    def pending(self) -> list[Submission]:
        """Submissions without a result, oldest first."""
        return list(self._open.values())

    def take(self, block: BlockEvents) -> None:
        """Apply a block of the event stream."""
        now_ns = time.perf_counter_ns()
        for event in block.events:
            if isinstance(event, BatchExecuted):
                self._take_result(event, block.height, now_ns)
        self.executed_height = max(self.executed_height, block.height)

    def _take_result(self, event: BatchExecuted, height: int, now_ns: int) -> None:
        key = (event.signer, event.nonce_ms)
        submission = self._open.pop(key, None)
        if submission is None:
            again = not event.duplicate and not event.code
            self.duplicated += again and key in self._executed
            return
        self._executed[key] = None
        if len(self._executed) > EXECUTED_KEPT:
            self._executed.popitem(last=False)
        submission.result = event
        submission.height = submission.height or height
        submission.reach("executed", now_ns)
        if height <= self.final_height:
            submission.reach("final", now_ns)
        elif height <= self.settled_height:
            submission.reach("settled", now_ns)
            self._not_final.append((height, submission))
        else:
            self._unsettled.append((height, submission))

    def settle_to(self, height: int) -> None:
        """Blocks up to `height` are in settled batches."""
        self.settled_height = max(self.settled_height, height)
        now_ns = time.perf_counter_ns()
        while self._unsettled and self._unsettled[0][0] <= self.settled_height:
            waiting = self._unsettled.popleft()
            waiting[1].reach("settled", now_ns)
            self._not_final.append(waiting)

    def finalise_to(self, height: int) -> None:
        """Blocks up to `height` are in final batches."""
        self.settle_to(height)
        self.final_height = max(self.final_height, height)
        now_ns = time.perf_counter_ns()
        while self._not_final and self._not_final[0][0] <= self.final_height:
            self._not_final.popleft()[1].reach("final", now_ns)


async def follow_events(stream: EventStream, watchers: list[BlockWatcher]) -> None:
    """Give every block of the stream to every watcher, for ever; raises as the stream does."""
    async for block in stream.blocks():
        for watcher in watchers:
            watcher(block)


async def follow_ledger(
    channel: Channel,
    shard: int,
    on_settled: Callable[[int], None],
    on_final: Callable[[int], None],
    wait_s: float = 0.2,
) -> None:
    """Call `on_settled(last_block)` for the newest settled batch, and again as batches settle;
    `on_final` likewise for the newest final one.

    Runs for ever, over lost connections and validators that hang; raises `Unreachable` as the
    channel does.
    """
    while True:
        endpoint = await channel.session()
        try:
            request_id = endpoint.next_request_id()
            news = endpoint.subscribe(encode(SubscribeLedger(request_id)), request_id)
            try:
                newest = await endpoint.ask(BatchView, BatchRequest, shard, 0)
                on_settled(newest.header.last_block)
                on_final(newest.final_block)
            except RemoteFault as fault:
                if fault.code not in (Code.UNKNOWN_BATCH, Code.NOT_FOUND, Code.NOT_READY):
                    raise
            while True:
                frame = await (next_frame(endpoint, news) if channel.places > 1 else news.get())
                push = decode_answer(frame)
                if isinstance(push, LedgerNews):
                    for header in push.batches:
                        if header.shard == shard:
                            on_settled(header.last_block)
                    on_final(push.final_block)
        except (ConnectionError, TimeoutError, RemoteFault) as error:
            if isinstance(error, TimeoutError) and channel.places > 1:
                await channel.move_on()
            await asyncio.sleep(wait_s)
