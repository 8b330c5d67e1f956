"""`trilemma validator rotate`: a new key for a running validator, in one command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import FIRST_TRADER
from client.console import Json, emit, exchange_of, note, run, testnet_directory

if TYPE_CHECKING:
    from client.sdk import Exchange
    from cluster.rotate_places import Place

PATIENCE_MS = 30_000
"""How long one question may wait: the validator that is asked may be the one that restarts."""


def register(validator_app: typer.Typer) -> None:
    """Add the command to those of validators."""
    validator_app.command("rotate")(rotate)


def rotate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A validator of the testnet, as validator-3.")],
    payer: Annotated[
        str, typer.Option("--as", metavar="TRADER", help="Whose account pays the new stake.")
    ] = FIRST_TRADER,
    peer: Annotated[
        str, typer.Option(help="HOST:PORT for validators from then on; else a free port.")
    ] = "",
    wait_s: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds it may take; else two epochs, a dispute window and two minutes."
        ),
    ] = None,
    give_up: Annotated[
        bool,
        typer.Option("--abandon", help="Give up a rotation whose new key has no stake yet."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Exchange the key of a validator that runs, here or in a container.

    Fund and bond a new one, unbond the old one, wait for the epoch's end, restart with the new one.
    The trader's account pays the new stake; that of the old key is free after the unbonding period.
    Refused where the others would be no quorum. Run again, it goes on where it was interrupted.
    """
    from client.units import utc, uusd_to_usd
    from cluster.rotate import Rotation
    from cluster.rotate_places import find_place
    from store.testnet import Testnet

    place = find_place(Testnet.load(testnet_directory(context)), name)
    exchange = exchange_of(context, PATIENCE_MS)
    if give_up:
        _give_up(exchange, place, payer, as_json=as_json)
        return

    async def work() -> Any:
        async with exchange:
            return await Rotation(
                exchange, place, payer=payer, peer=peer, wait_s=wait_s, report=note
            ).run()

    done = run(work())
    free = f"from {utc(done.free_ms)} on" if done.free_ms else "after the unbonding period"
    lines = [
        f"{name} validates with its new key {done.new_address}, since epoch {done.epoch} at the "
        f"latest; others dial it at {done.peer}",
        f"{uusd_to_usd(done.unbonding_uusd)} dollars of the old key are free {free}: keep "
        f"{done.retired_key} until you have them",
    ]
    emit(done, "\n".join(lines), as_json=as_json)


def _give_up(exchange: Exchange, place: Place, payer: str, *, as_json: bool) -> None:
    from cluster.rotate_abandon import abandon, text

    async def work() -> Any:
        async with exchange:
            return await abandon(exchange, place, payer=payer, report=note)

    done = run(work())
    emit(done, text(done, place), as_json=as_json)
