"""`trilemma light`: verify the base layer from genesis or a checkpoint, with headers and proofs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.console import COMMAND_PATIENCE_MS, Json, emit, note, run, testnet_directory

if TYPE_CHECKING:
    from protocol.genesis import Chain


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(light)


def light(
    context: typer.Context,
    address: Annotated[
        str, typer.Option("--address", metavar="HEX", help="Verify this address's balance.")
    ] = "",
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Verify that this batch is settled.")
    ] = None,
    withdrawal: Annotated[
        int | None, typer.Option("--withdrawal", min=0, help="Verify a withdrawal and its batch.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Begin from this checkpoint, instead of genesis."),
    ] = None,
    checkpoint_out: Annotated[
        Path | None,
        typer.Option("--checkpoint-out", help="Write a checkpoint of the newest epoch."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Trust the members that it begins from, however old, as of now: for a chain that "
            "rested. Only with --checkpoint-out.",
        ),
    ] = False,
    validator: Annotated[
        int, typer.Option("--validator", min=0, help="Ask this validator first.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Follow headers over all epochs and verify what they prove; nothing is taken on trust.

    Exits with 6 where something does not verify, with 2 where the checkpoint is too old.
    """
    from client.light import LightReport, VerifiedLedger
    from client.sdk import Exchange
    from protocol.errors import ConfigError
    from protocol.light import checkpoint_to_json
    from store.files import write_atomic

    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"there is no checkpoint {checkpoint}")
    if trust and checkpoint_out is None:
        raise ConfigError("--trust writes a checkpoint: name its file with --checkpoint-out")
    owner = _address(address)
    exchange = Exchange.connect(
        testnet_directory(context), patience_ms=COMMAND_PATIENCE_MS, first_address=validator
    )

    if trust and checkpoint_out is not None:
        _trust_as_of_now(exchange.chain, checkpoint, checkpoint_out)
        checkpoint = checkpoint_out

    async def work() -> tuple[LightReport, bytes]:
        async with exchange:
            ledger = VerifiedLedger(exchange, checkpoint, keep=False)
            report = await ledger.report(owner, batch, withdrawal)
            return report, checkpoint_to_json(ledger.light.client.checkpoint())

    report, taken = run(work())
    if checkpoint_out is not None:
        write_atomic(checkpoint_out, taken)
        note(f"checkpoint {report.checkpoint} written to {checkpoint_out}")
    emit(report, report.lines(), as_json=as_json)


def _address(text: str) -> bytes | None:
    from protocol.errors import ConfigError
    from protocol.keys import ADDRESS_BYTES

    if not text:
        return None
    try:
        address = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise ConfigError(f"the address {text!r} is not hex") from None
    if len(address) != ADDRESS_BYTES:
        raise ConfigError(f"an address has {ADDRESS_BYTES} bytes: {text}")
    return address


def _trust_as_of_now(chain: Chain, checkpoint: Path | None, out: Path) -> None:
    """Write the checkpoint (genesis without one) as if it were of today: the user vouches."""
    from msgspec.structs import replace

    from execution.process_light import load_checkpoint, wall_clock_ms
    from protocol.light import checkpoint_to_json
    from store.files import write_atomic

    begin = replace(load_checkpoint(chain, checkpoint), time_ms=wall_clock_ms())
    write_atomic(out, checkpoint_to_json(begin))
