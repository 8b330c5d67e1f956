"""Deleveraging against a naive allocation in fractions, and in the shape of 10 October 2025."""

from __future__ import annotations

import csv
import lzma
import random
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from engine_world import market
from liquidation_world import FREE, Crash, Position, usd

from protocol.events import LIQUIDATION_DELEVERAGED, BadDebt, Receipt
from protocol.genesis import Limits, MarginTier
from protocol.settlement import INSURANCE_ACCOUNT

LOSER = 16
MARK = 10_000
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "market"
BY_COIN = DATA / "hyperliquid_20251010_adl_by_coin_REALTIME.csv.xz"


# -- the naive side


class Holder(NamedTuple):
    """A counterparty: lots, profit in the market, equity, maintenance of its other positions."""

    account: int
    lots: int
    profit: int
    equity: int


def naive_shares(total: int, weights: list[int], caps: list[int]) -> list[int]:
    """Whole shares by weight under caps: the capped ones first, then the largest remainders."""
    got = [0] * len(weights)
    free = [i for i in range(len(weights)) if weights[i] > 0 and caps[i] > 0]
    while free:
        rest = total - sum(got)
        ideal = {i: Fraction(rest * weights[i], sum(weights[j] for j in free)) for i in free}
        over = [i for i in free if ideal[i] >= caps[i]]
        if not over:
            for i in free:
                got[i] = int(ideal[i])
            odd = total - sum(got)
            free.sort(key=lambda i: (int(ideal[i]) - ideal[i], i))
            for i in free[:odd]:
                got[i] += 1
            return got
        for i in over:
            got[i] = caps[i]
        free = [i for i in free if i not in over]
    return got


def naive_deleverage(
    lots: int, shortfall: int, holders: list[Holder], count: int, margin: Any
) -> tuple[dict[int, list[int]], int]:
    """({account: [lots, haircut]}, bad debt) for one position, `count` counterparties at a time."""
    winners = sorted((h for h in holders if h.profit > 0), key=lambda h: (-h.profit, h.account))
    others = sorted((h for h in holders if h.profit <= 0), key=lambda h: (-h.lots, h.account))
    ranked = winners + others
    done: dict[int, list[int]] = {}
    rooms_left: dict[int, int] = {}
    while lots:
        batch, ranked = ranked[:count], ranked[count:]
        parts = naive_shares(lots, [max(h.profit, 0) for h in batch], [h.lots for h in batch])
        rest = lots - sum(parts)
        sizes = [h.lots if h.profit <= 0 else 0 for h in batch]
        for i, more in enumerate(naive_shares(rest, sizes, sizes)):
            parts[i] += more
        taken = sum(parts)
        share = shortfall if taken == lots else shortfall * taken // lots
        rooms = []
        for h, part in zip(batch, parts, strict=True):
            safe = h.equity >= margin(h.lots)
            rooms.append(max(h.equity - margin(h.lots - part), 0) if safe and part else 0)
        for h, part, cut in zip(batch, parts, naive_shares(share, parts, rooms), strict=True):
            if part:
                done[h.account] = [part, cut]
                if h.equity >= margin(h.lots):
                    rooms_left[h.account] = max(h.equity - margin(h.lots - part) - cut, 0)
            shortfall -= cut
        lots -= taken
    # What is left over goes to everybody who took something and can carry more.
    bearers = list(rooms_left)
    rest = naive_shares(
        min(shortfall, sum(rooms_left.values())),
        [done[number][0] for number in bearers],
        [rooms_left[number] for number in bearers],
    )
    for number, cut in zip(bearers, rest, strict=True):
        done[number][1] += cut
    return done, shortfall - sum(rest)


