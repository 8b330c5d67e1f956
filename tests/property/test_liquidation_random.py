"""Random markets falling on random accounts: every block keeps every promise of liquidation.

TRILEMMA_LIQUIDATION_SEEDS sets how many seeds run (default 24).
"""

from __future__ import annotations

import os
import random
from itertools import count

import pytest
from engine_world import GUARDIANS, ORACLES, START_MS, market
from liquidation_world import FREE, Crash, Position, usd

from execution import leaves as lv
from margin import holders, sweep
from margin.account import Account
from margin.deleveraging import Opposite, rank_key
from margin.liquidation import kept_uusd
from margin.naive import liquidation
from protocol.actions import (
    BUY,
    CANCEL_ONLY,
    GTC,
    HALTED,
    OPEN,
    POST_ONLY_MODE,
    REDUCE_ONLY,
    SELL,
    CancelAll,
    OraclePrice,
    Order,
    SetMode,
)
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_DELEVERAGED,
    LIQUIDATION_ORDER,
    BadDebt,
    Fill,
    Receipt,
)
from protocol.genesis import Limits, Liquidation, MarginTier, MarketConfig
from protocol.settlement import BACKSTOP_ACCOUNT, FIRST_ACCOUNT, INSURANCE_ACCOUNT

SEEDS = int(os.environ.get("TRILEMMA_LIQUIDATION_SEEDS", "24"))
MAKERS = (20, 21)


