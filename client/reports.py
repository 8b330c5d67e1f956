"""Answers of execution for people and for programs: accounts, margin, previews, orders.

Data for programs has prices and sizes as decimal texts and money in micro-dollars (`_uusd`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from client.cli_submit import STATUS_NAMES
from client.orders import KINDS, STP_MODES, account_text
from client.units import format_micro, lots_to_size, ticks_to_price, utc, uusd_to_usd
from protocol.actions import QUOTE, REDUCE_ONLY, STP_MASTER
from protocol.actions import STP_MODES as STP_MASK
from protocol.markets import MarketConfig
from protocol.meanings import meaning
from protocol.messages_trading import (
    KIND_ORDER,
    KIND_TRIGGER,
    AccountView,
    MarginFigures,
    MarginPosition,
    MarginView,
    OrderStatusView,
    PreviewView,
    StandingView,
    TriggerView,
    TwapView,
)

Markets = Sequence[MarketConfig]
Row = dict[str, Any]

SIDE_NAMES = ("buy", "sell")
KIND_NAMES = {number: name for name, number in KINDS.items()}
ID_KINDS = ("order", "trigger", "twap")
REASONS = (
    "", "cancelled by its owner", "reduced by its owner", "no margin left to fill it",
    "self-trade prevention", "reduce-only: the position shrank", "expired",
    "the order it was linked with filled, fired or went", "market-maker protection",
    "dead-man's switch", "its account is liquidated", "the market closed",
    "modified or quoted anew", "the trigger fired", "the TWAP ran its time or size",
    "what the trigger entered was refused",
    "nothing stood behind it any more: no margin, or nothing to reduce",
)  # fmt: skip


def reason_text(reason: int) -> str:
    """Why an order changed without a fill."""
    return REASONS[reason] if 0 <= reason < len(REASONS) else f"reason {reason}"


def price_text(market: MarketConfig, ticks: int) -> str:
    """A price; nothing where there is none."""
    return ticks_to_price(market, ticks) if ticks else ""


def average_text(market: MarketConfig, ticks_lots: int, lots: int) -> str:
    """Average price of fills, rounded down to a micro-dollar."""
    return format_micro(ticks_lots * market.tick_uusd // lots) if lots else ""


def flag_names(flags: int) -> list[str]:
    """Names of order flags."""
    names = ["reduce-only"] if flags & REDUCE_ONLY else []
    names += [name for name, mode in STP_MODES.items() if mode and flags & STP_MASK == mode]
    names += ["stp-master"] if flags & STP_MASTER else []
    return names + (["quote"] if flags & QUOTE else [])


# --- accounts


def account_data(markets: Markets, view: AccountView, orders: Any, standing: StandingView) -> Row:
    """An account with everything that stands for it."""
    return {
        "account": view.account,
        "address": view.address.hex(),
        "height": view.height,
        "cash_uusd": view.cash_uusd,
        "equity_uusd": view.equity_uusd,
        "initial_margin_uusd": view.initial_margin_uusd,
        "maintenance_margin_uusd": view.maintenance_margin_uusd,
        "positions": [_position_data(markets, held) for held in view.positions],
        "orders": [_order_data(markets, *order) for order in orders],
        "triggers": [_trigger_data(markets, one) for one in standing.triggers],
        "twaps": [_twap_data(markets, one) for one in standing.twaps],
        "settings": [
            {
                "market": markets[market].symbol,
                "leverage": leverage,
                "protection_fills": fills,
                "protection_window_ms": window_ms,
            }
            for market, leverage, fills, window_ms in standing.settings
        ],
        "dead_man_ms": standing.dead_man_ms,
        "accounts": standing.accounts,
    }


def _position_data(markets: Markets, held: Any) -> Row:
    market = markets[held.market]
    return {
        "market": market.symbol,
        "size": lots_to_size(market, held.size_lots),
        "mark": ticks_to_price(market, held.mark_ticks),
        "cost_uusd": held.cost_uusd,
        "unrealised_uusd": held.unrealised_uusd,
        "funding_uusd": held.funding_uusd,
        "initial_margin_uusd": held.initial_margin_uusd,
        "maintenance_margin_uusd": held.maintenance_margin_uusd,
        "leverage": held.leverage,
        "liquidation": price_text(market, held.liquidation_ticks),
        "stale": held.stale,
    }


def _order_data(
    markets: Markets, market: int, order_id: int, client_id: int, side: int, ticks: int, lots: int
) -> Row:
    return {
        "order_id": order_id,
        "client_id": client_id,
        "market": markets[market].symbol,
        "side": SIDE_NAMES[side],
        "price": ticks_to_price(markets[market], ticks),
        "remaining": lots_to_size(markets[market], lots),
    }


def _trigger_data(markets: Markets, one: TriggerView) -> Row:
    market = markets[one.market]
    return {
        "order_id": one.trigger_id,
        "client_id": one.client_id,
        "market": market.symbol,
        "side": SIDE_NAMES[one.side],
        "kind": KIND_NAMES[one.kind],
        "size": lots_to_size(market, one.size_lots),
        "at": ticks_to_price(market, one.trigger_ticks),
        "limit": price_text(market, one.limit_ticks),
        "slippage_ppm": one.slippage_ppm,
        "best": price_text(market, one.best_ticks),
        "flags": flag_names(one.flags),
        "expires_ms": one.expires_ms,
        "linked_with": one.link,
        "waits_for": one.parent,
    }


def _twap_data(markets: Markets, one: TwapView) -> Row:
    market = markets[one.market]
    return {
        "order_id": one.twap_id,
        "client_id": one.client_id,
        "market": market.symbol,
        "side": SIDE_NAMES[one.side],
        "size": lots_to_size(market, one.size_lots),
        "done": lots_to_size(market, one.done_lots),
        "flags": flag_names(one.flags),
        "began_ms": one.began_ms,
        "duration_ms": one.duration_ms,
    }


def account_lines(markets: Markets, data: Row) -> str:
    """`account_data` for people."""
    lines = [f"account {account_text(data['account'], markets)}  {data['address']}".rstrip()]
    money = ("cash", "equity", "initial_margin", "maintenance_margin")
    lines += [
        f"  {name.replace('_', ' '):<20}{uusd_to_usd(data[name + '_uusd'])}" for name in money
    ]
    for held in data["positions"]:
        text = f"  position {held['market']}  {held['size']}"
        text += f"  unrealised {uusd_to_usd(held['unrealised_uusd'])}"
        if held["liquidation"]:
            text += f"  liquidation beyond {held['liquidation']}"
        lines.append(text + ("  prices are stale" if held["stale"] else ""))
    for one in data["orders"]:
        lines.append(
            f"  order {one['order_id']}  {one['market']} {one['side']} {one['remaining']}"
            f" at {one['price']}" + _client(one)
        )
    for one in data["triggers"]:
        where = f"{one['at']} behind" if one["kind"] == "trailing" else f"at {one['at']}"
        lines.append(
            f"  {one['kind']} {one['order_id']}  {one['market']} {one['side']} {one['size']}"
            f" {where}" + (f", limit {one['limit']}" if one["limit"] else "") + _client(one)
        )
    for one in data["twaps"]:
        lines.append(
            f"  twap {one['order_id']}  {one['market']} {one['side']} {one['done']} of"
            f" {one['size']}" + _client(one)
        )
    for one in data["settings"]:
        text = f"  {one['market']}"
        text += f"  leverage up to {one['leverage']}" if one["leverage"] else ""
        if one["protection_fills"]:
            text += f"  protection {one['protection_fills']} fills"
            text += f" in {one['protection_window_ms']} ms"
        lines.append(text)
    if data["dead_man_ms"]:
        lines.append(f"  dead-man's switch at {utc(data['dead_man_ms'])}")
    if len(data["accounts"]) > 1:
        family = (account_text(one, markets) for one in data["accounts"])
        lines.append(f"  accounts of the master: {', '.join(family)}")
    return "\n".join(lines)


def _client(row: Row) -> str:
    return f"  client id {row['client_id']}" if row["client_id"] else ""


# --- margin


def figures_data(markets: Markets, figures: MarginFigures) -> Row:
    """An account as margin sees it."""
    names = (
        "cash_uusd", "equity_uusd", "initial_margin_uusd", "maintenance_margin_uusd",
        "liquidation_equity_uusd", "free_uusd", "withdrawable_uusd",
    )  # fmt: skip
    data: Row = {name: getattr(figures, name) for name in names}
    data["positions"] = [_margin_position(markets, held) for held in figures.positions]
    return data


def _margin_position(markets: Markets, held: MarginPosition) -> Row:
    market = markets[held.market]
    data = _position_data(markets, held)
    data.update(
        entry=price_text(market, held.entry_ticks),
        notional_uusd=held.notional_uusd,
        rank=held.rank if held.ranked else None,
        ranked=held.ranked,
    )
    return data


def margin_data(markets: Markets, view: MarginView) -> Row:
    """A margin report."""
    head = {
        "account": view.account,
        "height": view.height,
        "distressed_ms": view.distressed_ms,
    }
    return head | figures_data(markets, view.figures)


def margin_text(markets: Markets, data: Row) -> str:
    """`margin_data` for people."""
    lines = [f"account {account_text(data['account'], markets)}"]
    if data["distressed_ms"]:
        lines[0] += f"  BELOW MAINTENANCE since {utc(data['distressed_ms'])}"
    for name, value in data.items():
        if name.endswith("_uusd"):
            lines.append(
                f"  {name.removesuffix('_uusd').replace('_', ' '):<22}{uusd_to_usd(value)}"
            )
    for held in data["positions"]:
        lines.append(
            f"  {held['market']}  {held['size']}"
            + (f" from {held['entry']}" if held["entry"] else "")
            + f", mark {held['mark']}{' (stale)' if held['stale'] else ''}"
        )
        lines.append(
            f"    unrealised {uusd_to_usd(held['unrealised_uusd'])}"
            f"  funding {uusd_to_usd(held['funding_uusd'])}"
            f"  initial {uusd_to_usd(held['initial_margin_uusd'])}"
            f"  maintenance {uusd_to_usd(held['maintenance_margin_uusd'])}"
        )
        notes = [f"liquidation beyond {held['liquidation']}"] if held["liquidation"] else []
        notes += [f"leverage up to {held['leverage']}"] if held["leverage"] else []
        if held["ranked"]:
            notes.append(f"deleveraged as {held['rank'] + 1} of {held['ranked']}")
        lines += [f"    {'  '.join(notes)}"] if notes else []
    return "\n".join(lines)


def preview_data(markets: Markets, market: MarketConfig, view: PreviewView) -> Row:
    """What an order would do."""
    return {
        "account": view.account,
        "height": view.height,
        "code": view.code,
        "status": STATUS_NAMES[view.status],
        "filled": lots_to_size(market, view.filled_lots),
        "average": average_text(market, view.filled_ticks_lots, view.filled_lots),
        "remaining": lots_to_size(market, view.remaining_lots),
        "fees_uusd": view.fees_uusd,
        "before": figures_data(markets, view.before),
        "after": figures_data(markets, view.after),
    }


def preview_text(data: Row, market: MarketConfig) -> str:
    """`preview_data` for people."""
    if data["code"] and data["status"] == STATUS_NAMES[0]:
        return f"would be refused: {meaning(data['code'])}"
    text = f"would be {data['status']}, filled {data['filled']}"
    text += f" at {data['average']} on average" if data["average"] else ""
    text += f", remaining {data['remaining']}; fees {uusd_to_usd(data['fees_uusd'])}"
    lines = [text + (f": {meaning(data['code'])}" if data["code"] else "")]
    for name in ("equity", "initial_margin", "maintenance_margin", "free"):
        before, after = (uusd_to_usd(data[when][f"{name}_uusd"]) for when in ("before", "after"))
        lines.append(f"  {name.replace('_', ' '):<20}{before} -> {after}")
    lines += [
        f"  position {held['size']}  liquidation beyond {held['liquidation']}"
        for held in data["after"]["positions"]
        if held["market"] == market.symbol and held["liquidation"]
    ]
    return "\n".join(lines)


# --- orders


def status_data(markets: Markets, view: OrderStatusView) -> Row:
    """What became of an order, trigger or TWAP."""
    market = markets[view.market]
    return {
        "order_id": view.order_id,
        "kind": ID_KINDS[view.kind],
        "account": view.account,
        "client_id": view.client_id,
        "market": market.symbol,
        "side": SIDE_NAMES[view.side],
        "price": price_text(market, view.price_ticks),
        "size": lots_to_size(market, view.size_lots),
        "filled": lots_to_size(market, view.filled_lots),
        "average": average_text(market, view.filled_ticks_lots, view.filled_lots),
        "remaining": lots_to_size(market, view.remaining_lots),
        "status": STATUS_NAMES[view.status],
        "code": view.code,
        "reason": reason_text(view.reason),
        "flags": flag_names(view.flags),
        "replaces": view.replaces,
        "replaced_by": view.replaced_by,
        "opened_ms": view.opened_ms,
        "changed_ms": view.changed_ms,
        "height": view.height,
    }


def status_text(data: Row) -> str:
    """`status_data` for people."""
    at = {ID_KINDS[KIND_ORDER]: "at", ID_KINDS[KIND_TRIGGER]: "with trigger"}.get(data["kind"], "")
    text = f"{data['kind']} {data['order_id']}  {data['market']} {data['side']} {data['size']}"
    text += f" {at} {data['price']}" if data["price"] else ""
    lines = [text + _client(data)]
    state = f"  {data['status']}, filled {data['filled']}"
    state += f" at {data['average']} on average" if data["average"] else ""
    state += f", remaining {data['remaining']}"
    lines.append(state + (f" ({data['reason']})" if data["reason"] else ""))
    if data["code"]:
        lines.append(f"  {meaning(data['code'])}")
    lines += [
        f"  {name.replace('_', ' ')} {data[name]}"
        for name in ("replaces", "replaced_by")
        if data[name]
    ]
    lines.append(f"  opened {utc(data['opened_ms'])}, changed {utc(data['changed_ms'])}")
    return "\n".join(lines)
