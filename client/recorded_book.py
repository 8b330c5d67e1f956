"""A naive price-time book of the orders that a replay has resting at the exchange.

It knows each order by the client id that the replay gave it. The mapper asks it what to send; a
test drives it against the exchange's own book. Prices are ticks, sizes lots.
"""

from __future__ import annotations

from itertools import islice

from sortedcontainers import SortedDict

from protocol.actions import BUY, SELL


class Resting:
    """A resting order: client id, owner's number in the replay, and what is left of it."""

    __slots__ = ("client_id", "lots", "owner", "price_ticks", "side")

    def __init__(self, client_id: int, owner: int, side: int, price_ticks: int, lots: int) -> None:
        self.client_id = client_id
        self.owner = owner
        self.side = side
        self.price_ticks = price_ticks
        self.lots = lots


class Level:
    """Orders of one price in time priority, and their sum."""

    __slots__ = ("lots", "orders")

    def __init__(self) -> None:
        self.lots = 0
        self.orders: dict[int, Resting] = {}


class RecordedBook:
    """Both sides of the book, and how many orders each owner has resting."""

    def __init__(self) -> None:
        self.orders: dict[int, Resting] = {}
        self.open_orders: dict[int, int] = {}
        self._sides: tuple[SortedDict[int, Level], SortedDict[int, Level]] = (
            SortedDict(),
            SortedDict(),
        )

    def best(self, side: int) -> tuple[int, int]:
        """Price and size of the best level, (0, 0) where there is none."""
        levels = self._sides[side]
        if not levels:
            return 0, 0
        key, level = levels.peekitem(0)
        return (-key if side == BUY else key), level.lots

    def top(self, side: int, depth: int) -> list[tuple[int, int]]:
        """The best levels as (price, size), best first."""
        sign = -1 if side == BUY else 1
        return [(sign * key, level.lots) for key, level in islice(self._sides[side].items(), depth)]

    def prices(self, side: int, worst_ticks: int) -> list[int]:
        """Prices of a side that are at least as good as `worst_ticks`, best first."""
        sign = -1 if side == BUY else 1
        return [sign * key for key in self._sides[side].irange(None, sign * worst_ticks)]

    def all_prices(self, side: int) -> list[int]:
        """All prices of a side, best first."""
        sign = -1 if side == BUY else 1
        return [sign * key for key in self._sides[side]]

    def level(self, side: int, price_ticks: int) -> Level | None:
        """The level at a price, if any."""
        found: Level | None = self._sides[side].get(-price_ticks if side == BUY else price_ticks)
        return found

    def crosses(self, side: int, price_ticks: int) -> bool:
        """Whether an order at this price would meet the other side."""
        best, _ = self.best(SELL if side == BUY else BUY)
        return bool(best) and (price_ticks >= best if side == BUY else price_ticks <= best)

    def add(self, order: Resting) -> None:
        """Rest an order at the end of its level."""
        key = -order.price_ticks if order.side == BUY else order.price_ticks
        level = self._sides[order.side].get(key)
        if level is None:
            level = self._sides[order.side][key] = Level()
        level.orders[order.client_id] = order
        level.lots += order.lots
        self.orders[order.client_id] = order
        self.open_orders[order.owner] = self.open_orders.get(order.owner, 0) + 1

    def shrink(self, order: Resting, lots: int) -> None:
        """Take `lots` from an order, which is gone at zero."""
        key = -order.price_ticks if order.side == BUY else order.price_ticks
        level = self._sides[order.side][key]
        order.lots -= lots
        level.lots -= lots
        if not order.lots:
            del self.orders[order.client_id], level.orders[order.client_id]
            self.open_orders[order.owner] -= 1
            if not level.orders:
                del self._sides[order.side][key]

    def take(self, side: int, lots: int) -> int:
        """Fill `lots` from the best level of `side` in time priority; returns what was filled."""
        filled = 0
        levels = self._sides[side]
        if levels:
            level = levels.peekitem(0)[1]
            while filled < lots and level.orders:
                order = next(iter(level.orders.values()))
                part = min(order.lots, lots - filled)
                self.shrink(order, part)
                filled += part
        return filled
