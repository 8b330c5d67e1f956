"""Margin reports and liquidation prices over random accounts: exact to the tick, and read only."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from compiled_modules import fields
from margin_world import MarginWorld

from execution.report import liquidation_ticks, margin_report
from margin import Account, naive

SEEDS = range(1, 1 + int(os.environ.get("TRILEMMA_MARGIN_SEEDS", "8")))
STEPS = 500


def picture(account: Account) -> list[object]:
    """Everything that a report might change."""
    found: list[object] = [getattr(account, name) for name in fields(Account)]
    for number, e in account.exposures.items():
        found += [number, *(getattr(e, name) for name in fields(type(e)))]
    return [dict(field) if isinstance(field, dict) else field for field in found]


def below(world: MarginWorld, account: Account) -> bool:
    """Whether the account is below maintenance, from first principles."""
    tv, mm = naive.liquidation(account, world.markets)
    return tv < mm


def test_one_tick_beyond_the_liquidation_price_is_below_maintenance() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        print("seed", seed)
        world = MarginWorld(seed)
        for number in range(STEPS):
            world.step()
            if number % 5:
                continue
            for account in world.accounts.values():
                for market in world.markets:
                    seen[check_price(world, account, market.number)] += 1
    for what in ("long", "short", "stale", "funding", "other markets", "already below", "none"):
        assert seen[what], f"never saw {what}"


def check_price(world: MarginWorld, account: Account, number: int) -> str:
    """Hold a liquidation price against the naive margin at that mark and at its neighbours."""
    market = world.markets[number]
    e = account.exposures.get(number)
    found = liquidation_ticks(world.risk, account, number)
    if e is None or not e.size_lots:
        assert found is None
        return "no position"
    against = -1 if e.size_lots > 0 else 1
    mark = market.mark_ticks
    was_below = below(world, account)

    def below_at(ticks: int) -> bool:
        market.mark_ticks = ticks
        try:
            return below(world, account)
        finally:
            market.mark_ticks = mark

    if found is None:
        # The same at both ends of the range, so at every mark between.
        assert below_at(1) == below_at(market.price_limit - 1) == was_below
        return "none"
    assert not below_at(found)
    assert below_at(found + against)
    assert was_below == ((mark - found) * against > 0)
    if was_below:
        return "already below"
    if market.stale:
        return "stale"
    if e.funding_index != market.funding_index:
        return "funding"
    if any(x.size_lots for x in account.exposures.values() if x is not e):
        return "other markets"
    return "long" if e.size_lots > 0 else "short"


def test_a_report_is_what_touching_the_account_finds_and_changes_nothing() -> None:
    reported = 0
    for seed in SEEDS:
        print("seed", seed)
        world = MarginWorld(seed)
        for number in range(STEPS):
            world.step()
            if number % 20:
                continue
            if number == STEPS // 2:
                world.markets[2].settled_ticks = world.markets[2].mark_ticks + 3
                world.risk.version += 1
            for account in world.accounts.values():
                before = picture(account)
                report = margin_report(world.risk, account)
                assert picture(account) == before
                tv, im = naive.totals(account, world.markets)
                assert (report.equity_uusd, report.initial_uusd) == (tv, im)
                assert report.free_uusd == max(0, tv - im)
                equity, mm = naive.liquidation(account, world.markets)
                assert (report.liquidation_equity_uusd, report.maintenance_uusd) == (equity, mm)
                free, settled = naive.withdrawable(account, world.markets)
                assert report.withdrawable_uusd == max(0, min(free, settled))
                assert sum(p.initial_uusd for p in report.positions) == im
                assert sum(p.maintenance_uusd for p in report.positions) == mm
                for position in report.positions:
                    assert position.liquidation_ticks == liquidation_ticks(
                        world.risk, account, position.market
                    )
                    reported += 1
                # The worth of all positions and their funding, taken apart and put together.
                assert report.cash_uusd == account.cash_uusd + due(world, account)
    assert reported > 100


def due(world: MarginWorld, account: Account) -> int:
    """Funding and settlement that the account's next action pays."""
    total = 0
    for number, e in account.exposures.items():
        market = world.markets[number]
        total += world.risk.funding_uusd(e, market)
        if market.settled_ticks:
            total += market.product.settled_uusd(e.size_lots, market.settled_ticks)
    return total
