"""What a load run measured."""

from __future__ import annotations

import time
from array import array
from random import Random

import msgspec

from client.submission import STATES, State, Submission

SAMPLES_KEPT = 200_000
"""Latencies kept per state; beyond that a uniform sample."""
UNANSWERED = "unanswered"
"""Refusal of a batch that got neither a receipt nor an error."""


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from submission to a state: median and 99th percentile over batches."""

    p50: float
    p99: float


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """A load run.

    `tps` are actions per second by state, from the first submission to the last batch that reached
    it. `lost` are batches with a receipt and no result; `duplicated` were executed twice; `refused`
    got no receipt (by code in `refusals`). `errors` are actions that execution rejected, by code.
    `busy` and `resent` count batches sent again, `reconnects` sessions opened again. `cpu_s` is
    this process's own time.
    """

    seconds: float
    batches: int
    actions: int
    orders: int
    cancels: int
    fills: int
    accepted: int
    ordered: int
    executed: int
    settled: int
    final: int
    tps: dict[str, float]
    latency_ms: dict[str, Latency]
    lost: int
    duplicated: int
    refused: int
    busy: int
    resent: int
    reconnects: int
    errors: dict[str, int]
    cpu_s: float
    refusals: dict[str, int] = {}

    @property
    def sound(self) -> bool:
        """Whether every acknowledged batch was executed exactly once."""
        return self.lost == 0 and self.duplicated == 0


class StateMeter:
    """Counts actions and samples latencies of one state."""

    def __init__(self, seed: int) -> None:
        self.actions = 0
        self.batches = 0
        self.last_ns = 0
        self._random = Random(seed)
        self._latencies_us = array("q")

    def note(self, submission: Submission, at_ns: int) -> None:
        """A batch reached the state."""
        self.actions += submission.actions
        self.batches += 1
        self.last_ns = at_ns
        latency_us = (at_ns - submission.submitted_ns) // 1000
        if len(self._latencies_us) < SAMPLES_KEPT:
            self._latencies_us.append(latency_us)
        else:
            place = int(self._random.random() * self.batches)
            if place < SAMPLES_KEPT:
                self._latencies_us[place] = latency_us

    def latency(self) -> Latency:
        """Percentiles of what was noted (0 where nothing was)."""
        ordered = sorted(self._latencies_us)
        if not ordered:
            return Latency(0.0, 0.0)
        last = len(ordered) - 1
        return Latency(ordered[last // 2] / 1000, ordered[last * 99 // 100] / 1000)

    def per_second(self, start_ns: int) -> float:
        """Actions per second since `start_ns`."""
        passed_ns = self.last_ns - start_ns
        return round(self.actions * 1e9 / passed_ns, 1) if passed_ns > 0 else 0.0


class Meters:
    """A meter for each state."""

    def __init__(self, seed: int) -> None:
        self.start_ns = 0
        self.cpu_start_s = time.process_time()
        self.by_state: dict[State, StateMeter] = {state: StateMeter(seed) for state in STATES}

    def note(self, submission: Submission, state: State) -> None:
        """Called by submissions as they reach states."""
        self.by_state[state].note(submission, submission.reached_ns(state))

    def actions(self, state: State) -> int:
        """Actions that reached a state so far."""
        return self.by_state[state].actions
