"""Commands that check the exchange: audit it, and export the base layer for audits offline."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_proof import CheckpointFile, GenesisFile
from client.console import (
    Json,
    emit,
    every_few_seconds,
    exchange_of,
    note,
    output_file,
    run,
    testnet_directory,
)

if TYPE_CHECKING:
    from client.audit_command import AuditOptions
    from client.export_source import Source
    from client.sdk import Exchange
    from node.audit import AuditReport
    from protocol.genesis import Chain

PATIENCE_MS = 30_000
AUDITED = "audited {} of {} ledger blocks"

DataDirectory = Annotated[
    Path | None,
    typer.Option("--data", help="Read a stopped validator's data directory, and ask nobody."),
]
Validator = Annotated[int, typer.Option("--validator", min=0, help="Ask this validator first.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(audit)
    app.command()(export)


def audit(
    context: typer.Context,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Read this archive, and ask nobody.")
    ] = None,
    data: DataDirectory = None,
    from_batch: Annotated[
        int,
        typer.Option(
            "--from", metavar="BATCH", min=0,
            help="Begin from the archive's state after this batch; 0: genesis.",
        ),
    ] = 0,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", help="Begin the shard from the newest snapshot in this execution node's "
            "data directory, or from this kept state of a validator; its root must be settled.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", help="Data directory of the execution node behind the prover: names the "
            "block, step and leaf of a difference.",
        ),
    ] = None,
    checkpoint: CheckpointFile = None,
    genesis: GenesisFile = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes that work.")] = 1,
    validator: Validator = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Re-execute everything from base-layer data alone, and compare with what was settled.

    Exits with 6 at the first difference, which it names.
    """
    from client.audit_command import AuditOptions
    from client.nonces import wall_clock_ms
    from execution.process_light import load_checkpoint
    from protocol.errors import ConfigError

    if archive is not None and data is not None:
        raise ConfigError("give an --archive or a --data directory, not both")
    if checkpoint is not None and not checkpoint.exists():
        raise ConfigError(f"there is no checkpoint {checkpoint}")
    chain, raw = _chain(context, genesis, archive)
    options = AuditOptions(
        from_batch, state, load_checkpoint(chain, checkpoint), wall_clock_ms(), against, jobs
    )
    if archive is not None:
        report = _audit_archive(chain, raw, archive, options)
    else:
        report = _audit_source(context, chain, data, options, validator)
    emit(report, report.line(), as_json=as_json)


def _audit_archive(chain: Chain, raw: bytes, path: Path, options: AuditOptions) -> AuditReport:
    from client.audit_command import audit_archive
    from client.export_archive import Archive

    opened = Archive(path)
    try:
        progress = every_few_seconds(AUDITED)
        executed = every_few_seconds("executed {} of {} batches")
        return run(audit_archive(chain, raw, opened, options, progress, executed))
    finally:
        opened.close()


def _audit_source(
    context: typer.Context, chain: Chain, data: Path | None, options: AuditOptions, validator: int
) -> AuditReport:
    from client.audit_command import audit_source

    def work(source: Source) -> Any:
        return audit_source(chain, source, options, every_few_seconds(AUDITED))

    report: AuditReport = _with_source(context, chain, data, validator, work)
    return report


def export(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="Archive to write or to go on with; or a folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The same as FILE.")] = None,
    data: DataDirectory = None,
    states: Annotated[
        int,
        typer.Option(
            "--states", metavar="N", min=0,
            help="Also write a state after every N batches, for audits from there and in parallel.",
        ),
    ] = 0,
    genesis: GenesisFile = None,
    validator: Validator = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write the base layer into one file that `trilemma audit --archive` checks offline."""
    from client.export_command import ARCHIVE_NAME
    from client.export_command import export as write

    target = output_file(file, out)
    chain, raw = _chain(context, genesis, None)
    path = target / ARCHIVE_NAME if target.is_dir() else target
    _require_archive(path)

    def work(source: Source) -> Any:
        progress = every_few_seconds("exported {} of {} ledger blocks")
        return write(chain, raw, source, path, states_every=states, progress=progress)

    report = _with_source(context, chain, data, validator, work)
    resumed = " (went on with the archive that was there)" if report.resumed else ""
    emit(report, f"{report.line()}{resumed}", as_json=as_json)
    note(f"check it with: trilemma audit --archive {shlex.quote(str(path))}")


def _require_archive(path: Path) -> None:
    """Raise `ConfigError` for a file too short to be an archive, which would be overwritten."""
    from client.export_archive import MAGIC
    from protocol.errors import ConfigError

    if path.is_file() and 0 < path.stat().st_size < len(MAGIC):
        raise ConfigError(f"{path} exists and is no archive; name another file")


def _with_source(
    context: typer.Context, chain: Chain, data: Path | None, validator: int, work: Any
) -> Any:
    """Do work with the validators of the testnet, or with a validator's data directory."""
    from client.export_source import stored_ledger
    from prover.settlement import genesis as genesis_state

    if data is not None:
        with ExitStack() as stack:
            root = genesis_state(chain)[1].root
            return run(work(stack.enter_context(stored_ledger(data, chain, root))))
    return run(_with_exchange(exchange_of(context, PATIENCE_MS, validator), work))


async def _with_exchange(exchange: Exchange, work: Any) -> Any:
    async with exchange:
        return await work(exchange.channel("node"))


def _chain(
    context: typer.Context, genesis: Path | None, archive: Path | None
) -> tuple[Chain, bytes]:
    """The chain, and its genesis file: as named, of the testnet, or else the archive's own."""
    from client.export_archive import Archive
    from protocol.errors import ConfigError
    from protocol.genesis import parse_genesis
    from store.config import read_chain
    from store.testnet import DESCRIPTION_FILE, Testnet

    directory = testnet_directory(context)
    if genesis is None and (archive is None or (directory / DESCRIPTION_FILE).exists()):
        genesis = Testnet.load(directory).genesis_path
    chain = None if genesis is None else read_chain(genesis)
    raw = b"" if genesis is None else genesis.read_bytes()
    if archive is not None:
        opened = Archive(archive)
        own = opened.genesis()
        opened.close()
        if chain is not None and own != raw:
            raise ConfigError(
                f"the archive {archive} is of another chain than {genesis}; name its genesis file "
                "with --genesis"
            )
        if chain is None:
            chain, raw = parse_genesis(own), own
            note(f"the genesis is the archive's own; compare its chain id: {chain.chain_id.hex()}")
    if chain is None:
        raise ConfigError("name a genesis file with --genesis, or a testnet with --testnet")
    return chain, raw
