"""What native checks cost a validator, per signed batch of 20 orders and per order.

    python -m bench.native [--orders 200000] [--seed 1] [--json]

The workload of `bench.engine`. Apart: one signature check per batch; following signers, nonces and
prices; the tree of the native leaves, updated once per 20 blocks as a batch of settlement does, and
once more in the ledger. Also the bytes of the leaves that change.
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
    START_MS,
    Flow,
    chain,
    deposits,
)
from execution import Engine
from execution.native import NativeState, price_changes
from protocol.keys import Key, verify
from prover.tree import StateTree

BLOCKS_PER_BATCH = 20
SIGNATURES = 2_000


def signature_us() -> float:
    """One signature check, in microseconds of CPU."""
    key = Key(bytes(32))
    signed = [(number.to_bytes(32, "big")) for number in range(SIGNATURES)]
    signatures = [key.sign(digest) for digest in signed]
    start = time.process_time_ns()
    good = sum(
        verify(key.public, signature, digest)
        for signature, digest in zip(signatures, signed, strict=True)
    )
    elapsed = time.process_time_ns() - start
    if good != SIGNATURES:
        raise SystemExit("a good signature does not verify")
    return elapsed / SIGNATURES / 1_000


def measure(orders: int, seed: int) -> dict[str, float]:
    """Run the workload; microseconds of CPU, and bytes."""
    rules = chain()
    engine, native = Engine(rules, lambda *_: True), NativeState(rules)
    tree = StateTree(native.leaves().items())
    flow = Flow(seed)
    sizes: dict[int, int] = {}
    inbox = deposits(flow.signers)
    result = engine.apply(1, START_MS + 1, b"", inbox, ACCOUNTS, [])
    native.apply(START_MS + 1, inbox, [], price_changes(native.posted(), result.changes))
    followed = tree_ns = batches = changed = size = 0
    gc.set_threshold(50_000, 50, 1_000)
    for number in range(max(BLOCKS_PER_BATCH, orders // (BATCH * BATCHES_PER_BLOCK))):
        height = 2 + number
        time_ms = START_MS + height * BLOCK_MS
        raws = flow.block()
        result = engine.apply(height, time_ms, b"", [], ACCOUNTS, raws)
        flow.follow(result, sizes)
        prices = price_changes(native.posted(), result.changes)
        start = time.process_time_ns()
        judged = native.apply(time_ms, [], raws, prices, lambda *_: True)
        followed += time.process_time_ns() - start
        batches += sum(one.verdict.admitted for one in judged)
        if number % BLOCKS_PER_BATCH == BLOCKS_PER_BATCH - 1:
            changes = native.take_changes()
            start = time.process_time_ns()
            tree.update(changes)
            tree_ns += time.process_time_ns() - start
            changed += len(changes)
            size += sum(len(key) + len(value or b"") for key, value in changes.items())
    if tree.root != StateTree(native.leaves().items()).root:
        raise SystemExit("the changes do not lead to the leaves")
    return {
        "batches": batches,
        "followed_us": followed / batches / 1_000,
        "tree_us": tree_ns / batches / 1_000,
        "leaves_per_batch": changed / batches,
        "bytes_per_batch": size / batches,
    }


def main() -> None:
    """Run the workload and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.orders, options.seed)
    figures["signature_us"] = signature_us()
    us = figures["signature_us"] + figures["followed_us"] + 2 * figures["tree_us"]
    figures["us_per_batch"], figures["us_per_order"] = us, us / BATCH
    figures = {name: round(value, 2) for name, value in figures.items()}
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>18} {value:>12,}")


if __name__ == "__main__":
    main()
