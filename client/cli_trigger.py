"""Commands for what waits: trigger, oco, bracket, twap, dead-man."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_submit import (
    ClientId,
    Expires,
    Market,
    ReduceOnly,
    Sending,
    Side,
    Signed,
    Size,
    Slippage,
    Stp,
    StpMaster,
    expiry_of,
    flags_of,
    slippage_of,
    submits,
)

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
        app.command(cls=Signed)(command)
    app.command("dead-man", cls=Signed)(dead_man)


@submits
def trigger(
    sending: Sending,
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
) -> None:
    """Place an order that waits for the mark price.

    Example: trilemma trigger BTC-PERP sell 0.1 trailing 500 --reduce-only"""
    from client.orders import trigger_order

    config = sending.exchange.market(market)
    action = trigger_order(
        config, side, size, kind, at, limit=limit, slippage_ppm=slippage_of(slippage),
        client_id=client_id, flags=flags_of(reduce_only, stp, stp_master),
        expires_ms=expiry_of(expires),
    )  # fmt: skip
    sending.submit(action, config)


@submits
def oco(
    sending: Sending,
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
) -> None:
    """One cancels other: a limit order or take-profit, and a stop; the first takes the other out.

    Example: trilemma oco BTC-PERP sell 0.1 --price 61000 --stop 58000"""
    from client.orders import limit_order, one_cancels_other, trigger_order
    from protocol.errors import ConfigError

    if (price is None) == (take_profit is None):
        raise ConfigError("give --price for a limit order, or --take-profit for a trigger")
    config = sending.exchange.market(market)
    flags, expires_ms = flags_of(reduce_only, "", False), expiry_of(expires)
    slippage_ppm = slippage_of(slippage)
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
    sending.submit(action, config)


@submits
def bracket(
    sending: Sending,
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
) -> None:
    """Place an order with its exits: as it fills, a take-profit and a stop wait for its size.

    Example: trilemma bracket ETH-PERP buy 1 3001 --take-profit 3100 --stop 2900"""
    from client.orders import bracket as make
    from client.orders import limit_order
    from protocol.actions import BUY
    from protocol.errors import ConfigError

    config = sending.exchange.market(market)
    parent = limit_order(config, side, size, price, tif=tif, client_id=client_id)
    action = make(
        config, parent, take_profit=take_profit, stop=stop, trailing=trailing,
        take_profit_limit=take_profit_limit, stop_limit=stop_limit,
        slippage_ppm=slippage_of(slippage),
    )  # fmt: skip
    gain, loss = action.take_profit.trigger_ticks, action.stop.trigger_ticks
    if not trailing and (gain <= loss if parent.side == BUY else gain >= loss):
        # It would be taken, and one of the two fire as soon as the order fills.
        raise ConfigError(
            "a buy takes its profit above its stop, a sell below it; here one exit would fire at "
            "once"
        )
    sending.submit(action, config)


@submits
def twap(
    sending: Sending,
    market: Market,
    side: Side,
    size: Size,
    duration: Annotated[str, typer.Argument(help="30s to 24h, such as 10m.")],
    reduce_only: ReduceOnly = False,
    client_id: ClientId = 0,
) -> None:
    """Execute a size evenly over a time, a slice every 30 seconds.

    Example: trilemma twap BTC-PERP buy 0.5 10m"""
    from client.orders import parse_span_ms
    from client.orders import twap as make

    config = sending.exchange.market(market)
    action = make(
        config, side, size, parse_span_ms(duration), client_id=client_id,
        flags=flags_of(reduce_only, "", False),
    )  # fmt: skip
    sending.submit(action, config)


@submits
def dead_man(
    sending: Sending,
    after: Annotated[str, typer.Argument(help="Time from now, 5s at least, such as 60s; or: off.")],
) -> None:
    """Dead-man's switch: everything of the account is cancelled then, unless it is set anew.

    Example: trilemma dead-man 60s"""
    from protocol.actions import ScheduleCancel

    action = ScheduleCancel(0 if after == "off" else expiry_of(after))
    data = sending.send_one(action)
    data["time_ms"] = action.time_ms
    sending.tell(data)
