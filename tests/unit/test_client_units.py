"""Decimals at the edge become exact integers, or are refused."""

from __future__ import annotations

import pytest

from client.faults import explain
from client.units import (
    UnitError,
    duration,
    format_micro,
    lots_to_size,
    parse_micro,
    percent_to_ppm,
    price_to_ticks,
    readable,
    size_to_lots,
    ticks_to_price,
    usd_to_uusd,
    uusd_to_usd,
)
from protocol.errors import Code, ConfigError, RemoteFault
from protocol.genesis import MarketConfig

BTC = MarketConfig(
    market=0, symbol="BTC-PERP", tick_uusd=100_000, lot_micro=1_000, initial_ppm=50_000,
    maintenance_ppm=30_000, taker_fee_ppm=450, maker_fee_ppm=150, min_notional_uusd=1_000_000,
    max_order_lots=1_000_000, max_position_lots=1_000_000, initial_price_ticks=600_000,
)  # fmt: skip


def test_prices_and_sizes_become_whole_ticks_and_lots() -> None:
    assert price_to_ticks(BTC, "60000.1") == 600_001
    assert price_to_ticks(BTC, "60000.100") == 600_001
    assert size_to_lots(BTC, "0.001") == 1
    assert size_to_lots(BTC, "12") == 12_000
    assert usd_to_uusd("100.25") == 100_250_000
    assert percent_to_ppm("0.5") == 5_000


def test_text_and_integers_are_inverse() -> None:
    for ticks in (1, 9, 10, 600_001):
        assert price_to_ticks(BTC, ticks_to_price(BTC, ticks)) == ticks
    for lots in (1, 999, 1_000, 123_456):
        assert size_to_lots(BTC, lots_to_size(BTC, lots)) == lots
    for uusd in (1, 1_000_000, 1_500_000, 10**15 + 1):
        assert usd_to_uusd(uusd_to_usd(uusd)) == uusd


def test_negative_amounts_are_printed_with_their_sign() -> None:
    assert format_micro(-1) == "-0.000001"
    assert format_micro(-1_500_000) == "-1.5"
    assert format_micro(0) == "0"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("60000.05", "tick"),
        ("0", "above zero"),
        ("-1", "above zero"),
        ("1e5", "decimal"),
        ("", "decimal"),
        ("nan", "decimal"),
        (".5", "decimal"),
        ("1.", "decimal"),
        ("١", "decimal"),
        ("0.0000001", "decimal places"),
        ("1" * 16, "decimal"),
        ("1\n2", "decimal"),
    ],
)
def test_prices_that_are_none_are_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(UnitError, match=why):
        price_to_ticks(BTC, text)


def test_a_size_between_lots_is_refused_and_names_the_lot() -> None:
    with pytest.raises(ConfigError, match=r"0\.001, the lot of BTC-PERP"):
        size_to_lots(BTC, "0.0005")


def test_a_negative_percentage_is_refused() -> None:
    with pytest.raises(UnitError):
        percent_to_ppm("-1")
    assert parse_micro("+2", "number") == 2_000_000


@pytest.mark.parametrize(
    ("span_ms", "shown"),
    [
        (691_340_329, "8 days"),
        (7 * 86_400_000 + 5 * 3_600_000 + 1, "7 days 5 hours"),
        (86_400_000 + 60_000, "1 day"),
        (61_000, "1 minute 1 second"),
        (1_999, "1 second"),
        (0, "0 ms"),
    ],
)
def test_durations_are_told_in_their_largest_units(span_ms: int, shown: str) -> None:
    assert duration(span_ms) == shown


def test_sentences_of_processes_are_told_in_dollars_and_days() -> None:
    text = "the balance is 99999000000 uusd, the transaction needs 100000000000 uusd"
    assert readable(text) == "the balance is 99999 dollars, the transaction needs 100000 dollars"
    text = "1000000000 uusd at least, not 5 uusd"
    assert readable(text) == "1000 dollars at least, not 0.000005 dollars"
    text = "in force 691340329 ms ago and trusted for 604800000 ms"
    assert readable(text) == "in force 8 days ago and trusted for 7 days"
    for plain in ("block 12345 of epoch 3, not 4", "an answer within 250 ms"):
        assert readable(plain) == plain


def test_a_failure_is_explained_in_dollars_and_never_with_nothing() -> None:
    fault = RemoteFault(Code.INSUFFICIENT_BALANCE, "the balance is 1500000 uusd")
    assert explain(fault) == ("refused: insufficient_balance: the balance is 1.5 dollars", 3)
    assert explain(ConnectionError()) == ("the connection was lost", 4)
