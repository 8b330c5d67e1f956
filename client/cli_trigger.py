"""Commands for what waits: trigger, oco, bracket, twap, dead-man."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_submit import (
    FIRST_TRADER,
    ClientId,
    Expires,
    Market,
    ReduceOnly,
    Side,
    Size,
    Slippage,
    Stp,
    StpMaster,
    Sub,
    Timeout,
    Wait,
    expiry_of,
    flags_of,
    submit_one,
    tell,
)
from client.console import As, Json, exchange_of

if TYPE_CHECKING:
    from protocol.actions import Order, TriggerOrder

StopPrice = Annotated[str, typer.Option("--stop", help="Mark at which it stops the loss.")]
StopLimit = Annotated[
    str | None, typer.Option("--stop-limit", help="Limit of the stop's order; none: at market.")
]
TRIGGER_SLIPPAGE = "5"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (trigger, oco, bracket, twap):
        app.command()(command)
    app.command("dead-man")(dead_man)


def trigger(
    context: typer.Context,
    market: Market,
    side: Side,
    size: Size,
    kind: Annotated[str, typer.Argument(help="stop, take-profit or trailing.")],
    at: Annotated[
        str, typer.Argument(help="Mark at which it fires; trailing: distance from the best mark.")
    ],
    limit: Annotated[
        str | None, typer.Option(help="Limit of the order that enters; none: at market.")
    ] = None,
    slippage: Slippage = TRIGGER_SLIPPAGE,
    reduce_only: ReduceOnly = False,
    stp: Stp = "",
    stp_master: StpMaster = False,
    expires: Expires = "",
    client_id: ClientId = 0,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    wait: Wait = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Place an order that waits for the mark price.

    Example: trilemma trigger BTC-PERP sell 0.1 trailing 500 --reduce-only"""
    from client.orders import trigger_order
    from client.units import percent_to_ppm

    exchange = exchange_of(context)
    config = exchange.market(market)
    action = trigger_order(
        config, side, size, kind, at, limit=limit, slippage_ppm=percent_to_ppm(slippage),
        client_id=client_id, flags=flags_of(reduce_only, stp, stp_master),
        expires_ms=expiry_of(expires),
    )  # fmt: skip
    tell(submit_one(context, trader, sub, action, wait, timeout, exchange), config, as_json=as_json)


def oco(
    context: typer.Context,
    market: Market,
    side: Side,
    size: Size,
    stop: StopPrice,
    price: Annotated[
        str | None, typer.Option("--price", help="Limit of the resting order, in dollars.")
    ] = None,
    take_profit: Annotated[
        str | None, typer.Option("--take-profit", help="Or the mark at which it takes profit.")
    ] = None,
    stop_limit: StopLimit = None,
    slippage: Slippage = TRIGGER_SLIPPAGE,
    reduce_only: ReduceOnly = False,
    expires: Expires = "",
    client_id: ClientId = 0,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    wait: Wait = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """One cancels other: a limit order or take-profit, and a stop; the first takes the other out.

    Example: trilemma oco BTC-PERP sell 0.1 --price 61000 --stop 58000"""
    from client.orders import limit_order, one_cancels_other, trigger_order
    from client.units import percent_to_ppm
    from protocol.errors import ConfigError

    if (price is None) == (take_profit is None):
        raise ConfigError("give --price for a limit order, or --take-profit for a trigger")
    exchange = exchange_of(context)
    config = exchange.market(market)
    flags, expires_ms = flags_of(reduce_only, "", False), expiry_of(expires)
    slippage_ppm = percent_to_ppm(slippage)
    first: Order | TriggerOrder
    if price is not None:
        first = limit_order(
            config, side, size, price, client_id=client_id, flags=flags, expires_ms=expires_ms
        )
    else:
        first = trigger_order(
            config, side, size, "take-profit", take_profit or "", slippage_ppm=slippage_ppm,
            client_id=client_id, flags=flags, expires_ms=expires_ms,
        )  # fmt: skip
    second = trigger_order(
        config, side, size, "stop", stop, limit=stop_limit, slippage_ppm=slippage_ppm,
        flags=flags, expires_ms=expires_ms,
    )  # fmt: skip
    action = one_cancels_other(first, second)
    tell(submit_one(context, trader, sub, action, wait, timeout, exchange), config, as_json=as_json)


def bracket(
    context: typer.Context,
    market: Market,
    side: Side,
    size: Size,
    price: Annotated[str, typer.Argument(help="Limit in dollars.")],
    take_profit: Annotated[
        str, typer.Option("--take-profit", help="Mark at which it takes profit.")
    ],
    stop: Annotated[
        str, typer.Option("--stop", help="Mark at which it stops the loss, or the distance.")
    ],
    trailing: Annotated[
        bool, typer.Option("--trailing", help="The stop trails the best mark by --stop.")
    ] = False,
    take_profit_limit: Annotated[
        str | None, typer.Option("--take-profit-limit", help="Limit of its order.")
    ] = None,
    stop_limit: StopLimit = None,
    slippage: Slippage = TRIGGER_SLIPPAGE,
    tif: Annotated[str, typer.Option(help="gtc, ioc, post-only or fok.")] = "gtc",
    client_id: ClientId = 0,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    wait: Wait = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Place an order with its exits: as it fills, a take-profit and a stop wait for its size.

    Example: trilemma bracket ETH-PERP buy 1 3001 --take-profit 3100 --stop 2900"""
    from client.orders import bracket as make
    from client.orders import limit_order
    from client.units import percent_to_ppm

    exchange = exchange_of(context)
    config = exchange.market(market)
    parent = limit_order(config, side, size, price, tif=tif, client_id=client_id)
    action = make(
        config, parent, take_profit=take_profit, stop=stop, trailing=trailing,
        take_profit_limit=take_profit_limit, stop_limit=stop_limit,
        slippage_ppm=percent_to_ppm(slippage),
    )  # fmt: skip
    tell(submit_one(context, trader, sub, action, wait, timeout, exchange), config, as_json=as_json)


def twap(
    context: typer.Context,
    market: Market,
    side: Side,
    size: Size,
    duration: Annotated[str, typer.Argument(help="30s to 24h, such as 10m.")],
    reduce_only: ReduceOnly = False,
    client_id: ClientId = 0,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    wait: Wait = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Execute a size evenly over a time, a slice every 30 seconds."""
    from client.orders import parse_span_ms
    from client.orders import twap as make

    exchange = exchange_of(context)
    config = exchange.market(market)
    action = make(
        config, side, size, parse_span_ms(duration), client_id=client_id,
        flags=flags_of(reduce_only, "", False),
    )  # fmt: skip
    tell(submit_one(context, trader, sub, action, wait, timeout, exchange), config, as_json=as_json)


def dead_man(
    context: typer.Context,
    after: Annotated[str, typer.Argument(help="Time from now, 5s at least, such as 60s; or: off.")],
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    wait: Wait = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Dead-man's switch: everything of the account is cancelled then, unless it is set anew."""
    from protocol.actions import ScheduleCancel

    action = ScheduleCancel(0 if after == "off" else expiry_of(after))
    data = submit_one(context, trader, sub, action, wait, timeout)
    data["time_ms"] = action.time_ms
    tell(data, None, as_json=as_json)
