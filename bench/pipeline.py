"""The whole pipeline on this machine: what it takes at saturation, and latencies at half of it.

    python -m bench.pipeline [--batches 1,20,100] [--seconds 15] [--json]

For each batch size: a fresh testnet of 4 validators, 1 sequencer, 1 execution node and 1 prover as
processes, a closed loop for saturation, then an open loop at half that rate for latency. CPU time
by process tells where it goes. Everything is settled before the figures count.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from client.audit_command import audit
from client.load import LoadGenerator, LoadOptions
from client.load_report import LoadReport
from client.sdk import Exchange
from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from node.audit import AuditReport

WINDOW_ACTIONS = 6_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Run(msgspec.Struct, frozen=True):
    """One batch size: saturation, half load, and CPU microseconds per action by process.

    Actions are orders and cancels; `orders_per_s` are executed orders alone.
    """

    batch: int
    saturation_tps: dict[str, float]
    orders_per_s: float
    half_rate: int
    half_latency_ms: dict[str, dict[str, float]]
    cpu_us_per_action: dict[str, float]
    data_bytes_per_action: float
    lost: int
    duplicated: int
    audit: AuditReport


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def measure(batch: int, seconds: float, seed: int) -> Run:
    """Measure one batch size on a testnet of its own."""
    with tempfile.TemporaryDirectory(prefix="trilemma-bench-") as folder:
        testnet = create_testnet(Path(folder) / "testnet", TestnetOptions(free_ports=True))
        async with Supervisor(testnet, report=lambda _: None) as supervisor:
            await supervisor.wait_ready()
            names = [entry.name for entry in testnet.processes]
            async with Exchange.connect(testnet.directory) as exchange:
                before = {name: cpu_seconds(supervisor.pid(name) or 0) for name in names}
                full = await load(exchange, batch, seconds, seed, rate=0)
                after = {name: cpu_seconds(supervisor.pid(name) or 0) for name in names}
                audited = await audit(exchange)
            half_rate = int(full.tps["executed"] / 2)
            async with Exchange.connect(testnet.directory) as exchange:
                half = await load(exchange, batch, seconds, seed + 1, rate=half_rate)
    spent = {name: after[name] - before[name] for name in names}
    spent["load generator"] = full.cpu_s
    executed = max(1, full.executed)
    return Run(
        batch,
        full.tps,
        round(full.tps["executed"] * full.orders / max(1, full.actions), 1),
        half_rate,
        {state: {"p50": one.p50, "p99": one.p99} for state, one in half.latency_ms.items()},
        {name: round(cpu_s * 1e6 / executed, 2) for name, cpu_s in spent.items()},
        round(audited.data_bytes / executed, 1),
        full.lost + half.lost,
        full.duplicated + half.duplicated,
        audited,
    )


async def load(exchange: Exchange, batch: int, seconds: float, seed: int, rate: int) -> LoadReport:
    """A run of load; everything executed is settled when it returns."""
    window = max(64, WINDOW_ACTIONS // batch)
    options = LoadOptions(
        rate=rate, batch=batch, seconds=seconds, seed=seed, window=min(window, 1_500),
        accounts=32, clean_up=False,
    )  # fmt: skip
    return await LoadGenerator(exchange, options).run()


def show(run: Run) -> None:
    """A paragraph about a run."""
    print(f"batches of {run.batch}")
    print(
        "  saturation, actions/s: ",
        ", ".join(f"{k} {v:,.0f}" for k, v in run.saturation_tps.items()),
    )
    print(
        f"  at {run.half_rate:,}/s, ms: ",
        ", ".join(
            f"{state} p50 {one['p50']:.1f} p99 {one['p99']:.1f}"
            for state, one in run.half_latency_ms.items()
        ),
    )
    print("  CPU us per action: ", ", ".join(f"{k} {v}" for k, v in run.cpu_us_per_action.items()))
    print(f"  base-layer data: {run.data_bytes_per_action} bytes per action")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", default="1,20,100", help="batch sizes, with commas between")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = []
    for batch in [int(one) for one in options.batches.split(",")]:
        print(f"measuring batches of {batch}", file=sys.stderr, flush=True)
        runs.append(uvloop.run(measure(batch, options.seconds, options.seed)))
        if not options.json:
            show(runs[-1])
    if options.json:
        print(msgspec.json.encode(runs).decode())


if __name__ == "__main__":
    main()
