"""How long it takes to find every account below maintenance after all marks moved.

    python -m bench.risk_sweep [--accounts 100000] [--markets 20] [--positions 20] [--rounds 20]
                               [--seed 1] [--json] [--profile]

`--positions`: open positions of each account. One core. "plain" is what processes with few accounts
do: one account after another, measured on a part of them. Every result is compared with it once.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import random
import time
from collections.abc import Callable
from statistics import median

from margin.account import Account
from margin.market import Market
from margin.sweep import Sweep
from margin.valuation import Valuation
from protocol.genesis import MarginTier, MarketConfig
from protocol.settlement import FIRST_ACCOUNT

MARK_TICKS = 60_000
TIERS = [MarginTier(10_000_000_000_000, 100_000, 50_000)]
PLAIN_ACCOUNTS = 2_000


def world(
    accounts: int, markets: int, positions: int, seed: int
) -> tuple[Valuation, dict[int, Account]]:
    """Accounts with random positions; about one in a hundred is near maintenance."""
    rng = random.Random(seed)
    risk = Valuation(
        [
            Market(
                MarketConfig(
                    number, f"M{number}-PERP", 1_000_000, 1_000, 50_000, 25_000, 400, 100,
                    1_000_000, 100_000, 1_000_000, MARK_TICKS, margin_tiers=TIERS,
                )
            )
            for number in range(markets)
        ]
    )  # fmt: skip
    found = {
        number: Account(number, b"") for number in range(FIRST_ACCOUNT, FIRST_ACCOUNT + accounts)
    }
    for account in found.values():
        for number in rng.sample(range(markets), positions):
            e = account.exposure(number)
            e.size_lots = rng.choice((-1, 1)) * int(rng.paretovariate(1.2) * 10)
            e.funding_index = rng.randint(0, 1_000_000)
        tv, mm = risk.liquidation(account)
        account.cash_uusd = mm - tv + int(rng.uniform(-0.02, 2) * mm)
    return risk, found


def move(risk: Valuation, rng: random.Random) -> None:
    """Every mark moves by up to half a percent, and every funding index."""
    for market in risk.markets:
        market.mark_ticks += rng.randint(-market.mark_ticks // 200, market.mark_ticks // 200)
        market.funding_index += rng.randint(-10_000, 10_000)
    risk.version += 1


def timed(rounds: int, before: Callable[[], object], run: Callable[[], object]) -> list[float]:
    """Milliseconds of each run; `before` is not timed."""
    spent = []
    for _ in range(rounds):
        before()
        start = time.perf_counter_ns()
        run()
        spent.append((time.perf_counter_ns() - start) / 1e6)
    return spent


def check(risk: Valuation, accounts: dict[int, Account], sweep: Sweep) -> int:
    """How many are below; raises SystemExit when the sweep says anything else."""
    plain = {}
    for number, account in accounts.items():
        tv, mm = risk.liquidation(account)
        if tv < mm:
            plain[number] = (tv, mm)
    if sweep.below() != plain:
        raise SystemExit("the sweep differs from the valuation")
    return len(plain)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--positions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    positions = min(options.positions, options.markets)
    risk, accounts = world(options.accounts, options.markets, positions, options.seed)
    rng = random.Random(options.seed + 1)
    start = time.perf_counter()
    sweep = Sweep(risk, accounts, 0)
    build_s = time.perf_counter() - start
    # The garbage collector would walk millions of positions that all stay.
    gc.collect()
    gc.freeze()
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    full = timed(options.rounds, lambda: move(risk, rng), sweep.below)
    touched = rng.sample(sorted(accounts), min(1_000, len(accounts)))
    update = timed(options.rounds, lambda: None, lambda: sweep.update(touched))
    again = timed(options.rounds, lambda: sweep.update(touched), sweep.below)
    profile.disable()
    below = check(risk, accounts, sweep)
    few = dict(list(accounts.items())[:PLAIN_ACCOUNTS])
    slow = Sweep(risk, few, len(few) + 1)
    plain = timed(3, lambda: move(risk, rng), slow.below)
    figures = {
        "accounts": options.accounts,
        "positions": options.accounts * positions,
        "below": below,
        "build_s": round(build_s, 2),
        "sweep_ms": round(median(full), 2),
        "sweep_min_ms": round(min(full), 2),
        "sweep_max_ms": round(max(full), 2),
        "update_us_per_account": round(median(update) * 1_000 / len(touched), 2),
        "again_us_per_account": round(median(again) * 1_000 / len(touched), 2),
        "plain_ms_per_1000": round(median(plain) * 1_000 / len(few), 2),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>22}  {value}")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
