"""Recorded flow as lines of text, from plain or compressed files, without reading them whole."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

from protocol.errors import ConfigError

OPENERS = {".gz": gzip.open, ".xz": lzma.open}


@contextmanager
def open_lines(path: Path, limit: int = 0) -> Iterator[Iterator[str]]:
    """Lines of a .csv, .csv.gz or .csv.xz file, at most `limit` of them where it is above 0.

    Raises `ConfigError` where the file cannot be opened, is damaged or is no text.
    """
    opener = OPENERS.get(path.suffix)
    try:
        with opener(path, "rt") if opener else path.open() as file:  # type: ignore[operator]
            yield _checked(path, islice(file, limit) if limit else file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None


def _checked(path: Path, file: IO[str] | Iterator[str]) -> Iterator[str]:
    try:
        yield from file
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from None
