"""The exchange's order-by-order book, rebuilt from its event stream.

Only what events say enters the mirror, so that comparing it with anything tests the exchange and
not this client. An event that does not fit the mirror means a gap in the stream or a broken
exchange: both are a `SafetyViolation`.
"""

from __future__ import annotations

from collections import OrderedDict

from sortedcontainers import SortedDict

from protocol.actions import BUY, SELL
from protocol.depth import CHECKED_LEVELS, depth_checksum
from protocol.errors import SafetyViolation
from protocol.events import BlockEvents, Event, Fill, OrderChanged, OrderOpened
from protocol.messages_market_data import BookView

KEPT_CHECKSUMS = 256


class MirrorOrder:
    """A resting order: owner, ids, side, price and what is left."""

    __slots__ = ("account", "client_id", "order_id", "price_ticks", "remaining_lots", "side")

    def __init__(self, opened: OrderOpened) -> None:
        self.order_id = opened.order_id
        self.account = opened.account
        self.client_id = opened.client_id
        self.side = opened.side
        self.price_ticks = opened.price_ticks
        self.remaining_lots = opened.size_lots


class MirrorLevel:
    """A price level: its orders in time priority, and the sum of what is left."""

    __slots__ = ("orders", "size_lots")

    def __init__(self) -> None:
        self.orders: dict[int, MirrorOrder] = {}
        self.size_lots = 0


class BookMirror:
    """L3 book of one market."""

    def __init__(self, market: int) -> None:
        self.market = market
        self.orders: dict[int, MirrorOrder] = {}
        # Bids are keyed by the negated price, so that the best level is first on either side.
        self._sides: tuple[SortedDict[int, MirrorLevel], SortedDict[int, MirrorLevel]] = (
            SortedDict(),
            SortedDict(),
        )

    def apply(self, event: Event) -> None:
        """Apply one event in stream order; events of other markets and kinds change nothing.

        Raises `SafetyViolation` where the event cannot follow from the mirrored book.
        """
        if isinstance(event, OrderOpened):
            if event.market == self.market:
                self._open(event)
        elif isinstance(event, Fill):
            if event.market == self.market:
                self._fill(event)
        elif isinstance(event, OrderChanged) and event.market == self.market:
            order = self._order(event.order_id, "a change")
            self._shrink(order, order.remaining_lots - event.remaining_lots)

    def best(self, side: int) -> tuple[int, int]:
        """Price in ticks and size in lots of the best level; (0, 0) where the side is empty."""
        levels = self._sides[side]
        if not levels:
            return 0, 0
        key, level = levels.peekitem(0)
        return (-key if side == BUY else key), level.size_lots

    def levels(self, side: int, depth: int) -> list[tuple[int, int, int]]:
        """Best levels, best first: (price_ticks, size_lots, orders)."""
        sign = -1 if side == BUY else 1
        found = self._sides[side]
        return [
            (sign * key, found[key].size_lots, len(found[key].orders))
            for key in found.islice(0, depth)
        ]

    def checksum(self) -> int:
        """Checksum of the best levels, which a `BookView` of the same event number carries too."""
        return depth_checksum(self.levels(BUY, CHECKED_LEVELS), self.levels(SELL, CHECKED_LEVELS))

    def _open(self, event: OrderOpened) -> None:
        if event.order_id in self.orders or event.size_lots <= 0:
            raise SafetyViolation(f"order {event.order_id} opened twice or empty")
        opposite, _ = self.best(SELL if event.side == BUY else BUY)
        crossed = opposite and (
            event.price_ticks >= opposite if event.side == BUY else event.price_ticks <= opposite
        )
        if crossed:
            raise SafetyViolation(
                f"order {event.order_id} rests at {event.price_ticks} across {opposite}"
            )
        order = MirrorOrder(event)
        key = -order.price_ticks if order.side == BUY else order.price_ticks
        level = self._sides[order.side].get(key)
        if level is None:
            level = self._sides[order.side][key] = MirrorLevel()
        level.orders[order.order_id] = order
        level.size_lots += order.remaining_lots
        self.orders[order.order_id] = order

    def _fill(self, event: Fill) -> None:
        order = self._order(event.maker_order, "a fill")
        first = next(iter(self._level(order).orders))
        if first != order.order_id or order.price_ticks != event.price_ticks:
            raise SafetyViolation(f"order {order.order_id} was filled out of its turn")
        self._shrink(order, event.size_lots)

    def _order(self, order_id: int, what: str) -> MirrorOrder:
        order = self.orders.get(order_id)
        if order is None:
            raise SafetyViolation(f"the stream names {what} of order {order_id}, which is not open")
        return order

    def _level(self, order: MirrorOrder) -> MirrorLevel:
        key = -order.price_ticks if order.side == BUY else order.price_ticks
        return self._sides[order.side][key]

    def _shrink(self, order: MirrorOrder, by_lots: int) -> None:
        if not 0 < by_lots <= order.remaining_lots:
            raise SafetyViolation(
                f"order {order.order_id} has {order.remaining_lots} lots and shrinks by {by_lots}"
            )
        level = self._level(order)
        order.remaining_lots -= by_lots
        level.size_lots -= by_lots
        if order.remaining_lots == 0:
            del self.orders[order.order_id], level.orders[order.order_id]
        if not level.orders:
            key = -order.price_ticks if order.side == BUY else order.price_ticks
            del self._sides[order.side][key]


class ProvenBook:
    """A mirror that is compared with what execution shows when asked.

    Give it every block of the stream, from the first event on. It remembers the checksums of the
    last `KEPT_CHECKSUMS` blocks, since an answer is of some block that may be past already.
    """

    def __init__(self, market: int) -> None:
        self.mirror = BookMirror(market)
        self._checksums: OrderedDict[int, int] = OrderedDict()

    def take(self, block: BlockEvents) -> None:
        """Apply a block of the stream; raises `SafetyViolation` as the mirror does."""
        for event in block.events:
            self.mirror.apply(event)
        self._checksums[block.next_seq] = self.mirror.checksum()
        if len(self._checksums) > KEPT_CHECKSUMS:
            self._checksums.popitem(last=False)

    def agrees(self, view: BookView) -> bool:
        """Whether an answer could be compared: its block is among those remembered.

        Raises `SafetyViolation` where the mirror was another book then.
        """
        checksum = self._checksums.get(view.next_seq)
        if view.market != self.mirror.market or checksum is None:
            return False
        if checksum != view.checksum:
            raise SafetyViolation(
                f"before event {view.next_seq} the mirror has another book than execution"
            )
        return True
