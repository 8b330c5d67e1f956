"""Random trading: money to the micro-dollar, legality, running totals, and restarts."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine_flow import Flow

from execution import Engine
from protocol.actions import (
    MarketOrder,
    Order,
    Withdraw,
)
from protocol.codec import encode
from protocol.errors import Code
from protocol.events import REASON_MARGIN, BatchExecuted, Fill, OrderChanged


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
        # Looking at an account refreshes what is cached about it, and must change nothing.
        world.engine.account_view(0, flow.rng.choice(world.accounts))
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
