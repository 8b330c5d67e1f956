"""Commands of a trader: order, preview, modify, cancel, quote, scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_submit import (
    FIRST_TRADER,
    NUMBER_MAX,
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
    Sub,
    expiry_of,
    flags_of,
    slippage_of,
    submits,
    trader_of,
)
from client.console import As, Json, emit, exchange_of, run

if TYPE_CHECKING:
    from protocol.actions import Action, MarketOrder, MassQuote, Order
    from protocol.markets import MarketConfig
    from protocol.messages_trading import PreviewView

Price = Annotated[
    str | None, typer.Argument(help="Limit in dollars; none with --market.", show_default=False)
]
Tif = Annotated[str, typer.Option(help="gtc, ioc, post-only or fok.")]
AtMarket = Annotated[bool, typer.Option("--market", help="A market order.")]
OrderId = Annotated[int, typer.Argument(min=1, max=NUMBER_MAX, help="Id of the order.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (order, preview, modify, cancel, quote, scale):
        app.command(cls=Signed)(command)


@submits
def order(
    sending: Sending,
    market: Market,
    side: Side,
    size: Size,
    price: Price = None,
    tif: Tif = "gtc",
    at_market: AtMarket = False,
    slippage: Slippage = "1",
    reduce_only: ReduceOnly = False,
    stp: Stp = "",
    stp_master: StpMaster = False,
    expires: Expires = "",
    client_id: ClientId = 0,
) -> None:
    """Place an order and wait until it is executed, or for --wait.

    Example: trilemma order BTC-PERP buy 0.5 59900"""
    config = sending.exchange.market(market)
    flags = flags_of(reduce_only, stp, stp_master)
    action = _action(
        config, side, size, price, tif, at_market, slippage, flags, expiry_of(expires), client_id
    )
    sending.submit(action, config)


def _action(
    config: MarketConfig,
    side: str,
    size: str,
    price: str | None,
    tif: str,
    at_market: bool,
    slippage: str,
    flags: int,
    expires_ms: int,
    client_id: int,
) -> Order | MarketOrder:
    from client.orders import limit_order, market_order
    from protocol.errors import ConfigError

    if not at_market:
        if price is None:
            raise ConfigError("give a PRICE, or --market for a market order")
        return limit_order(
            config, side, size, price, tif=tif, client_id=client_id, flags=flags,
            expires_ms=expires_ms,
        )  # fmt: skip
    if price is not None:
        raise ConfigError("a market order has no price; leave PRICE or --market away")
    if expires_ms:
        raise ConfigError("a market order never rests; leave --expires or --market away")
    return market_order(
        config, side, size, slippage_ppm=slippage_of(slippage), client_id=client_id, flags=flags
    )


def preview(
    context: typer.Context,
    market: Market,
    side: Side,
    size: Size,
    price: Price = None,
    tif: Tif = "gtc",
    at_market: AtMarket = False,
    slippage: Slippage = "1",
    reduce_only: ReduceOnly = False,
    stp: Stp = "",
    stp_master: StpMaster = False,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    as_json: Json = False,
) -> None:
    """Tell what an order would do if it came next; nothing is sent."""
    from client.reports import preview_data, preview_text

    exchange = exchange_of(context)
    config = exchange.market(market)
    flags = flags_of(reduce_only, stp, stp_master)
    action = _action(config, side, size, price, tif, at_market, slippage, flags, 0, 0)

    async def work() -> PreviewView:
        async with exchange:
            asking = await trader_of(exchange, trader, sub)
            return await exchange.questions.preview(asking.account, action)

    view = run(work())
    markets = exchange.chain.genesis.markets
    data = preview_data(markets, config, view)
    emit(data, preview_text(data, config), as_json=as_json)


@submits
def modify(
    sending: Sending,
    market: Market,
    order_id: OrderId,
    size: Annotated[str, typer.Argument(help="New remaining size, in units of the base asset.")],
    price: Annotated[str, typer.Argument(help="New limit in dollars.")],
) -> None:
    """Give a resting order a new price and remaining size.

    It keeps its place where only the size shrinks; otherwise a new order, with a new id, replaces
    it.
    """
    from client.units import price_to_ticks, size_to_lots
    from protocol.actions import Modify

    config = sending.exchange.market(market)
    ticks, lots = price_to_ticks(config, price), size_to_lots(config, size)
    action = Modify(config.market, order_id, ticks, lots)
    sending.submit(action, config)


@submits
def cancel(
    sending: Sending,
    market: Annotated[
        str | None, typer.Argument(help="Symbol; none with --all.", show_default=False)
    ] = None,
    order_id: Annotated[
        int,
        typer.Argument(
            min=0, max=NUMBER_MAX, help="Id of an order, trigger or TWAP; 0: all in the market."
        ),
    ] = 0,
    by_client_id: Annotated[
        bool, typer.Option("--client-id", help="The id is the client's own.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything in all markets.")] = False,
) -> None:
    """Cancel an order, trigger or TWAP; or all of them in a market; or, with --all, everywhere.

    Example: trilemma cancel BTC-PERP 17"""
    from protocol.actions import ALL_MARKETS, Cancel, CancelAll, CancelClient
    from protocol.errors import ConfigError

    action: Action
    if everything:
        if market is not None:
            raise ConfigError("--all cancels in all markets; leave MARKET or --all away")
        action = CancelAll(ALL_MARKETS)
    elif market is None:
        raise ConfigError("give a MARKET, and an ORDER_ID for one order; or --all for everything")
    else:
        number = sending.exchange.market(market).market
        if by_client_id and not order_id:
            raise ConfigError("give the client id as ORDER_ID")
        if not order_id:
            action = CancelAll(number)
        else:
            kind = CancelClient if by_client_id else Cancel
            action = kind(number, order_id)
    sending.submit(action)


@submits
def quote(
    sending: Sending,
    market: Market,
    bid: Annotated[
        list[str] | None, typer.Option("--bid", metavar="PRICE:SIZE", help="As often as needed.")
    ] = None,
    ask: Annotated[
        list[str] | None, typer.Option("--ask", metavar="PRICE:SIZE", help="As often as needed.")
    ] = None,
) -> None:
    """Replace all of one's quotes in a market at once; without any, take them out.

    Example: trilemma quote ETH-PERP --bid 2999:1 --ask 3001:1"""
    from client.orders import parse_quote, quotes

    config = sending.exchange.market(market)
    bids, asks = ([parse_quote(text) for text in given or []] for given in (bid, ask))
    action = quotes(config, bids, asks)
    data = sending.send_one(action, config=config)
    sending.tell(data, config, done=_quotes_text(config, action, data["order_id"]))


def _quotes_text(config: MarketConfig, action: MassQuote, first_id: int) -> str:
    """Quotes that rest; their ids follow the first one, bids before asks."""
    from client.units import lots_to_size, ticks_to_price

    sides = [("bid", *level) for level in action.bids] + [("ask", *level) for level in action.asks]
    if not sides:
        return f"no quotes in {config.symbol} any more"
    lines = [f"quotes in {config.symbol}"]
    lines += [
        f"  order {number}  {side} {lots_to_size(config, lots)} at {ticks_to_price(config, ticks)}"
        for number, (side, ticks, lots) in enumerate(sides, first_id)
    ]
    return "\n".join(lines)


@submits
def scale(
    sending: Sending,
    market: Market,
    side: Side,
    size: Annotated[str, typer.Argument(help="Of all orders together.")],
    first_price: Annotated[str, typer.Argument(help="Limit of the first order, in dollars.")],
    last_price: Annotated[str, typer.Argument(help="Limit of the last order.")],
    count: Annotated[int, typer.Option("--orders", help="Number of orders.")] = 10,
    weights: Annotated[
        str, typer.Option(help="even, rising or falling sizes from the first to the last.")
    ] = "even",
    tif: Tif = "gtc",
    reduce_only: ReduceOnly = False,
    expires: Expires = "",
) -> None:
    """Place several limit orders over a range of prices, in one batch.

    Example: trilemma scale BTC-PERP buy 1 59000 59900 --orders 10 --weights rising"""
    from client.orders import scale_orders

    config = sending.exchange.market(market)
    orders = scale_orders(
        config, side, size, first_price, last_price, count, weights=weights, tif=tif,
        flags=flags_of(reduce_only, "", False), expires_ms=expiry_of(expires),
    )  # fmt: skip
    sending.submit_all(list(orders), config)