def outcome(receipts: list[Receipt]) -> dict[int, list[int]]:
    """{account: [lots, haircut]} of the counterparties by the receipts."""
    found: dict[int, list[int]] = {}
    for r in receipts:
        if r.kind == LIQUIDATION_DELEVERAGED and r.account != r.of_account:
            entry = found.setdefault(r.account, [0, 0])
            entry[0] += abs(r.size_lots)
            entry[1] += r.share_uusd
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_share_is_that_of_the_naive_allocation(seed: int) -> None:
    rng = random.Random(seed)
    tiers = [MarginTier(usd(2_000), 200_000, 120_000)] if rng.random() < 0.5 else []
    config = market(0, initial_price_ticks=MARK, margin_tiers=tiers, **FREE)
    side = rng.choice((1, -1))
    holders: dict[int, tuple[int, dict[int, Position]]] = {}
    opposite = []
    for number in range(20, 20 + rng.randint(1, 25)):
        lots = rng.choice((1, 7, rng.randint(1, 3_000)))
        entry = MARK + side * rng.choice((0, rng.randint(-400, 400), rng.randint(1, 5_000)))
        equity = rng.choice((0, rng.randint(0, 5_000_000), rng.randint(0, lots) * 10_000_000))
        holders[number] = (equity, {0: (-side * lots, entry)})
        profit = lots * side * (entry - MARK) * config.value_uusd
        opposite.append(Holder(number, lots, profit, equity))
    total = sum(h.lots for h in opposite)
    lots = rng.choice((total, rng.randint(1, total), 1))
    shortfall = rng.choice((0, 1, rng.randint(0, 10**9), rng.randint(0, 10**11)))
    fund = rng.choice((0, 1, rng.randint(0, 2 * shortfall + 1)))
    holders[LOSER] = (-shortfall, {0: (side * lots, MARK)})
    if total > lots:
        holders[17] = (usd(10**6), {0: (side * (total - lots), MARK)})
    count = rng.choice((1, 2, 5, 100))
    limits = Limits(deleverage_counterparties=count)
    w = Crash(holders, [config], insurance_uusd=fund, limits=limits, checked=False)
    product = w.engine._state.markets[0].product

    def margin(size: int) -> int:
        return product.maintenance_uusd(size, MARK)

    # Counterparties that are worth nothing are closed themselves, but after the loser.
    state = w.engine._state
    before = {n: a.cash_uusd for n, a in state.accounts.items()}
    expected, bad = naive_deleverage(
        lots, shortfall - min(fund, shortfall), opposite, count, margin
    )
    w.block([])
    w.engine.check()
    mine = [r for r in w.receipts if r.of_account == LOSER]
    assert outcome(mine) == expected, seed
    cuts = sum(cut for _, cut in expected.values())
    paid = -sum(r.insurance_uusd for r in mine)
    assert cuts + paid + bad == shortfall
    debts = [e.amount_uusd for e in w.of(BadDebt) if e.account == LOSER]
    assert debts == ([bad] if bad else [])
    assert w.size(LOSER) == 0 and w.cash(LOSER) == 0
    assert sum(before.values()) == sum(a.cash_uusd for a in state.accounts.values())


# -- the shape of 10 October 2025


class Coin(NamedTuple):
    """What was deleveraged in one market: notional, profit of those who closed, and how many."""

    name: str
    notional_usd: int
    profit_ppm: int
    users: int


def real_coins() -> list[Coin]:
    """The coins of the recording, the ones with the most users first."""
    if not BY_COIN.exists():
        pytest.skip("the deleveraging of 10 October 2025 is not at ../shared/data/market")
    with lzma.open(BY_COIN, "rt") as file:
        rows = list(csv.DictReader(file))
    coins = [
        Coin(
            row["coin"],
            int(Fraction(row["adl_notional"])),
            int(Fraction(row["closed_pnl"]) * 1_000_000 / Fraction(row["adl_notional"])),
            int(row["num_users"]),
        )
        for row in rows
    ]
    return sorted(coins, key=lambda coin: -coin.users)


def synthetic_coins() -> list[Coin]:
    """From one counterparty to hundreds, from dollars to hundreds of millions, also at a loss."""
    return [
        Coin("ONE", 20, 50_000, 1),
        Coin("FEW", 7_000, -67_000, 4),
        Coin("MID", 2_500_000, 600_000, 60),
        Coin("LARGE", 600_000_000, 104_000, 700),
    ]


