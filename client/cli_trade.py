"""Commands of a trader: order, cancel, deposit, withdraw, book, account."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from client.console import As, Json, emit, exchange_of, note, run

Timeout = Annotated[
    float, typer.Option("--timeout", min=0, help="Seconds to wait for the outcome.")
]
NUMBER_MAX = (1 << 63) - 1

FIRST_TRADER = "trader-00"
STATUS_NAMES = ("done", "resting", "filled", "cancelled")
WAITS = ("accepted", "ordered", "executed", "settled")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (order, cancel, deposit, withdraw, book, account):
        app.command()(command)


def order(
    context: typer.Context,
    market: Annotated[str, typer.Argument(help="Symbol, such as BTC-PERP.")],
    side: Annotated[str, typer.Argument(help="buy or sell.")],
    size: Annotated[str, typer.Argument(help="In units of the base asset, such as 0.5.")],
    price: Annotated[
        str | None, typer.Argument(help="Limit in dollars; none with --market.", show_default=False)
    ] = None,
    tif: Annotated[str, typer.Option(help="gtc, ioc or post-only.")] = "gtc",
    at_market: Annotated[bool, typer.Option("--market", help="A market order.")] = False,
    slippage: Annotated[
        str, typer.Option(help="How far from the mark a market order may go, in per cent.")
    ] = "1",
    client_id: Annotated[
        int, typer.Option(min=0, max=NUMBER_MAX, help="Your own id for the order; 0 for none.")
    ] = 0,
    trader: As = FIRST_TRADER,
    wait: Annotated[str, typer.Option(help="State to wait for.")] = "executed",
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Place an order and wait until it is executed (or settled)."""
    from client.trader import parse_side, parse_tif
    from client.units import percent_to_ppm, price_to_ticks, size_to_lots
    from protocol.actions import Action, MarketOrder, Order
    from protocol.errors import ConfigError

    exchange = exchange_of(context)
    config = exchange.market(market)
    lots = size_to_lots(config, size)
    if wait not in WAITS:
        raise ConfigError(f"--wait takes {', '.join(WAITS)}, not {wait!r}")
    action: Action
    if at_market:
        if price is not None:
            raise ConfigError("a market order has no price; leave PRICE or --market away")
        slippage_ppm = percent_to_ppm(slippage)
        action = MarketOrder(config.market, parse_side(side), lots, slippage_ppm, client_id)
    elif price is None:
        raise ConfigError("give a PRICE, or --market for a market order")
    else:
        ticks = price_to_ticks(config, price)
        action = Order(config.market, parse_side(side), ticks, lots, parse_tif(tif), client_id)
    data = run(_submit(exchange, trader, action, wait, timeout))
    text = f"{data['status']}  order {data['order_id']}"
    if "filled_lots" in data:
        text += f"  filled {_size(config, data['filled_lots'])}"
        text += f"  remaining {_size(config, data['remaining_lots'])}"
    emit(data, text, as_json=as_json)


