"""Commands that act through the base layer when sequencers do not: force withdraw, close, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import (
    FIRST_TRADER,
    Market,
    Side,
    Signed,
    Slippage,
    Sub,
    Timeout,
    slippage_of,
)
from client.console import As, Json, emit, exchange_of, note, run

if TYPE_CHECKING:
    from client.sdk import Exchange
    from protocol.actions import Action

Payer = Annotated[
    str, typer.Option("--payer", metavar="TRADER", help="Who pays the fees; else who signs.")
]

force_app = typer.Typer(
    help="Put an action into the exchange's inbox on the base layer, where sequencers must take it "
    "in before the deadline, or the exchange freezes.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (withdraw, close):
        force_app.command(cls=Signed)(command)
    force_app.command("cancel-all")(cancel_all)
    app.add_typer(force_app, name="force")


def withdraw(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="Dollars.")],
    to: Annotated[str, typer.Option(help="Ledger address in hex; the trader's if not given.")] = "",
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    payer: Payer = "",
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Force a withdrawal, wait until it is final, and have the ledger pay it."""
    from client.cli_account import ledger_address
    from client.exits import forced_withdrawal, pay_when_final
    from client.units import usd_to_uusd, uusd_to_usd
    from protocol.actions import Withdraw

    exchange = exchange_of(context)
    owner = exchange.key(trader)
    address = ledger_address(to) if to else owner.address
    action = Withdraw(usd_to_uusd(amount), address)
    timeout_ms = int(timeout * 1000)

    async def work() -> dict[str, Any]:
        async with exchange:
            data, forced, account = await _send(exchange, action, trader, sub, payer)
            entry = await forced_withdrawal(exchange, forced, account, address, timeout_ms)

            def waiting(batch: int) -> None:
                note(f"withdrawal {entry.number} is settled; waiting until batch {batch} is final")

            payer_key = exchange.key(payer or trader)
            await pay_when_final(exchange, payer_key, entry.number, timeout_ms, waiting)
            return {**data, "withdrawal": entry.number, "amount_uusd": entry.amount_uusd}

    data = run(work())
    paid = uusd_to_usd(data["amount_uusd"])
    text = f"withdrawal {data['withdrawal']}: {paid} dollars are paid to {address.hex()}"
    emit(data, text, as_json=as_json)


def cancel_all(
    context: typer.Context,
    market: Annotated[str, typer.Argument(help="Symbol; all markets if not given.")] = "",
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    payer: Payer = "",
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Force the cancellation of all orders, triggers and TWAPs."""
    from protocol.actions import ALL_MARKETS, CancelAll

    exchange = exchange_of(context)
    number = exchange.market(market).market if market else ALL_MARKETS
    _force(exchange, CancelAll(number), trader, sub, payer, timeout, as_json)


def close(
    context: typer.Context,
    market: Market,
    side: Side,
    size: Annotated[
        str, typer.Option(help="In units of the base asset; as much as one order may if not given.")
    ] = "",
    slippage: Slippage = "5",
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    payer: Payer = "",
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Force a reduce-only market order: sell closes a long position, buy a short one."""
    from client.orders import parse_side
    from client.units import size_to_lots
    from protocol.actions import REDUCE_ONLY, MarketOrder

    exchange = exchange_of(context)
    config = exchange.market(market)
    lots = size_to_lots(config, size) if size else config.max_order_lots
    slippage_ppm = slippage_of(slippage)
    action = MarketOrder(config.market, parse_side(side), lots, slippage_ppm, 0, REDUCE_ONLY)
    _force(exchange, action, trader, sub, payer, timeout, as_json)


async def _send(
    exchange: Exchange, action: Action, trader: str, sub: str, payer: str
) -> tuple[dict[str, Any], Any, int]:
    """Force it for a trader's account; what is known of it then."""
    from client.exits import force
    from client.orders import parse_account

    owner = exchange.key(trader)
    account = (await exchange.ledger.balance(owner.address)).account
    if sub:
        account = parse_account(sub, account, exchange.chain.genesis.markets)
    forced = await force(exchange, owner, action, account, exchange.key(payer or trader))
    note(
        f"inbox entry {forced.index} of ledger block {forced.ledger_height}; "
        "waiting until a batch takes it in"
    )
    data = {"account": account, "index": forced.index, "ledger_height": forced.ledger_height}
    return data, forced, account


def _force(
    exchange: Exchange,
    action: Action,
    trader: str,
    sub: str,
    payer: str,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Force it, and wait until a batch has taken it in."""
    from client.exits import taken_in

    async def work() -> dict[str, Any]:
        async with exchange:
            data, forced, _ = await _send(exchange, action, trader, sub, payer)
            view = await taken_in(exchange, forced, int(timeout_s * 1000))
            return {**data, "batch": view.header.number}

    data = run(work())
    text = f"taken in by batch {data['batch']}; trilemma account shows what it did"
    emit(data, text, as_json=as_json)
