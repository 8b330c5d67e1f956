"""``trilemma replay``: files in, progress on stderr, report out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.console import note
from client.recordings import open_lines
from client.replay import Replay, ReplayOptions, ReplayReport
from client.sdk import Exchange

LINE_EVERY_S = 5.0
BAR_EVERY_ROWS = 200

OnRow = Callable[[Replay], None]


async def run_replay(
    exchange: Exchange, options: ReplayOptions, file: Path, book: Path | None, limit: int
) -> ReplayReport:
    """Replay a message file, and its book file where there is one; raises as `Replay.run`."""
    with ExitStack() as files:
        messages = files.enter_context(open_lines(file, limit))
        levels = None if book is None else files.enter_context(open_lines(book, limit))
        async with exchange:
            replay = Replay(exchange, options)
            with progress_of(limit) as on_row:
                return await replay.run(messages, levels, on_row)


@contextmanager
def progress_of(limit: int) -> Iterator[OnRow]:
    """A bar on a terminal, otherwise a line every few seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[equal]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("replay", total=limit or None, equal="")

        def on_row(replay: Replay) -> None:
            if replay.rows % BAR_EVERY_ROWS == 0:
                progress.update(task, completed=replay.rows, equal=_equal(replay))

        yield on_row


def _lines() -> OnRow:
    last = time.monotonic()

    def on_row(replay: Replay) -> None:
        nonlocal last
        if replay.rows % BAR_EVERY_ROWS == 0 and time.monotonic() >= last + LINE_EVERY_S:
            last = time.monotonic()
            note(f"{replay.rows:,} rows sent, {_equal(replay)}")

    return on_row


def _equal(replay: Replay) -> str:
    comparer = replay.comparer
    return f"{comparer.rows_equal:,} of {comparer.rows_compared:,} rows equal"
