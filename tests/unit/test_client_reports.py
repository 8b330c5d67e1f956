"""Answers as people and programs read them: every number with its unit, exact."""

from __future__ import annotations

import json

import msgspec
import pytest
from engine_world import market
from market_data_world import receipt

from client.market_reports import (
    candles_data,
    candles_text,
    liquidation_data,
    liquidation_text,
    rate_text,
    stats_data,
    stats_text,
    trades_data,
    trades_text,
)
from client.reports import (
    REASONS,
    flag_names,
    margin_data,
    margin_text,
    preview_data,
    preview_text,
    reason_text,
    status_data,
    status_text,
)
from protocol import events
from protocol.actions import OPEN, QUOTE, REDUCE_ONLY, STP_DECREMENT, STP_MASTER
from protocol.errors import Code
from protocol.events import (
    CANCELLED,
    LIQUIDATION_DELEVERAGED,
    NONE,
    REASON_LINKED,
    RESTING,
    BadDebt,
    LiquidationBegun,
    LiquidationEnded,
)
from protocol.messages_market_data import (
    Candle,
    CandlesView,
    LiquidationEntry,
    LiquidationEvent,
    MarketStats,
    TradesView,
    big_sum,
)
from protocol.messages_trading import (
    FIRED,
    KIND_TRIGGER,
    MarginFigures,
    MarginPosition,
    MarginView,
    OrderStatusView,
    PreviewView,
)
from protocol.settlement import account_number

M = market(0, symbol="ETH-PERP", tick_uusd=100_000, lot_micro=10_000, funding_interval_ms=3_600_000)
TIME_MS = 1_700_000_000_000
HELD = MarginPosition(
    0, -150, -450_000_000, 30_000, 29_900, 448_500_000, 1_500_000, -2_000, 44_850_000, 22_425_000,
    10, 31_234, False, 1, 4,
)  # fmt: skip
FIGURES = MarginFigures(
    1_000_000_000, 1_001_498_000, 44_850_000, 22_425_000, 1_001_498_000, 956_648_000, 5, [HELD]
)


def test_a_margin_report() -> None:
    data = margin_data([M], MarginView(1, account_number(77, 2), 9, 0, FIGURES))
    json.dumps(data)
    assert data["equity_uusd"] == 1_001_498_000 and data["free_uusd"] == 956_648_000
    (held,) = data["positions"]
    assert (held["size"], held["entry"], held["liquidation"]) == ("-1.5", "3000", "3123.4")
    assert (held["funding_uusd"], held["rank"], held["ranked"]) == (-2_000, 1, 4)
    text = margin_text([M], data)
    for words in (
        "account 77 sub-account 2", "equity", "1001.498", "-1.5 from 3000, mark 2990",
        "funding -0.002", "liquidation beyond 3123.4", "leverage up to 10", "deleveraged as 2 of 4",
    ):  # fmt: skip
        assert words in text
    below = margin_data([M], MarginView(1, 77, 9, TIME_MS, FIGURES))
    assert "BELOW MAINTENANCE since 2023-11-14" in margin_text([M], below)


def test_a_preview() -> None:
    after = msgspec.structs.replace(FIGURES, equity_uusd=1_000_998_000)
    view = PreviewView(1, 77, 9, 0, RESTING, 100, 3_000_050, 50, 500_000, FIGURES, after)
    data = preview_data([M], M, view)
    json.dumps(data)
    assert (data["filled"], data["average"], data["remaining"]) == ("1", "3000.05", "0.5")
    text = preview_text(data, M)
    assert text.startswith("would be resting, filled 1 at 3000.05 on average, remaining 0.5; fees")
    assert "1001.498 -> 1000.998" in text and "liquidation beyond 3123.4" in text
    refused = msgspec.structs.replace(view, code=Code.BAD_PRICE, status=NONE)
    assert preview_text(preview_data([M], M, refused), M).startswith("would be refused: The price")
    none = msgspec.structs.replace(view, code=Code.NO_LIQUIDITY, status=CANCELLED)
    assert "Nothing within the limit" in preview_text(preview_data([M], M, none), M)


