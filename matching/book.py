"""A central limit order book with price-time priority (one market).

Prices are ticks and sizes lots. Inside, levels are ordered by *rank*: the price of an ask, the
negated price of a bid, so that the best level of either side has the lowest rank. Orders of one
level stand in order of arrival, which is the order of their ids.

The file runs interpreted and compiled (mypyc) with the same results. `i64` marks what is a machine
word when compiled: prices, sizes and order ids, which the protocol keeps far below 2**63.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from mypy_extensions import i64, mypyc_attr
from sortedcontainers import SortedList

from protocol.actions import BUY
from protocol.errors import SafetyViolation

SPARE_PLACES = 16
"""A level's queue is packed once more than half of it, and this many more, are empty places."""


# Orders refer to nothing: compiled, the garbage collector need not visit them.
@mypyc_attr(acyclic=True)
class Resting:
    """A resting order. `remaining_lots` is 0 once it left the book.

    Matching keeps `flags` and `expires_ms` (see `protocol.actions.Order`) and does not read them.
    """

    __slots__ = (
        "account", "client_id", "expires_ms", "flags", "link", "market", "order_id", "place",
        "price_ticks", "remaining_lots", "side", "stored",
    )  # fmt: skip

    def __init__(
        self,
        market: int,
        order_id: int,
        account: int,
        client_id: int,
        side: int,
        price_ticks: int,
        remaining_lots: int,
        flags: int = 0,
        expires_ms: int = 0,
        link: int = 0,
    ) -> None:
        self.market = market
        self.order_id = order_id
        self.account = account
        self.client_id = client_id
        self.side = side
        self.price_ticks = price_ticks
        self.remaining_lots = remaining_lots
        self.flags = flags
        self.expires_ms = expires_ms
        self.link = link
        """Order id of the other order of a one-cancels-other pair; 0: none."""
        self.stored = False
        """Whether the state as the previous block left it holds the order."""
        self.place = 0
        """Where the order stands in the queue of its level."""


class Level:
    """Orders of one price: how many, the sum of their lots, and the queue, oldest first.

    An order that leaves puts None at its place; all places before `head` are empty.
    """

    __slots__ = ("count", "head", "lots", "price_ticks", "queue", "rank")

    def __init__(self, rank: i64, price_ticks: i64) -> None:
        self.rank: i64 = rank
        self.price_ticks: i64 = price_ticks
        self.lots: i64 = 0
        self.count: i64 = 0
        self.head: i64 = 0
        self.queue: list[Resting | None] = []

    def orders(self) -> list[Resting]:
        """The orders, oldest first."""
        return [order for order in self.queue if order is not None]

    def pack(self) -> None:
        """Drop the empty places of the queue."""
        queue: list[Resting | None] = []
        for order in self.queue:
            if order is not None:
                order.place = len(queue)
                queue.append(order)
        self.queue = queue
        self.head = 0


class Side:
    """Levels of one side by rank, their ranks in order, and the level that trades first."""

    __slots__ = ("best", "levels", "ranks")

    def __init__(self) -> None:
        self.levels: dict[int, Level] = {}
        self.ranks: SortedList[int] = SortedList()
        self.best: Level | None = None

    def open(self, rank: i64, price_ticks: i64) -> Level:
        """A new level, still without orders."""
        level = self.levels[rank] = Level(rank, price_ticks)
        self.ranks.add(rank)
        best = self.best
        if best is None or rank < best.rank:
            self.best = level
        return level

    def close(self, level: Level) -> None:
        """Drop a level that has no orders left."""
        del self.levels[level.rank]
        if self.best is level:
            self.ranks.pop(0)
            self.best = self.levels[self.ranks[0]] if self.levels else None
        else:
            self.ranks.remove(level.rank)

    def in_order(self) -> Iterator[Level]:
        """Levels, best first."""
        for rank in self.ranks:
            yield self.levels[rank]


