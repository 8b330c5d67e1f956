"""How long one order takes in the engine, in a block of its own: the tail, collector tamed.

    python -m bench.latency [--orders 20000] [--seed 1] [--json]

64 accounts with positions and resting orders in 3 markets (the flow of `bench.engine`). Each timed
block holds one signed batch of one order, so that a figure is everything a block costs: marks,
liquidation phase, matching, margin, events and the leaves that changed. What start-up made is
frozen and full collections are rare, as in the execution process. Signatures count as valid. CPU
time stands beside the clock's: what other processes take shows in the latter alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

from bench.engine import ACCOUNTS, BLOCK_MS, SIGNERS, START_MS, Flow, chain
from execution import Engine
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit

WARM_BLOCKS = 60


def main() -> None:
    """Run and print the percentiles in microseconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    engine, flow = Engine(chain(), lambda *_: True), Flow(options.seed)
    sizes: dict[int, int] = {}
    deposits = [
        InboxDeposit(number, FIRST_ACCOUNT + number, address_of(signer), 10**14)
        for number, signer in enumerate(SIGNERS)
    ]
    height = 1
    engine.apply(height, START_MS + 1, b"", deposits, ACCOUNTS, [])
    for _ in range(WARM_BLOCKS):
        height += 1
        result = engine.apply(height, START_MS + height * BLOCK_MS, b"", [], ACCOUNTS, flow.block())
        flow.follow(result, sizes)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    wall: list[int] = []
    cpu: list[int] = []
    for _ in range(options.orders):
        height += 1
        owner = flow.rng.randrange(ACCOUNTS)
        raw = flow.sign(SIGNERS[owner], FIRST_ACCOUNT + owner, [flow.action(owner)])
        start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
        result = engine.apply(height, START_MS + height * BLOCK_MS, b"", [], ACCOUNTS, [raw])
        cpu.append(time.process_time_ns() - cpu_start)
        wall.append(time.perf_counter_ns() - start)
        flow.follow(result, sizes)
    figures = {"clock": percentiles(wall), "cpu": percentiles(cpu)}
    if options.json:
        print(json.dumps(figures))
        return
    for clock, values in figures.items():
        print(clock, "  ".join(f"{name} {value} us" for name, value in values.items()))


def percentiles(taken_ns: list[int]) -> dict[str, float]:
    """Percentiles in microseconds."""
    taken_ns.sort()
    last = len(taken_ns) - 1
    shares = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
    return {name: round(taken_ns[int(share * last)] / 1_000, 1) for name, share in shares}


if __name__ == "__main__":
    main()
