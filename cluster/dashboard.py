"""What the live status shows: every process asked by itself, with a history of rates and lags.

Each process has a poller of its own, so that one that is paused or cut off is told within a second
and delays no other.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque

import msgspec

from client.endpoint import Endpoint
from client.status import RATES, ProcessRow, Values, make_rows
from cluster.faults_damage import byzantine_mode
from cluster.faults_hold import RunFolder
from cluster.faults_orders import describe
from cluster.faults_stopped import safety_stops
from cluster.faults_targets import PAUSED, process_state
from cluster.faults_wire import read_faults
from protocol.errors import RemoteFault, TrilemmaError
from protocol.messages import Status, StatusRequest
from protocol.messages_market_data import BookRequest, BookView
from store.config import parse_address
from store.testnet import ProcessEntry, Testnet

ANSWER_MS = 900
"""A process that takes longer is shown as silent."""

HISTORY = 60
HEIGHTS_KEPT = 4_096
MARKETS_SHOWN = 6
CONFIG_EVERY_S = 5.0
STOPS_EVERY_S = 2.0

STATES = ("accepted", "ordered", "executed", "settled")


class Book(msgspec.Struct, frozen=True):
    """The best prices of a market in ticks, None where a side is empty."""

    market: int
    bid_ticks: int | None
    ask_ticks: int | None
    mark_ticks: int


class Poller:
    """Asks one process again and again over one session; `values` is its newest answer."""

    def __init__(self, testnet: Testnet, entry: ProcessEntry, interval_s: float) -> None:
        self.entry = entry
        self.state = "down"
        self.values: Values | None = None
        self.rates: dict[str, float] = {}
        self.faults: list[str] = []
        self.books: list[Book] = []
        self._testnet, self._chain = testnet, testnet.chain()
        self._interval_s = interval_s
        self._endpoint: Endpoint | None = None
        self._then: tuple[float, Values] | None = None

    async def run(self) -> None:
        """Poll for ever."""
        try:
            while True:
                began = time.monotonic()
                await self._look()
                self.faults = await self._ordered_faults() if self.state == "up" else []
                await asyncio.sleep(max(0.05, self._interval_s - (time.monotonic() - began)))
        finally:
            if self._endpoint is not None:
                await self._endpoint.close()

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_MS / 1000):
                endpoint = await self._session()
                answer = await endpoint.ask(Status, StatusRequest, timeout_ms=ANSWER_MS)
                if self.entry.role == "execution":
                    self.books = [await self._book(endpoint, one) for one in self._markets()]
        except TimeoutError:
            await self._lost("silent")
        except (ConnectionError, RemoteFault):
            await self._lost("down")
        else:
            self._take(answer.values, time.monotonic())

    def _take(self, values: Values, now_s: float) -> None:
        self.state, self.values, self.rates = "up", values, {}
        if self._then is not None:
            at_s, before = self._then
            for name, counter in RATES.items():
                new, old = values.get(counter), before.get(counter)
                if isinstance(new, int) and isinstance(old, int) and now_s > at_s:
                    self.rates[name] = max(0, new - old) / (now_s - at_s)
        self._then = (now_s, values)

    async def _lost(self, state: str) -> None:
        endpoint, self._endpoint = self._endpoint, None
        self.state, self.values, self.rates = state, None, {}
        self.books, self._then = [], None
        if endpoint is not None:
            await endpoint.close()

    async def _session(self) -> Endpoint:
        if self._endpoint is None or not self._endpoint.connected:
            host, port = parse_address(self.entry.public)
            self._endpoint = Endpoint(host, port, self._chain, connect_timeout_ms=ANSWER_MS)
            await self._endpoint.greet()
        return self._endpoint

    def _markets(self) -> range:
        return range(min(MARKETS_SHOWN, len(self._chain.genesis.markets)))

    async def _book(self, endpoint: Endpoint, market: int) -> Book:
        view = await endpoint.ask(BookView, BookRequest, market, 1, timeout_ms=ANSWER_MS)
        bid = view.bids[0][0] if view.bids else None
        ask = view.asks[0][0] if view.asks else None
        return Book(market, bid, ask, view.mark_ticks)

    async def _ordered_faults(self) -> list[str]:
        """What the process was told to suffer, in words; empty where it takes no faults."""
        try:
            async with asyncio.timeout(ANSWER_MS / 1000):
                plan = (await read_faults(self.entry)).plan
        except (TrilemmaError, TimeoutError):
            return []
        return [f"{self.entry.name}: {kind} {what}" for kind, what in describe(plan)]


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the cluster, with the last minute of it.

    `rates` are actions per second by state; `settled_lag_s` and `final_lag_s` how long the oldest
    ordered block waits that is not settled, or final (0: none waits; None: nobody can tell).
    `stopped`: a sentence on each process that stopped for safety's sake.
    """

    rows: list[ProcessRow]
    rates: dict[str, list[float]]
    settled_lag_s: list[float | None]
    final_lag_s: list[float | None]
    pool: int | None
    mempool: int | None
    books: list[Book]
    faults: list[str]
    stopped: list[str]


