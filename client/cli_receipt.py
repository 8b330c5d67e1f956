"""Commands for liquidation receipts: fetch one with its proofs, and check such a file offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_submit import NUMBER_MAX, Timeout
from client.console import Json, emit, exchange_of, note, run, testnet_directory

if TYPE_CHECKING:
    from client.receipts import SettledReceipt
    from protocol.genesis import Chain

CheckpointFile = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Trust this checkpoint, instead of genesis."),
]


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
    checkpoint: CheckpointFile = None,
    timeout: Timeout = 120.0,
    as_json: Json = False,
) -> None:
    """Fetch a liquidation receipt and verify it down from the base layer; waits until it is
    settled."""
    from client.receipts import fetch_receipt, to_file
    from protocol.errors import ConfigError
    from store.files import write_atomic

    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"there is no checkpoint {checkpoint}")
    exchange = exchange_of(context)

    async def work() -> SettledReceipt:
        async with exchange:
            return await fetch_receipt(exchange, number, int(timeout * 1000), checkpoint)

    found = run(work())
    if out is not None:
        write_atomic(out, to_file(found))
        note(f"receipt {number} written to {out}; check it with: trilemma verify-receipt {out}")
    data = _data(exchange.chain, found)
    emit(data, _text(exchange.chain, found), as_json=as_json)


def verify_receipt(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File that `trilemma receipt --out` wrote.")],
    checkpoint: CheckpointFile = None,
    state_root: Annotated[
        str, typer.Option("--state-root", metavar="HEX", help="Trust this state root instead.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check a receipt's file without asking anybody: against a checkpoint (that of genesis if none
    is given) or a state root. Exits with 6 where it does not hold."""
    from client.market_reports import receipt_text
    from client.nonces import wall_clock_ms
    from client.receipts import (
        RECEIPT_FILE_BYTES,
        check_under_checkpoint,
        check_under_root,
        from_file,
    )
    from execution.process_light import load_checkpoint
    from protocol.errors import ConfigError
    from store.testnet import Testnet

    if checkpoint is not None and state_root:
        raise ConfigError("give a --checkpoint or a --state-root, not both")
    if not file.exists() or file.stat().st_size > RECEIPT_FILE_BYTES:
        raise ConfigError(f"there is no receipt file {file}")
    found = from_file(file.read_bytes())
    chain = Testnet.load(testnet_directory(context)).chain()
    if found.chain_id != chain.chain_id:
        raise ConfigError("the receipt is of another chain than the testnet; name it: --testnet")
    if state_root:
        check_under_root(found, _root(state_root))
        under = "the given state root"
        data: dict[str, Any] = {"receipt": _receipt(chain, found), "state_root": state_root}
    else:
        trusting_ms = chain.genesis.staking.trusting_ms
        trusted = load_checkpoint(chain, checkpoint)
        check_under_checkpoint(found, trusted, trusting_ms, wall_clock_ms())
        under = f"members of epoch {trusted.epoch}, checkpoint {trusted.fingerprint().hex()}"
        data = _data(chain, found)
    text = receipt_text(chain.genesis.markets, data["receipt"])
    emit(data, f"{text}\nholds under {under}", as_json=as_json)


def _root(text: str) -> bytes:
    from protocol.errors import ConfigError

    try:
        root = bytes.fromhex(text)
    except ValueError:
        root = b""
    if len(root) != 32:
        raise ConfigError("a state root is 32 bytes in hex")
    return root


def _receipt(chain: Chain, found: SettledReceipt) -> dict[str, Any]:
    from client.market_reports import receipt_data

    return receipt_data(chain.genesis.markets, found.proof.receipt)


def _data(chain: Chain, found: SettledReceipt) -> dict[str, Any]:
    settled = found.settled
    return {
        "receipt": _receipt(chain, found),
        "batch": found.batch,
        "state_root": settled.header.post_state_root.hex(),
        "ledger_height": settled.ledger_height,
        "proven_at_height": found.header.height,
        "epoch": found.header.epoch,
    }


def _text(chain: Chain, found: SettledReceipt) -> str:
    from client.market_reports import receipt_text

    return (
        f"{receipt_text(chain.genesis.markets, _receipt(chain, found))}\n"
        f"in batch {found.batch}, settled in ledger block {found.settled.ledger_height}, state root"
        f" {found.settled.header.post_state_root.hex()}"
    )
