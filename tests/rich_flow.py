"""Random trading that uses everything the exchange has: every action, every phase, every leaf."""

from __future__ import annotations

from typing import Any

from engine_flow import TO, Flow
from engine_world import GUARDIANS, ORACLES, START_MS, World, market, signer

from protocol.actions import (
    ALL_MARKETS,
    Bracket,
    CancelAll,
    MassQuote,
    Modify,
    Oco,
    OraclePrice,
    Order,
    ScheduleCancel,
    SetLeverage,
    SetMode,
    SetProtection,
    Transfer,
    TransferPosition,
    TriggerOrder,
    Twap,
    Withdraw,
)
from protocol.genesis import FeeTier, Limits, Liquidation, MarginTier, Reopening
from protocol.settlement import account_number

DOLLAR = 1_000_000
BLOCK_MS = 400


def rich_markets() -> list[Any]:
    """A perpetual with everything, one with plain rules, and a dated future."""
    return [
        market(
            0,
            initial_ppm=50_000,
            maintenance_ppm=30_000,
            margin_tiers=[MarginTier(500 * DOLLAR, 80_000, 50_000)],
            fee_tiers=[FeeTier(1_000 * DOLLAR, 400, -50), FeeTier(90_000 * DOLLAR, 300, -100)],
            scale_from_uusd=3_000 * DOLLAR,
            scale_to_uusd=30_000 * DOLLAR,
            price_band_ppm=200_000,
            impact_notional_uusd=20 * DOLLAR,
            oracle_age_ms=30_000,
            oracle_deviation_ppm=100_000,
            oracle_hold_ms=4_000,
            funding_interval_ms=15_000,
            backstop_max_lots=2_000,
        ),
        market(1, maker_fee_ppm=-300, initial_ppm=50_000, maintenance_ppm=30_000),
        market(
            2,
            lot_micro=7_000,
            maker_fee_ppm=0,
            max_position_lots=900,
            impact_notional_uusd=20 * DOLLAR,
            expires_ms=START_MS + 36_000,
            settle_window_ms=20_000,
        ),
    ]


