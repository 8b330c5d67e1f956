"""How long one order takes in the engine: the tail.

    python -m bench.latency [--accounts 10000] [--orders 20000] [--seed 1] [--gc process] [--json]

All accounts have positions and resting orders in 3 markets (the flow of `bench.engine`, with prices
around one level). Timed are blocks of a single order, everything that a block costs included
(phases, events, changed leaves; every tenth one brings prices), and single orders inside blocks of
1,000 (checks, margin, matching and events). Signatures count as valid. CPU time stands beside the
clock's: what other processes take shows in the latter alone.

`--gc`: what the collector may do. `process`: as in the execution process, what start-up made is
frozen and full collections are rare; `between`: it is off while a block runs, and collects the
youngest objects after it; `default`: Python's own settings.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from typing import Any

from bench.engine import (
    BATCHES_PER_BLOCK,
    BLOCK_MS,
    MARKETS,
    MID_TICKS,
    START_MS,
    Flow,
    chain,
    deposits,
)
from execution import BlockResult, Engine
from matching import COMPILED

MODES = ("process", "between", "default")


FIRST_ACTIONS = 10
"""Actions of each account before anything is timed."""


class Tethered(Flow):
    """Prices go up and down around one level, so that the book stands around the mark."""

    def oracle(self) -> bytes:
        """New prices of all markets."""
        self.mids = [MID_TICKS + self.rng.randint(-3, 3) for _ in range(MARKETS)]
        return super().oracle()


class Runner:
    """An engine, a flow, and the collector between them."""

    def __init__(self, accounts: int, seed: int, mode: str) -> None:
        self.engine = Engine(chain(), lambda *_: True)
        self.flow = Tethered(seed, accounts)
        self.sizes: dict[int, int] = {}
        self.accounts = accounts
        self.between = False
        self.height = 1
        self.engine.apply(1, START_MS + 1, b"", deposits(self.flow.signers), accounts, [])
        for first in range(0, accounts, BATCHES_PER_BLOCK):
            owners = range(first, min(first + BATCHES_PER_BLOCK, accounts))
            self.block([self.flow.batch(FIRST_ACTIONS, owner) for owner in owners])
        if mode != "default":
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 50, 1_000)
        self.between = mode == "between"

    def block(self, raws: list[bytes]) -> tuple[int, int]:
        """Execute a block; nanoseconds of the clock and of CPU time that it took."""
        self.height += 1
        time_ms = START_MS + self.height * BLOCK_MS
        if self.between:
            gc.disable()
        start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
        result = self.engine.apply(self.height, time_ms, b"", [], self.accounts, raws)
        cpu, wall = time.process_time_ns() - cpu_start, time.perf_counter_ns() - start
        if self.between:
            gc.enable()
            gc.collect(0)
        self.follow(result)
        return wall, cpu

    def follow(self, result: BlockResult) -> None:
        """Let the flow know what happened."""
        self.flow.follow(result, self.sizes)

    def alone(self, orders: int) -> dict[str, list[int]]:
        """Blocks of one order; new prices in every tenth one."""
        wall, cpu = [], []
        for number in range(orders):
            raws = [self.flow.batch(1)]
            if number % 10 == 0:
                raws.insert(0, self.flow.oracle())
            one, other = self.block(raws)
            wall.append(one)
            cpu.append(other)
        return {"block of one order": wall, "block of one order, CPU": cpu}

    def inside(self, orders: int) -> dict[str, list[int]]:
        """Single orders inside blocks of 1,000."""
        taken: list[int] = []

        def timed(handler: Callable[..., Any]) -> Callable[..., Any]:
            def run(account: Any, action: Any) -> Any:
                start = time.perf_counter_ns()
                result = handler(account, action)
                taken.append(time.perf_counter_ns() - start)
                return result

            return run

        handlers = self.engine._batches._owner_actions
        for kind, handler in list(handlers.items()):
            handlers[kind] = timed(handler)
        blocks: list[int] = []
        while len(taken) < orders:
            raws = [self.flow.oracle(), *(self.flow.batch() for _ in range(BATCHES_PER_BLOCK))]
            blocks.append(self.block(raws)[0])
        return {"order in a block of 1,000": taken, "block of 1,000 orders": blocks}


def percentiles(taken_ns: list[int]) -> dict[str, float]:
    """Percentiles in microseconds."""
    taken_ns.sort()
    last = len(taken_ns) - 1
    shares = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
    return {name: round(taken_ns[int(share * last)] / 1_000, 1) for name, share in shares}


def main() -> None:
    """Run and print the percentiles in microseconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gc", choices=MODES, default="process")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runner = Runner(options.accounts, options.seed, options.gc)
    taken = runner.alone(options.orders) | runner.inside(5 * options.orders)
    figures = {name: percentiles(values) for name, values in taken.items()}
    if options.json:
        print(json.dumps(figures | {"compiled": COMPILED}))
        return
    print("compiled" if COMPILED else "interpreted", f"{len(runner.flow.place)} orders rest")
    for name, values in figures.items():
        print(f"{name:>26}", "  ".join(f"{share} {us} us" for share, us in values.items()))


if __name__ == "__main__":
    main()
