"""Fuzz the processes of a whole cluster over their sockets, beside clients that trade on.

    python -m tests.fuzz.process --minutes 10 [--seed 1] [--sequencers 4] [--out REPORT.json]

Exits with 0 where every process lives, memory and descriptors are flat, and the honest client was
served; with 1, and what is wrong, otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster_world import SteadyTrader, running_cluster
from socket_fuzzer import Report, fuzz

from cluster.testnet import TestnetOptions

HONEST = "trader-31"


async def run(seed: int, seconds: float, pause_s: float, sequencers: int) -> Report:
    """Start a cluster and attack it."""
    options = TestnetOptions(free_ports=True, traders=32, faults=False, sequencers=sequencers)
    with tempfile.TemporaryDirectory(prefix="trilemma-fuzz-") as directory:
        async with (
            running_cluster(Path(directory), options) as cluster,
            cluster.exchange() as exchange,
        ):
            await exchange.account_of(exchange.key(HONEST).address, wait_ms=60_000)
            honest = SteadyTrader(exchange, HONEST)
            honest.start()
            warm_s = min(60.0, seconds / 5)
            report = await fuzz(cluster, honest, seed, seconds, warm_s=warm_s, pause_s=pause_s)
            await honest.stop()
            return report


def show(report: Report) -> str:
    """As people read it."""
    lines = [
        f"seed {report.seed}, {report.seconds:.0f} s, {report.sessions} sessions, "
        f"{sum(report.sent.values())} messages sent, {sum(report.answers.values())} answers",
        f"honest client: {report.honest_orders} orders and cancels, every result right, "
        f"{report.honest_reconnects} reconnects",
        "",
        "| answer | count |",
        "| --- | ---: |",
        *[f"| `{name}` | {count} |" for name, count in report.answers.items()],
        "",
        "| process | RSS before, MiB | halfway | after | descriptors before | after |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *[
            f"| {one.name} | {one.before.rss_kib / 1024:.1f} | {one.halfway.rss_kib / 1024:.1f} | "
            f"{one.after.rss_kib / 1024:.1f} | {one.before.descriptors} | {one.after.descriptors} |"
            for one in report.processes
        ],
        "",
        *(f"PROBLEM: {problem}" for problem in report.problems),
        "" if report.problems else "nothing is wrong",
    ]
    return "\n".join(lines)


def main() -> int:
    """Read the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-ms", type=int, default=0, help="between sessions")
    parser.add_argument("--sequencers", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a JSON file for the whole report")
    options = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of writes to closed sockets
    report = asyncio.run(
        run(options.seed, options.minutes * 60, options.pause_ms / 1000, options.sequencers)
    )
    print(show(report))
    if options.out is not None:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
