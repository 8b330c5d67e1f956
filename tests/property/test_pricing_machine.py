"""Random prices, books, gaps, votes and trades: what must hold for marks, funding and expiry.

Each block also runs on a machine restored from the leaves before it (`PricingWorld`), so nothing
that prices depend on is outside the state.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest
from engine_world import GUARDIANS, START_MS, market
from pricing_world import MAKER, Machine, PricingWorld

from execution.state import State
from margin.mark import EMA_UNIT
from protocol.actions import OPEN
from protocol.genesis import FeeTier, Reopening
from protocol.markets import FUNDING_PERIOD_MS, FUNDING_SAMPLE_MS, PPM, PRICE_LIMIT
from protocol.settlement import FIRST_ACCOUNT, POOL_ACCOUNT

HOUR_MS = 3_600_000
TRADERS = range(MAKER + 1, MAKER + 7)
SEEDS = range(6)


def configs(rng: random.Random) -> list[Any]:
    """Three markets with random features: perpetuals, and a dated future."""
    fields: list[dict[str, Any]] = [
        {"funding_interval_ms": rng.choice((5_000, 60_000, HOUR_MS))},
        {"funding_interval_ms": FUNDING_PERIOD_MS, "maintenance_ppm": rng.choice((1_000, 90_000))},
        {
            "expires_ms": START_MS + rng.choice((40_000, 3_000_000)),
            "settle_window_ms": rng.choice((1_000, 30_000)),
        },
    ]
    for changes in fields:
        changes["impact_notional_uusd"] = rng.choice((0, 1, 10**8, 10**8))
        changes["oracle_age_ms"] = rng.choice((0, 3_000, 60_000))
        changes["oracle_deviation_ppm"] = rng.choice((0, 50_000))
        changes["oracle_hold_ms"] = rng.choice((0, 2_000))
        changes["oracle_confidence_ppm"] = rng.choice((0, 1_000))
        changes["scale_from_uusd"], changes["scale_to_uusd"] = rng.choice(((0, 0), (10**8, 10**10)))
        changes["fee_tiers"] = [FeeTier(10**9, 300, 0)]
    return [market(n, **changes) for n, changes in enumerate(fields)]


class Run:
    """One random history."""

    def __init__(self, seed: int) -> None:
        print("seed", seed)
        rng = self.rng = random.Random(seed)
        self.w = PricingWorld(
            configs(rng),
            oracle_stakes=rng.choice(([], [1, 2, 3])),
            guardians=[key.hex() for key in GUARDIANS],
            reopening=Reopening(rng.choice((0, 10_000)), 500, 1_000),
        )
        self.ticks = [1_000] * 3
        self.seen: dict[str, int] = {}

    def note(self, what: str, happened: bool) -> None:
        """Count what really happened."""
        self.seen[what] = self.seen.get(what, 0) + bool(happened)

    def block(self) -> None:
        """One block with random prices, then what people do in it."""
        rng, w = self.rng, self.w
        number = rng.randrange(3)
        step = rng.choice((0, 2, 20, 200))
        self.ticks[number] = max(50, self.ticks[number] + rng.randint(-step, step))
        prices = [
            self.ticks[number] + rng.randint(-1, 1) if rng.random() < 0.9 else None
            for _ in range(3)
        ]
        before = [(m.mark_ticks, m.stale) for m in w.state.markets]
        dt_ms = rng.choice((0, 20, 20, 300, 1_000, 5_000))
        if rng.random() < 0.05:
            dt_ms = rng.choice((100_000, HOUR_MS))
        confidence = rng.choice((0, 0, 0, 2_000))
        w.block(dt_ms, *prices, market=number, confidence_ppm=confidence)
        self.check(before)
        self.people()

    def people(self) -> None:
        """Quotes, trades, votes and accounts that are touched."""
        rng, w = self.rng, self.w
        number = rng.randrange(3)
        if rng.random() < 0.3:
            middle = max(20, self.ticks[number] + rng.randint(-40, 40))
            bid, ask = middle - rng.randint(1, 15), middle + rng.randint(1, 15)
            lots = rng.choice((1, 10_000))
            w.quote(*rng.choice(((bid, ask), (bid, 0), (0, ask), (0, 0))), lots, number)
        if rng.random() < 0.5 and not w.market(number).settled_ticks:
            buyer, seller = rng.sample(TRADERS, 2)
            w.market(number).last_ticks = self.ticks[number]
            w.trade(buyer, seller, self.ticks[number], rng.randint(1, 3_000), number)
        if rng.random() < 0.02:
            mode = rng.randrange(5)
            for guardian in rng.sample(range(3), 2):
                w.vote(guardian, number, mode)
        if rng.random() < 0.3:
            w.touch(w.account(rng.choice(TRADERS)))
            w.state.commit()

    def check(self, before: list[tuple[int, bool]]) -> None:
        """What must hold after every block."""
        w = self.w
        for m, (mark, was_stale) in zip(w.state.markets, before, strict=True):
            row = w.row(m.number)
            config = m.config
            self.note("stale", m.stale and not was_stale)
            self.note("wild", row.wild_ms > 0)
            self.note("average", row.ema != 0)
            self.note("paid", row.rate_ppb != 0)
            self.note("blended", row.averaged_ms > 0 and not m.settled_ticks)
            self.note("settled", m.settled_ticks > 0)
            self.note("restricted", row.mode != OPEN)
            self.note("reopening", row.reopened_ms > 0)
            self.note("scaled", m.scaled_ppm > 0)
            assert 0 < m.mark_ticks < PRICE_LIMIT
            assert abs(m.funding_index) < 1 << 62
            assert abs(row.premium_ppb) < 1 << 63
            assert row.premium_samples <= FUNDING_PERIOD_MS // FUNDING_SAMPLE_MS + 1
            assert m.scaled_ppm == 0 or config.initial_ppm <= m.scaled_ppm <= PPM
            if m.stale and was_stale:
                assert m.mark_ticks == mark
            if m.stale or m.settled_ticks or not m.oracle_ticks:
                continue
            parts = [Fraction(m.oracle_ticks), m.oracle_ticks + Fraction(row.ema, EMA_UNIT)]
            if row.averaged_ms:
                parts.append(Fraction(row.average_ticks_ms, row.averaged_ms))
            assert min(parts) - 1 < m.mark_ticks < max(parts) + 1

    def settle_all(self) -> None:
        """Everybody is touched, in random order."""
        w = self.w
        numbers = [*TRADERS, MAKER]
        self.rng.shuffle(numbers)
        w.state.risk.version += 1
        for number in numbers:
            w.touch(w.account(number))
        w.block(0)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_histories(seed: int) -> None:
    run = Run(seed)
    for _ in range(400):
        run.block()
    w = run.w
    run.settle_all()
    assert w.state.pool.cash_uusd >= 0
    assert sum(w.cash().values()) == 0
    for m in w.state.markets:
        sizes = [a.exposures[m.number].size_lots for a in w.state.accounts.values()
                 if m.number in a.exposures]  # fmt: skip
        assert sum(sizes) == 0
        assert sum(size for size in sizes if size > 0) == m.open_interest_lots
        if m.settled_ticks:
            assert not any(sizes)


def test_the_histories_reach_what_they_are_for() -> None:
    seen: dict[str, int] = {}
    for seed in SEEDS:
        run = Run(seed)
        run.w.twins = False
        for _ in range(400):
            run.block()
        for what, times in run.seen.items():
            seen[what] = seen.get(what, 0) + times
    assert all(seen.values()), seen


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_settling_changes_nothing(seed: int) -> None:
    run = Run(seed)
    run.w.twins = False
    for _ in range(300):
        run.block()
    w = run.w
    leaves = list(w.state.leaves().items())
    outcomes = []
    for _ in range(3):
        machine = Machine(State.restore(w.chain, leaves))
        numbers = [number for number in machine.state.accounts if number >= FIRST_ACCOUNT]
        run.rng.shuffle(numbers)
        for number in numbers:
            machine.pricing.settle(machine.state.accounts[number])
        machine.state.commit()
        outcomes.append({n: a.cash_uusd for n, a in machine.state.accounts.items()})
        assert sum(outcomes[-1].values()) == 0
    assert outcomes[0] == outcomes[1] == outcomes[2]


def settled_when(eager: bool, seed: int) -> tuple[dict[int, int], int]:
    """Cash of all accounts in the end, touched after each block or once at the end; and the number
    of payments."""
    rng = random.Random(seed)
    w = PricingWorld([market(0, funding_interval_ms=5_000)], twins=False)
    for buyer, seller in ((17, 18), (18, 19), (20, 17), (21, 22)):
        w.trade(buyer, seller, 1_000, rng.randint(1, 99_999))
    payments = 0
    for _ in range(50):
        w.all(rng.randint(900, 1_100), 5_000)
        payments += 1
        if eager:
            for number in TRADERS:
                w.touch(w.account(number))
    for number in TRADERS:
        w.touch(w.account(number))
    w.block(0)
    return w.cash(), payments


@pytest.mark.parametrize("seed", range(3))
def test_late_and_early_settlement_differ_by_rounding_alone(seed: int) -> None:
    print("seed", seed)
    early, payments = settled_when(True, seed)
    late, _ = settled_when(False, seed)
    assert early[17] != 0
    for number in TRADERS:
        assert 0 <= late.get(number, 0) - early.get(number, 0) <= payments
    assert 0 <= late.get(POOL_ACCOUNT, 0) <= early[POOL_ACCOUNT]


def test_numbers_at_the_ends_of_their_ranges() -> None:
    """The dearest lots, the largest premium and the highest cap, for many payments."""
    dear = market(
        0, tick_uusd=1_000_000, lot_micro=2_000, initial_price_ticks=PRICE_LIMIT - 1,
        funding_interval_ms=FUNDING_PERIOD_MS, funding_cap_ppb=1_000_000_000,
        impact_notional_uusd=1, wide_ppm=1_000_000, max_position_lots=(1 << 31) - 1,
    )  # fmt: skip
    w = PricingWorld([dear], twins=False)
    top = w.market().price_limit - 1
    w.quote(top - 1, top, 1)
    for oracle in (1, top):
        w.all(oracle, 20)
        for _ in range(20):
            w.all(oracle, FUNDING_SAMPLE_MS)
            assert abs(w.row().premium_ppb) < 1 << 63
        for _ in range(30):
            w.all(oracle, FUNDING_PERIOD_MS)
            w.state.leaves()
            assert 0 < w.mark() <= top
            assert abs(w.market().funding_index) < 1 << 62
    assert w.market().funding_index