class Dashboard:
    """Watches a testnet; `run` polls, `scene` is what to show now. Times are monotonic seconds."""

    def __init__(self, testnet: Testnet, interval_s: float = 0.5) -> None:
        self._testnet = testnet
        self._pollers = [Poller(testnet, entry, interval_s) for entry in testnet.processes]
        self._folder = RunFolder(testnet.directory)
        self._rates: dict[str, deque[float]] = {name: deque(maxlen=HISTORY) for name in STATES}
        self._settled_lag: deque[float | None] = deque(maxlen=HISTORY)
        self._final_lag: deque[float | None] = deque(maxlen=HISTORY)
        self._heights: deque[tuple[int, float]] = deque(maxlen=HEIGHTS_KEPT)
        self._byzantine: dict[str, str] = {}
        self._stopped: list[str] = []

    async def run(self) -> None:
        """Poll every process until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_configurations())
            tasks.create_task(self._ask_for_stops())
            for poller in self._pollers:
                tasks.create_task(poller.run())

    async def _read_configurations(self) -> None:
        while True:
            self._byzantine = await asyncio.to_thread(self._liars)
            await asyncio.sleep(CONFIG_EVERY_S)

    async def _ask_for_stops(self) -> None:
        while True:
            await asyncio.sleep(STOPS_EVERY_S)
            # Docker is asked, which takes its time: only where somebody is missing.
            missing = any(poller.state != "up" for poller in self._pollers)
            asked = await asyncio.to_thread(safety_stops, self._testnet) if missing else []
            self._stopped = asked

    def _liars(self) -> dict[str, str]:
        names = [entry.name for entry in self._testnet.processes]
        found = {name: byzantine_mode(self._testnet, name) for name in names}
        return {name: mode for name, mode in found.items() if mode}

    def scene(self, now_s: float) -> Scene:
        """What is known now; each call adds one point to the history."""
        found = {poller.entry.name: poller.values for poller in self._pollers}
        rows = []
        made = make_rows(self._testnet, found, found, 0.0)
        for poller, row in zip(self._pollers, made, strict=True):
            state = self._state(poller)
            rows.append(msgspec.structs.replace(row, state=state, rates=poller.rates))
        self._note(rows, now_s)
        return Scene(
            rows=rows, rates={name: list(series) for name, series in self._rates.items()},
            settled_lag_s=list(self._settled_lag), final_lag_s=list(self._final_lag),
            pool=_most(rows, "sequencer", "pool"), mempool=_most(rows, "node", "mempool"),
            books=next((one.books for one in self._pollers if one.books), []),
            faults=self._faults(), stopped=self._stopped,
        )  # fmt: skip

    def _state(self, poller: Poller) -> str:
        name = poller.entry.name
        if poller.state == "up":
            return "up"
        if self._folder.held(name):
            return "held"
        pid = self._folder.pid(name)
        if pid is None:
            standing = self._folder.standing(name)
            return "down" if standing is None or standing.state == "running" else standing.state
        return PAUSED if process_state(pid) in ("T", "t") else poller.state

    def _faults(self) -> list[str]:
        lines = [f"{name}: lies ({mode})" for name, mode in self._byzantine.items()]
        for poller in self._pollers:
            if poller.state != "up" and not self._told(poller.entry.name):
                lines.append(f"{poller.entry.name}: {self._state(poller)}")
            lines += poller.faults
        return lines

    def _told(self, name: str) -> bool:
        """Whether it stopped for safety's sake, which says more than that it is down."""
        return any(line.startswith(f"{name} ") for line in self._stopped)

    def _note(self, rows: list[ProcessRow], now_s: float) -> None:
        for name, series in self._rates.items():
            # Every process of a role counts the same actions.
            series.append(max((row.rates.get(name, 0.0) for row in rows), default=0.0))
        height = _most(rows, "sequencer", "height")
        if height is not None and (not self._heights or height > self._heights[-1][0]):
            self._heights.append((height, now_s))
        settled = _most(rows, "node", "last_ordered_block")
        final = _most(rows, "node", "final_ordered_block")
        self._settled_lag.append(self._waits_s(settled, now_s))
        self._final_lag.append(self._waits_s(final, now_s))

    def _waits_s(self, done: int | None, now_s: float) -> float | None:
        """How long the first ordered block above `done` has been waiting."""
        if done is None or not self._heights:
            return None
        place = bisect_right(self._heights, done, key=lambda point: point[0])
        return 0.0 if place == len(self._heights) else now_s - self._heights[place][1]


def _most(rows: list[ProcessRow], role: str, name: str) -> int | None:
    found = [row.values.get(name) for row in rows if row.role == role]
    return max((value for value in found if isinstance(value, int)), default=None)
