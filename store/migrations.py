"""The format of data directories, and the way from older ones.

The file ``FORMAT`` in a data directory says ``store format N``. A newer one than `FORMAT` is
refused. An older one is led forward by `MIGRATIONS`, one format after the other, each of which ends
by writing down the format that it reached: a crash in between repeats that one step only, so a step
must bear to be begun twice.

A change of what any store of any role writes needs a new format and a step that leads there.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError
from store.files import write_atomic
from store.segment_file import SUFFIX, read_header

FORMAT = 1
"""The format that this release reads and writes."""

FORMAT_NAME = "FORMAT"
SQLITE_VERSION = 2
"""``user_version`` of the databases of format 1."""

_LINE = re.compile(r"store format ([0-9]{1,6})\n")

Progress = Callable[[str], None]
"""Takes a line of news."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A step to format `to` from the one before: `run` changes a directory in place, and raises
    `ConfigError` where it cannot be done."""

    to: int
    text: str
    run: Callable[[Path], None]


def _adopt_unnumbered(directory: Path) -> None:
    """Format 0 is that of directories without a ``FORMAT``; what they hold is that of format 1, if
    the databases are of its schemas and the logs have its headers."""
    for database in sorted(directory.glob("*.sqlite")):
        try:
            with closing(sqlite3.connect(database)) as connection:
                found = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise ConfigError(f"cannot read the database {database}: {error}") from None
        if found not in (0, SQLITE_VERSION):
            raise ConfigError(
                f"the database {database} has schema {found}, from which no way leads to "
                f"{SQLITE_VERSION}: use the release that wrote it"
            )
    for segment in sorted(directory.glob(f"*/*{SUFFIX}")):
        read_header(segment)


MIGRATIONS = (Migration(1, "number the format, after a look at every store", _adopt_unnumbered),)


def ensure_format(
    directory: Path,
    report: Progress,
    migrations: tuple[Migration, ...] = MIGRATIONS,
    *,
    new: bool = False,
) -> None:
    """Have a data directory in the newest format; a `new` one just gets its number.

    Raises `ConfigError` for a directory of a newer release, or one that cannot be led forward.
    """
    newest = migrations[-1].to
    found = format_of(directory)
    if found is None and new:
        _write(directory, newest)
        return
    found = found or 0
    if found > newest:
        raise ConfigError(
            f"{directory} has store format {found}, and this release knows formats up to {newest}: "
            "it was made by a newer version, use that one"
        )
    if found < newest:
        report(
            f"{directory} has store format {found} and becomes {newest}; the way back is a backup "
            "that the older release made (trilemma backup)"
        )
    for step in migrations:
        if step.to > found:
            report(f"format {step.to} of {newest}: {step.text}")
            step.run(directory)
            _write(directory, step.to)


def format_of(directory: Path) -> int | None:
    """The format of a data directory as it says, None where it says nothing.

    Raises `ConfigError` where the file says something else.
    """
    path = directory / FORMAT_NAME
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    match = _LINE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{path} is damaged; it has to say: store format {FORMAT} (or the format of the "
            "release that wrote the directory)"
        )
    return int(match[1])


def format_line(number: int) -> bytes:
    """Content of ``FORMAT``."""
    return f"store format {number}\n".encode("ascii")


def _write(directory: Path, number: int) -> None:
    write_atomic(directory / FORMAT_NAME, format_line(number))
