"""Leaf changes per CPU second of the state tree, under a mix of changes like the engine's.

    python -m bench.state_tree [--leaves 1000000] [--batch 10000] [--compare] [--json]

Keys and values are those of `execution.leaves`. Of the changes of a batch, six tenths place and
remove orders, most of the latter young ones; the rest updates orders, accounts, positions and
nonces, and opens and closes positions and triggers. The tree runs compiled where `make compile` did
its work; --compare compiles it anew and runs it compiled and interpreted, with 100,000 and with
--leaves leaves.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from execution import leaves as lv
from protocol.actions import BUY
from protocol.codec import encode
from protocol.events import Result
from prover import tree_update
from prover.tree import StateTree

ROOT = Path(__file__).resolve().parents[1]
MODULES = "protocol.tree_node,protocol.tree_walk,prover.tree_update"
MARKETS = 20
MID_TICKS = 100_000
ACTIONS_PER_NONCE = 20

START = """\
import sys
sys.path[:0] = [{root!r}, {deploy!r}]
if {folder!r}:
    import compiled_finder
    compiled_finder.install({folder!r})
from bench.state_tree import main
main()
"""

DISTANCES_TICKS = [1 + int(-200 * math.log(1 - step / 4096)) for step in range(4096)]
"""From the mid price: exponentially distributed, 200 ticks on average."""


class Workload:
    """Batches of changes over a population of leaves, by the engine's kinds.

    Of the population two tenths each are accounts and nonces, three are positions, the rest are
    orders. What a number stands for is a function of it, so that the lists hold numbers alone.
    """

    def __init__(self, leaves: int, seed: int, active_share: float) -> None:
        self._rng = random.Random(seed)
        self._accounts = leaves // 5
        self._signers = max(1, leaves // 5 // 100)
        self._positions = leaves * 3 // 10
        self._active = max(1, int(self._accounts * active_share))
        self._first_orders = leaves - self._accounts - self._positions - 100 * self._signers
        self._orders: list[int] = []
        self._sequence = 0
        self._opened: list[int] = []
        self._triggers: list[int] = []

    def population(self) -> Iterator[tuple[bytes, bytes]]:
        """The leaves that stand before the first batch."""
        for account in range(self._accounts):
            yield self._account(account)
        for number in range(self._positions):
            yield self._position(number % self._accounts, number // self._accounts)
        for signer in range(self._signers):
            for slot in range(100):
                yield self._nonce(signer, slot)
        for _ in range(self._first_orders):
            yield self._order(self._new(self._orders))

    def batch(self, changes: int) -> dict[bytes, bytes | None]:
        """One batch of changes."""
        rng = self._rng
        batch: dict[bytes, bytes | None] = {}
        while len(batch) < changes:
            kind = rng.randrange(100)
            account = rng.randrange(self._active) * (self._accounts // self._active)
            if kind < 30:
                key, batch[key] = self._order(self._new(self._orders))
            elif kind < 60:
                batch[self._order(self._remove(self._orders))[0]] = None
            elif kind < 66:
                key, batch[key] = self._order(rng.choice(self._orders))
            elif kind < 79:
                key, batch[key] = self._account(account)
            elif kind < 89:
                key, batch[key] = self._position(account, 0)
            elif kind < 94:
                signer = rng.randrange(self._signers)
                key, batch[key] = self._nonce(signer, rng.randrange(100))
            elif kind < 96 or not self._opened or not self._triggers:
                key, batch[key] = self._position(self._new(self._opened), 7)
                key, batch[key] = self._trigger(self._new(self._triggers))
            elif kind < 98:
                batch[self._position(self._remove(self._opened), 7)[0]] = None
                batch[self._trigger(self._remove(self._triggers))[0]] = None
            else:
                key, batch[key] = self._market(rng.randrange(MARKETS))
        return batch

    def _new(self, numbers: list[int]) -> int:
        self._sequence += 1
        numbers.append(self._sequence)
        return self._sequence

    def _remove(self, numbers: list[int]) -> int:
        rng = self._rng
        window = min(len(numbers), 20_000) if rng.random() < 0.8 else len(numbers)
        at = len(numbers) - 1 - rng.randrange(window)
        numbers[at], numbers[-1] = numbers[-1], numbers[at]
        return numbers.pop()

    def _account(self, account: int) -> tuple[bytes, bytes]:
        cash_uusd = self._rng.randrange(1 << 36)
        address = account.to_bytes(20, "big")
        return lv.account_key(account), encode(lv.AccountLeaf(address, cash_uusd))

    def _position(self, account: int, market: int) -> tuple[bytes, bytes]:
        lots, cost_uusd = self._rng.randrange(1 << 20), self._rng.randrange(1 << 40)
        return lv.position_key(account, market), encode(lv.PositionLeaf(lots, cost_uusd, 1 << 30))

    def _nonce(self, signer: int, slot: int) -> tuple[bytes, bytes]:
        identity = self._rng.randbytes(32)
        results = [Result(0, 1, self._sequence + at) for at in range(ACTIONS_PER_NONCE)]
        leaf = lv.NonceLeaf(1 << 40, identity, signer, results)
        return lv.nonce_key(random.Random(signer).randbytes(32), slot), encode(leaf)

    def _order(self, number: int) -> tuple[bytes, bytes]:
        scattered = number * 0x9E3779B97F4A7C15 >> 20 & 0xFFFFFFFF
        market, side = scattered % MARKETS, scattered >> 8 & 1
        distance_ticks = DISTANCES_TICKS[scattered >> 16 & 4095]
        price_ticks = MID_TICKS + (-distance_ticks if side == BUY else distance_ticks)
        lots = self._rng.randrange(1, 1 << 16)
        leaf = lv.OrderLeaf(number % max(1, self._accounts), lots, number, 0, 0, 0)
        return lv.order_key(market, side, price_ticks, number), encode(leaf)

    def _trigger(self, number: int) -> tuple[bytes, bytes]:
        leaf = lv.TriggerLeaf(
            number, number, 0, 1, MID_TICKS, 0, 10_000, 100, 0, 0, 0, 0, 0, 0, False
        )
        return lv.trigger_key(number % MARKETS, number), encode(leaf)

    def _market(self, market: int) -> tuple[bytes, bytes]:
        mark_ticks = MID_TICKS + self._rng.randrange(1_000)
        leaf = lv.MarketLeaf(mark_ticks, mark_ticks, mark_ticks, 1 << 30, 0, False)
        return lv.market_key(market), encode(leaf)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Build a tree batch by batch, apply the batches, and time them."""
    workload = Workload(options.leaves, options.seed, options.active)
    population = workload.population()
    tree = StateTree()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    build_s = 0.0
    while changes := dict[bytes, bytes | None](islice(population, options.batch)):
        started = time.process_time()
        tree.update(changes)
        build_s += time.process_time() - started
    del changes
    gc.collect()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    times = []
    for _ in range(options.batches):
        batch = workload.batch(options.batch)
        started = time.process_time()
        tree.update(batch)
        times.append((time.process_time() - started) / len(batch))
    return {
        "tree": "interpreted" if str(tree_update.__file__).endswith(".py") else "compiled",
        "leaves": len(tree),
        "changes_per_s": round(1 / statistics.median(times)),
        "best_changes_per_s": round(1 / min(times)),
        "build_leaves_per_s": round(options.leaves / build_s),
        "bytes_per_leaf": round(memory * 1024 / options.leaves),
        "root": tree.root.hex()[:16],
    }


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both kinds with both sizes, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "deploy" / "compile.py"), "--into", folder]
        command += ["--modules", MODULES]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            sys.exit("there is nothing to compare with")
        for leaves in sorted({100_000, options.leaves}):
            found += [in_process(options, leaves, where) for where in ("", folder)]
    return found


def in_process(options: argparse.Namespace, leaves: int, folder: str) -> dict[str, Any]:
    """The figures of a run with the compiled modules of `folder`, or with none."""
    code = START.format(root=str(ROOT), deploy=str(ROOT / "deploy"), folder=folder)
    command = [sys.executable, "-c", code, "--json", "--leaves", str(leaves)]
    for name in ("batch", "batches", "active", "seed"):
        command += [f"--{name}", str(getattr(options, name))]
    # What is installed is not what is compared: only `folder` counts.
    environment = os.environ | {"TRILEMMA_COMPILE": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure or compare, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10_000, help="changes per batch")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--active", type=float, default=0.1, help="share of accounts that trade")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="compiled with interpreted")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = compare(options) if options.compare else [measure(options)]
    if options.json:
        print(json.dumps(found if options.compare else found[0]))
        return
    for figures in found:
        print("  ".join(f"{name} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
