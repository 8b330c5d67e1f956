"""Commands that drive flow through the exchange: replay, load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.console import Json, emit, exchange_of, note, run

FLOW_PATIENCE_MS = 30_000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (replay, load):
        app.command()(command)


def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Messages: .csv, .csv.gz or .csv.xz.")],
    form: Annotated[str, typer.Option("--format", help="Format of the file.")] = "lobster",
    book: Annotated[
        Path | None, typer.Option("--book", help="The recorded book after each message.")
    ] = None,
    market: Annotated[str, typer.Option(help="Market to replay into.")] = "GOOG-PERP",
    accounts: Annotated[int, typer.Option(min=3, help="Accounts that share the flow.")] = 16,
    limit: Annotated[int, typer.Option(min=0, help="Rows to replay; 0 for all.")] = 0,
    speed: Annotated[
        float, typer.Option(min=0.0, help="Times as fast as recorded; 0: as fast as it goes.")
    ] = 0.0,
    keep_orders: Annotated[
        bool, typer.Option("--keep-orders", help="Leave what rests at the end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Replay recorded order flow, and compare best bid and ask with the recorded ones."""
    from client.replay import ReplayOptions
    from client.replay_command import run_replay
    from protocol.errors import ConfigError

    if form != "lobster":
        raise ConfigError(f"the format {form!r} is unknown; there is: lobster")
    options = ReplayOptions(market=market, accounts=accounts, speed=speed, clean_up=not keep_orders)
    exchange = exchange_of(context, FLOW_PATIENCE_MS)
    report = run(run_replay(exchange, options, file, book, limit))
    share = f"{report.rows_equal:,} of {report.rows_compared:,} rows equal"
    text = (
        f"{report.rows:,} rows, {report.actions:,} actions in {report.seconds:g} s "
        f"({report.actions_per_s:,.0f}/s), {report.fills:,} fills\n"
        f"{share} to the {report.reference} best bid and ask"
    )
    emit(report, text, as_json=as_json)
    if report.rows_equal < report.rows_compared:
        for mismatch in report.mismatches:
            note(
                f"row {mismatch.row}: expected {tuple(mismatch.expected)}, "
                f"the exchange shows {tuple(mismatch.shown)}"
            )
        raise typer.Exit(1)


def load(
    context: typer.Context,
    rate: Annotated[int, typer.Option(min=1, help="Actions per second.")] = 1_000,
    saturate: Annotated[bool, typer.Option("--max", help="As much as the exchange takes.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=100, help="Actions per signed batch.")] = 20,
    accounts: Annotated[int, typer.Option(min=2, help="Traders that take part.")] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to send.")] = 10.0,
    markets: Annotated[str, typer.Option(help="Symbols, with commas between; all if none.")] = "",
    takers: Annotated[float, typer.Option(min=0, max=1, help="Share of taker batches.")] = 0.2,
    window: Annotated[int, typer.Option(min=1, help="Batches under way, with --max.")] = 256,
    first_trader: Annotated[int, typer.Option(min=0, help="Number of the first trader.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the flow.")] = 1,
    as_json: Json = False,
) -> None:
    """Load the exchange, and check that every acknowledged batch is executed exactly once."""
    from client.faults import EXIT_NO_PROGRESS, EXIT_SAFETY
    from client.load import LoadOptions
    from client.load_command import describe, run_load

    options = LoadOptions(
        rate=0 if saturate else rate, batch=batch, accounts=accounts, seconds=seconds,
        markets=tuple(part.strip() for part in markets.split(",") if part.strip()),
        taker_share=takers, window=window, first_trader=first_trader, seed=seed,
    )  # fmt: skip
    note(f"seed {seed}")
    report = run(run_load(exchange_of(context, FLOW_PATIENCE_MS), options))
    emit(report, describe(report), as_json=as_json)
    if report.duplicated:
        raise typer.Exit(EXIT_SAFETY)
    if report.lost or not report.executed:
        raise typer.Exit(EXIT_NO_PROGRESS)
