"""The load's flow is reproducible and plausible, and its report counts what it says."""

from __future__ import annotations

import pytest

from client.load_flow import QUOTES_PER_MARKET, Flow
from client.load_report import Latency, Meters, StateMeter
from client.submission import Submission
from cluster.defaults import MARKETS
from protocol.actions import (
    BUY,
    IOC,
    MAX_ACTIONS,
    Action,
    ActionBatch,
    CancelClient,
    MarketOrder,
    Order,
)
from protocol.codec import encode
from protocol.errors import ConfigError

STARTED = [(market, market.initial_price_ticks) for market in MARKETS]


def flow(seed: int = 7, batch: int = 20, accounts: int = 8) -> Flow:
    return Flow(
        seed, STARTED, accounts=accounts, batch=batch, taker_share=0.25, first_client_id=1_000
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    def some(seed: int) -> list[bytes]:
        made = flow(seed)
        return [
            encode(ActionBatch(account, 1, 0, actions))
            for account, actions in (made.next_batch() for _ in range(200))
        ]

    assert some(7) == some(7)
    assert some(7) != some(8)


def test_orders_keep_the_markets_rules_and_both_sides_are_quoted() -> None:
    made = flow()
    sides = [0, 0]
    kinds: set[type] = set()
    for _ in range(500):
        account, actions = made.next_batch()
        assert len(actions) == 20 and 0 <= account < 8
        for action in actions:
            kinds.add(type(action))
            if isinstance(action, Order):
                market = MARKETS[action.market]
                notional = action.price_ticks * action.size_lots * market.value_uusd
                assert notional >= market.min_notional_uusd
                assert 0 < action.size_lots <= market.max_order_lots
                start = market.initial_price_ticks
                assert abs(action.price_ticks - start) * 100 < start
                if action.tif != IOC:
                    sides[action.side] += 1
    assert kinds == {Order, CancelClient, MarketOrder}
    assert 0.4 < sides[BUY] / sum(sides) < 0.6


def test_cancels_name_own_orders_once_and_quotes_stay_bounded() -> None:
    made = flow()
    live: dict[tuple[int, int], set[int]] = {}

    def apply(account: int, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Order) and action.client_id:
                mine = live.setdefault((account, action.market), set())
                assert action.client_id not in mine
                mine.add(action.client_id)
                assert len(mine) <= QUOTES_PER_MARKET
            elif isinstance(action, CancelClient):
                live[account, action.market].remove(action.client_id)

    for _ in range(1_000):
        apply(*made.next_batch())
    for account, actions in made.last_cancels():
        assert len(actions) <= MAX_ACTIONS
        apply(account, actions)
    assert not any(live.values())


def test_options_that_make_no_sense_are_refused() -> None:
    for batch, accounts in ((0, 8), (101, 8), (20, 1)):
        with pytest.raises(ConfigError):
            flow(batch=batch, accounts=accounts)


def test_meters_count_actions_and_give_percentiles() -> None:
    meters = Meters(1)
    for place in range(1, 101):
        submission = Submission(b"", bytes(32), place, 16, 20)
        submission.submitted_ns = 1
        submission.on_reach = meters.note
        submission.reach("accepted", 1 + place * 1_000_000)
    meter = meters.by_state["accepted"]
    assert meters.actions("accepted") == 2_000 and meters.actions("ordered") == 0
    assert meter.latency() == Latency(50.0, 99.0)
    assert meter.per_second(1) == 20_000.0
    assert StateMeter(1).latency() == Latency(0.0, 0.0)
