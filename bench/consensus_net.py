"""Four consensus members as processes over loopback: committed transactions and their latency.

    python -m bench.consensus_net [--batches 100,1000] [--rate 0] [--seconds 5] [--json]

Each member is a `Replica` behind a `PeerMesh` over TLS with a segment log that is synced before
anything is sent. Transactions are distinct and have 250 bytes; a batch is what one block carries,
transactions of the member that leads, who made them. At saturation (rate 0) a member's next batch
enters its pool the moment its last one is proposed, so that latency includes the wait for its turn.
Otherwise each member gets a quarter of `--rate` per second.

Latency is that of a member's own transactions until the round in which they commit there is on
disk. Afterwards the logs of all four are compared and every committed transaction is checked to be
there once.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from bench.consensus_load import TRANSACTION_BYTES, decode_batch
from bench.consensus_member import BlockRecord, CommitRecord, Figures, Plan, decode_record
from protocol.keys import Key
from store.segments import SegmentLog

MEMBERS = 4


class BenchFailed(Exception):
    """A member failed, or the logs are not what they must be."""


class Run(msgspec.Struct, frozen=True):
    """One run: rates per second over all members, latencies in ms (worst member's percentiles)."""

    batch: int
    rate: int
    sync: str
    seconds: float
    transactions_per_s: int
    commits_per_s: float
    entered_ms: dict[str, float]
    proposed_ms: dict[str, float]
    cpu_us_per_commit: float
    cpu_us_per_transaction: float
    cores_used: float
    sent_megabytes_per_s: float
    sync_ms: float
    views_failed: int
    refused: int
    load_average: float
    members: list[Figures]


def measure(plan: Plan) -> Run:
    """One run on fresh logs; raises `BenchFailed`."""
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="trilemma-bench-") as folder:
        figures = _run_members(plan, Path(folder))
        _check_logs(Path(folder))
    seconds = plan.seconds
    transactions = sum(one.transactions for one in figures) / MEMBERS
    blocks = sum(one.blocks for one in figures) / MEMBERS
    cpu_s = sum(one.user_s + one.system_s for one in figures)
    return Run(
        batch=plan.batch,
        rate=plan.rate * MEMBERS,
        sync=plan.sync,
        seconds=seconds,
        transactions_per_s=round(transactions / seconds),
        commits_per_s=round(blocks / seconds, 1),
        entered_ms=_worst([one.entered_ms for one in figures]),
        proposed_ms=_worst([one.proposed_ms for one in figures]),
        cpu_us_per_commit=round(cpu_s * 1e6 / max(1, blocks)),
        cpu_us_per_transaction=round(cpu_s * 1e6 / max(1, transactions), 2),
        cores_used=round(cpu_s / seconds, 2),
        sent_megabytes_per_s=round(sum(one.sent_bytes for one in figures) / seconds / 1e6, 1),
        sync_ms=max(one.sync_ms for one in figures),
        views_failed=max(one.counters.get("views_failed", 0) for one in figures),
        refused=sum(one.refused for one in figures),
        load_average=round(load_average, 2),
        members=figures,
    )


def _worst(percentiles: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: max(one.get(name, 0.0) for one in percentiles)
        for name in ("p50", "p90", "p99", "max")
    }


