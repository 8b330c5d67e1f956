"""Random trading for tests of the engine: actions, good and bad, around moving marks."""

from __future__ import annotations

import random
from typing import Any

from engine_world import ORACLES, START_MS, World, market, signer

from protocol.actions import (
    ApproveAgent,
    Cancel,
    CancelClient,
    MarketOrder,
    OraclePrice,
    Order,
    Reduce,
    RevokeAgent,
    Withdraw,
)
from protocol.genesis import Limits

TO = b"t" * 20


class Flow:
    """Random actions, good and bad, around moving marks."""

    def __init__(self, seed: int, dollars: int = 3_000) -> None:
        print("seed", seed)
        self.rng = random.Random(seed)
        markets = [
            market(0, min_notional_uusd=2_000_000),
            market(1, maker_fee_ppm=-300, initial_ppm=50_000, maintenance_ppm=30_000),
            market(2, lot_micro=7_000, maker_fee_ppm=0, max_position_lots=900),
        ]
        limits = Limits(orders_per_account=7, fills_per_action=6)
        self.world = World(markets, limits, accounts=7, dollars=dollars, checked=False)
        self.marks = [1_000] * 3
        self.agents = [bytes((0x50 + n,)) * 32 for n in range(3)]

    def action(self) -> Any:
        rng = self.rng
        number = rng.choice((0, 0, 1, 1, 2, 2, 2, 3)) if rng.random() < 0.05 else rng.randrange(3)
        price = max(0, self.marks[min(number, 2)] + rng.randint(-25, 25))
        lots = rng.choice((rng.randint(0, 20), rng.randint(1, 900)))
        side = rng.randrange(2)
        state_orders = self.world.engine.orders_of(rng.choice(self.world.accounts))
        order_id = rng.choice(state_orders)[1] if state_orders else 1
        kind = rng.randrange(100)
        if kind < 55:
            client = rng.choice((0, 0, rng.randint(1, 9)))
            return Order(number, side, price, lots, rng.choice((0, 0, 1, 2)), client)
        if kind < 65:
            return MarketOrder(
                number, side, lots, rng.choice((0, 3_000, 3_000, 6_000, 20_000, 500_000))
            )
        if kind < 85:
            return Cancel(number, order_id)
        if kind < 88:
            return CancelClient(number, rng.randint(0, 9))
        if kind < 93:
            return Reduce(number, order_id, rng.randint(-1, 60))
        if kind < 96:
            return Withdraw(rng.choice((0, 1, rng.randint(1, 900_000_000))), TO)
        agent = rng.choice(self.agents)
        if kind < 99:
            return ApproveAgent(agent, START_MS + rng.randint(-10, 90_000))
        return RevokeAgent(agent)

    def own(self, account: int) -> Any:
        """An action that hits the account's own orders more often."""
        orders = self.world.engine.orders_of(account)
        action = self.action()
        if orders and isinstance(action, (Cancel, Reduce)) and self.rng.random() < 0.9:
            found = self.rng.choice(orders)
            if isinstance(action, Cancel):
                return Cancel(found[0], found[1])
            return Reduce(found[0], found[1], action.by_lots)
        return action

    def batch(self, size: int) -> bytes:
        account = self.rng.choice(self.world.accounts)
        by = signer(account) if self.rng.random() < 0.9 else self.rng.choice(self.agents)
        actions = [self.own(account) for _ in range(size)]
        return self.world.batch(account, *actions, by=by)

    def prices(self) -> list[bytes]:
        for number in range(3):
            step = self.rng.choice((0, 1, 4, 40))
            self.marks[number] = max(300, self.marks[number] + self.rng.randint(-step, step))
        prices = [OraclePrice(n, ticks) for n, ticks in enumerate(self.marks)]
        return [self.world.batch(0, *prices, by=oracle) for oracle in ORACLES]

    def inbox(self) -> list[Any]:
        if self.rng.random() < 0.9:
            return []
        account = self.rng.choice([*self.world.accounts, 16 + self.rng.randrange(12)])
        if account not in self.world.accounts:
            self.world.accounts.append(account)
        return [self.world.deposit(account, self.rng.randint(1, 500_000_000))]

    def block(self, batches: int, size: int) -> Any:
        raws = [self.batch(size) for _ in range(batches)]
        if self.rng.random() < 0.4:
            raws += self.prices()
        self.rng.shuffle(raws)
        return self.world.block(raws, self.inbox())
