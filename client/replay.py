"""Replay of recorded order flow through a running exchange, compared row by row.

The mapper says what each row becomes; this module sends it in file order and checks afterwards,
against the exchange's own event stream, that after each row the exchange shows the recorded best
bid and ask. Consecutive actions of one account travel in one signed batch. What a batch did is told
apart action by action: a fill names its taker, an opened or changed order its own id.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from client.book import BookMirror
from client.faults import NoProgress
from client.lobster import Intent, Mapper, MapperCounts, Quotes, ReduceClient, Step
from client.sdk import Exchange
from client.submission import Submission, results_of
from protocol.actions import BUY, SELL, Action, Cancel, Order, Reduce
from protocol.errors import Code, ConfigError, SafetyViolation
from protocol.events import (
    REASON_MARGIN,
    BatchExecuted,
    BlockEvents,
    Event,
    Fill,
    OrderChanged,
    OrderOpened,
)
from protocol.genesis import MarketConfig
from protocol.keys import Key

BATCH_ACTIONS = 50
WINDOW_BATCHES = 256
"""Most batches without a result: well below what a sequencer's pool holds."""
STALL_S = 30.0
ORACLE_FOLLOW_PPM = 5_000
MISMATCHES_KEPT = 10


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to replay: `speed` times as fast as recorded, 0 for as fast as the exchange goes."""

    market: str = "GOOG-PERP"
    accounts: int = 16
    speed: float = 0.0
    clean_up: bool = True


class Mismatch(msgspec.Struct, frozen=True):
    """A row where the exchange shows something else: bid, bid size, ask, ask size in integers."""

    row: int
    expected: Quotes
    shown: Quotes


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """A replay. `reference` is what rows were compared with: the recorded book, or the model's."""

    reference: str
    rows: int
    rows_compared: int
    rows_equal: int
    actions: int
    batches: int
    fills: int
    refused: int
    reordered: int
    seconds: float
    actions_per_s: float
    mapper: MapperCounts
    mismatches: list[Mismatch]


class Check(NamedTuple):
    """A point in the order of actions: after so many of them the quotes must be these."""

    after: int
    row: int
    expected: Quotes


class RowComparer:
    """Applies the event stream action by action and compares the book where a row ends.

    Actions are numbered from 1 in the order in which they were sent.
    """

    def __init__(self, market: int) -> None:
        self.mirror = BookMirror(market)
        self.rows_compared = self.rows_equal = self.fills = self.refused = 0
        self.done = 0
        self.mismatches: list[Mismatch] = []
        self.order_ids: dict[int, int] = {}
        self._checks: deque[Check] = deque()
        self._batches: deque[tuple[Submission, Sequence[object]]] = deque()
        self._pending: list[Event] = []
        self._seen: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    def expect_batch(self, submission: Submission, actions: Sequence[object]) -> None:
        """The next batch in order, and its actions."""
        self._batches.append((submission, actions))

    def expect_quotes(self, check: Check) -> None:
        """Quotes after an action that has been, or is about to be, sent."""
        self._checks.append(check)
        self._compare()

    def take(self, block: BlockEvents) -> None:
        """Apply a block; raises `SafetyViolation` where events do not fit the batches' order."""
        market = self.mirror.market
        for event in block.events:
            if isinstance(event, BatchExecuted):
                self._batch(event)
            elif isinstance(event, Fill | OrderOpened | OrderChanged) and event.market == market:
                self._pending.append(event)

    def _batch(self, event: BatchExecuted) -> None:
        pending, self._pending = self._pending, []
        key = (event.signer, event.nonce_ms)
        if key in self._seen or not self._batches or key != self._batches[0][0].key:
            for one in pending:
                self.mirror.apply(one)
            if not event.duplicate and any(
                submission.key == key for submission, _ in self._batches
            ):
                raise SafetyViolation("the exchange executed batches out of the order of sending")
            return
        submission, actions = self._batches.popleft()
        self._seen[key] = None
        if len(self._seen) > 4 * WINDOW_BATCHES:
            self._seen.popitem(last=False)
        if event.code:
            self.refused += submission.actions
            self.done += submission.actions
        at = 0
        for action, result in zip(actions, event.results, strict=bool(event.results)):
            if isinstance(action, Order):
                at = self._apply_order(pending, at, result.order_id)
            elif not result.code:
                at = self._apply_change(pending, at, result.order_id)
            self.refused += result.code not in (Code.OK, Code.NO_LIQUIDITY)
            self.done += 1
            self._compare()
        for one in pending[at:]:
            self.mirror.apply(one)
        self._compare()

    def _apply_order(self, events: list[Event], at: int, order_id: int) -> int:
        """Apply an order's events from `at` on; returns where the next action's begin.

        They are its fills, among them makers cancelled for want of margin, and its opening.
        """
        while at < len(events):
            event = events[at]
            if isinstance(event, Fill) and event.taker_order == order_id:
                self.fills += 1
            elif isinstance(event, OrderOpened) and event.order_id == order_id:
                self.order_ids[event.client_id] = event.order_id
                self.mirror.apply(event)
                return at + 1
            elif not (isinstance(event, OrderChanged) and event.reason == REASON_MARGIN):
                break
            self.mirror.apply(event)
            at += 1
        return at

    def _apply_change(self, events: list[Event], at: int, order_id: int) -> int:
        """Apply the one event of a cancel or reduction that took effect."""
        if at < len(events):
            event = events[at]
            if isinstance(event, OrderChanged) and event.order_id == order_id:
                self.mirror.apply(event)
                return at + 1
        raise SafetyViolation(f"no event tells of the change of order {order_id}")

    def _compare(self) -> None:
        while self._checks and self._checks[0].after <= self.done:
            check = self._checks.popleft()
            shown = Quotes(*self.mirror.best(BUY), *self.mirror.best(SELL))
            self.rows_compared += 1
            if shown == check.expected:
                self.rows_equal += 1
            elif len(self.mismatches) < MISMATCHES_KEPT:
                self.mismatches.append(Mismatch(check.row, check.expected, shown))


