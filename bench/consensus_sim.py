"""Consensus of 4 to 100 members in simulation: committed bytes per second and commit latency.

    python -m bench.consensus_sim [--sizes 4,10,25,50,100] [--nets lan,continental,world]
                                  [--crashes none,start,load] [--payload 500000] [--json]

Virtual time, the unchanged replica, a load that never ends. What operations cost is charged (see
`bench.consensus_model`), so figures hang on the seed and not on the machine. A batch counts when
its commit is durable at every live member; latency runs from the proposal until it is durable at a
quorum, and at the last live member. *From the pool*, to the last: a member's next batch enters its
pool when its last was proposed, so it includes the wait for its turn.

`start`: f members never run. `load`: f members die at once in a running cluster; the window is
what follows, latency and rate included. `--leaders round-robin` puts leaders in turn in the place
of leader reputation, for comparison.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import msgspec

from bench.consensus_model import Batch, Cluster, Costs, Setting
from consensus.reputation import Reputation
from protocol.chain import QC, Header
from sim.kernel import US_PER_MS, US_PER_S

STARTED_HEIGHT = 20
"""The window opens when all live members have committed this: start-up is behind."""

LONGEST_START_US = 120 * US_PER_S


class BenchFailed(Exception):
    """The cluster did not come up, or committed nothing in the window."""


class RoundRobin(Reputation):
    """Leaders in turn, whoever is dead."""

    def after(
        self, parent: Header, parent_id: bytes, uncommitted: Sequence[tuple[Header, QC]] = ()
    ) -> int:
        return self._members.leader(parent.view + 1)


class Plan(msgspec.Struct, frozen=True):
    """How long windows are (virtual time), and who leads."""

    blocks: int = 300
    seconds: float = 60.0
    leaders: str = "reputation"


class Run(msgspec.Struct, frozen=True):
    """One run. Latencies in ms; `window_s` is virtual, `wall_s` what the run took here."""

    size: int
    net: str
    crashes: str
    leaders: str
    payload_bytes: int
    seed: int
    window_s: float
    blocks: int
    payload_bytes_per_s: int
    blocks_per_s: float
    quorum_ms: dict[str, float]
    all_ms: dict[str, float]
    pool_ms: dict[str, float]
    views: int
    views_failed: int
    last_failure_s: float
    longest_gap_ms: float
    cpu_us_per_block: int
    wall_s: float


def measure(setting: Setting, crashes: str, plan: Plan) -> Run:
    """One run; raises `BenchFailed`."""
    began = time.monotonic()
    with _leaders(plan.leaders):
        cluster = Cluster(setting)
        kernel, meter = cluster.kernel, cluster.meter
        victims = cluster.choose_victims(cluster.faulty_allowed)
        cluster.boot(victims if crashes == "start" else ())
        cluster.run_until(STARTED_HEIGHT, LONGEST_START_US)
        if cluster.height() < STARTED_HEIGHT:
            raise BenchFailed("the cluster did not come up")
        if crashes == "load":
            for name in victims:
                cluster.nodes[name].crash()
        from_us, from_view, from_cpu = kernel.now_us, cluster.view(), meter.cpu_us
        from_height = cluster.height()
        limit_us = from_us + int(plan.seconds * US_PER_S)
        cluster.run_until(from_height + plan.blocks, limit_us)
    until_us, live = kernel.now_us, cluster.live()
    done = meter.finished(live, from_us, until_us)
    if not done:
        raise BenchFailed("nothing was committed in the window")
    failed = [at_us for at_us in meter.failed_us.values() if at_us > from_us]
    window_s = (until_us - from_us) / US_PER_S
    return Run(
        size=setting.size,
        net=setting.net,
        crashes=crashes,
        leaders=plan.leaders,
        payload_bytes=setting.payload_bytes,
        seed=setting.seed,
        window_s=round(window_s, 3),
        blocks=len(done),
        payload_bytes_per_s=round(len(done) * setting.payload_bytes / window_s),
        blocks_per_s=round(len(done) / window_s, 2),
        quorum_ms=_percentiles(_until_quorum(done, setting.size)),
        all_ms=_percentiles([_last(batch, live) - batch.proposed_us for batch in done]),
        pool_ms=_percentiles(_from_pool(done, live)),
        views=cluster.view() - from_view,
        views_failed=len(failed),
        last_failure_s=round((max(failed) - from_us) / US_PER_S, 3) if failed else 0.0,
        longest_gap_ms=round(_longest_gap(done, live, from_us) / US_PER_MS, 1),
        cpu_us_per_block=(meter.cpu_us - from_cpu) // len(done),
        wall_s=round(time.monotonic() - began, 1),
    )


def _leaders(kind: str) -> AbstractContextManager[object]:
    if kind == "reputation":
        return nullcontext()
    return patch("consensus.commits.Reputation", RoundRobin)


def _until_quorum(batches: Sequence[Batch], size: int) -> list[int]:
    """Microseconds from the proposal until a quorum of all members has the commit on disk."""
    quorum = 2 * size // 3 + 1
    return [sorted(one.commits_us.values())[quorum - 1] - one.proposed_us for one in batches]


def _from_pool(batches: Sequence[Batch], live: Sequence[str]) -> list[int]:
    return [_last(one, live) - one.pool_us for one in batches if one.pool_us is not None]


def _last(batch: Batch, live: Sequence[str]) -> int:
    return max(batch.commits_us[name] for name in live)


def _longest_gap(batches: Sequence[Batch], live: Sequence[str], from_us: int) -> int:
    """Longest time in the window in which nothing became final everywhere."""
    moments = [from_us, *sorted(_last(batch, live) for batch in batches)]
    return max(after - before for before, after in pairwise(moments))


def _percentiles(values_us: Sequence[int]) -> dict[str, float]:
    """Percentiles in milliseconds; empty for no values."""
    if not values_us:
        return {}
    ordered = sorted(values_us)
    last = len(ordered) - 1
    picked = {"p50": ordered[last // 2], "p99": ordered[last * 99 // 100], "max": ordered[last]}
    return {name: round(value / US_PER_MS, 1) for name, value in picked.items()}


def show(run: Run) -> str:
    """One run as a line."""
    quorum, everywhere, pool = run.quorum_ms, run.all_ms, run.pool_ms
    crashed = {"none": "0", "start": "f", "load": "f under load"}[run.crashes]
    return (
        f"n {run.size:>3}  {run.net:<11}  crashed {crashed:<12}  "
        f"{run.payload_bytes_per_s / 1e6:>7.2f} MB/s  {run.blocks_per_s:>7.2f} blocks/s  "
        f"quorum p50 {quorum['p50']:.1f} p99 {quorum['p99']:.1f} ms  "
        f"all p50 {everywhere['p50']:.1f} p99 {everywhere['p99']:.1f} ms  "
        f"from pool p50 {pool.get('p50', 0.0):.0f} p99 {pool.get('p99', 0.0):.0f} ms  "
        f"failed {run.views_failed}/{run.views} views, last after {run.last_failure_s:.1f} s, "
        f"longest gap {run.longest_gap_ms:.0f} ms  "
        f"({run.blocks} blocks in {run.window_s:.1f} s, {run.wall_s:.1f} s here)"
    )


def _parser() -> argparse.ArgumentParser:
    costs = Costs()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="4,10,25,50,100", help="members, commas between")
    parser.add_argument("--nets", default="lan,continental,world")
    parser.add_argument("--crashes", default="none,start,load")
    parser.add_argument("--payload", type=int, default=500_000, help="bytes in a block")
    parser.add_argument("--gbit", type=float, default=10.0, help="what a member can send")
    parser.add_argument("--timeout-ms", type=int, default=1_000)
    parser.add_argument("--verify-us", type=int, default=costs.verify_us)
    parser.add_argument("--message-percent", type=int, default=100, help="CPU for messages")
    parser.add_argument("--byte-percent", type=int, default=100, help="CPU for payload bytes")
    parser.add_argument("--leaders", choices=["reputation", "round-robin"], default="reputation")
    parser.add_argument("--blocks", type=int, default=300, help="longest window")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest window, virtual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser


def settings(options: argparse.Namespace) -> list[tuple[Setting, str]]:
    """The runs that the command line asks for; raises `ValueError`."""
    usual = Costs()
    costs = replace(
        usual,
        verify_us=options.verify_us,
        step_us=usual.step_us * options.message_percent // 100,
        send_us=usual.send_us * options.message_percent // 100,
        take_ns_per_kb=usual.take_ns_per_kb * options.byte_percent // 100,
        send_ns_per_kb=usual.send_ns_per_kb * options.byte_percent // 100,
    )
    sizes = [int(one) for one in options.sizes.split(",")]
    nets, crashes = options.nets.split(","), options.crashes.split(",")
    if min(sizes) < 4 or options.payload < 1 or options.gbit <= 0:
        raise ValueError("members must be 4 or more, payload and bandwidth above zero")
    if not {"lan", "continental", "world"}.issuperset(nets):
        raise ValueError("nets are lan, continental, world")
    if not {"none", "start", "load"}.issuperset(crashes):
        raise ValueError("crashes are none, start, load")
    rate = int(options.gbit * 125_000_000)
    return [
        (Setting(size, net, options.payload, options.seed, options.timeout_ms, rate, costs), kind)
        for net in nets
        for kind in crashes
        for size in sizes
    ]


def main() -> int:
    """Read the command line and measure; lines for people go to stderr where JSON is asked for."""
    options = _parser().parse_args()
    plan = Plan(options.blocks, options.seconds, options.leaders)
    runs: list[Run] = []
    try:
        for setting, crashes in settings(options):
            runs.append(measure(setting, crashes, plan))
            print(show(runs[-1]), file=sys.stderr if options.json else sys.stdout, flush=True)
    except (BenchFailed, ValueError) as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    if options.json:
        report = {
            "benchmark": "consensus_sim",
            "python": platform.python_version(),
            "wall_s": round(sum(run.wall_s for run in runs), 1),
            "runs": runs,
        }
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
