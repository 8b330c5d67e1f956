"""What proof files can prove: kinds, the leaves that each is about, and what these say.

A subject is a list of numbers that names one thing of a kind. Data for programs has prices and
sizes as decimal texts and money in micro-dollars (`_uusd`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from client.market_reports import receipt_data, receipt_text
from client.orders import MODES, account_text
from client.reports import SIDE_NAMES, flag_names, price_text
from client.units import lots_to_size, ticks_to_price, uusd_to_usd
from execution import leaves as lv
from protocol.errors import Code, Rejected
from protocol.events import Receipt
from protocol.markets import MarketConfig
from protocol.settlement import OutboxEntry

Markets = Sequence[MarketConfig]
Row = dict[str, Any]
Leaves = Mapping[bytes, bytes | None]

NUMBER_LIMIT = 1 << 63
MARKET_LIMIT = 1 << 16
PRICE_LIMIT = 1 << 32

LIQUIDATION = "liquidation"
WITHDRAWAL = "withdrawal"

_MODE_NAMES = {number: name for name, number in MODES.items()}


class Kind(NamedTuple):
    """Something that stands in the leaves of a state. `fields`: what the numbers of a subject are,
    and what each is below; `keys(subject)`: its leaves; `row` and `text`: what they say."""

    fields: tuple[tuple[str, int], ...]
    keys: Callable[[Sequence[int]], list[bytes]]
    row: Callable[[Markets, Sequence[int], Leaves], Row]
    text: Callable[[Markets, Row], str]


def _account_row(markets: Markets, subject: Sequence[int], leaves: Leaves) -> Row:
    (account,) = subject
    value = leaves[lv.account_key(account)]
    if value is None:
        return {"account": account, "exists": False}
    leaf = lv.decode_account(value)
    return {
        "account": account,
        "exists": True,
        "address": leaf.address.hex(),
        "cash_uusd": leaf.cash_uusd,
    }


def _account_text(markets: Markets, row: Row) -> str:
    name = f"account {account_text(row['account'], markets)}"
    if not row["exists"]:
        return f"there is no {name}"
    owner = f" of {row['address']}" if row["address"] else ""
    return f"{name}{owner} has {uusd_to_usd(row['cash_uusd'])} dollars of cash"


def _position_row(markets: Markets, subject: Sequence[int], leaves: Leaves) -> Row:
    account, number = subject
    value = leaves[lv.position_key(account, number)]
    row: Row = {"account": account, "market": markets[number].symbol, "exists": value is not None}
    if value is None:
        return row
    leaf = lv.decode_position(value)
    return row | {
        "size": lots_to_size(markets[number], leaf.size_lots),
        "cost_uusd": leaf.cost_uusd,
        "funding_index": leaf.funding_index,
    }


def _position_text(markets: Markets, row: Row) -> str:
    name = f"account {account_text(row['account'], markets)}"
    if not row["exists"]:
        return f"{name} has no position in {row['market']}"
    cost = uusd_to_usd(row["cost_uusd"])
    return f"{name} holds {row['size']} {row['market']}, which cost {cost} dollars"


def _order_row(markets: Markets, subject: Sequence[int], leaves: Leaves) -> Row:
    number, side, price_ticks, order_id = subject
    market = markets[number]
    value = leaves[lv.order_key(number, side, price_ticks, order_id)]
    row: Row = {
        "order_id": order_id,
        "market": market.symbol,
        "side": SIDE_NAMES[side],
        "price": ticks_to_price(market, price_ticks),
        "exists": value is not None,
    }
    if value is None:
        return row
    leaf = lv.decode_order(value)
    return row | {
        "account": leaf.account,
        "remaining": lots_to_size(market, leaf.remaining_lots),
        "client_id": leaf.client_id,
        "flags": flag_names(leaf.flags),
        "expires_ms": leaf.expires_ms,
    }


def _order_text(markets: Markets, row: Row) -> str:
    name = f"order {row['order_id']} ({row['market']} {row['side']} at {row['price']})"
    if not row["exists"]:
        return f"{name} does not rest"
    owner = account_text(row["account"], markets)
    return f"{name} of account {owner} rests, {row['remaining']} remaining"


def _market_row(markets: Markets, subject: Sequence[int], leaves: Leaves) -> Row:
    (number,) = subject
    market = markets[number]
    value, priced = leaves[lv.market_key(number)], leaves[lv.pricing_key(number)]
    leaf = lv.MarketLeaf(0, 0, 0, 0, 0, False) if value is None else lv.decode_market(value)
    pricing = lv.PricingLeaf() if priced is None else lv.decode_pricing(priced)
    return {
        "market": market.symbol,
        "exists": value is not None,
        "mode": _MODE_NAMES.get(pricing.mode, str(pricing.mode)),
        "stale": leaf.stale,
        "mark": price_text(market, leaf.mark_ticks),
        "oracle": price_text(market, leaf.oracle_ticks),
        "last": price_text(market, leaf.last_ticks),
        "open_interest": lots_to_size(market, leaf.open_interest_lots),
        "funding_index": pricing.funding_index,
        "settled_price": price_text(market, pricing.settled_ticks),
    }


def _market_text(markets: Markets, row: Row) -> str:
    if not row["exists"]:
        return f"{row['market']} has no state yet"
    prices = "  ".join(f"{name} {row[name]}" for name in ("mark", "oracle", "last") if row[name])
    stale = ", prices are stale" if row["stale"] else ""
    return f"{row['market']}  {row['mode']}{stale}  {prices}  open interest {row['open_interest']}"


_ACCOUNT = ("account", NUMBER_LIMIT)
_MARKET = ("market", MARKET_LIMIT)

STATE_KINDS: dict[str, Kind] = {
    "account": Kind(
        (_ACCOUNT,), lambda subject: [lv.account_key(*subject)], _account_row, _account_text
    ),
    "position": Kind(
        (_ACCOUNT, _MARKET),
        lambda subject: [lv.position_key(*subject)],
        _position_row,
        _position_text,
    ),
    "order": Kind(
        (_MARKET, ("side", 2), ("price_ticks", PRICE_LIMIT), ("order id", NUMBER_LIMIT)),
        lambda subject: [lv.order_key(*subject)],
        _order_row,
        _order_text,
    ),
    "market": Kind(
        (_MARKET,),
        lambda subject: [lv.market_key(*subject), lv.pricing_key(*subject)],
        _market_row,
        _market_text,
    ),
}
"""Kinds that stand in the leaves of a state, each present or absent."""

KINDS = (*STATE_KINDS, WITHDRAWAL, LIQUIDATION)
"""Names of all kinds."""

_NUMBERED = (("number", NUMBER_LIMIT),)


def check_subject(kind: str, subject: Sequence[int], markets: Markets) -> None:
    """Raise `Rejected(bad_proof)` for numbers that can name nothing of the kind."""
    fields = STATE_KINDS[kind].fields if kind in STATE_KINDS else _NUMBERED
    if len(subject) != len(fields):
        raise Rejected(Code.BAD_PROOF, f"a proof of kind {kind} is of {len(fields)} numbers")
    for number, (name, limit) in zip(subject, fields, strict=True):
        most = len(markets) if name == "market" else limit
        if not 0 <= number < most:
            raise Rejected(Code.BAD_PROOF, f"the {name} is {number}, it must be 0 to {most - 1}")


def withdrawal_row(entry: OutboxEntry, paid_height: int) -> Row:
    """A withdrawal; `paid_height`: ledger height at which it was paid, 0 for not yet."""
    return {
        "number": entry.number,
        "account": entry.account,
        "address": entry.address.hex(),
        "amount_uusd": entry.amount_uusd,
        "paid_height": paid_height,
    }


def receipt_row(markets: Markets, receipt: Receipt) -> Row:
    """A liquidation receipt; raises `Rejected(bad_proof)` for one that no shard writes."""
    try:
        return receipt_data(markets, receipt)
    except LookupError:
        raise Rejected(Code.BAD_PROOF, "the receipt names a market or step that is not") from None


def row_text(kind: str, markets: Markets, row: Row) -> str:
    """What was proven, for people."""
    if kind in STATE_KINDS:
        return STATE_KINDS[kind].text(markets, row)
    if kind == LIQUIDATION:
        return receipt_text(markets, row)
    paid = f"paid in ledger block {row['paid_height']}" if row["paid_height"] else "not paid yet"
    owner = account_text(row["account"], markets)
    return (
        f"withdrawal {row['number']} of {uusd_to_usd(row['amount_uusd'])} dollars by account "
        f"{owner} to {row['address']}, {paid}"
    )