class Replay:
    """One replay of a flow into one market of an exchange."""

    def __init__(self, exchange: Exchange, options: ReplayOptions) -> None:
        self.market: MarketConfig = exchange.market(options.market)
        self.mapper = Mapper(self.market, options.accounts)
        self.comparer = RowComparer(self.market.market)
        self.rows = self.actions = self.batches = 0
        self._exchange = exchange
        self._options = options
        self._signers: list[tuple[Key, int]] = []
        self._oracle_ticks = 0
        self._open: deque[Submission] = deque()
        self._batch: list[Action] = []
        self._batch_account = -1
        self._progress = asyncio.Event()
        self._oracle_mid = 0

    async def run(
        self,
        messages: Iterable[str],
        book: Iterable[str] | None,
        on_row: Callable[[Replay], None] | None = None,
    ) -> ReplayReport:
        """Send every row, wait for the results, compare.

        Raises `ConfigError` (files, a book that is not empty), `NoProgress`, `SafetyViolation`.
        """
        await self._prepare()
        steps = self.mapper.steps(messages, book)
        began = time.monotonic()
        await self._send_rows(steps, on_row)
        await self._flush()
        await self._wait_for(0)
        seconds = time.monotonic() - began
        if self._options.clean_up:
            await self._cancel_all()
        comparer = self.comparer
        return ReplayReport(
            reference="recorded" if book is not None else "model",
            rows=self.rows,
            rows_compared=comparer.rows_compared,
            rows_equal=comparer.rows_equal,
            actions=self.actions,
            batches=self.batches,
            fills=comparer.fills,
            refused=comparer.refused,
            reordered=self._exchange.pipeline.reordered,
            seconds=round(seconds, 3),
            actions_per_s=round(self.actions / seconds, 1) if seconds else 0.0,
            mapper=self.mapper.counts,
            mismatches=comparer.mismatches,
        )

    async def _prepare(self) -> None:
        exchange, options = self._exchange, self._options
        if exchange.testnet is None:
            raise ConfigError("a replay signs with the traders' keys of a testnet directory")
        names = exchange.testnet.traders
        if len(names) < options.accounts:
            raise ConfigError(f"the testnet has {len(names)} traders, not {options.accounts}")
        for name in names[: options.accounts]:
            key = exchange.key(name)
            view = await exchange.account_of(key.address, wait_ms=10_000)
            await exchange.prove(key)
            self._signers.append((key, view.account))
        await exchange.follow()
        await self._cancel_all()
        view_of_book = await exchange.book(self.market.market, 1)
        if view_of_book.bids or view_of_book.asks:
            raise ConfigError(
                f"the book of {self.market.symbol} holds orders of others; replay into a market "
                "that nobody else trades, or into a new testnet"
            )
        exchange.watchers.append(self._take)

    def _take(self, block: BlockEvents) -> None:
        self.comparer.take(block)
        self._progress.set()

    # --- sending

    async def _send_rows(
        self, steps: Iterator[Step], on_row: Callable[[Replay], None] | None
    ) -> None:
        began = time.monotonic()
        first_ns = 0
        for step in steps:
            first_ns = first_ns or step.time_ns
            if self._options.speed > 0:
                due = began + (step.time_ns - first_ns) / 1e9 / self._options.speed
                if due > time.monotonic() + 0.002:
                    await self._flush()
                    await asyncio.sleep(due - time.monotonic())
            await self._follow_price(step)
            for intent in step.intents:
                await self._add(intent)
            if step.expected is not None:
                self.comparer.expect_quotes(Check(self.actions, step.row, step.expected))
            for intent in step.adopt:
                await self._add(intent)
            self.rows += 1
            if on_row is not None:
                on_row(self)

    async def _follow_price(self, step: Step) -> None:
        """Keep the oracle within half a per cent of the recorded mid."""
        book = self.mapper.book
        bid, ask = book.best(BUY)[0], book.best(SELL)[0]
        if not bid or not ask:
            return
        mid = (bid + ask) // 2
        if abs(mid - self._oracle_mid) * 1_000_000 <= ORACLE_FOLLOW_PPM * self._oracle_mid:
            return
        self._oracle_mid = mid
        for submission in await self._exchange.set_oracle({self.market.market: mid}):
            results_of(await submission.executed())

    async def _add(self, intent: Intent) -> None:
        if intent.account != self._batch_account or len(self._batch) >= BATCH_ACTIONS:
            await self._flush()
            self._batch_account = intent.account
        action = intent.action
        if isinstance(action, ReduceClient):
            order_id = await self._order_id(action.client_id)
            self._batch_account = intent.account
            self._batch.append(Reduce(self.market.market, order_id, action.by_lots))
        else:
            self._batch.append(action)
        self.actions += 1

    async def _order_id(self, client_id: int) -> int:
        """The exchange's id of an order; waits for the result of placing it."""
        if client_id not in self.comparer.order_ids:
            await self._flush()
            await self._wait_for(0)
        return self.comparer.order_ids.get(client_id, 0)

    async def _flush(self) -> None:
        if not self._batch:
            return
        actions, self._batch = self._batch, []
        await self._wait_for(WINDOW_BATCHES)
        await self._submit(self._batch_account, actions)

    async def _submit(self, account: int, actions: list[Action]) -> None:
        key, number = self._signers[account]
        submission = self._exchange.sign(key, number, actions)
        self.batches += 1
        self._open.append(submission)
        self.comparer.expect_batch(submission, actions)
        await self._exchange.submit(submission)

    async def _wait_for(self, open_batches: int) -> None:
        """Wait until at most `open_batches` have no result; raises `NoProgress` on a stall."""
        last = asyncio.get_running_loop().time()
        while True:
            while self._open and self._open[0].executed_ns:
                self._open.popleft()
                last = asyncio.get_running_loop().time()
            if len(self._open) <= open_batches:
                return
            self._exchange.check()
            error = self._open[0].error
            if error is not None:
                raise error
            if asyncio.get_running_loop().time() > last + STALL_S:
                raise NoProgress(f"no batch was executed for {STALL_S:g} s")
            self._progress.clear()
            try:
                async with asyncio.timeout(1.0):
                    await self._progress.wait()
            except TimeoutError:
                continue

    async def _cancel_all(self) -> None:
        """Cancel every resting order of the replay's accounts in its market."""
        market = self.market.market
        last = None
        for key, number in self._signers:
            view = await self._exchange.orders(number)
            resting = [order[1] for order in view.orders if order[0] == market]
            for at in range(0, len(resting), BATCH_ACTIONS):
                part: list[Action] = [Cancel(market, i) for i in resting[at : at + BATCH_ACTIONS]]
                last = await self._exchange.submit(self._exchange.sign(key, number, part))
                self.comparer.expect_batch(last, part)
        if last is not None:
            await last.executed()
