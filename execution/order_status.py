"""What became of every order, trigger and TWAP, derived from a shard's events.

What lives is always known; of what has ended, the last so many. Never under the state root.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any

import msgspec

from protocol.actions import ActionBatch, Bracket, MarketOrder, Modify, Oco, Order, Twap
from protocol.codec import Wire
from protocol.errors import Code, Rejected
from protocol.events import (
    CANCELLED,
    FILLED,
    NONE,
    REASON_FIRED,
    RESTING,
    WAITING,
    BatchExecuted,
    Fill,
    OrderChanged,
    OrderOpened,
    Result,
    TriggerChanged,
    TriggerFired,
    TriggerOpened,
    TwapChanged,
)
from protocol.messages_trading import (
    FIRED,
    KIND_ORDER,
    KIND_TRIGGER,
    KIND_TWAP,
    OrderStatusView,
)

ENDED_KEPT = 200_000
"""Orders, triggers and TWAPs that are remembered after their end."""

Executed = tuple[ActionBatch, BatchExecuted]
"""A batch that was executed, and its results."""


class Tracked(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """Fields as in `OrderStatusView`."""

    order_id: int
    kind: int
    account: int
    client_id: int
    market: int
    side: int
    price_ticks: int
    size_lots: int
    filled_lots: int
    filled_ticks_lots: int
    remaining_lots: int
    status: int
    code: int
    reason: int
    flags: int
    replaces: int
    replaced_by: int
    opened_ms: int
    changed_ms: int
    height: int


class OrderStatusState(Wire, frozen=True):
    """A part of what `OrderStatus` carries: orders that have ended, in that order, or that have
    not. `forgotten_id`: highest id that is no longer known; `forgotten_of`: accounts with forgotten
    client ids, in the first part."""

    ended: bool
    orders: list[Tracked]
    forgotten_id: int
    forgotten_of: list[int]


class OrderStatus:
    """Follows events; `begin` before those of a block, `finish` after them."""

    __slots__ = (
        "_by_action", "_clients", "_ended", "_forgotten_id", "_forgotten_of", "_height", "_kept",
        "_living", "_over", "_takers", "_time_ms",
    )  # fmt: skip

    def __init__(self, kept: int = ENDED_KEPT) -> None:
        self._kept = kept
        self._living: dict[int, Tracked] = {}
        self._over: dict[int, Tracked] = {}
        self._clients: dict[tuple[int, int], int] = {}
        self._ended: deque[int] = deque()
        self._forgotten_id = 0
        self._forgotten_of: dict[int, None] = {}
        self._takers: dict[int, Tracked] = {}
        self._height = self._time_ms = 0
        self._by_action: dict[type, Callable[[int, Any, Result], None]] = {
            MarketOrder: self._market,
            Bracket: self._bracket,
            Oco: self._oco,
            Modify: self._modified,
            Twap: self._twap,
        }

    def restore(self, state: OrderStatusState) -> None:
        """Put back a part of what `frozen` gave, in its order."""
        self._forgotten_id = state.forgotten_id
        self._forgotten_of.update(dict.fromkeys(state.forgotten_of))
        for order in state.orders:
            if state.ended:
                self._over[order.order_id] = order
                self._ended.append(order.order_id)
            else:
                self._living[order.order_id] = order
            self._name(order)

    def frozen(self, chunk: int) -> Iterator[OrderStatusState]:
        """Everything as it stands now, in parts of `chunk` orders; it does not change any more."""
        # What has ended does not change after its block; what lives does.
        ended, living = list(self._over.values()), [copy(one) for one in self._living.values()]
        first = OrderStatusState(True, [], self._forgotten_id, list(self._forgotten_of))

        def parts() -> Iterator[OrderStatusState]:
            yield first
            for over, orders in ((True, ended), (False, living)):
                for begin in range(0, len(orders), chunk):
                    yield OrderStatusState(
                        over, orders[begin : begin + chunk], first.forgotten_id, []
                    )

        return parts()

    # --- following

    def begin(self, height: int, time_ms: int) -> None:
        """The events of this block follow."""
        self._height = height
        self._time_ms = time_ms

    def opened(self, event: OrderOpened) -> None:
        """An order rests: what it filled before it did is known already."""
        order_id, client_id, lots = event.order_id, event.client_id, event.size_lots
        order = self._takers.pop(order_id, None) if self._takers else None
        if order is None:
            now_ms = self._time_ms
            self._living[order_id] = Tracked(
                order_id, KIND_ORDER, event.account, client_id, event.market, event.side,
                event.price_ticks, lots, 0, 0, lots, RESTING, 0, 0, event.flags, 0, 0, now_ms,
                now_ms, self._height,
            )  # fmt: skip
        else:
            order.client_id = client_id
            order.price_ticks = event.price_ticks
            order.size_lots = order.filled_lots + lots
            order.remaining_lots = lots
            order.status = RESTING
            order.flags = event.flags
        if client_id:
            self._clients[event.account, client_id] = order_id

    def fill(self, event: Fill) -> None:
        """A fill of two orders."""
        lots = event.size_lots
        worth = lots * event.price_ticks
        maker = self._living.get(event.maker_order)
        if maker is not None:
            maker.filled_lots += lots
            maker.filled_ticks_lots += worth
            maker.remaining_lots -= lots
            maker.changed_ms = self._time_ms
            maker.height = self._height
            if not maker.remaining_lots:
                maker.status = FILLED
                self._end(maker)
        taker_id = event.taker_order
        taker = self._takers.get(taker_id)
        if taker is None:
            taker = self._takers[taker_id] = self._living[taker_id] = self._new(
                taker_id, KIND_ORDER, event.taker_account, event.market, event.taker_side
            )
        taker.filled_lots += lots
        taker.filled_ticks_lots += worth

    def changed(self, event: OrderChanged) -> None:
        """A resting order shrank or went without a fill."""
        order = self._living.get(event.order_id)
        if order is None:
            return
        order.remaining_lots = event.remaining_lots
        order.reason = event.reason
        order.changed_ms = self._time_ms
        order.height = self._height
        if not event.remaining_lots:
            order.status = CANCELLED
            self._end(order)

    def trigger_opened(self, event: TriggerOpened) -> None:
        """A trigger waits."""
        order = self._new(event.trigger_id, KIND_TRIGGER, event.account, event.market, event.side)
        order.client_id = event.client_id
        order.price_ticks = event.trigger_ticks
        order.size_lots = order.remaining_lots = event.size_lots
        order.status = WAITING
        order.flags = event.flags
        self._living[order.order_id] = order
        self._name(order)

    def trigger_changed(self, event: TriggerChanged) -> None:
        """A trigger grew with its bracket, or is gone."""
        order = self._living.get(event.trigger_id)
        if order is None:
            return
        self._touch(order)
        order.remaining_lots = event.size_lots
        if event.reason:
            order.reason = event.reason
            order.status = FIRED if event.reason == REASON_FIRED else CANCELLED
            self._end(order)
        else:
            order.size_lots = event.size_lots

    def trigger_fired(self, event: TriggerFired) -> None:
        """A trigger, which is gone already, entered its order with its client id and flags."""
        order, result = self._find(event.trigger_id), event.result
        if order is None:
            return
        order.code = result.code
        order.replaced_by = result.order_id
        self._take_result(
            result, order.account, order.market, order.side, order.client_id, 0, order.size_lots,
            order.flags,
        )  # fmt: skip
        entered = self._find(result.order_id)
        if entered is not None:
            entered.replaces = order.order_id

    def twap_changed(self, event: TwapChanged) -> None:
        """A TWAP began, filled a slice, whose fills came just before, or ended."""
        order = self._living.get(event.twap_id)
        if order is None:
            order = self._new(event.twap_id, KIND_TWAP, event.account, event.market, event.side)
            order.status = WAITING
            order.size_lots = event.size_lots
            self._living[order.order_id] = order
        self._touch(order)
        if event.done_lots > order.filled_lots:
            self._take_slice(order)
        order.filled_lots = event.done_lots
        order.remaining_lots = order.size_lots - event.done_lots
        if event.reason:
            order.reason = event.reason
            order.status = CANCELLED if order.remaining_lots else FILLED
            order.remaining_lots = 0
            self._end(order)

    def _take_slice(self, twap: Tracked) -> None:
        """The orders that took for the account last were the slice."""
        of = (twap.account, twap.market, twap.side)
        for taker in list(self._takers.values()):
            if (taker.account, taker.market, taker.side) == of:
                del self._takers[taker.order_id]
                twap.filled_ticks_lots += taker.filled_ticks_lots
                taker.replaces = twap.order_id
                self._close(taker)

    def finish(self, executed: Iterable[Executed]) -> None:
        """The events of the block are over. `executed`: its batches, in the order of execution.

        They tell what no event does: what was asked for, and the client ids of orders that never
        rested.
        """
        by_action = self._by_action
        for batch, event in executed:
            account = batch.account
            for action, result in zip(batch.actions, event.results, strict=True):
                if type(action) is Order:
                    if result.order_id and (
                        result.status != RESTING or result.filled_lots or action.flags
                    ):
                        self._ordered(account, action, result)
                else:
                    handler = by_action.get(type(action))
                    if handler is not None and result.order_id:
                        handler(account, action, result)
        for taker in self._takers.values():
            self._close(taker)
        self._takers.clear()

    def _ordered(self, account: int, action: Order, result: Result) -> None:
        self._take_result(
            result, account, action.market, action.side, action.client_id, action.price_ticks,
            action.size_lots, action.flags,
        )  # fmt: skip

    def _take_result(
        self,
        result: Result,
        account: int,
        market: int,
        side: int,
        client_id: int,
        price_ticks: int,
        size_lots: int,
        flags: int,
    ) -> None:
        """The result of an order that an action or a trigger entered."""
        order_id = result.order_id
        if not order_id:
            return
        order = self._find(order_id)
        if order is None:
            order = self._living[order_id] = self._new(order_id, KIND_ORDER, account, market, side)
        order.size_lots = size_lots
        if result.status == RESTING:
            return
        self._takers.pop(order_id, None)
        order.client_id = client_id
        order.price_ticks = price_ticks
        order.flags = flags
        order.code = result.code
        order.status = result.status
        self._name(order)
        if order_id in self._living:
            self._end(order)

    def _market(self, account: int, action: MarketOrder, result: Result) -> None:
        self._take_result(
            result, account, action.market, action.side, action.client_id, 0, action.size_lots,
            action.flags,
        )  # fmt: skip

    def _bracket(self, account: int, action: Bracket, result: Result) -> None:
        self._ordered(account, action.parent, result)

    def _oco(self, account: int, action: Oco, result: Result) -> None:
        if isinstance(action.first, Order):
            self._ordered(account, action.first, result)

    def _twap(self, account: int, action: Twap, result: Result) -> None:
        order = self._find(result.order_id)
        if order is not None:
            order.client_id = action.client_id
            order.flags = action.flags
            self._name(order)

    def _modified(self, account: int, action: Modify, result: Result) -> None:
        new_id = result.order_id
        if new_id == action.order_id:
            return
        old = self._find(action.order_id)
        if old is None:
            return
        old.replaced_by = new_id
        self._take_result(
            result, account, action.market, old.side, old.client_id, action.price_ticks,
            action.size_lots, old.flags,
        )  # fmt: skip
        new = self._find(new_id)
        if new is not None:
            new.replaces = action.order_id

    def _close(self, taker: Tracked) -> None:
        """An order of the system took what it could: liquidations, slices of a TWAP."""
        taker.status = FILLED
        taker.size_lots = taker.filled_lots
        self._end(taker)

    # --- keeping

    def _new(self, order_id: int, kind: int, account: int, market: int, side: int) -> Tracked:
        now_ms = self._time_ms
        return Tracked(
            order_id, kind, account, 0, market, side, 0, 0, 0, 0, 0, NONE, 0, 0, 0, 0, 0, now_ms,
            now_ms, self._height,
        )  # fmt: skip

    def _touch(self, order: Tracked) -> None:
        order.changed_ms = self._time_ms
        order.height = self._height

    def _name(self, order: Tracked) -> None:
        """Let the client id stand for it, unless a newer one has it."""
        if order.client_id:
            key = (order.account, order.client_id)
            if self._clients.get(key, 0) < order.order_id:
                self._clients[key] = order.order_id

    def _find(self, order_id: int) -> Tracked | None:
        return self._living.get(order_id) or self._over.get(order_id)

    def _end(self, order: Tracked) -> None:
        order_id, over = order.order_id, self._over
        del self._living[order_id]
        over[order_id] = order
        self._ended.append(order_id)
        if len(over) <= self._kept:
            return
        oldest = over.pop(self._ended.popleft())
        self._forgotten_id = max(self._forgotten_id, oldest.order_id)
        if oldest.client_id:
            self._forgotten_of[oldest.account] = None
            key = (oldest.account, oldest.client_id)
            if self._clients.get(key) == oldest.order_id:
                del self._clients[key]

    # --- asking

    def living(self) -> Iterable[Tracked]:
        """What has not ended; for reading only."""
        return self._living.values()

    def view(self, request_id: int, order_id: int, account: int, client_id: int) -> OrderStatusView:
        """As `OrderStatusRequest` asks; raises `Rejected` (unknown_order, not_retained)."""
        by_id = order_id != 0
        if not by_id:
            order_id = self._clients.get((account, client_id), 0)
        order = self._find(order_id)
        if order is not None:
            return OrderStatusView(request_id, *msgspec.structs.astuple(order))
        gone = 0 < order_id <= self._forgotten_id if by_id else account in self._forgotten_of
        if gone:
            raise Rejected(
                Code.NOT_RETAINED, f"of what has ended, only the last {self._kept} are kept"
            )
        raise Rejected(Code.UNKNOWN_ORDER, "there never was such an order here")
