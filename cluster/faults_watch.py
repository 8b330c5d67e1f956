"""Looks at a running experiment once a second: how much got how far, how late, and who is up."""

from __future__ import annotations

import asyncio
import time

import msgspec

from client.status import Values, sample
from client.submission import STATES, State, Submission
from cluster.faults_flow import WatchedExchange
from cluster.faults_orders import Orders
from store.testnet import Testnet

EVERY_S = 1.0
LOOK_S = 5.0
MEASURED: tuple[State, ...] = ("executed", "settled", "final")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look, `at_s` seconds after the load began.

    `counts` are batches by state since the beginning, and `per_s` actions a second since the last
    look. `latency_ms` is (median, 99th percentile) of the batches that reached a state since then.
    `lag` counts ordered blocks in no settled batch; `down` are processes that do not answer.
    """

    at_s: float
    counts: dict[str, int]
    per_s: dict[str, float]
    latency_ms: dict[str, tuple[float, float]]
    lag: int | None
    bad_debt_uusd: int
    ledger_height: int
    ordered_height: int
    down: list[str]
    active: list[str]


class Watch:
    """Samples one run. `gaps` are the times (seconds of the run) at which each state grew."""

    def __init__(self, testnet: Testnet, exchange: WatchedExchange, orders: Orders) -> None:
        self.samples: list[Sample] = []
        self.first: dict[str, Values | None] = {}
        self.last: dict[str, Values] = {}
        self._testnet = testnet
        self._exchange = exchange
        self._orders = orders
        self._open: dict[State, list[Submission]] = {state: [] for state in STATES}
        self._taken = 0
        self._counts = dict.fromkeys(STATES, 0)
        self._actions = dict.fromkeys(STATES, 0)
        self._looked_ns = self.began_ns = time.perf_counter_ns()

    async def begin(self) -> None:
        """The load begins now."""
        self.first = await self._sampled()
        self._looked_ns = self.began_ns = time.perf_counter_ns()

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return (time.perf_counter_ns() - self.began_ns) / 1e9

    async def look(self) -> Sample:
        """Take a sample, and note which faults hit."""
        found = await self._sampled()
        await self._orders.note()
        for name, values in found.items():
            if values is not None:
                self.last[name] = values
        now_ns = time.perf_counter_ns()
        passed_s = max(1e-3, (now_ns - self._looked_ns) / 1e9)
        self._looked_ns = now_ns
        per_s, latency_ms = self._advance(passed_s)
        heights = {"node": 0, "sequencer": 0}
        settled = 0
        for entry in self._testnet.processes:
            values = found[entry.name] or {}
            if entry.role in heights:
                heights[entry.role] = max(heights[entry.role], number(values, "height"))
            settled = max(settled, number(values, "last_ordered_block"))
        known = heights["node"] > 0 and heights["sequencer"] > 0
        one = Sample(
            at_s=round((now_ns - self.began_ns) / 1e9, 3),
            counts={str(state): count for state, count in self._counts.items()},
            per_s=per_s,
            latency_ms=latency_ms,
            lag=max(0, heights["sequencer"] - settled) if known else None,
            bad_debt_uusd=self._exchange.bad_debt_uusd,
            ledger_height=heights["node"],
            ordered_height=heights["sequencer"],
            down=[name for name, values in found.items() if values is None],
            active=[fault.text for fault in self._orders.faults if fault.ended_s is None],
        )
        self.samples.append(one)
        return one

    async def _sampled(self) -> dict[str, Values | None]:
        """The status of every process; a look that hangs has seen nobody."""
        try:
            async with asyncio.timeout(LOOK_S):
                return await sample(self._testnet)
        except TimeoutError:
            return {entry.name: None for entry in self._testnet.processes}

    def _advance(self, passed_s: float) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Which batches reached which states since the last look."""
        fresh = self._exchange.submissions[self._taken :]
        self._taken += len(fresh)
        per_s: dict[str, float] = {}
        latency_ms: dict[str, tuple[float, float]] = {}
        for state in STATES:
            waiting = self._open[state] + fresh
            reached = [one for one in waiting if one.submitted_ns and one.reached_ns(state)]
            self._open[state] = [
                one for one in waiting if not one.reached_ns(state) and one.error is None
            ]
            self._counts[state] += len(reached)
            actions = sum(one.actions for one in reached)
            self._actions[state] += actions
            per_s[state] = round(actions / passed_s, 1)
            if reached and state in MEASURED:
                latency_ms[state] = percentiles([one.latency_ms(state) for one in reached])
        return per_s, latency_ms


def percentiles(values: list[float]) -> tuple[float, float]:
    """Median and 99th percentile, rounded to a tenth; zeros where there is nothing."""
    if not values:
        return 0.0, 0.0
    ordered = sorted(values)
    last = len(ordered) - 1
    return round(ordered[last // 2], 1), round(ordered[last * 99 // 100], 1)


def number(values: Values, name: str) -> int:
    """A number of a status; 0 where it has none."""
    value = values.get(name, 0)
    return value if isinstance(value, int) else 0
