"""The order book alone on a one-symbol workload with a known checksum.

    python bench/book.py [--workload ../shared/bench/workload.py] [--ops 500000] [--json]

The workload generator says which trades a price-time-priority matcher must make; the run fails
(exit status 1) when the book's trades differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from matching import Book, Resting
from protocol.actions import BUY, SELL

M64 = (1 << 64) - 1
MANY = 1 << 30


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


def run(operations: list[Any], book: Book, gate: Trades) -> None:
    """Apply operations of the workload."""
    orders = book.orders
    for kind, order_id, side_text, price, lots in operations:
        if kind == "C":
            book.cancel(orders[order_id])
            continue
        side = BUY if side_text == "B" else SELL
        if book.crosses(side, price):
            gate.taker = order_id
            lots = book.take(side, price, lots, gate, MANY)
        if lots:
            book.add(Resting(0, order_id, 16, 0, side, price, lots))


def main() -> int:
    """Run, compare and print; the exit status says whether the trades are the expected ones."""
    parser = argparse.ArgumentParser()
    default = Path(__file__).resolve().parents[2] / "shared" / "bench" / "workload.py"
    parser.add_argument("--workload", type=Path, default=default)
    parser.add_argument("--ops", type=int, default=500_000)
    parser.add_argument("--prefill", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20240601)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("workload", options.workload)
    if spec is None or spec.loader is None or not options.workload.exists():
        print(f"there is no workload generator at {options.workload}", file=sys.stderr)
        return 2
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operations = list(module.generate(options.ops, options.prefill, options.seed))
    _, expected = operations.pop()

    book, gate = Book(0), Trades()
    run(operations[: options.prefill], book, gate)
    start = time.perf_counter_ns()
    run(operations[options.prefill :], book, gate)
    elapsed = time.perf_counter_ns() - start
    book.check()
    correct = (
        len(gate.trades) == expected["trades"]
        and gate.checksum() == expected["trade_checksum_u64"]
        and len(book.orders) == expected["final_live_orders"]
    )
    figures = {
        "us_per_operation": round(elapsed / options.ops / 1_000, 3),
        "operations_per_s": options.ops * 1_000_000_000 // elapsed,
        "operations": options.ops,
        "trades": len(gate.trades),
        "checksum_matches": correct,
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>18}  {value}")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
