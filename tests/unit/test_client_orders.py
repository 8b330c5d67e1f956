"""Orders as people write them: exact, or refused with a sentence that says how."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from engine_world import market

from client import orders as made
from protocol.actions import (
    BUY,
    FOK,
    IOC,
    REDUCE_ONLY,
    SELL,
    STOP,
    STP_CANCEL_BOTH,
    STP_DECREMENT,
    STP_MASTER,
    TAKE_PROFIT,
    TRAILING,
    Bracket,
    MarketOrder,
    MassQuote,
    Oco,
    Order,
    TriggerOrder,
    Twap,
)
from protocol.errors import ConfigError
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT, account_number

M = market(1, symbol="ETH-PERP", tick_uusd=100_000, lot_micro=10_000)
"""Tick 0.1 dollars, lot 0.01."""
NOW_MS = 1_700_000_000_000


def test_flags_and_words() -> None:
    assert made.order_flags() == 0
    assert made.order_flags(reduce_only=True, stp="cancel-both") == REDUCE_ONLY | STP_CANCEL_BOTH
    assert made.order_flags(stp="DECREMENT", stp_master=True) == STP_DECREMENT | STP_MASTER
    assert (made.parse_tif("FOK"), made.parse_side("Sell")) == (FOK, SELL)


@pytest.mark.parametrize(
    ("text", "ms"), [("500ms", 500), ("30s", 30_000), ("10m", 600_000), ("2h", 7_200_000)]
)
def test_lengths_of_time(text: str, ms: int) -> None:
    assert made.parse_span_ms(text) == ms
    assert made.parse_time_ms(text, NOW_MS) == NOW_MS + ms


def test_times() -> None:
    assert made.parse_time_ms("", NOW_MS) == 0
    assert made.parse_time_ms("1700000000001", NOW_MS) == 1_700_000_000_001
    assert made.parse_span_ms("1d") == 86_400_000


def test_every_order_in_integers() -> None:
    assert made.limit_order(
        M, "buy", "0.5", "3000.1", tif="ioc", client_id=7, flags=1, expires_ms=9
    ) == Order(1, BUY, 30_001, 50, IOC, 7, 1, 9)
    assert made.market_order(M, "sell", "1", flags=2) == MarketOrder(1, SELL, 100, 10_000, 0, 2)
    assert made.trigger_order(M, "sell", "1", "stop", "2900") == TriggerOrder(
        1, SELL, 100, STOP, 29_000, 0, 50_000
    )
    assert made.trigger_order(
        M, "buy", "1", "take-profit", "2900", limit="2901", client_id=3, flags=1, expires_ms=5
    ) == TriggerOrder(1, BUY, 100, TAKE_PROFIT, 29_000, 29_010, 0, 3, 1, 5)
    assert made.trigger_order(M, "buy", "1", "trailing", "25").trigger_ticks == 250
    assert made.twap(M, "buy", "2", 60_000, client_id=4, flags=1) == Twap(1, BUY, 200, 60_000, 1, 4)
    parent = made.limit_order(M, "buy", "1", "3000")
    assert made.bracket(M, parent, take_profit="3100", stop="2900", stop_limit="2890") == Bracket(
        parent,
        TriggerOrder(1, SELL, 0, TAKE_PROFIT, 31_000, 0, 50_000),
        TriggerOrder(1, SELL, 0, STOP, 29_000, 28_900, 0),
    )
    trailing = made.bracket(M, parent, take_profit="3100", stop="50", trailing=True)
    assert (trailing.stop.kind, trailing.stop.trigger_ticks) == (TRAILING, 500)
    stop = made.trigger_order(M, "buy", "1", "stop", "3100")
    assert made.one_cancels_other(parent, stop) == Oco(parent, stop)


def test_quotes_are_brought_into_order() -> None:
    found = made.quotes(M, [("2999", "1"), ("2999.5", "2")], [("3001", "1"), ("3000.5", "2")])
    assert found == MassQuote(
        1, [(29_995, 200), (29_990, 100)], [(30_005, 200), (30_010, 100)]
    )  # fmt: skip
    assert made.quotes(M, [], []) == MassQuote(1, [], [])
    assert made.parse_quote("2999.5:1") == ("2999.5", "1")


@pytest.mark.parametrize("seed", range(20))
def test_scale_orders_sum_to_exactly_the_size(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    count = rng.randint(2, 100)
    lots = rng.randint(count * count, 10**6)
    weights = rng.choice(made.WEIGHTS)
    first, last = rng.sample(range(20_000, 40_000), 2)
    if abs(last - first) < count:
        last = first + count
    found = made.scale_orders(
        M, "buy", f"{lots / 100:.2f}", f"{first / 10:.1f}", f"{last / 10:.1f}", count,
        weights=weights, tif="post-only", flags=1,
    )  # fmt: skip
    assert sum(order.size_lots for order in found) == lots and len(found) == count
    prices = [order.price_ticks for order in found]
    assert (prices[0], prices[-1]) == (first, last)
    assert prices == sorted(set(prices), reverse=last < first)
    steps = {abs(one - other) for one, other in pairwise(prices)}
    assert max(steps) - min(steps) <= 1
    sizes = [order.size_lots for order in found]
    if weights == "even":
        assert max(sizes) - min(sizes) <= 1
    else:
        share = lots / (count * (count + 1) / 2)
        rising = sizes if weights == "rising" else sizes[::-1]
        assert all(abs(one - share * n) < 1 for n, one in enumerate(rising, 1))


def test_accounts_as_people_write_them() -> None:
    markets = [market(0), M]
    own = account_number(77, 2)
    parse = made.parse_account
    assert parse("0", own, markets) == 77
    assert parse("3", own, markets) == account_number(77, 3)
    assert parse("0:ETH-PERP", own, markets) == account_number(77, 0, 1)
    assert parse("insurance", own, markets) == INSURANCE_ACCOUNT
    assert parse("backstop", own, markets) == BACKSTOP_ACCOUNT
    assert parse("#123", own, markets) == 123
    assert made.account_text(account_number(77, 3, 1), markets) == (
        "77 sub-account 3 isolated in ETH-PERP"
    )
    assert made.account_text(77, markets) == "77"
    assert made.account_text(INSURANCE_ACCOUNT, markets) == "insurance"


def test_signed_sizes() -> None:
    assert (made.signed_lots(M, "-0.5"), made.signed_lots(M, "+2")) == (-50, 200)


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: made.parse_tif("day"), "gtc, ioc, post-only, fok"),
    (lambda: made.order_flags(stp="none"), "cancel-maker"),
    (lambda: made.parse_span_ms("5"), "30s"),
    (lambda: made.parse_time_ms("tomorrow", NOW_MS), "30s"),
    (lambda: made.trigger_order(M, "buy", "1", "limit", "5"), "stop, take-profit, trailing"),
    (lambda: made.trigger_order(M, "buy", "1", "stop", "-5"), "above zero"),
    (lambda: made.limit_order(M, "buy", "1", "3000.05"), "tick of ETH-PERP"),
    (lambda: made.parse_quote("3000"), "PRICE:SIZE"),
    (lambda: made.scale_orders(M, "buy", "1", "3000", "3001", 1), "2 to 100"),
    (lambda: made.scale_orders(M, "buy", "1", "3000", "3000.3", 9), "not 9 prices"),
    (lambda: made.scale_orders(M, "buy", "0.05", "3000", "3100", 9), "too small"),
    (lambda: made.scale_orders(M, "buy", "9", "1", "9", 3, weights="steep"), "rising"),
    (lambda: made.parse_account("x", 77, []), "sub-account"),
    (lambda: made.parse_account("256", 77, []), "sub-account"),
    (lambda: made.parse_account("1:DOGE", 77, [M]), "no market"),
    (lambda: made.signed_lots(M, "0"), "not be 0"),
    (lambda: made.signed_lots(M, "-0.001"), "lot of ETH-PERP"),
    (
        lambda: made.one_cancels_other(
            made.limit_order(M, "buy", "1", "3000"), made.trigger_order(M, "sell", "1", "stop", "1")
        ),
        "one side",
    ),
]


@pytest.mark.parametrize(("make", "says"), BAD)
def test_what_cannot_be_meant_is_refused_with_advice(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
