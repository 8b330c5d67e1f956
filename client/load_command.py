"""``trilemma load``: run a generator, tell how far it is, describe what it measured."""

from __future__ import annotations

import asyncio
import signal

from client.console import note
from client.load import LoadGenerator, LoadOptions
from client.load_report import UNANSWERED, LoadReport
from client.sdk import Exchange
from client.submission import STATES

LINE_EVERY_S = 2.0
STUCK_S = 10.0
"""So long nothing comes back before that is told."""

SEE = "see: trilemma status"


class Progress:
    """What to tell of a load while it runs: its counts as they change, and once that nothing comes
    back. Settlement may take `window_s` longer."""

    def __init__(self, window_s: float = 0.0) -> None:
        self._window_s = window_s
        self._shown: dict[str, int] = {}
        self._back: list[int] = []
        self._since_s = 0.0
        self._told = False

    def line(self, counts: dict[str, int], now_s: float) -> str:
        """What to tell of `counts` at a monotonic time; empty where it is told already."""
        back = [counts[name] for name in (*STATES, "fills")]
        if back != self._back:
            self._back, self._since_s, self._told = back, now_s, False
        stuck_s = now_s - self._since_s
        if stuck_s >= STUCK_S + (0.0 if counts["under_way"] else self._window_s):
            if self._told:
                return ""
            self._told = True
            return f"no progress for {stuck_s:.0f} s; {SEE}"
        if counts == self._shown:
            return ""
        self._shown = counts
        return "  ".join(f"{name} {count:,}" for name, count in counts.items())


async def run_load(exchange: Exchange, options: LoadOptions) -> LoadReport:
    """Run a load with a line of progress every few seconds on stderr; Ctrl-C ends it early.

    Raises as `LoadGenerator.run`.
    """
    loop = asyncio.get_running_loop()
    async with exchange:
        generator = LoadGenerator(exchange, options)

        def end_early() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            note("sending ends, what is under way is waited for; Ctrl-C again ends that, too")
            generator.stop()

        loop.add_signal_handler(signal.SIGINT, end_early)
        running = asyncio.ensure_future(generator.run())
        progress = Progress(exchange.chain.genesis.settlement.window_ms / 1000)
        try:
            while not running.done():
                await asyncio.wait([running], timeout=LINE_EVERY_S)
                counts = generator.counts()
                if running.done() or not counts["submitted"]:
                    continue
                if line := progress.line(counts, loop.time()):
                    note(line)
            report = await running
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            running.cancel()
        if unfinished := report.lost + report.refusals.get(UNANSWERED, 0):
            note(f"{unfinished:,} batches have no result; {SEE}")
        if generator.left_resting:
            note(f"orders of this load may still rest ({generator.left_resting}); {SEE}")
        return report


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
        f"batches lost {report.lost:,}, executed twice {report.duplicated:,}, "
        f"refused {report.refused:,}, sent again {report.resent:,} (busy {report.busy:,}); "
        f"reconnects {report.reconnects:,}"
    )
    for what, counted in (
        ("batches refused", report.refusals),
        ("actions rejected at execution", report.errors),
    ):
        if counted:
            shown = ", ".join(f"{label} {count:,}" for label, count in counted.items())
            lines.append(f"{what}: {shown}")
    return "\n".join(lines)