# Not native: interpreted classes may derive from it, or just have its methods.
@mypyc_attr(native_class=False)
class Gate(Protocol):
    """What matching asks before a fill and tells after it. Money lives behind this interface.

    `filled` and `removed` may cancel and reduce any resting order, the maker's rest included;
    `allowed_lots` may not touch the maker.
    """

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        """How many of `lots` may trade against `maker` now: 1..`lots`; 0: the maker may not
        trade, and the book removes it; negative: the taker may not go on."""

    def filled(self, maker: Resting, lots: int) -> None:
        """`lots` traded at the maker's price; the maker's `remaining_lots` is already smaller."""

    def removed(self, maker: Resting, lots: int) -> None:
        """The maker, refused by `allowed_lots`, left the book with `lots` unfilled."""


# Interpreted code may derive from it, as tests do.
@mypyc_attr(allow_interpreted_subclasses=True)
class Book:
    """Resting orders of one market."""

    __slots__ = ("asks", "bids", "market", "orders", "sides")

    def __init__(self, market: int) -> None:
        self.market = market
        self.orders: dict[int, Resting] = {}
        self.bids = Side()
        self.asks = Side()
        self.sides = (self.bids, self.asks)

    def crosses(self, side: i64, price_ticks: i64) -> bool:
        """Whether an order of `side` at this limit would meet the best order opposite."""
        if side == BUY:
            best = self.asks.best
            return best is not None and best.price_ticks <= price_ticks
        best = self.bids.best
        return best is not None and best.price_ticks >= price_ticks

    def best_ticks(self, side: i64) -> int:
        """Price of the best level of a side; 0 where the side is empty."""
        best = self.bids.best if side == BUY else self.asks.best
        return 0 if best is None else best.price_ticks

    def add(self, order: Resting) -> None:
        """Rest an order that does not cross, behind all others of its price."""
        price: i64 = order.price_ticks
        if order.side == BUY:
            half = self.bids
            rank = -price
        else:
            half = self.asks
            rank = price
        level = half.levels.get(rank)
        if level is None:
            level = half.open(rank, price)
        place: i64 = len(level.queue)
        if place > 2 * level.count + SPARE_PLACES:
            level.pack()
            place = level.count
        order.place = place
        level.queue.append(order)
        level.count += 1
        level.lots += order.remaining_lots
        self.orders[order.order_id] = order

    def cancel(self, order: Resting) -> int:
        """Take a resting order out; returns the lots it still had."""
        if self.orders.pop(order.order_id, None) is not order:
            raise self._not_here(order)
        price: i64 = order.price_ticks
        if order.side == BUY:
            half = self.bids
            level = half.levels[-price]
        else:
            half = self.asks
            level = half.levels[price]
        lots: i64 = order.remaining_lots
        order.remaining_lots = 0
        level.lots -= lots
        level.queue[order.place] = None
        level.count -= 1
        if level.count == 0:
            half.close(level)
        return lots

    def reduce(self, order: Resting, by_lots: i64) -> None:
        """Make a resting order smaller, keeping its place; `by_lots` is below what remains."""
        if not 0 < by_lots < order.remaining_lots:
            raise SafetyViolation(f"order {order.order_id} cannot shrink by {by_lots} lots")
        if self.orders.get(order.order_id) is not order:
            raise self._not_here(order)
        price: i64 = order.price_ticks
        level = self.bids.levels[-price] if order.side == BUY else self.asks.levels[price]
        order.remaining_lots -= by_lots
        level.lots -= by_lots

    def take(self, side: i64, limit_ticks: i64, lots: i64, gate: Gate, max_steps: i64) -> int:
        """Match `lots` of an incoming order of `side` up to its limit; returns the lots left.

        Stops at the limit, after `max_steps` fills and removals, or when the gate says so.
        """
        if side == BUY:
            half = self.asks
            limit_rank = limit_ticks
        else:
            half = self.bids
            limit_rank = -limit_ticks
        steps: i64 = 0
        while lots > 0 and steps < max_steps:
            # The gate may change the book: everything is read anew in each step.
            level = half.best
            if level is None or level.rank > limit_rank:
                break
            head = level.head
            maker = level.queue[head]
            if maker is None:
                level.head = head + 1
                continue
            remaining: i64 = maker.remaining_lots
            wanted = lots if lots < remaining else remaining
            fill: i64 = gate.allowed_lots(maker, wanted)
            if fill < 0:
                break
            steps += 1
            if fill == 0:
                gate.removed(maker, self.cancel(maker))
                continue
            if fill > wanted or maker.remaining_lots != remaining:
                raise SafetyViolation(f"a fill of {fill} lots where {wanted} were offered")
            lots -= fill
            maker.remaining_lots = remaining - fill
            level.lots -= fill
            if fill == remaining:
                del self.orders[maker.order_id]
                level.queue[head] = None
                level.head = head + 1
                level.count -= 1
                if level.count == 0:
                    half.close(level)
            gate.filled(maker, fill)
        return lots

    def impact_ticks(self, side: i64, notional: int) -> int:
        """Average price at which `notional` (price_ticks x lots) could be taken from a side.

        It walks whole levels and the fraction of the last that is needed, weighted by size, and
        rounds against the taker: bids down, asks up. 0 where the side is not deep enough.
        """
        if notional <= 0:
            raise SafetyViolation(f"an impact notional of {notional} is not positive")
        half = self.bids if side == BUY else self.asks
        left = notional
        lots = 0
        for level in half.in_order():
            price: int = level.price_ticks
            level_lots: int = level.lots
            if price * level_lots < left:
                left -= price * level_lots
                lots += level_lots
                continue
            # notional / (lots + left / price), with one division
            dividend, divisor = notional * price, lots * price + left
            return dividend // divisor if side == BUY else -(-dividend // divisor)
        return 0

    def depth(self, side: int, count: int) -> list[tuple[int, int, int]]:
        """The best `count` levels of a side, best first: (price_ticks, lots, orders)."""
        return [
            (level.price_ticks, level.lots, level.count)
            for level in islice(self.sides[side].in_order(), count)
        ]

    def walk(self, side: int) -> Iterator[Resting]:
        """Orders of a side in priority. The book must not change meanwhile."""
        for level in self.sides[side].in_order():
            queue = level.queue
            for place in range(level.head, len(queue)):
                order = queue[place]
                if order is not None:
                    yield order

    def first(self, side: int) -> Resting:
        """The order of a side that trades first; there is one."""
        for order in self.walk(side):
            return order
        raise SafetyViolation(f"no order rests on side {side} of market {self.market}")

    def _not_here(self, order: Resting) -> SafetyViolation:
        return SafetyViolation(f"order {order.order_id} is not in the book of market {self.market}")

    def check(self) -> None:
        """Raise `SafetyViolation` unless every invariant of the book holds."""
        seen = 0
        for side, half in enumerate(self.sides):
            _require(list(half.ranks) == sorted(half.levels), "ranks are not those of the levels")
            first = half.levels[half.ranks[0]] if half.levels else None
            _require(half.best is first, "the best level is not the first one")
            for rank, level in half.levels.items():
                _require(rank == level.rank, "a level stands at a foreign rank")
                _require(level.price_ticks == (-rank if side == BUY else rank), "price is not rank")
                seen += self._check_level(side, level)
        _require(seen == len(self.orders), "orders by id that stand at no level")
        bid, ask = self.bids.best, self.asks.best
        if bid is not None and ask is not None:
            _require(bid.price_ticks < ask.price_ticks, "the book is crossed")

    def _check_level(self, side: int, level: Level) -> int:
        orders = level.orders()
        _require(bool(orders), "an empty level")
        _require(len(orders) == level.count, "a level's count is not that of its orders")
        ids: list[int] = [order.order_id for order in orders]
        _require(ids == sorted(ids), "a level is not in order of arrival")
        lots = 0
        for order in orders:
            _require(self.orders.get(order.order_id) is order, "an order missing by id")
            _require(level.queue[order.place] is order, "an order at a foreign place")
            _require(order.place >= level.head, "an order that the queue has passed")
            _require(order.side == side, "an order on the wrong side")
            _require(order.market == self.market, "an order of another market")
            _require(order.price_ticks == level.price_ticks, "an order off its level")
            _require(order.remaining_lots > 0, "an order with nothing left")
            lots += order.remaining_lots
        _require(lots == level.lots, "a level's lots are not the sum of its orders")
        return len(orders)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise SafetyViolation(f"order book: {text}")
