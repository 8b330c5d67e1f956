"""Command for evidence against sequencers that signed against themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_proof import GenesisFile, chain_of
from client.console import Json, emit, testnet_directory

if TYPE_CHECKING:
    from protocol.genesis import Chain

EVIDENCE_FILE_BYTES = 64 * 1024
"""No evidence is longer."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evidence)


def evidence(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Files of evidence.", show_default=False),
    ] = None,
    genesis: GenesisFile = None,
    as_json: Json = False,
) -> None:
    """Check evidence that a sequencer signed two things of which an honest one signs one.

    By the keys of genesis alone. Without a file: all that the testnet's sequencers have kept. Exits
    with 6 where it does not hold."""
    chain = chain_of(context, genesis)
    rows = [_judged(path, chain) for path in files or _kept(testnet_directory(context))]
    lines = [
        f"{row['sequencer']} signed two {row['kind']}s in view {row['view']} of the log: "
        f"{row['file']}"
        for row in rows
    ]
    text = "\n".join(lines) or "no sequencer has kept evidence against another one"
    emit({"evidence": rows}, text, as_json=as_json)


def _kept(directory: Path) -> list[Path]:
    """The files of all sequencers of a testnet."""
    from sequencer.process_evidence import evidence_files
    from store.testnet import Testnet

    testnet = Testnet.load(directory)
    sequencers = testnet.of_role("sequencer")
    return [path for one in sequencers for path in evidence_files(testnet.data_path(one.name))]


def _judged(path: Path, chain: Chain) -> dict[str, Any]:
    """Evidence that holds, in words; raises `ConfigError` without a file, and `InvalidProof`."""
    from client.faults import InvalidProof
    from consensus import MemberSet
    from consensus.evidence import verify_evidence
    from protocol.errors import ConfigError, Rejected
    from protocol.evidence import DoubleVote, decode_evidence

    if not path.is_file() or path.stat().st_size > EVIDENCE_FILE_BYTES:
        raise ConfigError(f"there is no file of evidence {path}")
    sequencers = chain.genesis.sequencers
    members = MemberSet(chain.log_id, [one.member() for one in sequencers])
    try:
        found = decode_evidence(path.read_bytes())
        verify_evidence(members, found)
    except Rejected as error:
        raise InvalidProof(f"{path}: {error.text}") from None
    return {
        "file": str(path),
        "sequencer": sequencers[found.member].name,
        "view": found.view,
        "kind": "vote" if isinstance(found, DoubleVote) else "proposal",
    }
