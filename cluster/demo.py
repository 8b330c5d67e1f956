"""`trilemma demo`: a whole exchange for half a minute, measured, settled and audited."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.audit_command import audit
from client.cli_proof import write_result
from client.console import every_few_seconds, note
from client.faults import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from client.load import LoadGenerator, LoadOptions
from client.load_report import LoadReport
from client.sdk import Exchange
from client.submission import STATES
from cluster.demo_scene import Scene, play, summary
from cluster.supervisor import Supervisor
from cluster.testnet import TestnetOptions, create_testnet
from node.audit import AuditReport
from protocol.errors import ConfigError
from protocol.messages import Status, StatusRequest
from store.config import Role
from store.files import ensure_directory

REPORT_PATH = Path(".trilemma/demo/report.json")
LINE_EVERY_S = 4.0
WATCH_EVERY_S = 0.5
STORES: dict[str, Role] = {
    "base_layer_per_validator": "node",
    "ordered_log": "sequencer",
    "execution": "execution",
    "prover": "prover",
}


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A demo run: seconds of flow at `rate` actions a second in batches of `batch`."""

    seconds: float = 20.0
    rate: int = 4_000
    batch: int = 10
    accounts: int = 24
    seed: int = 1
    report: Path = REPORT_PATH


class Growth(msgspec.Struct, frozen=True):
    """How a store grew: bytes in all, per executed action, and per second of flow."""

    bytes: int
    per_order: float
    per_second: float


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo measured; latencies are from submission, percentiles over batches.

    `finality_ms` is submission to final: settled, and the window of `window_ms` has passed.
    """

    orders: int
    cancels: int
    fills: int
    executed: int
    settled: int
    final: int
    window_ms: int
    tps: dict[str, float]
    latency_ms: dict[str, dict[str, float]]
    finality_ms: dict[str, float]
    state_growth: dict[str, Growth]
    batches_settled: int
    data_bytes_per_order: float
    roots_agree: bool
    money_conserved: bool
    lost: int
    duplicated: int
    errors: dict[str, int]
    scene: Scene
    audit: AuditReport
    duration_s: float
    seed: int

    @property
    def passed(self) -> bool:
        """Whether everything executed is final and the audit agrees."""
        complete = 0 < self.executed == self.final and self.lost == self.duplicated == 0
        return complete and self.roots_agree and self.money_conserved


def run_demo(options: DemoOptions) -> int:
    """Run the demo; returns the exit status (0 only when everything is final and agrees).

    SIGINT, SIGTERM and SIGHUP stop every process and remove the testnet; the status is then 130.
    Raises `ConfigError` where the report cannot be written, before anything starts.
    """
    try:
        ensure_directory(options.report.parent)
        options.report.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {options.report}: {error.strerror}") from None
    try:
        return uvloop.run(_demo(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        note("interrupted: every process is stopped, and there is no report")
        return EXIT_INTERRUPTED


async def _demo(options: DemoOptions) -> int:
    started = time.monotonic()
    if (this := asyncio.current_task()) is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    with tempfile.TemporaryDirectory(prefix="trilemma-demo-") as folder:
        testnet = create_testnet(
            Path(folder) / "testnet", TestnetOptions(name="demo", challengers=1, free_ports=True)
        )
        window_ms = testnet.chain().genesis.settlement.window_ms
        note("starting 4 validators, 1 sequencer, 1 execution node, 1 prover and 1 challenger")
        async with Supervisor(testnet, report=note) as supervisor:
            await supervisor.wait_ready()
            async with Exchange.connect(testnet.directory) as exchange:
                before = await _store_bytes(exchange)
                load = await _flow(exchange, options)
                after = await _store_bytes(exchange)
                traders = testnet.traders[options.accounts :]
                scene = await play(exchange, traders[0], traders[1])
                note("the flow is final; auditing from base-layer data alone")
                audited = await audit(exchange, every_few_seconds("audited {} of {} ledger blocks"))
            note("stopping")
    took_s = time.monotonic() - started
    report = _report(options, load, before, after, scene, audited, took_s, window_ms)
    write_result(options.report, msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    _summarise(report, options.report)
    return EXIT_OK if report.passed else EXIT_FAILED


async def _flow(exchange: Exchange, options: DemoOptions) -> LoadReport:
    generator = LoadGenerator(
        exchange,
        LoadOptions(
            rate=options.rate, batch=options.batch, seconds=options.seconds, seed=options.seed,
            accounts=options.accounts, clean_up=False,
        ),
    )  # fmt: skip
    running = asyncio.ensure_future(generator.run())
    with _live() as show:
        began = time.monotonic()
        previous, previous_at = dict.fromkeys(STATES, 0), began
        while not running.done():
            await asyncio.wait([running], timeout=WATCH_EVERY_S)
            now = time.monotonic()
            counts = generator.counts()
            rates: dict[str, float] = {
                state: (counts[state] - previous[state]) / (now - previous_at) for state in STATES
            }
            previous, previous_at = {state: counts[state] for state in STATES}, now
            show(now - began, counts, rates)
    return running.result()


Show = Callable[[float, dict[str, int], dict[str, float]], None]


@contextmanager
def _live() -> Iterator[Show]:
    """A live table on a terminal, a line every few seconds elsewhere; both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Live(console=console, refresh_per_second=4) as live:

        def show(passed_s: float, counts: dict[str, int], rates: dict[str, float]) -> None:
            table = Table(title=f"trilemma demo, {passed_s:.0f} s")
            for column in ("state", "actions", "per second"):
                table.add_column(column, justify="left" if column == "state" else "right")
            table.add_row("submitted", f"{counts['submitted']:,}", "")
            for state in STATES:
                table.add_row(state, f"{counts[state]:,}", f"{rates[state]:,.0f}")
            table.add_row("fills", f"{counts['fills']:,}", "")
            live.update(table)

        yield show


