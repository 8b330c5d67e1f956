"""The cluster at a glance: every process's status, and rates between two looks."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.endpoint import Endpoint
from protocol.errors import RemoteFault
from protocol.messages import Status, StatusRequest
from store.config import parse_address
from store.testnet import Testnet

PROBE_TIMEOUT_MS = 1_500
PIPE_WIDTH = 160

Values = dict[str, int | str]

RATES = {
    "accepted": "accepted_batches",
    "ordered": "ordered_batches",
    "executed": "executed_actions",
    "settled": "settled_actions",
}
"""Column, and the counter whose growth per second it shows."""


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One process: `rates` are growths of counters per second, `values` its whole status."""

    name: str
    role: str
    state: str
    height: int | None
    view: int | None
    peers: int | None
    lag: int | None
    store_bytes: int | None
    rates: dict[str, float]
    values: Values


async def sample(testnet: Testnet) -> dict[str, Values | None]:
    """The status of every process, None where one does not answer."""
    chain = testnet.chain()

    async def probe(address: str) -> Values | None:
        host, port = parse_address(address)
        endpoint = Endpoint(host, port, chain, connect_timeout_ms=PROBE_TIMEOUT_MS)
        try:
            await endpoint.greet()
            answer = await endpoint.ask(Status, StatusRequest, timeout_ms=PROBE_TIMEOUT_MS)
            return answer.values
        except (ConnectionError, TimeoutError, RemoteFault):
            return None
        finally:
            await endpoint.close()

    found = await asyncio.gather(*(probe(entry.public) for entry in testnet.processes))
    names = [entry.name for entry in testnet.processes]
    return dict(zip(names, found, strict=True))


def make_rows(
    testnet: Testnet,
    before: dict[str, Values | None],
    after: dict[str, Values | None],
    passed_s: float,
) -> list[ProcessRow]:
    """Rows from two looks `passed_s` seconds apart."""
    ordered = _greatest(testnet, after, "sequencer", "height")
    executed = _greatest(testnet, after, "execution", "height")
    rows = []
    for entry in testnet.processes:
        now, then = after[entry.name], before[entry.name] or {}
        if now is None:
            rows.append(
                ProcessRow(
                    name=entry.name,
                    role=entry.role,
                    state="down",
                    height=None,
                    view=None,
                    peers=None,
                    lag=None,
                    store_bytes=None,
                    rates={},
                    values={},
                )
            )
            continue
        rates = {}
        for column, counter in RATES.items():
            new, old = _number(now, counter), _number(then, counter)
            if new is not None and old is not None and passed_s > 0:
                rates[column] = round(max(0, new - old) / passed_s, 1)
        height = _number(now, "height")
        lag = _number(now, "lag")
        if lag is None and entry.role == "execution" and height is not None:
            lag = max(0, ordered - height)
        settled = _number(now, "settled_block")
        if lag is None and settled is not None:
            lag = max(0, executed - settled)
        rows.append(
            ProcessRow(
                name=entry.name,
                role=entry.role,
                state="up",
                height=height,
                view=_number(now, "view"),
                peers=_number(now, "peers"),
                lag=lag,
                store_bytes=_number(now, "store_bytes"),
                rates=rates,
                values=now,
            )
        )
    return rows


def _number(values: Values, name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _greatest(testnet: Testnet, found: dict[str, Values | None], role: str, name: str) -> int:
    entries = [entry for entry in testnet.processes if entry.role == role]
    return max((_number(found[entry.name] or {}, name) or 0 for entry in entries), default=0)


def make_table(rows: list[ProcessRow]) -> Table:
    """The rows for a terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("process", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("height", "view", "peers", *(f"{rate}/s" for rate in RATES), "lag", "store"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [_text(row.height), _text(row.view), _text(row.peers)]
        cells += [f"{row.rates[rate]:,.0f}" if rate in row.rates else "" for rate in RATES]
        cells += [_text(row.lag), _bytes(row.store_bytes)]
        style = "" if row.state == "up" else "red"
        table.add_row(row.name, row.state, *cells, style=style)
    return table


def _console() -> Console:
    # Without a terminal nothing tells the width, and the guess would cut columns off.
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _text(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


async def show_status(testnet: Testnet, *, watch: bool, interval_s: float, as_json: bool) -> int:
    """Print one status, or a stream of them; returns how many processes answered last."""
    before, began = await sample(testnet), time.monotonic()
    if watch and not as_json:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(interval_s)
                after, now = await sample(testnet), time.monotonic()
                rows = make_rows(testnet, before, after, now - began)
                live.update(make_table(rows), refresh=True)
                before, began = after, now
    while True:
        if any(values is not None for values in before.values()):
            await asyncio.sleep(interval_s)
        after, now = await sample(testnet), time.monotonic()
        rows = make_rows(testnet, before, after, now - began)
        if as_json:
            print(msgspec.json.encode(rows).decode(), flush=True)
        else:
            _console().print(make_table(rows))
        if not watch:
            return sum(1 for row in rows if row.state == "up")
        before, began = after, now
        await asyncio.sleep(interval_s)