def _run_members(plan: Plan, folder: Path) -> list[Figures]:
    """Start the members, give them one moment to begin at, and gather their figures."""
    ports, seeds = _free_ports(MEMBERS), [Key.generate().seed().hex() for _ in range(MEMBERS)]
    processes: list[subprocess.Popen[str]] = []
    try:
        for index in range(MEMBERS):
            own = msgspec.structs.replace(
                plan, index=index, ports=ports, seeds=seeds, directory=str(folder / f"m{index}")
            )
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.consensus_member"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            _tell(process, msgspec.json.encode(own).decode())
        for process in processes:
            if _hear(process) != "ready":
                raise BenchFailed("a member did not start")
        start_ns = time.monotonic_ns() + 200_000_000
        for process in processes:
            _tell(process, str(start_ns))
        lines = [_hear(process) for process in processes]
        return [msgspec.json.decode(line, type=Figures) for line in lines]
    except (OSError, msgspec.DecodeError) as error:
        raise BenchFailed(f"a member ended early: {error}") from error
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    return "" if process.stdout is None else process.stdout.readline().strip()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _check_logs(folder: Path) -> None:
    """Raise `BenchFailed` unless all members committed one chain and each transaction once."""
    chains = [_chain(folder / f"m{index}", whole=index == 0) for index in range(MEMBERS)]
    shortest = min(map(len, chains))
    if shortest == 0:
        raise BenchFailed("a member committed nothing")
    for chain in chains[1:]:
        if chain[:shortest] != chains[0][:shortest]:
            raise BenchFailed("two members committed different blocks")


def _chain(directory: Path, *, whole: bool) -> list[bytes]:
    """Ids of a member's committed blocks, read back from its log; with `whole` the transactions
    are checked too."""
    chain: list[bytes] = []
    blocks: dict[bytes, BlockRecord] = {}
    seen: set[bytes] = set()
    counted = 0
    log = SegmentLog(directory)
    for _, raw in log.iterate(log.first_index):
        record = decode_record(raw)
        if isinstance(record, BlockRecord):
            blocks[record.block.header.block_id()] = record
        elif isinstance(record, CommitRecord):
            block = blocks.pop(record.block_id).block
            if block.header.parent_id != (chain[-1] if chain else block.header.parent_id):
                raise BenchFailed("a committed block does not extend the one before")
            chain.append(record.block_id)
            if whole and block.payload:
                for one in decode_batch(block.payload).transactions:
                    counted += 1
                    seen.add(sha256(one).digest()[:16])
                    if len(one) != TRANSACTION_BYTES:
                        raise BenchFailed("a transaction of another size")
    log.close()
    if whole and counted != len(seen):
        raise BenchFailed("a transaction was committed twice")
    return chain


def show(run: Run) -> None:
    """One run as a line."""
    load = f"{run.rate:,}/s" if run.rate else "saturated"
    entered, proposed = run.entered_ms, run.proposed_ms
    print(
        f"batch {run.batch:>5}  {load:>10}  {run.transactions_per_s:>8,} tx/s  "
        f"{run.commits_per_s:>6,.0f} commits/s  from pool p50 {entered['p50']:.1f} "
        f"p99 {entered['p99']:.1f} ms  from proposal p50 {proposed['p50']:.1f} "
        f"p99 {proposed['p99']:.1f} ms  CPU {run.cpu_us_per_commit:,.0f} us/commit "
        f"{run.cpu_us_per_transaction:.1f} us/tx  {run.cores_used:.2f} cores  "
        f"{run.sent_megabytes_per_s:.0f} MB/s  sync {run.sync_ms:.2f} ms  "
        f"failed views {run.views_failed}  load {run.load_average}",
        flush=True,
    )


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", default="100,1000", help="batch sizes, with commas between")
    parser.add_argument("--rate", type=int, default=0, help="transactions per second; 0 saturates")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before the window")
    parser.add_argument("--runs", type=int, default=1, help="runs of each batch size")
    parser.add_argument("--sync", choices=["thread", "inline", "none"], default="thread")
    parser.add_argument("--block-interval-ms", type=int, default=1)
    parser.add_argument("--empty-interval-ms", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs: list[Run] = []
    try:
        for batch in [int(one) for one in options.batches.split(",")] * options.runs:
            plan = Plan(
                0, [], [], "", batch, options.rate // MEMBERS, options.warm, options.seconds,
                options.block_interval_ms, options.empty_interval_ms, options.sync,
            )  # fmt: skip
            runs.append(measure(plan))
            if not options.json:
                show(runs[-1])
    except BenchFailed as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    if options.json:
        report = {
            "benchmark": "consensus_net",
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "runs": runs,
        }
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