def test_what_became_of_an_order() -> None:
    view = OrderStatusView(
        1, 12, 0, 77, 5, 0, 1, 30_000, 100, 40, 1_200_000, 60, RESTING, 0, 0,
        REDUCE_ONLY | STP_DECREMENT, 11, 0, TIME_MS, TIME_MS + 1_000, 9,
    )  # fmt: skip
    data = status_data([M], view)
    json.dumps(data)
    assert (data["kind"], data["side"], data["average"]) == ("order", "sell", "3000")
    assert data["flags"] == ["reduce-only", "decrement"]
    text = status_text(data)
    for words in ("order 12  ETH-PERP sell 1 at 3000  client id 5", "resting, filled 0.4",
                  "replaces 11", "22:13:21"):  # fmt: skip
        assert words in text
    gone = msgspec.structs.replace(
        view, kind=KIND_TRIGGER, status=CANCELLED, reason=REASON_LINKED, filled_lots=0,
        remaining_lots=0, code=Code.BAD_LINK,
    )  # fmt: skip
    text = status_text(status_data([M], gone))
    assert "trigger 12  ETH-PERP sell 1 with trigger 3000" in text
    assert "cancelled, filled 0, remaining 0 (the order it was linked with" in text
    assert "do not belong together" in text
    fired = msgspec.structs.replace(gone, status=FIRED, replaced_by=13)
    assert "replaced by 13" in status_text(status_data([M], fired))


def test_every_reason_has_a_text() -> None:
    reasons = {value for name, value in vars(events).items() if name.startswith("REASON_")}
    assert reasons == set(range(1, len(REASONS)))
    assert reason_text(99) == "reason 99" and reason_text(0) == ""
    assert flag_names(STP_MASTER | QUOTE) == ["stp-master", "quote"]


def test_candles_and_trades() -> None:
    candle = Candle(TIME_MS, 29_900, 30_100, 29_800, 30_000, big_sum(1_234), big_sum(1 << 70), 7)
    data = candles_data(M, CandlesView(1, 0, 60_000, 9, [candle]))
    json.dumps(data)
    assert (data["interval"], data["candles"][0]["volume"]) == ("1m", "12.34")
    assert data["candles"][0]["notional_uusd"] == 1 << 70
    assert "2023-11-14 22:13:20 UTC" in candles_text(data) and "3010" in candles_text(data)
    assert candles_text(data | {"candles": []}) == "ETH-PERP 1m: no trades"
    trades = trades_data(M, TradesView(1, 0, 9, [(4, TIME_MS, 30_000, 5, 1)]))
    assert "sell           0.05 at 3000" in trades_text(trades)
    assert trades_text(trades | {"trades": []}) == "ETH-PERP: no trades"


def test_figures_of_a_market() -> None:
    one = MarketStats(
        0, OPEN, False, 30_000, 0, 30_300, TIME_MS, 30_000, 30_400, 29_000, big_sum(500),
        big_sum(1_515_000_000), 1, 900, -12_500, 100_000, TIME_MS,
    )  # fmt: skip
    data = stats_data(M, one)
    json.dumps(data)
    assert (data["change_percent"], data["oracle"], data["volume"]) == ("1", "", "5")
    text = stats_text(data)
    assert "mark 3000  last 3030  open interest 9" in text and "1 trade)" in text
    assert "funding: last -0.0012500 %, now 0.0100000 %" in text
    quiet = msgspec.structs.replace(one, last_ticks=0, open_ticks=0, high_ticks=0, trades=0)
    text = stats_text(stats_data(M, quiet))
    assert "0 trades)" in text and "high" not in text and "change 0 %" in text
    stale = msgspec.structs.replace(one, stale=True, mode=4)
    assert stats_text(stats_data(M, stale)).startswith("ETH-PERP  halted, prices are stale")


@pytest.mark.parametrize(
    ("ppb", "text"), [(0, "0.0000000"), (12_500, "0.0012500"), (-40_000_000, "-4.0000000")]
)
def test_rates(ppb: int, text: str) -> None:
    assert rate_text(ppb) == text


def test_liquidations() -> None:
    owner = account_number(77, 1)
    taken = msgspec.structs.replace(
        receipt(4, owner), kind=LIQUIDATION_DELEVERAGED, of_account=78, price_ticks=0
    )
    lines: list[tuple[LiquidationEvent, str]] = [
        (LiquidationBegun(owner, 5_000_000, 6_000_000, 2), "77 sub-account 1 begun: equity 5, "),
        (LiquidationEnded(78, 7_000_000, 6_000_000), "account 78 ended: equity 7, maintenance 6"),
        (BadDebt(78, 1_000_000, 3_000_000), "bad debt 1 of account 78; open in all 3"),
        (receipt(3, owner), "receipt 3  account 77 sub-account 1  ETH-PERP -0.03 by order, mark"),
        (taken, "from account 78, share 0 by deleveraged, mark 90, equity"),
    ]
    for event, words in lines:
        row = liquidation_data([M], LiquidationEntry(5, 6, TIME_MS, event))
        json.dumps(row)
        assert row["seq"] == 5 and row["height"] in (5, 6)
        assert words in liquidation_text([M], row)
