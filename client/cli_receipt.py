"""Commands for liquidation receipts, which are proofs of one kind (`client.cli_proof`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_proof import (
    CheckpointFile,
    Final,
    GenesisFile,
    fetched,
    proof_data,
    verified,
    where_text,
)
from client.cli_submit import NUMBER_MAX, Timeout
from client.console import Json, emit, exchange_of, note

if TYPE_CHECKING:
    from client.sdk import Exchange


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(receipt)
    app.command("verify-receipt")(verify_receipt)


def receipt(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=0, max=NUMBER_MAX, help="The receipt's number.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the receipt with its proofs to a file.")
    ] = None,
    final: Final = False,
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Fetch a liquidation receipt and verify it down from the base layer; waits until it is
    settled."""
    from client.proof_file import show, to_file
    from client.proof_kinds import LIQUIDATION, row_text
    from store.files import write_atomic

    exchange = exchange_of(context)

    async def subject(exchange: Exchange) -> list[int]:
        return [number]

    found = fetched(exchange, LIQUIDATION, subject, final, checkpoint, timeout)
    shown = show(found, exchange.chain)
    if out is not None:
        write_atomic(out, to_file(found, exchange.chain))
        note(f"receipt {number} written to {out}; check it with: trilemma verify {out}")
    text = row_text(LIQUIDATION, exchange.chain.genesis.markets, shown.proven)
    data = proof_data(shown) | {"receipt": shown.proven}
    emit(data, f"{text}\n{where_text(shown)}", as_json=as_json)


def verify_receipt(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File that `trilemma receipt --out` wrote.")],
    checkpoint: CheckpointFile = None,
    genesis: GenesisFile = None,
    state_root: Annotated[
        str, typer.Option("--state-root", metavar="HEX", help="Trust this state root instead.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check a receipt's file as `trilemma verify` does. Exits with 6 where it does not hold."""
    from client.proof_kinds import LIQUIDATION

    data, text = verified(context, file, checkpoint, genesis, state_root, (LIQUIDATION,))
    emit(data | {"receipt": data["proven"]}, text, as_json=as_json)
