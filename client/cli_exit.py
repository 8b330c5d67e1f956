"""Commands of the way out of a frozen exchange, and of payouts that need no prover."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import FIRST_TRADER, NUMBER_MAX, Signed, Sub, Timeout
from client.console import (
    As,
    Json,
    emit,
    every_few_seconds,
    exchange_of,
    note,
    output_file,
    run,
)

if TYPE_CHECKING:
    from client.sdk import Exchange
    from protocol.settlement import LedgerAction

AccountNumber = Annotated[
    int,
    typer.Option(
        "--number", min=0, max=NUMBER_MAX, help="An account by number; 0 for the trader's."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (freeze, claim, collect, refund, payout):
        app.command(cls=Signed)(command)
    app.command("exit-proof")(exit_proof)


def freeze(context: typer.Context, trader: As = FIRST_TRADER, as_json: Json = False) -> None:
    """Freeze an exchange that missed its deadline, and say how it stands."""
    from client.exits import POLL_S, freeze_of
    from protocol.exits import Freeze

    exchange = exchange_of(context)

    async def work() -> Any:
        async with exchange:
            found = await freeze_of(exchange)
            if found is None:
                await exchange.ledger.send(exchange.key(trader), Freeze())
            while found is None:
                # Proofs are of a block or two before the newest.
                await asyncio.sleep(POLL_S)
                found = await freeze_of(exchange)
            return found

    found = run(work())
    data = {
        "batch": found.batch, "state_root": found.state_root.hex(), "since_ms": found.since_ms,
        "claims_uusd": found.claims_uusd, "funds_uusd": found.funds_uusd,
        "paid_uusd": found.paid_uusd, "refunds_uusd": found.refunds_uusd,
    }  # fmt: skip
    text = f"frozen at final batch {found.batch}, state root {data['state_root']}"
    emit(data, text, as_json=as_json)


def exit_proof(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="File that the claim is written to.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The same as FILE.")] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Data directory of a validator; else ask validators."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from-state", help="Kept state to start from.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep-state", help="File to keep the final state in.")
    ] = None,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    number: AccountNumber = 0,
    as_json: Json = False,
) -> None:
    """Prove what an account is worth in the final state, by executing the base layer's data."""
    import msgspec

    from client.cli_proof import write_result
    from client.exit_state import (
        claim_file,
        read_state_file,
        rebuilt_from_validators,
        write_state_file,
    )
    from client.units import uusd_to_usd
    from node.process_keeper import rebuilt_from_disk
    from protocol.errors import ConfigError

    target = output_file(file, out)
    exchange = exchange_of(context)
    kept = None if start is None else read_state_file(start)
    progress = every_few_seconds("executed {} of {}")

    async def work() -> Any:
        async with exchange:
            if data is not None:
                state = rebuilt_from_disk(data, exchange.chain, kept, progress)
            else:
                state = await rebuilt_from_validators(exchange, kept, progress)
            return state, number or _account_in(state, exchange, trader, sub)

    state, account = run(work())
    if keep is not None:
        try:
            write_state_file(keep, state)
        except OSError as error:
            raise ConfigError(f"cannot write {keep}: {error.strerror}") from None
    found = claim_file(state, account)
    write_result(target, msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    worth = uusd_to_usd(found.value_uusd)
    text = (
        f"account {account} is worth {worth} dollars after final batch {found.batch}; its claim "
        f"is in {target}"
    )
    emit(found, text, as_json=as_json)


def _account_in(state: Any, exchange: Exchange, trader: str, sub: str) -> int:
    """A trader's account as the ledger numbers it, or one of its sub-accounts."""
    from client.orders import parse_account
    from protocol.errors import ConfigError

    account: int = state.account_number(exchange.key(trader).address)
    if not account:
        raise ConfigError(f"nothing was ever deposited for {trader}")
    return parse_account(sub, account, exchange.chain.genesis.markets) if sub else account


def claim(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What trilemma exit-proof wrote.")],
    trader: As = FIRST_TRADER,
    as_json: Json = False,
) -> None:
    """Register a claim on a frozen exchange; anybody may, it is paid to the account's address."""
    from client.exit_state import read_claim_file

    exchange = exchange_of(context)
    action = read_claim_file(file, exchange.chain).action()
    text = f"the claim of account {action.account} is registered"
    _finish(exchange, _send(exchange, trader, action), text, as_json)


def collect(
    context: typer.Context,
    trader: As = FIRST_TRADER,
    sub: Sub = "",
    number: AccountNumber = 0,
    as_json: Json = False,
) -> None:
    """Have a registered claim paid, once claims are closed."""
    from client.orders import parse_account
    from protocol.exits import Collect

    exchange = exchange_of(context)

    async def work() -> Any:
        key = exchange.key(trader)
        account = number or (await exchange.ledger.balance(key.address)).account
        if sub:
            account = parse_account(sub, account, exchange.chain.genesis.markets)
        return await exchange.ledger.send(key, Collect(account))

    _finish(exchange, work(), "the claim is paid", as_json)


def refund(
    context: typer.Context,
    index: Annotated[int, typer.Argument(min=0, max=NUMBER_MAX, help="Index of the inbox entry.")],
    trader: As = FIRST_TRADER,
    as_json: Json = False,
) -> None:
    """Return a deposit that a frozen exchange never took in to the address it was made for."""
    from protocol.exits import Refund

    exchange = exchange_of(context)
    text = f"deposit {index} is refunded"
    _finish(exchange, _send(exchange, trader, Refund(index)), text, as_json)


def payout(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=0, max=NUMBER_MAX, help="The withdrawal's number.")],
    trader: As = FIRST_TRADER,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Have a withdrawal paid when its batch is final, proven by what validators keep alone."""
    from client.exits import pay_when_final

    exchange = exchange_of(context)

    def waiting(batch: int) -> None:
        note(f"withdrawal {number} is settled; waiting until batch {batch} is final")

    work = pay_when_final(exchange, exchange.key(trader), number, int(timeout * 1000), waiting)
    _finish(exchange, work, f"withdrawal {number} is paid", as_json)


async def _send(exchange: Exchange, trader: str, action: LedgerAction) -> Any:
    return await exchange.ledger.send(exchange.key(trader), action)


def _finish(
    exchange: Exchange, sending: Coroutine[Any, Any, Any], text: str, as_json: bool
) -> None:
    """Send a transaction, and tell the ledger block that holds it."""

    async def work() -> Any:
        async with exchange:
            return await sending

    done = run(work())
    data = {"height": done.height, "transaction": done.transaction_id.hex()}
    emit(data, f"{text} (ledger block {done.height})", as_json=as_json)
