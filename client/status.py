"""The cluster at a glance: every process's status, and rates between two looks."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.endpoint import Endpoint
from client.units import readable
from protocol.errors import RemoteFault
from protocol.messages import Status, StatusRequest
from store.config import Role, parse_address
from store.testnet import ProcessEntry, Testnet

PROBE_TIMEOUT_MS = 1_500
PIPE_WIDTH = 160

Values = dict[str, int | str]

Standings = Callable[[Testnet, list[str]], dict[str, str]]
"""What is known of processes that do not answer, by name."""

WIDE = 110
"""Columns of a terminal from which on the table has its views too."""

STALLED_MS = 15_000
"""Longer without a ledger block, the base layer is said to stand still."""

RATES = {
    "accepted": "accepted_actions",
    "ordered": "ordered_actions",
    "executed": "executed_actions",
    "settled": "settled_actions",
}
"""Column, and the counter of actions whose growth per second it shows."""


TROUBLES = ("refusal", "snapshot_failure", "disagreement")
"""Status values that are sentences on what a process cannot get on with."""


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One process: `rates` are actions per second, `values` its whole status.

    `height` is the newest block of its chain: the ledger's for a validator, else the ordered log's.
    `lag` counts the blocks that it is behind: a validator and a sequencer behind the highest of
    their kind, execution in executing the ordered log, a prover in having it settled. `standing`
    says more of one that is down, where whoever runs it knows more.
    """

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
    standing: str = ""

    @property
    def trouble(self) -> str:
        """What a process cannot get on with by itself, in its own words; empty for nothing."""
        found = (self.values.get(name) for name in TROUBLES)
        text = next((text for text in found if isinstance(text, str) and text), "")
        wrong = _number(self.values, "wrong_batch")
        if wrong and not text:
            text = f"settled batch {wrong} is wrong; waiting until a dispute removes it"
        return text


async def sample(testnet: Testnet) -> dict[str, Values | None]:
    """The status of every process, None where one does not answer."""
    chain = testnet.chain()

    async def probe(address: str) -> Values | None:
        host, port = parse_address(address)
        endpoint = Endpoint(host, port, chain, connect_timeout_ms=PROBE_TIMEOUT_MS)
        try:
            # A process that is stopped accepts connections all the same, and says nothing.
            async with asyncio.timeout(2 * PROBE_TIMEOUT_MS / 1000):
                await endpoint.greet()
                return (await endpoint.ask(Status, StatusRequest)).values
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
    highest = _highest(testnet, after)
    rows = []
    for entry in testnet.processes:
        now, then = after[entry.name], before[entry.name] or {}
        if now is None:
            rows.append(_down(entry))
            continue
        rates = {}
        for column, counter in RATES.items():
            new, old = _number(now, counter), _number(then, counter)
            if new is not None and old is not None and passed_s > 0:
                rates[column] = round(max(0, new - old) / passed_s, 1)
        done = _done(entry.role, now, highest)
        rows.append(
            ProcessRow(
                name=entry.name,
                role=entry.role,
                state="up",
                height=_number(now, "height"),
                view=_number(now, "view"),
                peers=_number(now, "peers"),
                lag=None if done is None else max(0, highest[CHAINS[entry.role]] - done),
                store_bytes=_number(now, "store_bytes"),
                rates=rates,
                values=now,
            )
        )
    return rows


def with_standings(
    rows: list[ProcessRow], testnet: Testnet, standings: Standings
) -> list[ProcessRow]:
    """The rows, with what is known of processes that are down."""
    down = [row.name for row in rows if row.state != "up"]
    known = standings(testnet, down) if down else {}
    return [msgspec.structs.replace(row, standing=known.get(row.name, "")) for row in rows]


CHAINS: dict[Role, str] = {
    "node": "ledger", "sequencer": "ordered", "execution": "ordered", "prover": "ordered",
    "challenger": "ordered",
}  # fmt: skip
"""The chain whose blocks a role's lag is counted in."""


