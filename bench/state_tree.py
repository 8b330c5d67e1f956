"""Leaf changes per CPU second of the state tree under an exchange's mix of changes.

A third of each batch updates accounts and their positions, a third enters resting orders near the
top of the book, a third removes orders, most of them young. Run: ``python -m bench.state_tree``.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import time
from collections.abc import Iterator

from prover.tree import StateTree

MARKETS = 20
MID_TICKS = 100_000


class Workload:
    """Batches of changes over a population of account, position and order leaves."""

    def __init__(self, leaves: int, seed: int, active_share: float) -> None:
        self._rng = random.Random(seed)
        self._accounts = max(1, leaves // 5)
        self._positions = max(1, leaves * 3 // 10)
        self._active = max(1, int(self._accounts * active_share))
        self._orders: list[bytes] = []
        self._sequence = 0
        self._order_target = leaves - self._accounts - self._positions

    def population(self) -> Iterator[tuple[bytes, bytes]]:
        """The leaves that stand before the first batch."""
        value = self._rng.randbytes
        for account in range(self._accounts):
            yield _account_key(account), value(48)
        for position in range(self._positions):
            yield self._position_key(position % self._accounts, position), value(40)
        for _ in range(self._order_target):
            yield self._new_order(), value(44)

    def batch(self, changes: int) -> dict[bytes, bytes | None]:
        """One batch: about a third each of updates, inserts and deletes."""
        rng, third = self._rng, changes // 3
        batch: dict[bytes, bytes | None] = {}
        for _ in range(third // 2):
            account = rng.randrange(self._active) * (self._accounts // self._active)
            batch[_account_key(account)] = rng.randbytes(48)
            batch[self._position_key(account, account)] = rng.randbytes(40)
        for _ in range(min(third, len(self._orders) // 2)):
            batch[self._remove_order()] = None
        while len(batch) < changes:
            batch[self._new_order()] = rng.randbytes(44)
        return batch

    def _position_key(self, account: int, position: int) -> bytes:
        market = position // self._accounts % MARKETS
        return b"p" + account.to_bytes(8, "big") + market.to_bytes(2, "big")

    def _new_order(self) -> bytes:
        rng = self._rng
        self._sequence += 1
        distance = 1 + int(rng.expovariate(1 / 200))
        bid = rng.random() < 0.5
        price = 0xFFFFFFFF - (MID_TICKS - distance % MID_TICKS) if bid else MID_TICKS + distance
        key = b"".join(
            (
                b"o",
                rng.randrange(MARKETS).to_bytes(2, "big"),
                b"\x00" if bid else b"\x01",
                price.to_bytes(4, "big"),
                self._sequence.to_bytes(8, "big"),
            )
        )
        self._orders.append(key)
        return key

    def _remove_order(self) -> bytes:
        orders, rng = self._orders, self._rng
        window = min(len(orders), 20_000) if rng.random() < 0.8 else len(orders)
        at = len(orders) - 1 - rng.randrange(window)
        orders[at], orders[-1] = orders[-1], orders[at]
        return orders.pop()


def _account_key(account: int) -> bytes:
    return b"a" + account.to_bytes(8, "big")


def main() -> None:
    """Build the tree, apply the batches, print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10_000, help="changes per batch")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--active", type=float, default=0.1, help="share of accounts that trade")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    workload = Workload(args.leaves, args.seed, args.active)
    population = list(workload.population())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    tree = StateTree(population)
    build_s = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    del population
    gc.collect()
    times = []
    for _ in range(args.batches):
        batch = workload.batch(args.batch)
        started = time.process_time()
        tree.update(batch)
        times.append(time.process_time() - started)
    result = {
        "leaves": len(tree),
        "batch": args.batch,
        "batches": args.batches,
        "build_leaves_per_s": round(args.leaves / build_s),
        "changes_per_s": round(args.batch * args.batches / sum(times)),
        "best_batch_changes_per_s": round(args.batch / min(times)),
        "tree_bytes_per_leaf": round(memory * 1024 / args.leaves),
        "root": tree.root.hex(),
    }
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:26} {value}")


if __name__ == "__main__":
    main()
