"""The live status on a terminal: rows of processes, faults, sparklines and books; 80 columns by 24
lines are enough."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.status import ProcessRow, settlement_of
from client.units import readable, ticks_to_price
from cluster.dashboard import STATES, Book, Dashboard, Scene
from protocol.genesis import MarketConfig
from store.testnet import Testnet

BARS = "▁▂▃▄▅▆▇█"
LEAST_WIDTH = 40
LEAST_ROWS = 3
ROWS_AROUND = 4
"""Title, names of the columns, and two lines on what is left out."""

FAULT_LINES = 6
TEXT_LINES = 3
"""Most lines of one sentence."""

GAP = 2
SPARED = ("view", "peers", "store", "actions/s", "height", "lag")
"""Columns that are left out where there is no room for all, the first one first."""

HEADING = "bold"
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
    scene: Scene, testnet: Testnet, markets: Sequence[MarketConfig], now_ms: int, width: int,
    height: int,
) -> Group:  # fmt: skip
    """Everything for a terminal of `width` columns and `height` lines: what is wrong stands right
    below the processes, and where there is no room for all of it, the books go first."""
    urgent = _alarms(scene, width) + _faults(scene.faults, width)
    rows = _most_telling(scene.rows, height - len(urgent) - ROWS_AROUND)
    table, left_out = _processes(rows, width)
    lines = []
    if len(rows) < len(scene.rows):
        lines.append(_faint(f"… {len(scene.rows) - len(rows)} processes more"))
    if left_out:
        lines += _wrapped(f"no room for: {', '.join(left_out)}", width, "dim")
    lines += urgent + _settlement(scene, width) + _rates(scene, width)
    lines += _books(scene.books, markets, width)
    room = height - 2 - len(rows)
    return Group(_title(testnet, scene, now_ms, width), table, *_fitting(lines, room))


def _title(testnet: Testnet, scene: Scene, now_ms: int, width: int) -> Text:
    up = sum(row.state == "up" for row in scene.rows)
    when = datetime.fromtimestamp(now_ms / 1000).strftime("%H:%M:%S")
    left = f"Trilemma {testnet.name}: {up} of {len(scene.rows)} processes up"
    style = "bold green" if up == len(scene.rows) else "bold yellow"
    return Text(left + when.rjust(max(1, width - len(left))), style=style, no_wrap=True)


def _fitting(lines: list[Text], room: int) -> list[Text]:
    """The first of the lines, and how many there are more; the empty ones go before others do."""
    if len(lines) > room:
        lines = [line for line in lines if line.plain]
    if len(lines) <= room:
        return lines
    shown = lines[: max(0, room - 1)]
    while shown and str(shown[-1].style).startswith(HEADING):
        shown.pop()
    more = len(lines) - len(shown)
    return [*shown, _faint(f"… {more} line{'' if more == 1 else 's'} more")]


def _most_telling(rows: list[ProcessRow], room: int) -> list[ProcessRow]:
    """As many rows as there is room for: those that are not up, and the first others."""
    if len(rows) <= room:
        return rows
    places = sorted(range(len(rows)), key=lambda place: rows[place].state == "up")
    return [rows[place] for place in sorted(places[: max(LEAST_ROWS, room)])]


def _processes(rows: Sequence[ProcessRow], width: int) -> tuple[Table, list[str]]:
    """A line for each process, and the columns that there is no room for."""
    columns: dict[str, list[str]] = {
        "process": [row.name for row in rows], "state": [row.state for row in rows],
        "height": [_count(row.height) for row in rows], "view": [_count(row.view) for row in rows],
        "peers": [_count(row.peers) for row in rows], "lag": [_count(row.lag) for row in rows],
        "actions/s": [_rate(row) for row in rows],
        "store": [_size(row.store_bytes) for row in rows],
    }  # fmt: skip
    widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
    left_out: list[str] = []
    for name in SPARED:
        if sum(widths.values()) + GAP * (len(widths) - 1) <= width:
            break
        del columns[name], widths[name]
        left_out.append(name)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in columns:
        table.add_column(
            name, justify="left" if name in ("process", "state") else "right", no_wrap=True
        )
    for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=True):
        state = Text(row.state, style=COLOURS.get(row.state, "red"))
        table.add_row(cells[0], state, *cells[2:])
    return table, left_out


def _alarms(scene: Scene, width: int) -> list[Text]:
    """What somebody should look at now."""
    settled = settlement_of(scene.rows)
    told = list(scene.stopped)
    told += [f"{row.name}: {readable(row.trouble)}" for row in scene.rows if row.trouble]
    told += [settled.alarm()] if settled is not None and settled.alarm() else []
    return [line for text in told for line in _wrapped(text, width, "red")]


def _wrapped(text: str, width: int, style: str = "") -> list[Text]:
    found = textwrap.wrap(text, width, max_lines=TEXT_LINES, placeholder=" …")
    return [Text(line, style=style, no_wrap=True) for line in found]


def _settlement(scene: Scene, width: int) -> list[Text]:
    settled = settlement_of(scene.rows)
    if settled is None:
        return []
    pool, mempool = scene.pool or 0, scene.mempool or 0
    waiting = f"waiting: {pool:,} batches in the pool, {mempool:,} in the mempool"
    return [Text(), *_wrapped(settled.line(), width), *_wrapped(waiting, width)]


def _rates(scene: Scene, width: int) -> list[Text]:
    room = max(10, width - 32)
    lines = [Text()]
    for name in STATES:
        series = scene.rates[name]
        newest = series[-1] if series else 0.0
        lines.append(_bars(name, f"{newest:,.0f} /s", sparkline(series, room), "cyan"))
    for name, lags in (("settlement", scene.settled_lag_s), ("finality", scene.final_lag_s)):
        newest_s = lags[-1] if lags else None
        told = "unknown" if newest_s is None else f"lag {newest_s:,.1f} s"
        lines.append(_bars(name, told, sparkline(lags, room), "yellow"))
    return lines


def _bars(name: str, newest: str, bars: str, style: str) -> Text:
    return Text.assemble(f"{name:<10}  {newest:>14}  ", (bars, style), no_wrap=True)


def _books(books: Sequence[Book], markets: Sequence[MarketConfig], width: int) -> list[Text]:
    if not books:
        return []
    cells = []
    for book in books:
        config = markets[book.market]
        prices = [
            "-" if ticks is None else ticks_to_price(config, ticks)
            for ticks in (book.bid_ticks, book.ask_ticks, book.mark_ticks or None)
        ]
        cells.append(f"{config.symbol:<10}{prices[0]:>8} /{prices[1]:>8}  {prices[2]:>8}")
    step = max(1, width // 40)
    grid = [
        "  ".join(f"{cell:<38}" for cell in cells[place : place + step])
        for place in range(0, len(cells), step)
    ]
    lines = [Text(), Text("books: best bid / ask, mark", style=HEADING)]
    return lines + [Text(line, no_wrap=True) for line in grid]


def _faults(faults: Sequence[str], width: int) -> list[Text]:
    if not faults:
        return []
    room = width - 2
    shown = [line if len(line) <= room else f"{line[: room - 1]}…" for line in faults[:FAULT_LINES]]
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    lines = [Text(), Text("faults", style=f"{HEADING} red")]
    return lines + [Text(f"  {line}", style="red", no_wrap=True) for line in shown]


def _faint(text: str) -> Text:
    return Text(text, style="dim", no_wrap=True)


def _rate(row: ProcessRow) -> str:
    """Actions per second in the furthest state that the process counts."""
    rate = next((row.rates[name] for name in reversed(STATES) if name in row.rates), None)
    return "" if rate is None else f"{rate:,.0f}"


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
                view = make_dashboard(scene, testnet, markets, now_ms, width, console.height)
                live.update(view, refresh=True)
                await asyncio.sleep(REDRAW_S)
            polling.result()
    finally:
        polling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await polling
