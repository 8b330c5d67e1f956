"""`trilemma validator init`: what a further validator of a local testnet needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.console import Json, emit, testnet_directory


def register(validator_app: typer.Typer) -> None:
    """Add the command to those of validators."""
    validator_app.command("init")(init)


def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="New directory of the validator.")],
    testnet: Annotated[
        Path | None,
        typer.Option("--testnet", help="Testnet to join, instead of the global --testnet."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the process; else the directory's.")] = "",
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Key with money on the ledger, instead of a new one."),
    ] = None,
    public: Annotated[str, typer.Option(help="HOST:PORT for clients; else a free port.")] = "",
    peer: Annotated[str, typer.Option(help="HOST:PORT for validators; else a free port.")] = "",
    as_json: Json = False,
) -> None:
    """Make key, certificate and configuration of a further validator of a testnet."""
    from cluster.join import prepare_validator
    from store.testnet import Testnet

    chosen = testnet_directory(context, testnet)
    made = prepare_validator(
        directory, Testnet.load(chosen), name=name, key_file=key, public=public, peer=peer
    )
    option = f"--testnet {chosen}"
    lines = [f"validator in {made.directory}", "", "Next, in this order"]
    if key is None:
        lines += [
            "  # fund it; returns once the ledger has paid",
            f"  trilemma {option} withdraw 2000 --to {made.address.hex()}",
        ]
    lines += [
        "  # bond before it starts: the others talk only to who has stake on the ledger",
        f"  trilemma {option} validator bond 1000 --key {made.key_path} --address {made.peer}",
        "  # start it before the next epoch begins, and let it run",
        f"  trilemma node --config {made.config_path} &",
        "  # it `waits` until the epoch ends, then `validates`",
        f"  trilemma {option} validator list",
    ]
    data = {
        "directory": str(made.directory),
        "key": str(made.key_path),
        "config": str(made.config_path),
        "address": made.address.hex(),
        "public": made.public,
        "peer": made.peer,
    }
    emit(data, "\n".join(lines), as_json=as_json)
