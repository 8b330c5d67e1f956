"""Everything at once: money, positions, ranges, legality and restarts, over random trading.

TRILEMMA_FLOW_SEEDS runs more of it; a million actions take some three minutes.
"""

from __future__ import annotations

import os

import pytest
from rich_flow import RichFlow

from execution import leaves as lv
from protocol.events import BatchExecuted
from protocol.markets import CASH_LIMIT, SIZE_LIMIT
from protocol.settlement import INSURANCE_ACCOUNT, POOL_ACCOUNT

SEEDS = range(600, 600 + int(os.environ.get("TRILEMMA_FLOW_SEEDS", "6")))
INT64 = 1 << 63


def standing(flow: RichFlow) -> tuple[list[tuple[int, int]], dict[int, bool]]:
    """Marks and staleness, and who is at or above maintenance."""
    state = flow.world.engine.state
    marks = [(market.mark_ticks, market.stale) for market in state.markets]
    safe = {}
    for number in sorted(state.accounts.keys() - {POOL_ACCOUNT, INSURANCE_ACCOUNT}):
        tv, mm = state.risk.liquidation(state.accounts[number])
        safe[number] = tv >= mm
    return marks, safe


@pytest.mark.parametrize("seed", SEEDS)
def test_money_positions_ranges_and_restarts(seed: int) -> None:
    flow = RichFlow(seed)
    actions = 0
    for number in range(150):
        marks, safe = standing(flow)
        result = flow.block(6, 5)
        actions += sum(len(e.results) for e in result.events if isinstance(e, BatchExecuted))
        engine = flow.world.engine
        assert engine.money_conserved()
        later_marks, later_safe = standing(flow)
        if marks == later_marks:
            fallen = [one for one, before in safe.items() if before and not later_safe[one]]
            assert fallen == [], "an account fell below maintenance at constant marks"
        if number % 10 == 0:
            engine.check()
            check_ranges(flow)
        if number % 30 == 29:
            twin = flow.world.restore()
            assert twin.leaves() == flow.world.mirror
            flow.world.engine = twin
    print("actions", actions)


def check_ranges(flow: RichFlow) -> None:
    """No number in the state is beyond its range."""
    for key, value in flow.world.engine.leaves().items():
        if key[:1] == lv.ACCOUNT:
            assert abs(lv.decode_account(value).cash_uusd) < CASH_LIMIT
        elif key[:1] == lv.POSITION:
            position = lv.decode_position(value)
            assert 0 < abs(position.size_lots) < SIZE_LIMIT
            assert abs(position.cost_uusd) < CASH_LIMIT and abs(position.funding_index) < INT64
        elif key[:1] == lv.PRICING:
            row = lv.decode_pricing(value)
            assert max(abs(row.funding_index), abs(row.premium_ppb), abs(row.ema)) < 1 << 62
