"""Random trading: money to the micro-dollar, legality, running totals, and restarts."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_world import ORACLES, START_MS, World, market, signer

from execution import Engine
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
from protocol.codec import encode
from protocol.errors import Code
from protocol.events import REASON_MARGIN, BatchExecuted, Fill, OrderChanged
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


@pytest.mark.parametrize("seed", [1, 2])
def test_money_is_conserved_and_totals_stay_exact_over_many_actions(seed: int) -> None:
    flow = Flow(seed)
    world = flow.world
    seen: Counter[str] = Counter()
    actions = 0
    for number in range(700):
        result = flow.block(8, 6)
        world.engine.check()
        assert world.engine.money_conserved()
        if number % 25 == 0:
            assert world.mirror == world.engine.leaves()
        actions += result.actions
        for event in result.events:
            seen[type(event).__name__] += 1
            if isinstance(event, BatchExecuted):
                for outcome in event.results:
                    seen[Code(outcome.code).label] += 1
            elif isinstance(event, OrderChanged) and event.reason == REASON_MARGIN:
                seen["margin_cancel"] += 1
    assert world.mirror == world.engine.leaves()
    assert actions > 25_000
    # Sometimes: the run really went where it hurts.
    for what in (
        "Fill", "margin_cancel", "MarkChanged", "Deposited", "WithdrawalQueued", "AgentChanged",
        "insufficient_margin", "insufficient_cash", "position_limit", "too_many_orders",
        "would_take", "no_liquidity", "duplicate_client_id", "below_min_notional", "bad_size",
        "bad_slippage", "unknown_market", "unknown_order", "bad_amount", "not_authorised",
    ):  # fmt: skip
        assert seen[what], f"never saw {what}"


@pytest.mark.parametrize("seed", [3, 4])
def test_every_action_leaves_its_account_legal(seed: int) -> None:
    flow = Flow(seed, dollars=800)
    world = flow.world
    engine = world.engine
    closed = 0
    for _ in range(1_500):
        if flow.rng.random() < 0.2:
            world.block(flow.prices())
        account = flow.rng.choice(world.accounts)
        before = engine.account_view(0, account)
        action = flow.own(account)
        result = world.act(account, action)[0]
        engine.check()
        after = engine.account_view(0, account)
        if result.code or not isinstance(action, (Order, MarketOrder, Withdraw)):
            continue
        if after.equity_uusd >= after.initial_margin_uusd:
            continue
        closed += 1
        assert not isinstance(action, Withdraw)
        sizes = {p.market: p.size_lots for p in before.positions}
        for position in after.positions:
            old = sizes.get(position.market, 0)
            assert abs(position.size_lots) <= abs(old)
            assert position.size_lots * old >= 0
        left = after.equity_uusd * before.maintenance_margin_uusd
        assert left >= before.equity_uusd * after.maintenance_margin_uusd
        assert after.open_orders <= before.open_orders
    assert closed, "no account ever closed from below its initial margin"


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_an_engine_restored_from_its_leaves_continues_byte_for_byte(seed: int) -> None:
    flow = Flow(seed)
    world = flow.world
    twin: Engine = world.restore()
    fills = 0
    for _ in range(120):
        if flow.rng.random() < 0.15:
            twin = world.restore()
            twin.check()
        raws = [flow.batch(5) for _ in range(5)]
        if flow.rng.random() < 0.3:
            raws += flow.prices()
        inbox = flow.inbox()
        result = world.block(raws, inbox)
        other = twin.apply(world.height, world.time_ms, b"", inbox, world.cursor, raws)
        assert encode(other.events) == encode(result.events)
        assert list(other.changes.items()) == list(result.changes.items())
        assert other.outbox == result.outbox
        assert other.actions == result.actions
        fills += sum(isinstance(event, Fill) for event in result.events)
    assert twin.leaves() == world.engine.leaves() == world.mirror
    assert fills > 100


@pytest.mark.parametrize("seed", [8])
def test_garbage_never_stops_the_engine(seed: int) -> None:
    flow = Flow(seed)
    world = flow.world
    for _ in range(300):
        raw = bytearray(flow.batch(3))
        for _ in range(flow.rng.randint(1, 4)):
            raw[flow.rng.randrange(len(raw))] = flow.rng.randrange(256)
        cut = flow.rng.randrange(len(raw)) if flow.rng.random() < 0.2 else len(raw)
        world.block([bytes(raw[:cut]), flow.rng.randbytes(30)])
        world.engine.check()
    assert world.mirror == world.engine.leaves()