class Storm:
    """One seed: a world, its random blocks, and what must hold after each of them."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.configs = [self.config(number) for number in range(rng.randint(1, 3))]
        self.world = Crash(
            self.holders(), self.configs,
            insurance_uusd=usd(rng.choice((0, 50, 5_000))),
            backstop_uusd=usd(rng.choice((0, 100, 20_000))),
            limits=Limits(
                liquidation_items_per_block=rng.choice((1, 3, 20, 2_000)),
                deleverage_counterparties=rng.choice((1, 3, 100)),
                fills_per_action=rng.choice((2, 500)),
            ),
            liquidation=Liquidation(
                partial_notional_uusd=usd(rng.choice((200, 100_000))), partial_wait_ms=100,
                unwind_ms=50, unwind_ppm=300_000, unwind_slippage_ppm=50_000,
            ),
            guardians=1,
        )  # fmt: skip
        self.marks = [config.initial_price_ticks for config in self.configs]
        self.kinds: set[int] = set()
        self.bad_uusd = 0

    def config(self, number: int) -> MarketConfig:
        """Tiers, fees, staleness and a backstop here and there."""
        rng = self.rng
        tiers = [MarginTier(usd(1_500), 200_000, 120_000)] if rng.random() < 0.4 else []
        return market(
            number, margin_tiers=tiers, backstop_max_lots=rng.choice((0, 300, 100_000)),
            liquidation_fee_ppm=rng.choice((0, 10_000)),
            oracle_age_ms=rng.choice((0, 40)), stale_band_ppm=20_000,
            **(FREE if rng.random() < 0.5 else {}),
        )  # fmt: skip

    def holders(self) -> dict[int, tuple[int, dict[int, Position]]]:
        """Levered accounts, and one that takes what is left over; makers without a position."""
        rng = self.rng
        found: dict[int, tuple[int, dict[int, Position]]] = {}
        left = [0] * len(self.configs)
        for number in range(100, 100 + rng.randint(2, 16)):
            positions: dict[int, Position] = {}
            notional = 0
            for one in rng.sample(range(len(self.configs)), rng.randint(1, len(self.configs))):
                lots = rng.choice((1, rng.randint(1, 300), rng.randint(1, 3_000)))
                lots *= rng.choice((1, 1, -1))
                positions[one] = lots
                left[one] -= lots
                notional += abs(lots)
            found[number] = (usd(notional / rng.uniform(3, 16)) + 1, positions)
        rest: dict[int, Position] = {one: lots for one, lots in enumerate(left) if lots}
        size = sum(abs(lots) for lots in left)
        found[50] = (usd(size * rng.choice((0.2, 1, 100))) + 1, rest)
        for maker in MAKERS:
            found[maker] = (usd(rng.choice((500, 100_000))), {})
        return found

    def batches(self) -> list[bytes]:
        """Prices, quotes, and owners in trouble who act for themselves."""
        rng, w = self.rng, self.world
        now_ms = START_MS + (w.height + 1) * 10
        found = []
        shock = rng.choice((1, 1, 1, 3, 3, 10, 40))
        for one, mark in enumerate(self.marks):
            if rng.random() < 0.8:
                mark = max(1, mark + rng.randint(-12, 11) * shock)
                self.marks[one] = mark
                price = OraclePrice(one, mark)
                found += [w.batch(0, price, by=o, nonce=now_ms - one) for o in ORACLES]
        if rng.random() < 0.06:
            modes = (OPEN, OPEN, OPEN, OPEN, OPEN, HALTED, CANCEL_ONLY, POST_ONLY_MODE)
            vote = SetMode(rng.randrange(len(self.marks)), rng.choice(modes))
            found.append(w.batch(0, vote, by=GUARDIANS[0]))
        for maker in MAKERS:
            one = rng.randrange(len(self.marks))
            side = rng.choice((BUY, SELL))
            away = rng.randint(0, 60) * (-1 if side == BUY else 1)
            price = max(1, self.marks[one] + away)
            found.append(
                w.batch(maker, CancelAll(one), Order(one, side, price, rng.randint(1, 800), GTC))
            )
        owner = rng.choice(w.accounts)
        side = rng.choice((BUY, SELL))
        order = Order(rng.randrange(len(self.marks)), side, max(1, self.marks[0]), 50, GTC, 0,
                      rng.choice((0, REDUCE_ONLY)))  # fmt: skip
        found.append(w.batch(owner, order))
        return found

    def step(self, batches: list[bytes]) -> None:
        """One block and everything that must hold after it; `World` checks the state itself."""
        w = self.world
        fund = w.cash(INSURANCE_ACCOUNT)
        cash = {number: a.cash_uusd for number, a in w.engine._state.accounts.items()}
        w.block(batches)
        self.bystanders_keep_theirs(cash)
        if not batches:
            self.nobody_is_forgotten()
        paid = 0
        for event in w.events:
            if isinstance(event, BadDebt):
                self.bad_uusd += event.amount_uusd
            elif isinstance(event, Receipt):
                self.kinds.add(event.kind)
                paid -= min(event.insurance_uusd, 0)
        assert paid <= max(fund, 0) + sum(e.insurance_uusd for e in w.of(Receipt) if e.kind == 0)
        assert w.cash(INSURANCE_ACCOUNT) >= -self.bad_uusd
        self.receipts_add_up()
        if self.rng.random() < 0.3:
            self.ranks_are_those_of_all_holders()

    def ranks_are_those_of_all_holders(self) -> None:
        """What a deleveraging would find next is what sorting every account gives."""
        engine = self.world.engine
        state, opposites = engine._state, engine._phases.liquidations._deleveraging.opposites
        opposites.begin(state.touched)
        for where in state.markets:
            for longs in (False, True):
                expected = []
                for number, account in state.accounts.items():
                    e = account.exposures.get(where.number)
                    if e is None or not e.size_lots or (e.size_lots > 0) != longs:
                        continue
                    row = state.realised.get(lv.realised_key(number, where.number))
                    profit = e.size_lots * where.mark_ticks * where.config.value_uusd - e.cost_uusd
                    profit += sum(uusd for _, uusd in row.hours) if row else 0
                    expected.append(Opposite(number, profit, abs(e.size_lots)))
                found = opposites.ranking(where, longs).take(len(state.accounts) + 1)
                assert found == sorted(expected, key=rank_key)

    def bystanders_keep_theirs(self, cash: dict[int, int]) -> None:
        """Whoever neither trades nor is in a receipt has the cash that it had."""
        named = {0, INSURANCE_ACCOUNT, BACKSTOP_ACCOUNT}
        for event in self.world.events:
            if isinstance(event, Fill):
                named |= {event.maker_account, event.taker_account}
            elif isinstance(event, Receipt):
                named |= {event.account, event.of_account}
            elif isinstance(event, BadDebt):
                named.add(event.account)
        for number, account in self.world.engine._state.accounts.items():
            assert number in named or account.cash_uusd == cash.get(number, 0)

    def nobody_is_forgotten(self) -> None:
        """Below maintenance and waiting are the same, so nobody was pushed below it either."""
        state = self.world.engine._state
        below = set()
        for number, account in state.accounts.items():
            tv, mm = liquidation(account, state.markets)
            if tv < mm and number >= FIRST_ACCOUNT:
                below.add(number)
        assert below == set(self.world.distressed())

    def receipts_add_up(self) -> None:
        """Each step of the block by its own figures."""
        events = [e for e in self.world.events if isinstance(e, Receipt | Fill)]
        own: Receipt | None = None
        lots = amount = cuts = 0
        for before, r in zip([None, *events], events, strict=False):
            if isinstance(r, Fill):
                continue
            if own is not None and (r.kind != LIQUIDATION_DELEVERAGED or r.account == r.of_account):
                assert (lots, amount) == (own.size_lots, own.amount_uusd)
                assert cuts <= own.share_uusd or own.share_uusd == 0
                own = None
            value = self.configs[r.market].value_uusd
            worth = -r.size_lots * r.mark_ticks * value
            if r.kind == LIQUIDATION_ORDER:
                assert isinstance(before, Fill) and before.taker_account == r.account
                better = before.price_ticks - r.price_ticks
                better = better if r.size_lots < 0 else -better
                assert better >= 0 and 0 < r.equity_uusd < r.maintenance_uusd
                assert 0 <= r.insurance_uusd <= better * abs(r.size_lots) * value
                assert r.amount_uusd == -r.size_lots * before.price_ticks * value
            elif r.kind == LIQUIDATION_BACKSTOP:
                given = worth - r.amount_uusd
                assert 0 <= given <= r.equity_uusd
                assert 3 * r.equity_uusd < 2 * r.maintenance_uusd
            elif r.account == r.of_account:
                own, lots, amount, cuts = r, 0, 0, 0
                assert r.account == BACKSTOP_ACCOUNT or r.equity_uusd <= 0
            else:
                lots, amount, cuts = lots - r.size_lots, amount - r.amount_uusd, cuts + r.share_uusd
                assert r.amount_uusd == worth - r.share_uusd and r.share_uusd >= 0
                assert r.share_uusd == 0 or r.equity_uusd >= r.maintenance_uusd
        if own is not None:
            assert (lots, amount) == (own.size_lots, own.amount_uusd)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_storm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}")
    storm = Storm(seed)
    w = storm.world
    for number in range(60):
        storm.step(storm.batches() if number % 3 else [])
        if number == 30:
            # From here on a second engine, made of the leaves and with arrays, does the same.
            monkeypatch.setattr(sweep, "LEAST_IN_ARRAYS", 0)
            monkeypatch.setattr(holders, "LEAST_IN_ARRAYS", 0)
            twin = w.restore()
        elif number > 30:
            again = twin.apply(w.height, w.time_ms, b"", [], w.cursor, w.last_batches)
            assert again.events == w.events and again.changes == w.last.changes, seed


def test_storms_meet_every_way_out() -> None:
    kinds: set[int] = set()
    bad = 0
    for seed in count(2_010):
        storm = Storm(seed)
        storm.world.checked = False
        for _ in range(40):
            storm.step(storm.batches())
        kinds |= storm.kinds
        bad += storm.bad_uusd
        if len(kinds) == 3 and bad:
            break
        assert seed < 2_300, "many storms, and not every way out was met"


def test_a_thousand_fail_at_once_and_all_are_dealt_with() -> None:
    rng = random.Random(5)
    holders: dict[int, tuple[int, dict[int, Position]]] = {}
    for number in range(1_000, 2_000):
        lots = rng.randint(10, 200)
        holders[number] = (usd(lots * rng.uniform(0.055, 0.08)), {0: lots})
    total = sum(p[0] for _, p in holders.values() if isinstance(p[0], int))
    for number in range(100, 150):
        holders[number] = (usd(total), {0: -(total // 50)})
    holders[99] = (usd(total), {0: -(total - total // 50 * 50)})
    limits = Limits(liquidation_items_per_block=2_000)
    w = Crash(holders, insurance_uusd=usd(100), limits=limits, checked=False)
    w.mark(910)
    blocks = 0
    while w.distressed():
        w.block([])
        blocks += 1
        assert blocks < 50
    w.engine.check()
    state = w.engine._state
    assert all(_flat(state.accounts[number]) for number in holders if number >= 1_000)
    turn = w.engine.leaves().get(lv.TURN_KEY)
    assert turn is None


def _flat(account: Account) -> bool:
    return not any(e.size_lots for e in account.exposures.values()) and account.cash_uusd == 0


def test_equity_kept_never_exceeds_the_exact_share() -> None:
    assert kept_uusd(10, 3, 1) == 3
