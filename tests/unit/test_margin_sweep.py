"""The sweep: arrays, plain code and the naive valuation agree to the micro-dollar."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from compiled_modules import interpreted
from engine_world import market

from margin.account import Account
from margin.market import Market
from margin.naive import liquidation
from margin.sweep import Sweep
from margin.sweep_arrays import NOTIONAL_BOUND, POSITIONS_BOUND
from margin.valuation import Valuation
from protocol.genesis import MarginTier
from protocol.settlement import BACKSTOP_ACCOUNT, FIRST_ACCOUNT

TIERS = [
    MarginTier(10_000_000, 200_000, 100_000),
    MarginTier(123_456_789, 500_000, 300_000),
    MarginTier(1 << 60, 900_000, 800_000),
]
NEVER = 1 << 62


class Plain:
    """Stands for a product that is not linear: the arrays must not touch it."""

    def __init__(self, product: object) -> None:
        self._product = product

    def __getattr__(self, name: str) -> object:
        return getattr(self._product, name)


class Population:
    """Random accounts over random markets, many of them exactly at maintenance."""

    def __init__(self, seed: int, accounts: int, markets: int = 6) -> None:
        self.rng = rng = random.Random(seed)
        tiers = [[], TIERS[:1], TIERS]
        self.risk = Valuation(
            [
                Market(
                    market(number, lot_micro=rng.choice((1, 7, 1_000, 32_000)),
                           margin_tiers=rng.choice(tiers), maintenance_ppm=rng.choice((1, 50_000)))
                )
                for number in range(markets)
            ]
        )  # fmt: skip
        self.accounts = {
            number: Account(number, b"")
            for number in range(FIRST_ACCOUNT, FIRST_ACCOUNT + accounts)
        }
        self.accounts[BACKSTOP_ACCOUNT] = Account(BACKSTOP_ACCOUNT, b"")
        self.accounts[BACKSTOP_ACCOUNT].cash_uusd = -5
        self.move_markets()
        for account in self.accounts.values():
            self.change(account)

    def rarely(self, seldom: int, usual: int) -> int:
        """The first number once in forty times."""
        return seldom if self.rng.randrange(40) == 0 else usual

    def move_markets(self) -> None:
        """New marks, funding, staleness and settlements."""
        rng = self.rng
        for one in self.risk.markets:
            one.mark_ticks = rng.choice((1, rng.randint(1, 5_000), rng.randint(1, 100_000)))
            one.funding_index = self.rarely(
                rng.choice((rng.randint(-(1 << 61), 1 << 61), NEVER)), rng.randint(-(10**6), 10**6)
            )
            one.stale = rng.random() < 0.3
            one.stale_band_ppm = rng.choice((0, 1, 50_000, 999_999))
            one.settled_ticks = rng.choice((0, 0, 0, rng.randint(1, 5_000)))
        self.risk.version += 1

    def change(self, account: Account) -> None:
        """New positions, and cash around the boundary."""
        rng = self.rng
        for one in self.risk.markets:
            e = account.exposure(one.number)
            most = self.rarely((1 << 31) - 1, 5_000)
            e.size_lots = rng.choice((0, rng.randint(-most, most), most, -most))
            e.funding_index = self.rarely(
                -NEVER, rng.choice((0, one.funding_index, rng.randint(-(10**9), 10**9)))
            )
        account.cash_uusd = 0
        tv, mm = liquidation(account, self.risk.markets)
        account.cash_uusd = rng.choice((0, mm - tv, mm - tv - 1, mm - tv + 1, rng.randint(-9, 9)))

    def expected(self) -> dict[int, tuple[int, int]]:
        """Everybody below maintenance, the slow way."""
        found = {}
        for number, account in self.accounts.items():
            tv, mm = liquidation(account, self.risk.markets)
            if tv < mm and number >= FIRST_ACCOUNT:
                found[number] = (tv, mm)
        return found


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("least", [0, NEVER], ids=["arrays", "plain"])
def test_exactly_those_below_maintenance_are_found(least: int, seed: int) -> None:
    world = Population(seed, 60)
    sweep = Sweep(world.risk, world.accounts, least)
    for _ in range(12):
        assert sweep.below() == world.expected(), seed
        if world.rng.random() < 0.5:
            world.move_markets()
        changed = world.rng.sample(sorted(world.accounts), world.rng.randint(0, 20))
        for number in changed:
            world.change(world.accounts[number])
        if world.rng.random() < 0.3:
            number = max(world.accounts) + 1
            account = world.accounts[number] = Account(number, b"")
            world.change(account)
            changed.append(number)
        sweep.update(changed)


def test_arrays_answer_for_most_and_leave_the_extremes() -> None:
    left = asked = 0
    for seed in range(20):
        world = Population(seed, 60)
        sweep = Sweep(world.risk, world.accounts, 0)
        assert sweep._arrays is not None
        left += len(set(sweep._arrays.scan(None)[1]))
        asked += 60
    assert 0 < left < asked // 2, left


def test_it_goes_over_to_arrays_when_accounts_become_many() -> None:
    world = Population(3, 30)
    few = Sweep(world.risk, world.accounts, 25)
    for number in range(FIRST_ACCOUNT, FIRST_ACCOUNT + 30):
        account = world.accounts[number]
        account.cash_uusd = 0
        for e in account.exposures.values():
            e.size_lots = 0
    few.update(world.accounts)
    few = Sweep(world.risk, world.accounts, 25)
    assert few.below() == {} and few._arrays is None
    for number in range(FIRST_ACCOUNT, FIRST_ACCOUNT + 30):
        world.change(world.accounts[number])
        few.update([number])
        assert few.below() == world.expected()
    assert few._arrays is not None


def test_more_positions_and_more_cash_than_arrays_hold() -> None:
    rng = random.Random(7)
    risk = Valuation([Market(market(number)) for number in range(300)])
    accounts = {number: Account(number, b"") for number in range(FIRST_ACCOUNT, FIRST_ACCOUNT + 4)}
    for account, positions in zip(accounts.values(), (256, 257, 300, 1), strict=True):
        for number in range(positions):
            account.exposure(number).size_lots = rng.choice((-1, 1)) * 1_000
        account.cash_uusd = 257 * 50_000_000 - 1
    accounts[FIRST_ACCOUNT + 3].cash_uusd = -(1 << 61)
    sweep = Sweep(risk, accounts, 0)
    expected = {}
    for number, account in accounts.items():
        tv, mm = liquidation(account, risk.markets)
        if tv < mm:
            expected[number] = (tv, mm)
    assert sweep.below() == expected and len(expected) >= 2
    # The second and third have too many positions, the fourth too large a debt.
    assert sweep._arrays is not None
    assert sorted(sweep._arrays.scan(None)[1]) == sorted(accounts)[1:]
    accounts[FIRST_ACCOUNT + 3].cash_uusd = 1
    sweep.update(accounts)
    assert sorted(sweep._arrays.scan(None)[1]) == sorted(accounts)[1:3]


@interpreted
def test_a_product_that_is_not_linear_is_left_to_the_valuation() -> None:
    world = Population(11, 40)
    world.risk.markets[2].product = Plain(world.risk.markets[2].product)  # type: ignore[assignment]
    sweep = Sweep(world.risk, world.accounts, 0)
    assert sweep.below() == world.expected()


def test_a_market_worth_more_than_the_bound_per_lot() -> None:
    world = Population(5, 20)
    one = world.risk.markets[0]
    one.settled_ticks = 0
    one.mark_ticks = (1 << 53) // one.config.value_uusd
    assert Sweep(world.risk, world.accounts, 0).below() == world.expected()


def test_system_accounts_are_left_out_and_debts_without_positions_are_not() -> None:
    risk = Valuation([Market(market(0))])
    accounts = {number: Account(number, b"") for number in (BACKSTOP_ACCOUNT, FIRST_ACCOUNT)}
    for least in (0, NEVER):
        for account in accounts.values():
            account.cash_uusd = -1
        sweep = Sweep(risk, accounts, least)
        assert sweep.below() == {FIRST_ACCOUNT: (-1, 0)}
        accounts[FIRST_ACCOUNT].cash_uusd = 0
        sweep.update([FIRST_ACCOUNT])
        assert sweep.below() == {}


def test_small_processes_load_no_compiler() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from engine_world import World\n"
        "World().mark(900)\n"
        "print(sorted({'numba', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_arrays_grow() -> None:
    world = Population(1, 2_600, 3)
    sweep = Sweep(world.risk, world.accounts, 0)
    assert sweep.below() == world.expected()
    for account in world.accounts.values():
        world.change(account)
    sweep.update(world.accounts)
    assert sweep.below() == world.expected()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("stale", [True, False])
def test_nothing_overflows_at_the_ends_of_every_range(sign: int, stale: bool) -> None:
    tiers = [MarginTier(NOTIONAL_BOUND // 2, 1_000_000, 999_999)]
    risk = Valuation(
        [Market(market(number, margin_tiers=tiers)) for number in range(POSITIONS_BOUND)]
    )
    accounts = {FIRST_ACCOUNT + n: Account(FIRST_ACCOUNT + n, b"") for n in range(3)}
    for one in risk.markets:
        one.mark_ticks = 1_073_741
        one.stale, one.stale_band_ppm = stale, 999_999
        lots = (NOTIONAL_BOUND - 1) // one.product.notional_uusd(1, one.mark_ticks)
        one.funding_index = sign * ((1 << 62) // lots)
        # The second account is beyond one bound by a lot, the third by an index.
        for account, more, index in zip(accounts.values(), (0, 1, 0), (0, 0, -sign), strict=True):
            e = account.exposure(one.number)
            e.size_lots, e.funding_index = sign * (lots + more), index
    for account in accounts.values():
        account.cash_uusd = 1 - (1 << 61)
    numbers = list(accounts)
    sweep = Sweep(risk, accounts, 0)
    assert sweep._arrays is not None
    assert sorted(sweep._arrays.scan(None)[1]) == numbers[1:]
    assert sweep.below() == {
        number: liquidation(account, risk.markets) for number, account in accounts.items()
    }
