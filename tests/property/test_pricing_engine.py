"""Whole engines with all pricing switched on: random trading over days, gaps and an expiry."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from engine_world import ORACLES, START_MS, World, market

from execution import Engine
from protocol.actions import Cancel, MarketOrder, OraclePrice, Order
from protocol.errors import Code
from protocol.events import BatchExecuted
from protocol.genesis import DAY_MS, FeeTier, Reopening

HOUR_MS = 3_600_000
DATED = 2


class TimedWorld(World):
    """A world whose time the test sets."""

    clock_ms = START_MS

    @property
    def time_ms(self) -> int:
        """Time of the next block."""
        return self.clock_ms


def make_world() -> TimedWorld:
    priced: dict[str, Any] = {
        "impact_notional_uusd": 20_000_000,
        "oracle_age_ms": 5_000,
        "oracle_deviation_ppm": 100_000,
        "oracle_hold_ms": 2_000,
        "fee_tiers": [FeeTier(50_000_000, 300, -100), FeeTier(500_000_000, 200, -200)],
    }
    markets = [
        market(0, funding_interval_ms=HOUR_MS, **priced),
        market(
            1, funding_interval_ms=60_000, scale_from_uusd=10**9, scale_to_uusd=10**11, **priced
        ),
        market(DATED, expires_ms=START_MS + 2 * DAY_MS, settle_window_ms=20_000, **priced),
    ]
    return TimedWorld(
        markets,
        accounts=6,
        dollars=20_000,
        checked=False,
        guardians=3,
        insurance_uusd=0,
        reopening=Reopening(600_000, 2_000, 3_000),
    )


class History:
    """Random trading; a second engine, restored from leaves now and then, runs beside."""

    def __init__(self, seed: int) -> None:
        print("seed", seed)
        self.rng = random.Random(seed)
        self.world = make_world()
        self.ticks = [1_000] * 3
        self.seen: Counter[str] = Counter()
        self.beside: Engine | None = None

    def step(self, dt_ms: int) -> None:
        """One block."""
        rng, world = self.rng, self.world
        world.clock_ms += dt_ms
        world.nonce = max(world.nonce, world.clock_ms)
        raws = [self.batch() for _ in range(rng.randint(0, 6))]
        if rng.random() < 0.8:
            step = rng.choice((1, 3, 10))
            self.ticks = [max(500, t + rng.randint(-step, step)) for t in self.ticks]
            prices = [OraclePrice(n, ticks) for n, ticks in enumerate(self.ticks)]
            raws += [world.batch(0, *prices, by=oracle) for oracle in ORACLES]
        if rng.random() < 0.1:
            self.beside = world.restore()
        result = world.block(raws)
        if self.beside is not None:
            again = self.beside.apply(world.height, world.time_ms, b"", [], world.cursor, raws)
            assert again.events == result.events
            assert again.changes == result.changes
        world.engine.check()
        for event in result.events:
            self.seen[type(event).__name__] += 1
            if isinstance(event, BatchExecuted):
                for answer in event.results:
                    self.seen[Code(answer.code).label] += 1

    def batch(self) -> bytes:
        rng, world = self.rng, self.world
        number, side = rng.randrange(3), rng.randrange(2)
        account = rng.choice(world.accounts)
        ticks = self.ticks[number] + rng.randint(-12, 12)
        orders = world.engine.orders_of(account)
        kind = rng.random()
        if kind < 0.6 or not orders:
            action: Any = Order(number, side, ticks, rng.randint(1, 400))
        elif kind < 0.75:
            action = MarketOrder(number, side, rng.randint(1, 300), 20_000)
        else:
            found = rng.choice(orders)
            action = Cancel(found[0], found[1])
        return world.batch(account, action)

    def times(self) -> Any:
        """Mostly quick blocks; days and gaps in between, and slow ones around the expiry."""
        rng = self.rng
        for _ in range(4):
            for _ in range(60):
                yield rng.choice((20, 20, 500, 2_000))
            yield rng.choice((HOUR_MS, 7 * HOUR_MS, 300_000))
        left_ms = START_MS + 2 * DAY_MS - 22_000 - self.world.clock_ms
        yield max(left_ms, 0)
        for _ in range(60):
            yield rng.choice((20, 500, 1_000))
        yield DAY_MS
        for _ in range(30):
            yield rng.choice((20, 2_000))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_days_of_trading(seed: int) -> None:
    history = History(seed)
    for dt_ms in history.times():
        history.step(dt_ms)
    world = history.world
    assert world.engine.money_conserved()
    for what in (
        "Fill", "MarkChanged", "MarketChanged", "FundingRate", "FundingPaid", "Expired",
        "PositionSettled", "market_cancel_only", "market_expired",
    ):  # fmt: skip
        assert history.seen[what], f"never saw {what}: {history.seen}"
    assert {t for t, _ in world.engine._state.markets[0].fees_ppm} == {500, 300, 200}
    assert any(account.tier for account in world.engine._state.accounts.values())