def crash_of(coin: Coin, rng: random.Random) -> Crash:
    """Three accounts go under with this notional; the others have Pareto sizes and lognormal
    profits around what the coin's winners made, at 2 to 40 times leverage."""
    # 10,000 ticks and 100 uUSD a tick x lot: one lot is a dollar.
    config = market(
        0, initial_price_ticks=MARK, tick_uusd=100_000, lot_micro=1_000,
        max_order_lots=(1 << 31) - 1, max_position_lots=(1 << 31) - 1, **FREE,
    )  # fmt: skip
    total = max(coin.notional_usd, 3)
    weights = [rng.paretovariate(1.1) for _ in range(coin.users)]
    sizes = [max(int(total * w * 1.5 / sum(weights)), 1) for w in weights]
    holders: dict[int, tuple[int, dict[int, Position]]] = {}
    for number, lots in enumerate(sizes, 100):
        profit_ppm = int(coin.profit_ppm * rng.lognormvariate(0, 0.7)) + rng.randint(
            -50_000, 50_000
        )
        entry = max(MARK + MARK * profit_ppm // 1_000_000, 1)
        equity = lots * 1_000_000 // rng.randint(2, 40) + 1_000_000
        holders[number] = (equity, {0: (-lots, entry)})
    left = min(total, sum(sizes))
    for number, part in ((16, left // 2), (17, left // 3), (18, left - left // 2 - left // 3)):
        # Up to 8 % of the notional is lost beyond the margin.
        gap_ppm = rng.randint(0, 80_000)
        holders[number] = (-part * gap_ppm, {0: (part, MARK * 6 // 5)})
    held = sum(sizes) - left
    if held:
        holders[50] = (usd(held), {0: held})
    return Crash(holders, [config], insurance_uusd=left * 1_000, checked=False)


def follow(coin: Coin, seed: int) -> int:
    """Let it happen and check every sum; returns the haircuts in micro-dollars."""
    w = crash_of(coin, random.Random(seed))
    state = w.engine._state
    short = {n: -state.risk.liquidation(state.accounts[n])[0] for n in (16, 17, 18)}
    total = sum(a.cash_uusd for a in state.accounts.values())
    fund = w.cash(INSURANCE_ACCOUNT)
    safe = {
        n for n, a in state.accounts.items() if a.exposures and _covered(state.risk.liquidation(a))
    }
    cuts = bad = 0
    for _ in range(200):
        w.block([])
        bad += sum(e.amount_uusd for e in w.of(BadDebt))
        if not w.distressed().keys() & short.keys():
            break
    w.engine.check()
    cuts = sum(cut for _, cut in outcome(w.receipts).values())
    paid = -sum(r.insurance_uusd for r in w.receipts)
    assert cuts + paid + bad == sum(short.values()), (coin, seed)
    assert paid == min(fund, sum(short.values()))
    assert [w.size(n) for n in short] == [0, 0, 0] and [w.cash(n) for n in short] == [0, 0, 0]
    assert total == sum(a.cash_uusd for a in state.accounts.values())
    for number in safe:
        account = state.accounts[number]
        assert _covered(state.risk.liquidation(account)), (coin, seed, number)
    return cuts


def _covered(standing: tuple[int, int]) -> bool:
    tv, mm = standing
    return tv >= mm


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("coin", synthetic_coins(), ids=lambda coin: coin.name)
def test_synthetic_crashes_are_paid_for_exactly(coin: Coin, seed: int) -> None:
    follow(coin, seed)


@pytest.mark.parametrize("part", range(4))
def test_the_crash_of_october_2025_is_paid_for_exactly(part: int) -> None:
    coins = real_coins()[part::4]
    assert len(coins) >= 40
    cuts = sum(follow(coin, seed) for seed, coin in enumerate(coins))
    assert cuts > 0