def cancel(
    context: typer.Context,
    market: Annotated[str, typer.Argument(help="Symbol, such as BTC-PERP.")],
    order_id: Annotated[int, typer.Argument(min=1, max=NUMBER_MAX, help="Id of the order.")],
    by_client_id: Annotated[
        bool, typer.Option("--client-id", help="The id is the client's own.")
    ] = False,
    trader: As = FIRST_TRADER,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Cancel a resting order."""
    from protocol.actions import Action, Cancel, CancelClient

    exchange = exchange_of(context)
    number = exchange.market(market).market
    action: Action = CancelClient(number, order_id) if by_client_id else Cancel(number, order_id)
    data = run(_submit(exchange, trader, action, "executed", timeout))
    emit(data, f"{data['status']}  order {data['order_id']}", as_json=as_json)


async def _submit(
    exchange: Any, name: str, action: Any, wait: str, timeout_s: float
) -> dict[str, Any]:
    from client.submission import results_of

    timeout_ms = int(timeout_s * 1000)
    async with exchange:
        trader = await exchange.trader(name)
        submission = await trader.batch([action])
        await submission.wait(wait, timeout_ms)
        data: dict[str, Any] = {
            "nonce_ms": submission.nonce_ms,
            "height": submission.height,
            "order_id": 0,
            "status": wait,
            "latency_ms": {
                state: round(submission.latency_ms(state), 3)
                for state in WAITS
                if submission.reached_ns(state)
            },
        }
        if submission.result is not None:
            result = results_of(submission.result)[0]
            data.update(
                status=STATUS_NAMES[result.status],
                order_id=result.order_id,
                filled_lots=result.filled_lots,
                remaining_lots=result.remaining_lots,
            )
        return data


def _size(config: Any, lots: int) -> str:
    from client.units import lots_to_size

    return lots_to_size(config, lots)


def deposit(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="Dollars.")],
    trader: As = FIRST_TRADER,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Move dollars from the ledger into the exchange, and wait until they can be traded with."""
    from client.units import usd_to_uusd, uusd_to_usd

    amount_uusd = usd_to_uusd(amount)
    exchange = exchange_of(context)

    async def work() -> dict[str, Any]:
        async with exchange:
            key = exchange.key(trader)
            height = await exchange.ledger.deposit_and_wait(
                key, amount_uusd, timeout_ms=int(timeout * 1000)
            )
            view = await exchange.account_of(key.address)
            return {"account": view.account, "cash_uusd": view.cash_uusd, "ledger_height": height}

    data = run(work())
    cash = uusd_to_usd(data["cash_uusd"])
    emit(data, f"deposited; account {data['account']} has {cash} dollars cash", as_json=as_json)


def withdraw(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="Dollars.")],
    to: Annotated[str, typer.Option(help="Ledger address in hex; the trader's if not given.")] = "",
    trader: As = FIRST_TRADER,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Withdraw dollars: wait for the settlement, have the ledger pay, print its balance."""
    from client.units import usd_to_uusd, uusd_to_usd

    usd_to_uusd(amount)
    exchange = exchange_of(context)
    address = _address(to) if to else exchange.key(trader).address

    async def work() -> dict[str, Any]:
        async with exchange:
            owner = await exchange.trader(trader)
            note("waiting for the withdrawal to settle")
            number = await owner.withdraw_and_pay(amount, address, int(timeout * 1000))
            balance = await exchange.ledger.balance(address)
            return {
                "withdrawal": number,
                "address": address.hex(),
                "balance_uusd": balance.balance_uusd,
            }

    data = run(work())
    balance = uusd_to_usd(data["balance_uusd"])
    text = f"withdrawal {data['withdrawal']} is paid; {address.hex()} has {balance} dollars"
    emit(data, text, as_json=as_json)


def _address(text: str) -> bytes:
    from protocol.errors import ConfigError
    from protocol.keys import ADDRESS_BYTES

    try:
        address = bytes.fromhex(text)
    except ValueError:
        address = b""
    if len(address) != ADDRESS_BYTES:
        raise ConfigError(f"an address is {ADDRESS_BYTES} bytes in hex, not {text!r}")
    return address


def book(
    context: typer.Context,
    market: Annotated[str, typer.Argument(help="Symbol, such as BTC-PERP.")],
    depth: Annotated[int, typer.Option(min=1, max=1000, help="Levels per side.")] = 10,
    as_json: Json = False,
) -> None:
    """Show the best levels of a market's book."""
    from client.units import lots_to_size, ticks_to_price

    exchange = exchange_of(context)
    config = exchange.market(market)

    async def work() -> Any:
        async with exchange:
            return await exchange.book(config.market, depth)

    view = run(work())
    lines = [f"{config.symbol}  mark {ticks_to_price(config, view.mark_ticks)}"]
    for name, levels in (("ask", reversed(view.asks)), ("bid", iter(view.bids))):
        for price, lots, orders in levels:
            shown = f"{ticks_to_price(config, price):>14}  {lots_to_size(config, lots):>14}"
            lines.append(f"  {name} {shown}  {orders}")
    data = {
        "market": config.symbol,
        "height": view.height,
        "next_seq": view.next_seq,
        "mark": ticks_to_price(config, view.mark_ticks),
        "bids": [_level(config, level) for level in view.bids],
        "asks": [_level(config, level) for level in view.asks],
    }
    emit(data, "\n".join(lines), as_json=as_json)