class _Lines:
    """Shows a line every few seconds."""

    def __init__(self) -> None:
        self._next_s = LINE_EVERY_S

    def __call__(self, passed_s: float, counts: dict[str, int], rates: dict[str, float]) -> None:
        if passed_s < self._next_s:
            return
        self._next_s = passed_s + LINE_EVERY_S
        states = ", ".join(f"{state} {counts[state]:,}" for state in STATES)
        note(f"{passed_s:5.1f} s  {states}, fills {counts['fills']:,}")


async def _store_bytes(exchange: Exchange) -> dict[str, int]:
    """Bytes on disk by store, as the processes report them."""
    return {
        store: int((await exchange.channel(role).ask(Status, StatusRequest)).values["store_bytes"])
        for store, role in STORES.items()
    }


def _report(
    options: DemoOptions,
    load: LoadReport,
    before: dict[str, int],
    after: dict[str, int],
    scene: Scene,
    audited: AuditReport,
    duration_s: float,
    window_ms: int,
) -> DemoReport:
    executed = max(1, load.executed)
    growth = {
        store: Growth(
            after[store] - before[store],
            round((after[store] - before[store]) / executed, 1),
            round((after[store] - before[store]) / max(load.seconds, 0.001), 1),
        )
        for store in STORES
    }
    latency = {state: {"p50": one.p50, "p99": one.p99} for state, one in load.latency_ms.items()}
    return DemoReport(
        orders=load.orders,
        cancels=load.cancels,
        fills=load.fills,
        executed=load.executed,
        settled=load.settled,
        final=load.final,
        window_ms=window_ms,
        tps=load.tps,
        latency_ms=latency,
        finality_ms=latency["final"],
        state_growth=growth,
        batches_settled=audited.batches,
        data_bytes_per_order=round(audited.data_bytes / executed, 1),
        roots_agree=audited.roots_agree,
        money_conserved=audited.money_conserved,
        lost=load.lost,
        duplicated=load.duplicated,
        errors=load.errors,
        scene=scene,
        audit=audited,
        duration_s=round(duration_s, 1),
        seed=options.seed,
    )


def _summarise(report: DemoReport, path: Path) -> None:
    tps = ", ".join(f"{state} {report.tps[state]:,.0f}" for state in STATES)
    settled, final = report.latency_ms["settled"], report.finality_ms
    print(f"orders {report.orders:,}  cancels {report.cancels:,}  fills {report.fills:,}")
    print(f"actions per second: {tps}")
    print(
        f"executed after p50 {report.latency_ms['executed']['p50']:.0f} ms, p99 "
        f"{report.latency_ms['executed']['p99']:.0f} ms; settled after p50 "
        f"{settled['p50']:.0f} ms, p99 {settled['p99']:.0f} ms"
    )
    print(
        f"final after p50 {final['p50']:.0f} ms, p99 {final['p99']:.0f} ms, with a window of "
        f"{report.window_ms / 1000:g} s"
    )
    print(f"base-layer data: {report.data_bytes_per_order} bytes per order")
    for line in summary(report.scene):
        print(line)
    print(report.audit.line())
    print(f"{'passed' if report.passed else 'FAILED'} in {report.duration_s} s; report in {path}")
