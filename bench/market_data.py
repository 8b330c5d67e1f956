"""What market data and order status cost an execution node, per order, in CPU time.

    python -m bench.market_data [--orders 200000] [--seed 1] [--json]

The flow is that of `bench.engine`; the engine itself is not timed. For comparison, in the same run:
encoding the same events for subscribers. Then a snapshot of what is derived, and its restore.
"""

from __future__ import annotations

import argparse
import gc
import json
import time

from bench.engine import (
    ACCOUNTS,
    BATCH,
    BATCHES_PER_BLOCK,
    BLOCK_MS,
    SIGNERS,
    START_MS,
    Flow,
    chain,
)
from execution import Engine
from execution.derived import Derived
from protocol.codec import encode
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit


def main() -> None:
    """Run the workload and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    world = chain()
    engine, flow, derived = Engine(world, lambda *_: True), Flow(options.seed), Derived(world)
    deposits = [
        InboxDeposit(number, FIRST_ACCOUNT + number, address_of(signer), 10**14)
        for number, signer in enumerate(SIGNERS)
    ]
    engine.apply(1, START_MS + 1, b"", deposits, ACCOUNTS, [])
    blocks = max(1, options.orders // (BATCH * BATCHES_PER_BLOCK))
    sizes: dict[int, int] = {}
    taken_ns = encoded_ns = actions = 0
    next_seq = 1
    gc.set_threshold(50_000, 50, 1_000)
    for height in range(2, blocks + 2):
        time_ms = START_MS + height * BLOCK_MS
        result = engine.apply(height, time_ms, b"", [], ACCOUNTS, flow.block())
        start = time.process_time_ns()
        derived.take(height, time_ms, next_seq, result.events, result.executed)
        taken = time.process_time_ns()
        encode(result.events)
        encoded_ns += time.process_time_ns() - taken
        taken_ns += taken - start
        next_seq += len(result.events)
        actions += result.actions
        flow.follow(result, sizes)
    start = time.process_time_ns()
    freezing = derived.freeze()
    frozen = time.process_time_ns()
    parts = list(freezing)
    encoded = time.process_time_ns()
    Derived(world, parts)
    restored = time.process_time_ns()
    figures = {
        "us_per_order": round(taken_ns / actions / 1_000, 3),
        "encoding_us_per_order": round(encoded_ns / actions / 1_000, 3),
        "ratio": round(taken_ns / encoded_ns, 1),
        "orders": actions,
        "fills": derived.market_data.fills,
        "freeze_ms": round((frozen - start) / 1e6, 1),
        "encode_ms": round((encoded - frozen) / 1e6, 1),
        "restore_ms": round((restored - encoded) / 1e6, 1),
        "snapshot_bytes": sum(map(len, parts)),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>22}  {value}")


if __name__ == "__main__":
    main()
