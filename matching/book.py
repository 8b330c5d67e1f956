"""A central limit order book with price-time priority (one market).

Prices are ticks and sizes lots. Inside, levels are ordered by *rank*: the price of an ask, the
negated price of a bid, so that the best level of either side has the lowest rank. Orders of one
level stand in order of arrival, which is the order of their ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from sortedcontainers import SortedDict

from protocol.actions import BUY
from protocol.errors import SafetyViolation


class Resting:
    """A resting order. `remaining_lots` is 0 once it left the book."""

    __slots__ = (
        "account", "client_id", "market", "order_id", "price_ticks", "remaining_lots", "side",
        "stored",
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
    ) -> None:
        self.market = market
        self.order_id = order_id
        self.account = account
        self.client_id = client_id
        self.side = side
        self.price_ticks = price_ticks
        self.remaining_lots = remaining_lots
        self.stored = False
        """Whether the state as the previous block left it holds the order."""


class Level:
    """Orders of one price, oldest first, and the sum of their lots."""

    __slots__ = ("lots", "orders", "price_ticks", "rank")

    def __init__(self, rank: int, price_ticks: int) -> None:
        self.rank = rank
        self.price_ticks = price_ticks
        self.lots = 0
        # A linked dict: a plain one would walk over removed entries to find its first.
        self.orders: OrderedDict[int, Resting] = OrderedDict()


class Side:
    """Levels of one side by rank; `best` is the one that trades first."""

    __slots__ = ("best", "levels")

    def __init__(self) -> None:
        self.levels: SortedDict[int, Level] = SortedDict()
        self.best: Level | None = None


class Gate(Protocol):
    """What matching asks before a fill and tells after it. Money lives behind this interface."""

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        """How many of `lots` may trade against `maker` now: 1..`lots`; 0: the maker may not
        trade, and the book removes it; negative: the taker may not go on."""

    def filled(self, maker: Resting, lots: int) -> None:
        """`lots` traded at the maker's price; the maker's `remaining_lots` is already smaller."""

    def removed(self, maker: Resting, lots: int) -> None:
        """The maker, refused by `allowed_lots`, left the book with `lots` unfilled."""


class Book:
    """Resting orders of one market."""

    __slots__ = ("asks", "bids", "market", "orders", "sides")

    def __init__(self, market: int) -> None:
        self.market = market
        self.orders: dict[int, Resting] = {}
        self.bids = Side()
        self.asks = Side()
        self.sides = (self.bids, self.asks)

    def crosses(self, side: int, price_ticks: int) -> bool:
        """Whether an order of `side` at this limit would meet the best order opposite."""
        if side == BUY:
            best = self.asks.best
            return best is not None and best.rank <= price_ticks
        best = self.bids.best
        return best is not None and best.rank <= -price_ticks

    def add(self, order: Resting) -> None:
        """Rest an order that does not cross, behind all others of its price."""
        price = order.price_ticks
        order_id = order.order_id
        if order.side == BUY:
            half = self.bids
            rank = -price
        else:
            half = self.asks
            rank = price
        level = half.levels.get(rank)
        if level is None:
            level = half.levels[rank] = Level(rank, price)
            best = half.best
            if best is None or rank < best.rank:
                half.best = level
        level.orders[order_id] = order
        level.lots += order.remaining_lots
        self.orders[order_id] = order

    def cancel(self, order: Resting) -> int:
        """Take a resting order out; returns the lots it still had."""
        lots = order.remaining_lots
        order_id = order.order_id
        if self.orders.pop(order_id, None) is not order:
            raise SafetyViolation(f"order {order_id} is not in the book of market {self.market}")
        if order.side == BUY:
            half = self.bids
            level = half.levels[-order.price_ticks]
        else:
            half = self.asks
            level = half.levels[order.price_ticks]
        del level.orders[order_id]
        if level.orders:
            level.lots -= lots
        else:
            self._drop(half, level)
        order.remaining_lots = 0
        return lots

    def reduce(self, order: Resting, by_lots: int) -> None:
        """Make a resting order smaller, keeping its place; `by_lots` is below what remains."""
        if not 0 < by_lots < order.remaining_lots:
            raise SafetyViolation(f"order {order.order_id} cannot shrink by {by_lots} lots")
        rank = -order.price_ticks if order.side == BUY else order.price_ticks
        order.remaining_lots -= by_lots
        self.sides[order.side].levels[rank].lots -= by_lots

    def take(self, side: int, limit_ticks: int, lots: int, gate: Gate, max_steps: int) -> int:
        """Match `lots` of an incoming order of `side` up to its limit; returns the lots left.

        Stops at the limit, after `max_steps` fills and removals, or when the gate says so.
        """
        half = self.asks if side == BUY else self.bids
        limit_rank = limit_ticks if side == BUY else -limit_ticks
        steps = 0
        while lots and steps < max_steps:
            level = half.best
            if level is None or level.rank > limit_rank:
                break
            maker = next(iter(level.orders.values()))
            remaining = maker.remaining_lots
            wanted = lots if lots < remaining else remaining
            fill = gate.allowed_lots(maker, wanted)
            if fill < 0:
                break
            steps += 1
            if fill == 0:
                gate.removed(maker, self.cancel(maker))
                continue
            if fill > wanted:
                raise SafetyViolation(f"a fill of {fill} lots where {wanted} were offered")
            lots -= fill
            maker.remaining_lots = remaining - fill
            level.lots -= fill
            if fill == remaining:
                order_id = maker.order_id
                del level.orders[order_id]
                del self.orders[order_id]
                if not level.orders:
                    self._drop(half, level)
            gate.filled(maker, fill)
        return lots

    def depth(self, side: int, count: int) -> list[tuple[int, int, int]]:
        """The best `count` levels of a side, best first: (price_ticks, lots, orders)."""
        levels = self.sides[side].levels
        return [
            (level.price_ticks, level.lots, len(level.orders))
            for level in (levels[rank] for rank in levels.islice(0, count))
        ]

    def walk(self, side: int) -> Iterator[Resting]:
        """Orders of a side in priority."""
        for level in self.sides[side].levels.values():
            yield from level.orders.values()

    def _drop(self, half: Side, level: Level) -> None:
        del half.levels[level.rank]
        if half.best is level:
            half.best = half.levels.peekitem(0)[1] if half.levels else None

    def check(self) -> None:
        """Raise `SafetyViolation` unless every invariant of the book holds."""
        seen = 0
        for side, half in enumerate(self.sides):
            first = half.levels.peekitem(0)[1] if half.levels else None
            _require(half.best is first, "the best level is not the first one")
            for rank, level in half.levels.items():
                _require(rank == level.rank, "a level stands at a foreign rank")
                _require(level.price_ticks == (-rank if side == BUY else rank), "price is not rank")
                _require(bool(level.orders), "an empty level")
                ids = list(level.orders)
                _require(ids == sorted(ids), "a level is not in order of arrival")
                lots = 0
                for order_id, order in level.orders.items():
                    _require(order.order_id == order_id, "an order under a foreign id")
                    _require(self.orders.get(order_id) is order, "an order missing by id")
                    _require(order.side == side, "an order on the wrong side")
                    _require(order.market == self.market, "an order of another market")
                    _require(order.price_ticks == level.price_ticks, "an order off its level")
                    _require(order.remaining_lots > 0, "an order with nothing left")
                    lots += order.remaining_lots
                _require(lots == level.lots, "a level's lots are not the sum of its orders")
                seen += len(ids)
        _require(seen == len(self.orders), "orders by id that stand at no level")
        bid, ask = self.bids.best, self.asks.best
        if bid is not None and ask is not None:
            _require(bid.price_ticks < ask.price_ticks, "the book is crossed")


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise SafetyViolation(f"order book: {text}")
