"""Made-up results of stress runs, and a small plan of them."""

from __future__ import annotations

from typing import Any

from sim.stress_frontier import Plan
from sim.stress_ladder import Claims, Closed, Ladder
from sim.stress_queue import Policy
from sim.stress_report import (
    Backlog,
    Delays,
    Flow,
    Percentiles,
    Run,
    Series,
    Wrongful,
    percentiles,
)

NONE = percentiles([])
OPEN_INTEREST = 1_000_000_000


def run(
    cell: str = "ideal",
    seed: int = 1,
    queue: int = 0,
    zero_ms: int = 0,
    backstop: int = 0,
    trader: int = 0,
    wrongful: int = 0,
) -> Run:
    delays = Delays(NONE, Percentiles(1, 0, 0, queue, queue), NONE, NONE)
    fields: dict[str, Any] = {
        "crash": "synthetic", "seed": seed, "cell": cell, "accounts": 5,
        "open_interest_uusd": OPEN_INTEREST, "first_ticks": 10, "low_ticks": 5, "low_ms": 5,
        "begin_ms": 0, "end_ms": 9, "delays": delays, "backlog": Backlog(zero_ms=zero_ms),
        "wrongful": Wrongful(accounts=wrongful), "flow": Flow(),
        "ladder": Ladder(trader, backstop, 0, 0, 0), "closed": Closed(0, 0, 0, 0, 0),
        "claims": Claims(0, 0, 0, 0, 0), "series": Series(),
    }  # fmt: skip
    return Run(**fields)


def plan(**changes: Any) -> Plan:
    usual = Plan(["synthetic"], [1, 2], [1_000_000, 10_000_000], [0, 5_000], [60_000],
                 [Policy.FIFO], [False])  # fmt: skip
    return usual._replace(**changes)
