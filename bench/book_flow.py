"""Operations of the order-book benchmark, and the gate that keeps the trades.

Like the book, it runs interpreted and, in ``bench.book --compare``, compiled.
"""

from __future__ import annotations

from array import array
from typing import Any

from matching.book import Book, Resting
from protocol.actions import BUY, SELL

M64 = (1 << 64) - 1
MANY = 1 << 30
CANCEL = 2
"""In place of a side."""


class Trades:
    """A gate that allows everything and keeps the trades."""

    __slots__ = ("taker", "trades")

    def __init__(self) -> None:
        self.taker = 0
        self.trades: list[tuple[int, int, int, int]] = []

    def allowed_lots(self, maker: Resting, lots: int) -> int:
        """All of it."""
        return lots

    def filled(self, maker: Resting, lots: int) -> None:
        """Keep the trade."""
        self.trades.append((self.taker, maker.order_id, maker.price_ticks, lots))

    def removed(self, maker: Resting, lots: int) -> None:
        """Never happens: everything is allowed."""

    def checksum(self) -> int:
        """The workload's running sum over all trades."""
        check = 0
        for trade in self.trades:
            for value in trade:
                check = (check * 1_000_003 + value) & M64
        return check


class Flow:
    """Operations of the workload, (kind, order id, side, price, lots), as columns of numbers.

    Made anew, one after the other: what is timed must not wait for memory that the generator of
    the workload has scattered.
    """

    __slots__ = ("ids", "lots", "prices", "sides")

    def __init__(self, operations: list[Any]) -> None:
        sides = [CANCEL if op[0] == "C" else BUY if op[2] == "B" else SELL for op in operations]
        self.sides: list[int] = array("q", sides).tolist()
        self.ids: list[int] = array("q", [op[1] for op in operations]).tolist()
        self.prices: list[int] = array("q", [op[3] for op in operations]).tolist()
        self.lots: list[int] = array("q", [op[4] for op in operations]).tolist()


def run(flow: Flow, book: Book, gate: Trades) -> None:
    """Apply a flow: cancels, and orders that take what they meet and rest with what is left."""
    orders = book.orders
    # Without `strict`, mypyc makes no tuples.
    for order_id, side, price, lots in zip(flow.ids, flow.sides, flow.prices, flow.lots):  # noqa: B905
        if side == CANCEL:
            book.cancel(orders[order_id])
            continue
        left = lots
        if book.crosses(side, price):
            gate.taker = order_id
            left = book.take(side, price, lots, gate, MANY)
        if left:
            book.add(Resting(0, order_id, 16, 0, side, price, left))
