"""Commands of a validator: list, bond, unbond, unjail."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import Signed
from client.console import Json, emit, exchange_of, run

if TYPE_CHECKING:
    from client.validators import ValidatorSetView

KeyFile = Annotated[Path, typer.Option("--key", help="Key file of the validator.")]

validator_app = typer.Typer(
    help="The base layer's validators: who they are, and changes of one's own stake.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    validator_app.command("list")(show)
    for command in (bond, unbond, unjail):
        validator_app.command(cls=Signed)(command)
    app.add_typer(validator_app, name="validator")


def show(context: typer.Context, as_json: Json = False) -> None:
    """Epoch, members, stakes, jail and unbonding, as the ledger proves them."""
    from client.validators import validator_set

    exchange = exchange_of(context)

    async def work() -> Any:
        async with exchange:
            return await validator_set(exchange)

    found = run(work())
    emit(found, _table(found), as_json=as_json)


def _table(found: ValidatorSetView) -> str:
    """The validators for people, in 80 columns: below each its address, and how long it is
    jailed."""
    from client.units import utc, uusd_to_usd
    from client.validators import describe

    ends = f", ends at {utc(found.ends_ms)}" if found.ends_ms else ""
    lines = [f"epoch {found.epoch}{ends}; ledger height {found.ledger_height}"]
    described = describe(found)
    money = ("votes", "stake", "unbonding")
    cells = [["validator", *money, "state"]]
    for row in described:
        numbers = [row[f"{name}_uusd"] for name in ("voting", "stake", "unbonding")]
        state = row["state"].partition(", ")[0]
        cells.append([row["name"], *map(uusd_to_usd, numbers), state])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for place, (name, *numbers, state) in enumerate(cells):
        told = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([name.ljust(widths[0]), *told, state]))
        if place:
            row = described[place - 1]
            lines.append(f"  {row['address']}")
            if jailed := row["state"].partition(", ")[2]:
                lines.append(f"  {jailed}")
    return "\n".join(lines)


def bond(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="Dollars to add to the stake; 0 for none.")],
    key: KeyFile,
    address: Annotated[
        str, typer.Option("--address", help="HOST:PORT where other validators dial it.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Become a validator from the next epoch on, or change one's stake, address, certificate."""
    from client.units import parse_micro
    from client.validators import bond as send
    from client.validators import read_certificate_beside
    from protocol.errors import ConfigError
    from store.keyfiles import load_key

    amount_uusd = parse_micro(amount, "amount")
    if amount_uusd < 0:
        raise ConfigError(
            "the amount must not be negative; to take stake out: trilemma validator unbond"
        )
    signer, certificate = load_key(key), read_certificate_beside(key)
    exchange = exchange_of(context)
    text = f"bonded {amount} dollars; in force from the next epoch on"
    _finish(exchange, send(exchange, signer, amount_uusd, address, certificate), text, as_json)


def unbond(
    context: typer.Context,
    amount: Annotated[str, typer.Argument(help="Dollars to take out, or: all.")],
    key: KeyFile,
    as_json: Json = False,
) -> None:
    """Take stake out, all of it to leave; the money follows after the unbonding period."""
    from client.units import usd_to_uusd
    from client.validators import unbond as send
    from store.keyfiles import load_key

    amount_uusd = 0 if amount == "all" else usd_to_uusd(amount)
    signer = load_key(key)
    exchange = exchange_of(context)
    text = f"unbonded {amount}{' dollars' if amount_uusd else ''}; in force from the next epoch on"
    _finish(exchange, send(exchange, signer, amount_uusd), text, as_json)


def unjail(context: typer.Context, key: KeyFile, as_json: Json = False) -> None:
    """Return to the validator set when the jail time is over."""
    from client.validators import unjail as send
    from store.keyfiles import load_key

    signer = load_key(key)
    exchange = exchange_of(context)
    text = "free again; a member from the next epoch on"
    _finish(exchange, send(exchange, signer), text, as_json)


def _finish(exchange: Any, sending: Coroutine[Any, Any, Any], text: str, as_json: bool) -> None:
    """Send a transaction, and tell the ledger block that holds it."""

    async def work() -> Any:
        async with exchange:
            return await sending

    done = run(work())
    data = {"height": done.height, "transaction": done.transaction_id.hex()}
    emit(data, f"{text} (ledger block {done.height})", as_json=as_json)
