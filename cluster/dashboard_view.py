"""The live status on a terminal: rows of processes, sparklines, books and faults, in 80 columns."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.status import ProcessRow, settlement_of
from client.units import readable, ticks_to_price
from cluster.dashboard import STATES, Book, Dashboard, Scene
from protocol.genesis import MarketConfig
from store.testnet import Testnet

BARS = "▁▂▃▄▅▆▇█"
LEAST_WIDTH = 60
FAULT_LINES = 6
COLOURS = {"up": "green", "held": "magenta", "paused": "yellow", "silent": "yellow"}
"""Colour of a state; red for others."""

REDRAW_S = 0.5


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The newest values as bars from 0 to the largest of them; a gap where one is None."""
    shown = list(values)[-width:]
    top = max((value for value in shown if value is not None), default=0.0)
    if top <= 0:
        return "".join(" " if value is None else BARS[0] for value in shown)
    scale = (len(BARS) - 1) / top
    return "".join(" " if value is None else BARS[round(value * scale)] for value in shown)


def make_dashboard(
    scene: Scene, testnet: Testnet, markets: Sequence[MarketConfig], now_ms: int, width: int
) -> Group:
    """Everything for a terminal of `width` columns."""
    parts: list[RenderableType] = [_title(testnet, scene, now_ms, width), _processes(scene.rows)]
    parts += _troubles(scene.rows)
    parts += _flow(scene, width)
    parts += _books(scene.books, markets, width)
    parts += _faults(scene.faults, width)
    return Group(*parts)


def _title(testnet: Testnet, scene: Scene, now_ms: int, width: int) -> Text:
    up = sum(row.state == "up" for row in scene.rows)
    when = datetime.fromtimestamp(now_ms / 1000).strftime("%H:%M:%S")
    left = f"Trilemma {testnet.name}: {up} of {len(scene.rows)} processes up"
    style = "bold green" if up == len(scene.rows) else "bold yellow"
    return Text(left + when.rjust(max(1, width - len(left))), style=style, no_wrap=True)


def _processes(rows: Sequence[ProcessRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("process", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("height", "view", "peers", "lag", "actions/s", "store"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        rate = next((row.rates[name] for name in reversed(STATES) if name in row.rates), None)
        table.add_row(
            row.name, Text(row.state, style=COLOURS.get(row.state, "red")), _count(row.height),
            _count(row.view), _count(row.peers), _count(row.lag),
            "" if rate is None else f"{rate:,.0f}", _size(row.store_bytes),
        )  # fmt: skip
    return table


def _troubles(rows: Sequence[ProcessRow]) -> list[Text]:
    return [
        Text(f"{row.name}: {readable(row.trouble)}", style="red") for row in rows if row.trouble
    ]


def _flow(scene: Scene, width: int) -> list[RenderableType]:
    room = max(10, width - 32)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(width=14, justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for name in STATES:
        series = scene.rates[name]
        newest = series[-1] if series else 0.0
        grid.add_row(name, f"{newest:,.0f} /s", Text(sparkline(series, room), style="cyan"))
    for name, lags in (("settlement", scene.settled_lag_s), ("finality", scene.final_lag_s)):
        newest_s = lags[-1] if lags else None
        told = "unknown" if newest_s is None else f"lag {newest_s:,.1f} s"
        grid.add_row(name, told, Text(sparkline(lags, room), style="yellow"))
    lines: list[RenderableType] = [Text(), grid]
    settled = settlement_of(list(scene.rows))
    if settled is not None:
        lines.append(Text(settled.line()))
        pool, mempool = scene.pool or 0, scene.mempool or 0
        lines.append(Text(f"waiting: {pool:,} batches in the pool, {mempool:,} in the mempool"))
        if settled.alarm():
            lines.append(Text(settled.alarm(), style="red"))
    return lines


def _books(
    books: Sequence[Book], markets: Sequence[MarketConfig], width: int
) -> list[RenderableType]:
    if not books:
        return []
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(max(1, width // 40)):
        grid.add_column(no_wrap=True, width=38)
    cells = []
    for book in books:
        config = markets[book.market]
        prices = [
            "-" if ticks is None else ticks_to_price(config, ticks)
            for ticks in (book.bid_ticks, book.ask_ticks, book.mark_ticks or None)
        ]
        cells.append(f"{config.symbol:<10}{prices[0]:>8} /{prices[1]:>8}  {prices[2]:>8}")
    step = len(grid.columns)
    for place in range(0, len(cells), step):
        grid.add_row(*cells[place : place + step])
    return [Text("\nbooks: best bid / ask, mark", style="bold"), grid]


def _faults(faults: Sequence[str], width: int) -> list[RenderableType]:
    if not faults:
        return []
    shown = [line[: width - 2] for line in faults[:FAULT_LINES]]
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    lines: list[RenderableType] = [Text("\nfaults", style="bold red")]
    return lines + [Text(f"  {line}", style="red", no_wrap=True) for line in shown]


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _size(count: int | None) -> str:
    if count is None:
        return ""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


async def watch(testnet: Testnet, console: Console) -> None:
    """Show the cluster until cancelled."""
    dashboard, markets = Dashboard(testnet), testnet.chain().genesis.markets
    polling = asyncio.ensure_future(dashboard.run())
    try:
        await asyncio.sleep(REDRAW_S)
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while not polling.done():
                scene = dashboard.scene(time.monotonic())
                width = max(LEAST_WIDTH, console.width)
                now_ms = time.time_ns() // 1_000_000
                view = make_dashboard(scene, testnet, markets, now_ms, width)
                live.update(view, refresh=True)
                await asyncio.sleep(REDRAW_S)
            polling.result()
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
