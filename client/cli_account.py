"""Commands for one's account: what it is, its settings, and money that moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import (
    FIRST_TRADER,
    NUMBER_MAX,
    Market,
    Sending,
    Signed,
    Sub,
    Timeout,
    submits,
    trader_of,
)
from client.console import As, Json, emit, exchange_of, note, run

if TYPE_CHECKING:
    from protocol.actions import Action

Number = Annotated[
    int,
    typer.Option(
        "--number", min=0, max=NUMBER_MAX, help="An account by number; 0 for the trader's."
    ),
]
To = Annotated[
    str,
    typer.Argument(
        metavar="ACCOUNT",
        help="0: the master account; 3: sub-account 3; 3:BTC-PERP: isolated in a market; "
        "insurance; backstop; or #NUMBER.",
    ),
]

NOTHING = "0"
"""A size of no lots."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (account, margin, leverage, protection, transfer, deposit, withdraw):
        app.command(cls=Signed)(command)
    app.command("transfer-position", cls=Signed)(transfer_position)


def account(
    context: typer.Context,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    number: Number = 0,
    as_json: Json = False,
) -> None:
    """Show an account: cash, equity, margin, positions, orders, and what waits."""
    from client.reports import account_data, account_lines

    exchange = exchange_of(context)

    async def work() -> Any:
        async with exchange:
            account = number or (await trader_of(exchange, trader, sub)).account
            view = await exchange.account(account)
            orders = await exchange.orders(account)
            return view, orders.orders, await exchange.questions.standing(account)

    markets = exchange.chain.genesis.markets
    data = account_data(markets, *run(work()))
    emit(data, account_lines(markets, _shown(data)), as_json=as_json)


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    """What people read of an account: no positions that hold nothing, and of exits that grow with
    their order what they wait for."""
    money = ("unrealised_uusd", "funding_uusd")
    positions = [
        held
        for held in data["positions"]
        if held["size"] != NOTHING or any(held[name] for name in money)
    ]
    triggers = [
        {**one, "size": f"what order {one['waits_for']} fills"} if one["size"] == NOTHING else one
        for one in data["triggers"]
        if one["size"] != NOTHING or one["waits_for"]
    ]
    return {**data, "positions": positions, "triggers": triggers}


def margin(
    context: typer.Context,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    number: Number = 0,
    as_json: Json = False,
) -> None:
    """Report an account's margin: equity, requirements, free collateral, liquidation prices."""
    from client.reports import margin_data, margin_text

    exchange = exchange_of(context)

    async def work() -> Any:
        async with exchange:
            account = number or (await trader_of(exchange, trader, sub)).account
            return await exchange.questions.margin(account, ranks=True)

    markets = exchange.chain.genesis.markets
    data = margin_data(markets, run(work()))
    emit(data, margin_text(markets, data), as_json=as_json)


@submits
def leverage(
    sending: Sending,
    market: Market,
    cap: Annotated[int, typer.Argument(min=0, max=1_000_000, help="0 takes the cap away.")],
) -> None:
    """Cap the account's leverage in a market.

    Example: trilemma leverage BTC-PERP 10"""
    from protocol.actions import SetLeverage

    sending.submit(SetLeverage(sending.exchange.market(market).market, cap))


@submits
def protection(
    sending: Sending,
    market: Market,
    fills: Annotated[int, typer.Argument(min=0, max=1_000_000, help="0 switches it off.")],
    window: Annotated[str, typer.Argument(help="Such as 500ms or 10s.")] = "0s",
) -> None:
    """Market-maker protection: so many fills within the window cancel all orders in the market.

    Example: trilemma protection BTC-PERP 10 1s"""
    from client.orders import parse_span_ms
    from protocol.actions import SetProtection
    from protocol.errors import ConfigError

    window_ms = parse_span_ms(window)
    if (fills > 0) != (window_ms > 0):
        raise ConfigError("give FILLS and a WINDOW, such as 10 1s; or only 0 to switch it off")
    sending.submit(SetProtection(sending.exchange.market(market).market, fills, window_ms))


@submits
def transfer(
    sending: Sending,
    amount: Annotated[str, typer.Argument(help="Dollars.")],
    to: To,
) -> None:
    """Move dollars to another account of the same master, or give them to a fund.

    Example: trilemma transfer 1000 1:ETH-PERP"""
    from client.units import usd_to_uusd, uusd_to_usd
    from protocol.actions import Transfer
    from protocol.markets import PPM

    amount_uusd = usd_to_uusd(amount)
    what = f"{uusd_to_usd(amount_uusd)} dollar{'' if amount_uusd == PPM else 's'}"
    _move(sending, to, lambda number: Transfer(number, amount_uusd), what)


@submits
def transfer_position(
    sending: Sending,
    market: Market,
    size: Annotated[str, typer.Argument(help="Signed: below 0 of a short position.")],
    to: To,
) -> None:
    """Move a position, or a part of it, to another account of the same master.

    Example: trilemma transfer-position BTC-PERP -0.5 1"""
    from client.orders import signed_lots
    from client.units import lots_to_size
    from protocol.actions import TransferPosition

    config = sending.exchange.market(market)
    lots = signed_lots(config, size)
    what = f"{lots_to_size(config, lots)} {config.symbol}"
    _move(sending, to, lambda number: TransferPosition(number, config.market, lots), what)


def _move(sending: Sending, to: str, action: Callable[[int], Action], what: str) -> None:
    """Send what is made of the number of the account that `to` means, and tell `what` moved and
    that number."""
    from client.orders import account_text, parse_account

    markets = sending.exchange.chain.genesis.markets
    parse_account(to, 0, markets)  # what cannot be meant is told at once
    data = sending.send_one(lambda own: action(parse_account(to, own, markets)))
    data["to_account"] = parse_account(to, data["account"], markets)
    sending.tell(data, done=f"moved {what} to account {account_text(data['to_account'], markets)}")


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
    """Withdraw dollars: wait until that is final, have the ledger pay, print its balance."""
    from client.units import usd_to_uusd, uusd_to_usd

    usd_to_uusd(amount)
    exchange = exchange_of(context)
    address = ledger_address(to) if to else exchange.key(trader).address

    async def work() -> dict[str, Any]:
        async with exchange:
            owner = await exchange.trader(trader)
            window_ms = exchange.chain.genesis.settlement.window_ms
            windows = f", and for its window of {window_ms / 1000:g} s to pass" if window_ms else ""

            def debited(number: int) -> None:
                note(f"withdrawal {number} is taken; waiting for it to settle{windows}")
                note(f"should this end before it is paid: trilemma payout {number}")

            number = await owner.withdraw_and_pay(amount, address, int(timeout * 1000), debited)
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


def ledger_address(text: str) -> bytes:
    """An address in hex; raises `ConfigError`."""
    from protocol.errors import ConfigError
    from protocol.keys import ADDRESS_BYTES

    try:
        address = bytes.fromhex(text)
    except ValueError:
        address = b""
    if len(address) != ADDRESS_BYTES:
        raise ConfigError(f"an address is {ADDRESS_BYTES} bytes in hex, not {text!r}")
    return address
