"""Market data for people and for programs: candles, figures, trades, liquidations.

Data for programs has prices and sizes as decimal texts and money in micro-dollars (`_uusd`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from client.orders import MODES, account_text
from client.reports import SIDE_NAMES, price_text
from client.units import format_micro, lots_to_size, ticks_to_price, utc, uusd_to_usd
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_DELEVERAGED,
    LIQUIDATION_ORDER,
    BadDebt,
    LiquidationBegun,
    LiquidationEnded,
    Receipt,
)
from protocol.markets import PPM, MarketConfig
from protocol.messages_market_data import (
    CANDLE_INTERVALS_MS,
    CandlesView,
    LiquidationEntry,
    MarketStats,
    TradesView,
    read_sum,
)

Row = dict[str, Any]

MODE_NAMES = {number: name for name, number in MODES.items()}
INTERVAL_NAMES = {span_ms: name for name, span_ms in CANDLE_INTERVALS_MS.items()}
STEPS = {
    LIQUIDATION_ORDER: "order",
    LIQUIDATION_BACKSTOP: "backstop",
    LIQUIDATION_DELEVERAGED: "deleveraged",
}
PPB_PER_PERCENT = 10_000_000


def rate_text(rate_ppb: int) -> str:
    """A rate in per cent."""
    sign, size = "-" if rate_ppb < 0 else "", abs(rate_ppb)
    return f"{sign}{size // PPB_PER_PERCENT}.{size % PPB_PER_PERCENT:07d}"


def candles_data(market: MarketConfig, view: CandlesView) -> Row:
    """Candles of a market."""
    return {
        "market": market.symbol,
        "interval": INTERVAL_NAMES[view.interval_ms],
        "height": view.height,
        "candles": [
            {
                "begin_ms": one.begin_ms,
                "open": ticks_to_price(market, one.open_ticks),
                "high": ticks_to_price(market, one.high_ticks),
                "low": ticks_to_price(market, one.low_ticks),
                "close": ticks_to_price(market, one.close_ticks),
                "volume": lots_to_size(market, read_sum(one.volume_lots)),
                "notional_uusd": read_sum(one.notional_uusd),
                "trades": one.trades,
            }
            for one in view.candles
        ],
    }


def candles_text(data: Row) -> str:
    """`candles_data` for people."""
    head = f"{data['market']} {data['interval']}"
    if not data["candles"]:
        return f"{head}: no trades"
    columns = ("open", "high", "low", "close", "volume", "trades")
    lines = [f"{head:<26}" + "".join(f"{name:>12}" for name in columns)]
    lines += [
        f"{utc(one['begin_ms']):<26}" + "".join(f"{one[name]:>12}" for name in columns)
        for one in data["candles"]
    ]
    return "\n".join(lines)


def stats_data(market: MarketConfig, one: MarketStats) -> Row:
    """A market now and in the last 24 hours."""
    now_ticks = one.last_ticks or one.mark_ticks
    change_ppm = (now_ticks - one.open_ticks) * PPM // one.open_ticks if one.open_ticks else 0
    return {
        "market": market.symbol,
        "mode": MODE_NAMES[one.mode],
        "stale": one.stale,
        "mark": price_text(market, one.mark_ticks),
        "oracle": price_text(market, one.oracle_ticks),
        "last": price_text(market, one.last_ticks),
        "last_trade_ms": one.last_trade_ms,
        "open": price_text(market, one.open_ticks),
        "high": price_text(market, one.high_ticks),
        "low": price_text(market, one.low_ticks),
        "change_percent": format_micro(change_ppm * 100),
        "volume": lots_to_size(market, read_sum(one.volume_lots)),
        "notional_uusd": read_sum(one.notional_uusd),
        "trades": one.trades,
        "open_interest": lots_to_size(market, one.open_interest_lots),
        "funding_rate_ppb": one.funding_rate_ppb,
        "predicted_rate_ppb": one.predicted_rate_ppb,
        "funding_interval_ms": market.funding_interval_ms,
        "next_funding_ms": one.next_funding_ms,
    }


def stats_text(data: Row) -> str:
    """`stats_data` for people."""
    head = f"{data['market']}  {data['mode']}{', prices are stale' if data['stale'] else ''}"
    prices = "  ".join(f"{name} {data[name]}" for name in ("mark", "oracle", "last") if data[name])
    lines = [f"{head}  {prices}  open interest {data['open_interest']}"]
    lines.append(
        f"  24 h: volume {data['volume']} ({uusd_to_usd(data['notional_uusd'])} dollars,"
        f" {data['trades']} trade{'' if data['trades'] == 1 else 's'})"
        + (f"  high {data['high']}  low {data['low']}" if data["high"] else "")
        + f"  change {data['change_percent']} %"
    )
    if data["funding_interval_ms"]:
        lines.append(
            f"  funding: last {rate_text(data['funding_rate_ppb'])} %, now"
            f" {rate_text(data['predicted_rate_ppb'])} %"
            + (f", due {utc(data['next_funding_ms'])}" if data["next_funding_ms"] else "")
        )
    return "\n".join(lines)


def trades_data(market: MarketConfig, view: TradesView) -> Row:
    """The newest trades of a market."""
    return {
        "market": market.symbol,
        "height": view.height,
        "trades": [
            {
                "seq": seq,
                "time_ms": time_ms,
                "price": ticks_to_price(market, ticks),
                "size": lots_to_size(market, lots),
                "side": SIDE_NAMES[side],
            }
            for seq, time_ms, ticks, lots, side in view.trades
        ],
    }


def trades_text(data: Row) -> str:
    """`trades_data` for people."""
    lines = [
        f"{utc(one['time_ms'])}  {one['side']:<4} {one['size']:>14} at {one['price']}"
        for one in data["trades"]
    ]
    return "\n".join(lines) or f"{data['market']}: no trades"


# --- liquidations


def liquidation_data(markets: Sequence[MarketConfig], entry: LiquidationEntry) -> Row:
    """An entry of the liquidation feed."""
    head: Row = {"seq": entry.seq, "height": entry.height, "time_ms": entry.time_ms}
    event = entry.event
    if isinstance(event, Receipt):
        return head | {"event": "receipt"} | receipt_data(markets, event)
    names = {LiquidationBegun: "begun", LiquidationEnded: "ended", BadDebt: "bad_debt"}
    return head | {"event": names[type(event)]} | asdict(event)


def receipt_data(markets: Sequence[MarketConfig], one: Receipt) -> Row:
    """A liquidation receipt."""
    market = markets[one.market]
    return {
        "number": one.number,
        "step": STEPS[one.kind],
        "height": one.height,
        "account": one.account,
        "of_account": one.of_account,
        "market": market.symbol,
        "size": lots_to_size(market, one.size_lots),
        "mark": ticks_to_price(market, one.mark_ticks),
        "zero_price": price_text(market, one.price_ticks),
        "amount_uusd": one.amount_uusd,
        "equity_uusd": one.equity_uusd,
        "maintenance_uusd": one.maintenance_uusd,
        "rank": one.rank,
        "insurance_uusd": one.insurance_uusd,
        "share_uusd": one.share_uusd,
    }


def liquidation_text(markets: Sequence[MarketConfig], row: Row) -> str:
    """`liquidation_data` for people."""
    head = f"{utc(row['time_ms'])}  "
    if row["event"] == "receipt":
        return head + receipt_text(markets, row)
    owner = account_text(row["account"], markets)
    if row["event"] == "bad_debt":
        return (
            f"{head}bad debt {uusd_to_usd(row['amount_uusd'])} of account {owner};"
            f" open in all {uusd_to_usd(row['total_uusd'])}"
        )
    text = (
        f"{head}account {owner} {row['event']}: equity {uusd_to_usd(row['equity_uusd'])}"
        f", maintenance {uusd_to_usd(row['maintenance_uusd'])}"
    )
    return text + (f", {row['waiting']} waiting" if row["event"] == "begun" else "")


def receipt_text(markets: Sequence[MarketConfig], row: Row) -> str:
    """A receipt for people."""
    owner = account_text(row["account"], markets)
    text = f"receipt {row['number']}  account {owner}  {row['market']} {row['size']}"
    if row["step"] == STEPS[LIQUIDATION_DELEVERAGED] and row["account"] != row["of_account"]:
        other = account_text(row["of_account"], markets)
        text += f" from account {other}, share {uusd_to_usd(row['share_uusd'])}"
    text += f" by {row['step']}, mark {row['mark']}"
    text += f", zero price {row['zero_price']}" if row["zero_price"] else ""
    return (
        f"{text}, equity {uusd_to_usd(row['equity_uusd'])} of maintenance"
        f" {uusd_to_usd(row['maintenance_uusd'])}, insurance {uusd_to_usd(row['insurance_uusd'])}"
    )