class RichFlow(Flow):
    """Actions of every kind around marks that fall now and then, so that accounts fail."""

    def __init__(self, seed: int, dollars: int = 110) -> None:
        super().__init__(seed, dollars=0)
        self.world = World(
            rich_markets(),
            Limits(
                orders_per_account=9,
                fills_per_action=6,
                liquidation_items_per_block=60,
                refusals_per_action=3,
                expiries_per_block=15,
                triggers_per_block=4,
            ),
            accounts=9,
            dollars=dollars,
            checked=False,
            guardians=3,
            block_ms=BLOCK_MS,
            cancels_first=bool(seed % 2),
            liquidation=Liquidation(300 * DOLLAR, 200_000, 3_000, 2_000, 300_000, 20_000),
            reopening=Reopening(60_000, 2_000, 2_000),
        )
        self.known = list(self.world.accounts)
        self.world.block([], [self.world.fund(3, 500 * DOLLAR), self.world.fund(2, 20 * DOLLAR)])

    def action(self) -> Any:
        rng = self.rng
        if rng.random() < 0.55:
            return super().action()
        number = rng.randrange(3)
        mark, side = self.marks[number], rng.randrange(2)
        lots = rng.choice((rng.randint(1, 20), rng.randint(1, 300)))
        flags = rng.choice((0, 0, 0, 1, 1, 2, 4, 6, 8, 9))
        away = rng.randint(1, 40)
        below = max(mark - away, 1)
        client = rng.choice((0, 0, rng.randint(1, 9)))
        later = self.world.time_ms + rng.choice((800, 20_000))
        stop = TriggerOrder(
            number, 1, lots, 0, below, rng.choice((0, below)), 20_000, client, flags, 0
        )
        profit = TriggerOrder(number, 1, lots, 1, mark + away, 0, 20_000)
        kind = rng.randrange(16)
        choices: list[Any] = [
            Order(number, side, mark + rng.randint(-9, 9), lots, 3, client, flags),
            Order(number, side, mark + rng.randint(-30, 30), lots, 0, client, flags, later),
            Modify(number, 1, mark + rng.randint(-20, 20), lots),
            CancelAll(rng.choice((number, ALL_MARKETS))),
            MassQuote(
                number,
                [(mark - 5 * n - away, lots) for n in range(rng.randrange(3))],
                [(mark + 5 * n + away, lots) for n in range(rng.randrange(3))],
            ),
            stop,
            TriggerOrder(number, side, lots, 2, away, 0, 30_000, 0, flags, rng.choice((0, later))),
            Oco(Order(number, 1, mark + away, lots), stop),
            Bracket(
                Order(number, 0, mark + rng.randint(-10, 10), lots, 0, client),
                TriggerOrder(number, 1, 0, 1, mark + away, 0, 20_000),
                TriggerOrder(number, 1, 0, 0, below, 0, 20_000),
            ),
            Oco(profit, stop),
            Twap(number, side, lots, rng.choice((30_000, 60_000)), flags & 1, client),
            ScheduleCancel(rng.choice((0, self.world.time_ms + rng.randint(4_000, 9_000)))),
            SetLeverage(number, rng.choice((0, 1, 5, 20))),
            SetProtection(number, *rng.choice(((0, 0), (2, 3_000), (1, 50)))),
            Withdraw(rng.randint(1, 20 * DOLLAR), TO),
            Transfer(2, rng.randint(1, DOLLAR)),
        ]
        return choices[kind]

    def own(self, account: int) -> Any:
        rng, draw = self.rng, self.rng.random()
        master = account & 0xFFFF
        if draw < 0.02:
            sub = account_number(master, rng.randrange(3), rng.choice((-1, -1, 0, 1, 2)))
            if sub not in self.world.accounts:
                self.world.accounts.append(sub)
            return Transfer(sub, rng.randint(1, 50 * DOLLAR))
        if draw < 0.04:
            return TransferPosition(rng.choice(self.world.accounts), rng.randrange(3), lots(rng))
        action = super().own(account)
        orders = self.world.engine.orders_of(account)
        if isinstance(action, Modify) and orders:
            number, order_id, _, _, price, left = rng.choice(orders)
            return Modify(
                number, order_id, max(1, price + rng.randint(-3, 3)), left + rng.randint(-3, 3)
            )
        return action

    def inbox(self) -> list[Any]:
        if self.rng.random() < 0.9:
            return []
        account = self.rng.choice([*self.known, 16 + self.rng.randrange(12)])
        if account not in self.known:
            self.known.append(account)
            self.world.accounts.append(account)
        return [self.world.deposit(account, self.rng.randint(1, 60 * DOLLAR))]

    def batch(self, size: int) -> bytes:
        account = self.rng.choice(self.world.accounts)
        by = signer(account & 0xFFFF)
        return self.world.batch(account, *[self.own(account) for _ in range(size)], by=by)

    def prices(self) -> list[bytes]:
        if self.rng.random() < 0.15:
            number, step = self.rng.randrange(3), self.rng.choice((90, 96, 97, 98, 98, 103, 107))
            self.marks[number] = max(300, self.marks[number] * step // 100)
        raws = super().prices()
        if self.rng.random() < 0.03:
            raws += self.votes(self.rng.randrange(2), self.rng.choice((2, 2, 2, 0, 1, 3, 4)))
        else:
            raws += self.votes(self.rng.randrange(2), 2)
        return raws

    def votes(self, number: int, mode: int) -> list[bytes]:
        """All guardians vote."""
        return [self.world.batch(0, SetMode(number, mode), by=key) for key in GUARDIANS]

    def final_prices(self) -> list[bytes]:
        """Prices as they are."""
        prices = [OraclePrice(n, ticks) for n, ticks in enumerate(self.marks)]
        return [self.world.batch(0, *prices, by=oracle) for oracle in ORACLES]


def lots(rng: Any) -> int:
    """A signed size."""
    return int(rng.choice((1, -1)) * rng.randint(1, 30))