def _highest(testnet: Testnet, found: dict[str, Values | None]) -> dict[str, int]:
    """Newest block of the ledger and of the ordered log, and the newest ordered one settled.

    Without an answering validator nobody knows what is settled, and the last is missing.
    """
    highest = {"ledger": 0, "ordered": 0}
    for entry in testnet.processes:
        values = found[entry.name] or {}
        chain = CHAINS[entry.role]
        highest[chain] = max(highest[chain], _number(values, "height") or 0)
        settled = _number(values, "last_ordered_block")
        if settled is not None:
            highest["settled"] = max(highest.get("settled", 0), settled)
    return highest


def _done(role: Role, values: Values, highest: dict[str, int]) -> int | None:
    """The block up to which a process has done its work."""
    return highest.get("settled") if role == "prover" else _number(values, "height")


def _down(entry: ProcessEntry) -> ProcessRow:
    return ProcessRow(
        name=entry.name, role=entry.role, state="down", height=None, view=None, peers=None,
        lag=None, store_bytes=None, rates={}, values={},
    )  # fmt: skip


def _number(values: Values, name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def make_table(rows: list[ProcessRow], width: int = WIDE) -> Table:
    """The rows for a terminal of `width` columns; 80 are enough."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    wide = width >= WIDE
    table.add_column("process", no_wrap=True, vertical="bottom")
    table.add_column("state", no_wrap=True, vertical="bottom")
    numbers = ["height", *(["view"] if wide else []), "peers"]
    rates = [f"{rate}{'' if wide else chr(10)}/s" for rate in RATES]
    for name in (*numbers, *rates, "lag", "store"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [_text(row.height), *([_text(row.view)] if wide else []), _text(row.peers)]
        cells += [f"{row.rates[rate]:,.0f}" if rate in row.rates else "" for rate in RATES]
        cells += [_text(row.lag), _bytes(row.store_bytes)]
        style = "" if row.state == "up" else "red"
        state = (row.standing if wide else "") or row.state
        table.add_row(row.name, state, *cells, style=style)
    return table


class BaseLayer(msgspec.Struct, frozen=True, kw_only=True):
    """The base layer, as the validators that answer know it.

    `members` are those of the newest epoch, `validating` how many of them answer here; `age_ms` the
    time since the newest ledger block, None where there is none yet. It has `stalled` where that is
    longer than the chain is ever idle.
    """

    epoch: int
    members: int
    validating: int
    age_ms: int | None
    stalled: bool

    def line(self) -> str:
        """For people, within 80 columns."""
        newest = "no block yet" if self.age_ms is None else f"newest block {self._age_s} s ago"
        counted = f"{self.validating} of {self.members} members answer"
        return f"base layer: epoch {self.epoch:,}, {counted}, {newest}"

    def alarm(self) -> str:
        """What to say where it stalls; else empty."""
        what = f"no ledger block for {self._age_s} s"
        return f"{what}: no more than two thirds of the stake answer?" if self.stalled else ""

    @property
    def _age_s(self) -> str:
        return f"{(self.age_ms or 0) // 1000:,}"


def base_layer(rows: list[ProcessRow], now_ms: int, idle_ms: int = 0) -> BaseLayer | None:
    """The base layer at wall-clock time `now_ms`; None where no validator answers.

    `idle_ms`: how long the chain waits with a block where there is nothing to do.
    """
    answers = [row.values for row in rows if row.role == "node" and row.state == "up"]
    if not answers:
        return None
    newest = max(answers, key=lambda values: _number(values, "epoch") or 0)
    epoch = _number(newest, "epoch") or 0
    here = [
        values
        for values in answers
        if values.get("validating") == "yes" and _number(values, "epoch") == epoch
    ]
    # Before the first block a validator tells the time of genesis.
    times = [_number(values, "time_ms") for values in answers if _number(values, "height")]
    time_ms = max((one or 0 for one in times), default=0)
    age_ms = max(0, now_ms - time_ms) if time_ms else None
    limit_ms = max(STALLED_MS, 3 * idle_ms)
    return BaseLayer(
        epoch=epoch, members=_number(newest, "members") or 0, validating=len(here),
        age_ms=age_ms, stalled=age_ms is not None and age_ms > limit_ms,
    )  # fmt: skip


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Settlement, as the validator that is furthest knows it.

    Batches up to `final` are final, those up to `settled` settled. `lag` counts the ordered blocks
    that are in no settled batch yet (None where no sequencer answers).
    """

    settled: int
    final: int
    disputes: int
    lag: int | None
    frozen: bool

    def line(self) -> str:
        """For people, within 80 columns."""
        parts = [f"settlement: batch {self.settled:,}, final {self.final:,}"]
        if self.disputes:
            parts.append(f"{self.disputes:,} disputes open")
        if self.lag is not None:
            parts.append(f"{self.lag:,} ordered blocks wait")
        return ", ".join(parts)

    def alarm(self) -> str:
        """What to say where nothing settles any more; else empty."""
        return "the shard is frozen: claims and refunds are the way out" if self.frozen else ""


def settlement_of(rows: list[ProcessRow]) -> Settled | None:
    """How far settlement is; None where no validator answers."""
    answers = [row.values for row in rows if row.role == "node" and "final_batch" in row.values]
    if not answers:
        return None
    newest = max(answers, key=lambda values: _number(values, "height") or 0)
    heights = [row.height for row in rows if row.role == "sequencer" and row.height is not None]
    lag = max(heights, default=0) - (_number(newest, "last_ordered_block") or 0)
    return Settled(
        settled=_number(newest, "last_batch") or 0, final=_number(newest, "final_batch") or 0,
        disputes=_number(newest, "open_disputes") or 0, lag=max(0, lag) if heights else None,
        frozen=newest.get("frozen") == "yes",
    )  # fmt: skip


def _nothing_ordered(rows: list[ProcessRow]) -> str:
    """What to say where too few sequencers answer for an order to find its place; else empty."""
    states = [row.state for row in rows if row.role == "sequencer"]
    answering = states.count("up")
    enough = not states or 3 * answering > 2 * len(states)
    if enough or all(row.state != "up" for row in rows):
        return ""
    if not answering:
        return "no sequencer answers: nothing is ordered"
    return f"{answering} of {len(states)} sequencers answer, too few: nothing is ordered"


def make_view(rows: list[ProcessRow], width: int = WIDE, base: BaseLayer | None = None) -> Group:
    """The table, a line each on base layer and settlement, and one for each trouble."""
    settled = settlement_of(rows)
    told = [one for one in (base, settled) if one is not None]
    alarms = [one.alarm() for one in told]
    alarms += [_nothing_ordered(rows)]
    if width < WIDE:  # else the table says it
        alarms += [f"{row.name}: {row.standing}" for row in rows if row.standing]
    alarms += [f"{row.name}: {readable(row.trouble)}" for row in rows if row.trouble]
    lines = [Text(one.line()) for one in told]
    lines += [Text(alarm, style="red") for alarm in alarms if alarm]
    return Group(make_table(rows, width), *lines)


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


async def show_status(
    testnet: Testnet,
    *,
    watch: bool,
    interval_s: float,
    as_json: bool,
    standings: Standings = lambda testnet, names: {},
) -> int:
    """Print one status, or a stream of them; returns how many processes answered last.

    `standings` is asked about processes that do not answer.
    """
    console = _console()
    idle_ms = testnet.chain().genesis.ledger_pace.idle_interval_ms
    with contextlib.ExitStack() as stack:
        live = None
        if watch and not as_json and console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False))
        before, began = await sample(testnet), time.monotonic()
        while True:
            if watch or any(values is not None for values in before.values()):
                await asyncio.sleep(interval_s)
            after, now = await sample(testnet), time.monotonic()
            rows = with_standings(
                make_rows(testnet, before, after, now - began), testnet, standings
            )
            base = base_layer(rows, time.time_ns() // 1_000_000, idle_ms)
            if as_json:
                settled = settlement_of(rows)
                shown = {"processes": rows, "base_layer": base, "settlement": settled}
                print(msgspec.json.encode(shown).decode(), flush=True)
            elif live is not None:
                live.update(make_view(rows, console.width, base), refresh=True)
            else:
                console.print(make_view(rows, console.width, base))
            if not watch:
                return sum(1 for row in rows if row.state == "up")
            before, began = after, now