def _level(config: Any, level: tuple[int, int, int]) -> dict[str, Any]:
    from client.units import lots_to_size, ticks_to_price

    price, lots, orders = level
    return {
        "price": ticks_to_price(config, price),
        "size": lots_to_size(config, lots),
        "orders": orders,
    }


def account(
    context: typer.Context,
    trader: As = FIRST_TRADER,
    number: Annotated[
        int,
        typer.Option(
            "--number", min=0, max=NUMBER_MAX, help="An account by number; 0 for the trader's."
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Show an account: cash, equity, margin, positions, orders."""
    from client.units import lots_to_size, ticks_to_price, uusd_to_usd

    exchange = exchange_of(context)

    async def work() -> Any:
        async with exchange:
            if number:
                view = await exchange.account(number)
            else:
                view = await exchange.account_of(exchange.key(trader).address)
            return view, (await exchange.orders(view.account)).orders

    view, orders = run(work())
    markets = exchange.chain.genesis.markets
    lines = [f"account {view.account}  {view.address.hex()}"]
    money = ("cash", "equity", "initial_margin", "maintenance_margin")
    lines += [
        f"  {name.replace('_', ' '):<20}{uusd_to_usd(getattr(view, name + '_uusd'))}"
        for name in money
    ]
    for position in view.positions:
        config = markets[position.market]
        lines.append(
            f"  position {config.symbol}  {lots_to_size(config, position.size_lots)}"
            f"  unrealised {uusd_to_usd(position.unrealised_uusd)}"
        )
    for market, order_id, client_id, side, price, lots in orders:
        config = markets[market]
        lines.append(
            f"  order {order_id}  {config.symbol} {('buy', 'sell')[side]}"
            f" {lots_to_size(config, lots)} at {ticks_to_price(config, price)}"
            + (f"  client id {client_id}" if client_id else "")
        )
    emit(_account_data(markets, view, orders), "\n".join(lines), as_json=as_json)


def _account_data(markets: Any, view: Any, orders: Any) -> dict[str, Any]:
    """The account for programs: prices and sizes as decimal texts, money in micro-dollars."""
    from client.units import lots_to_size, ticks_to_price

    positions = [
        {
            "market": markets[held.market].symbol,
            "size": lots_to_size(markets[held.market], held.size_lots),
            "mark": ticks_to_price(markets[held.market], held.mark_ticks),
            "cost_uusd": held.cost_uusd,
            "unrealised_uusd": held.unrealised_uusd,
            "initial_margin_uusd": held.initial_margin_uusd,
        }
        for held in view.positions
    ]
    resting = [
        {
            "order_id": order_id,
            "client_id": client_id,
            "market": markets[market].symbol,
            "side": ("buy", "sell")[side],
            "price": ticks_to_price(markets[market], price_ticks),
            "remaining": lots_to_size(markets[market], lots),
        }
        for market, order_id, client_id, side, price_ticks, lots in orders
    ]
    return {
        "account": view.account,
        "address": view.address.hex(),
        "height": view.height,
        "cash_uusd": view.cash_uusd,
        "equity_uusd": view.equity_uusd,
        "initial_margin_uusd": view.initial_margin_uusd,
        "maintenance_margin_uusd": view.maintenance_margin_uusd,
        "positions": positions,
        "orders": resting,
    }
