"""``trilemma load``: run a generator, tell how far it is, describe what it measured."""

from __future__ import annotations

import asyncio
import signal

from client.console import note
from client.load import LoadGenerator, LoadOptions
from client.load_report import LoadReport
from client.sdk import Exchange
from client.submission import STATES

LINE_EVERY_S = 2.0


async def run_load(exchange: Exchange, options: LoadOptions) -> LoadReport:
    """Run a load with a line of progress every few seconds on stderr; Ctrl-C ends it early."""
    loop = asyncio.get_running_loop()
    async with exchange:
        generator = LoadGenerator(exchange, options)

        def end_early() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            note("sending ends, what is under way is waited for; Ctrl-C again ends that, too")
            generator.stop()

        loop.add_signal_handler(signal.SIGINT, end_early)
        running = asyncio.ensure_future(generator.run())
        try:
            while not running.done():
                await asyncio.wait([running], timeout=LINE_EVERY_S)
                counts = generator.counts()
                if not running.done() and counts["submitted"]:
                    note("  ".join(f"{name} {count:,}" for name, count in counts.items()))
            return await running
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            running.cancel()


def describe(report: LoadReport) -> str:
    """The report as a few lines of text."""
    lines = [
        f"{report.actions:,} actions ({report.orders:,} orders, {report.cancels:,} cancels) in "
        f"{report.batches:,} batches over {report.seconds:g} s, {report.fills:,} fills, "
        f"{report.cpu_s:g} s of CPU here",
        f"{'state':<10}{'actions':>12}{'per second':>14}{'p50 ms':>11}{'p99 ms':>11}",
    ]
    for state in STATES:
        count: int = getattr(report, state)
        latency = report.latency_ms[state]
        lines.append(
            f"{state:<10}{count:>12,}{report.tps[state]:>14,.0f}"
            f"{latency.p50:>11.1f}{latency.p99:>11.1f}"
        )
    lines.append(
        f"lost {report.lost}, executed twice {report.duplicated}, refused {report.refused}, "
        f"sent again {report.resent} (busy {report.busy}), reconnects {report.reconnects}"
    )
    if report.errors:
        shown = ", ".join(f"{label} {count:,}" for label, count in report.errors.items())
        lines.append(f"refused actions: {shown}")
    return "\n".join(lines)
