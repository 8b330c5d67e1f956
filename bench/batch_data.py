"""Size and cost of batch data: column by column, beside plain MessagePack and general compressors.

    python -m bench.batch_data [--actions 40000] [--recordings ../shared/data/l3] [--json]

Flows: the load generator's in batches of 1, 20 and 100 actions per signature, and a recorded day
(LOBSTER's GOOG of 21 June 2012, skipped where it is not there) in batches of up to 50. Times are
CPU time, the best of three. Zstandard is measured where the package `zstandard` is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import lzma
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench.batch_data_flow import RECORDINGS, Log, batches_of, load_log, recorded_log
from protocol.actions import MarketOrder, Order, decode_actions, decode_signed
from protocol.batch_data import COLUMNS, pack_blocks, unpack_blocks
from protocol.batch_data_columns import COMPRESSION_LEVEL, PLAIN_WIDTHS, column_bytes, split_parts
from protocol.codec import encode
from protocol.ordering import decode_blocks

RUNS = 3
MOST_BATCHES = 20_000
"""Signatures of so many still fit what the ledger takes at once."""

COLUMN_NAMES = (
    "flags of blocks", "inbox heights", "batches in a block", "epochs", "views", "heights",
    "parents' views", "block times", "proposers", "application heights", "skipped members",
    "actions in a batch", "signers", "accounts", "nonces", "batches' expiries",
    "templates", "quotes in a ladder", "sizes", "prices", "placed ids", "named ids",
    "times", "oracle prices",
)  # fmt: skip
PLAIN_NAMES = ("hashes", "public keys", "signatures")

T = TypeVar("T")
Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def flows(actions: int, recordings: Path) -> dict[str, Log]:
    """The flows by name."""
    found = {
        f"load, batches of {size}": load_log(min(MOST_BATCHES, -(-actions // size)), size)
        for size in (1, 20, 100)
    }
    if recordings.is_dir():
        found["recorded, batches of up to 50"] = recorded_log(recordings, actions)
    else:
        print(f"there is no recorded order flow at {recordings}: skipped", file=sys.stderr)
    return found


def codecs() -> dict[str, Codec]:
    """General compressors: compress and decompress."""
    found: dict[str, Codec] = {
        f"zlib {level}": (partial(zlib.compress, level=level), zlib.decompress)
        for level in (1, COMPRESSION_LEVEL)
    }
    found["lzma 6"] = (partial(lzma.compress, preset=6), lzma.decompress)
    if importlib.util.find_spec("zstandard") is None:
        print("zstandard is not installed: not measured", file=sys.stderr)
        return found
    zstandard: Any = importlib.import_module("zstandard")
    for level in (3, 12):
        compressor = zstandard.ZstdCompressor(level=level)
        found[f"zstd {level}"] = (compressor.compress, zstandard.ZstdDecompressor().decompress)
    return found


def timed(function: Callable[[], T]) -> tuple[T, int]:
    """What it returns, and the nanoseconds of CPU time that it took at best."""
    best = 0
    for _ in range(RUNS):
        start = time.process_time_ns()
        function()
        elapsed = time.process_time_ns() - start
        best = min(best, elapsed) if best else elapsed
    return function(), best


def measure(log: Log) -> dict[str, Any]:
    """Sizes and times of one flow, by way of encoding; and the columns of batch data."""
    blocks = log.blocks
    batches = [decode_actions(decode_signed(raw).payload) for raw in batches_of(blocks)]
    orders = sum(isinstance(one, Order | MarketOrder) for each in batches for one in each.actions)
    ways: dict[str, Any] = {}

    def note(name: str, pack: Callable[[], bytes], unpack: Callable[[bytes], Any]) -> bytes:
        data, packing = timed(pack)
        back, unpacking = timed(lambda: unpack(data))
        if back != blocks:
            sys.exit(f"{name} does not give back the blocks")
        rest = len(data) - PLAIN_WIDTHS[-1] * log.signatures
        ways[name] = {
            "bytes_per_action": round(len(data) / log.actions, 2),
            "besides_signatures_per_action": round(rest / log.actions, 2),
            "besides_signatures_per_order": round(rest / orders, 2),
            "packing_us_per_action": round(packing / log.actions / 1_000, 2),
            "unpacking_us_per_action": round(unpacking / log.actions / 1_000, 2),
        }
        return data

    note("MessagePack", lambda: encode(blocks), decode_blocks)
    for name, (compress, decompress) in codecs().items():
        note(
            f"MessagePack, {name}",
            partial(lambda compress: compress(encode(blocks)), compress),
            partial(lambda decompress, data: decode_blocks(decompress(data)), decompress),
        )
    data = note("batch data", lambda: pack_blocks(blocks), unpack_blocks)
    return {
        "blocks": len(blocks),
        "batches": log.signatures,
        "actions": log.actions,
        "orders": orders,
        "ways": ways,
        "columns": columns(data, log.actions),
    }


def columns(data: bytes, actions: int) -> dict[str, float]:
    """Bytes per action of each column, compressed by itself, and of what is not compressed."""
    parts = split_parts(data, COLUMNS)
    sizes = {
        name: len(zlib.compress(column_bytes(column), COMPRESSION_LEVEL)) if column else 0
        for name, column in zip(COLUMN_NAMES, parts.columns, strict=True)
    }
    sizes["raw bytes"] = len(zlib.compress(b"".join(parts.raw), COMPRESSION_LEVEL))
    for name, items in zip(PLAIN_NAMES, parts.plain, strict=True):
        sizes[name] = sum(map(len, items))
    return {name: round(size / actions, 3) for name, size in sizes.items()}


def show(name: str, figures: dict[str, Any]) -> None:
    """A table of the ways, and the larger columns."""
    counts = ", ".join(f"{figures[one]:,} {one}" for one in ("actions", "orders", "batches"))
    print(f"{name}: {counts}, {figures['blocks']:,} blocks")
    print(f"  {'':24}  bytes/action  besides signatures: /action  /order   us: pack  unpack")
    for way, one in figures["ways"].items():
        per_action, rest, per_order, packing, unpacking = one.values()
        print(
            f"  {way:24}  {per_action:12.2f}  {rest:27.2f}  {per_order:6.2f}"
            f"  {packing:9.2f}  {unpacking:6.2f}"
        )
    larger = sorted(figures["columns"].items(), key=lambda item: -item[1])
    print("  of these: " + ", ".join(f"{one} {size}" for one, size in larger if size >= 0.005))


def main() -> None:
    """Measure all flows and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, default=40_000)
    parser.add_argument("--recordings", type=Path, default=RECORDINGS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name, log in flows(options.actions, options.recordings).items():
        found[name] = measure(log)
        if not options.json:
            show(name, found[name])
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
