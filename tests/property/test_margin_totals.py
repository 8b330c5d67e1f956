"""Running totals against margin from first principles, over random flow on `Risk` itself."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from margin_world import MarginWorld

from margin import naive

SEEDS = int(os.environ.get("TRILEMMA_MARGIN_SEEDS", "8"))
STEPS = 600


def test_running_totals_are_those_of_first_principles() -> None:
    seen: Counter[str] = Counter()
    for seed in range(1, SEEDS + 1):
        print("seed", seed)
        world = MarginWorld(seed)
        before_uusd = sum(account.cash_uusd for account in world.accounts.values())
        for _ in range(STEPS):
            world.step()
            seen["below maintenance"] += check(world)
        cash_uusd = sum(account.cash_uusd for account in world.accounts.values())
        assert cash_uusd + world.fees_uusd + world.pool_uusd == before_uusd
        seen.update(world.seen)
    # Sometimes: the run really went where it hurts.
    for what in (
        "ok", "ok reduce-only", "insufficient_margin", "position_limit", "fill", "reducing fill",
        "maker refused", "taker refused", "fitted", "move", "funding", "below maintenance",
    ):  # fmt: skip
        assert seen[what], f"never saw {what}"


def check(world: MarginWorld) -> int:
    """Hold totals that are fresh against the naive ones; counts accounts below maintenance."""
    below = 0
    for account in world.accounts.values():
        tv, mm = world.risk.liquidation(account)
        assert (tv, mm) == naive.liquidation(account, world.markets)
        if account.version != world.risk.version:
            continue
        totals = naive.totals(account, world.markets)
        assert (account.tv_uusd, account.im_uusd) == totals
        assert world.risk.withdrawable_uusd(account) == naive.withdrawable(account, world.markets)
        assert tv >= totals.tv_uusd
        below += tv < mm
    for market in world.markets:
        market.book.check()
        exposures = [
            account.exposures[market.number]
            for account in world.accounts.values()
            if market.number in account.exposures
        ]
        assert sum(e.size_lots for e in exposures) == 0
        assert all(e.size_lots or not e.cost_uusd for e in exposures)
    return below
