"""Files of `trilemma stress`: recorded candles, and the results of its runs.

A run's file names the setting that it came from, so that an interrupted or extended job computes
only what is missing and never mixes settings.
"""

from __future__ import annotations

import csv
import lzma
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec

from protocol.errors import ConfigError
from sim.stress_frontier import RunKey
from sim.stress_prices import Candle
from sim.stress_report import Run
from sim.stress_setting import SYNTHETIC, Shape, Window, cut, synthetic

MODEL = 1
"""Raised when a change of the model makes earlier results another thing."""
COLUMNS = ("open", "high", "low", "close")
DAY = timedelta(days=1)


class Crash(NamedTuple):
    """A day whose lowest price a window is cut around, and the file with its candles."""

    name: str
    title: str
    file: str
    day: datetime


CRASHES = (
    Crash(
        "march-2020", "12 March 2020", "binance_spot_BTCUSDT_5m_20191115_20200312T2110.csv",
        datetime(2020, 3, 12, tzinfo=UTC),
    ),
    Crash(
        "may-2021", "19 May 2021", "binance_spot_BTCUSDT_1m_20210420_20210520.csv",
        datetime(2021, 5, 19, tzinfo=UTC),
    ),
    Crash(
        "october-2025", "10 October 2025", "binance_perp_BTCUSDT_5m_20250919_20251027.csv",
        datetime(2025, 10, 10, tzinfo=UTC),
    ),
)  # fmt: skip
ALL = "all"
NAMES = (*(crash.name for crash in CRASHES), SYNTHETIC)


def windows(names: list[str], data: Path | None, shape: Shape) -> list[Window]:
    """The windows of these crashes; `data` is the directory with their candles.

    Raises `ConfigError` for an unknown name, a missing file, and candles that do not reach.
    """
    if ALL in names:
        names = [crash.name for crash in CRASHES]
    known = {crash.name: crash for crash in CRASHES}
    found = []
    for name in dict.fromkeys(names):
        if name == SYNTHETIC:
            found.append(synthetic(shape))
        elif name not in known:
            raise ConfigError(f"there is no crash {name!r}; there are {', '.join(NAMES)}, {ALL}")
        elif data is None:
            raise ConfigError(
                f"{name} needs recorded prices: give --data DIRECTORY with {known[name].file} "
                f"(or the same with .xz), or use --crash {SYNTHETIC}"
            )
        else:
            crash = known[name]
            candles = read_candles(_existing(data, crash.file))
            begin_ms = int(crash.day.timestamp() * 1_000)
            end_ms = int((crash.day + DAY).timestamp() * 1_000)
            found.append(cut(crash.name, crash.title, candles, begin_ms, end_ms, shape))
    return found


def _existing(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.xz"):
        if path.is_file():
            return path
    raise ConfigError(f"there is no {name} (or .xz) in {directory}")


def read_candles(path: Path) -> list[Candle]:
    """Candles of a CSV file, plain or .xz, with the columns ts_ms, open, high, low and close.

    Raises `ConfigError` with the line that is wrong.
    """
    candles = []
    with _open(path) as file:
        reader = csv.DictReader(file)
        if not {"ts_ms", *COLUMNS} <= set(reader.fieldnames or ()):
            raise ConfigError(f"{path} does not have the columns ts_ms, {', '.join(COLUMNS)}")
        try:
            for row in reader:
                prices = (int(Decimal(row[name]) * 1_000_000) for name in COLUMNS)
                candles.append(Candle(int(row["ts_ms"]), *prices))
        except (ValueError, TypeError, InvalidOperation, lzma.LZMAError, EOFError) as error:
            raise ConfigError(f"{path}, line {reader.line_num}: {error!r}") from None
    return candles


def _open(path: Path) -> TextIO:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", newline="")
    return path.open(newline="")


class Stored(msgspec.Struct, frozen=True):
    """A run's file: the setting's fingerprint, and the run."""

    setting: str
    run: Run


class Results:
    """The directory with the runs' files: one folder a crash, one a seed, one file a cell."""

    def __init__(self, directory: Path, shape: Shape) -> None:
        self.directory = directory
        self._shape = shape

    def fingerprint(self, window: Window) -> str:
        """What a run of this window depends on besides its seed and cell."""
        text = repr((MODEL, self._shape, window)).encode()
        return blake2b(text, digest_size=12).hexdigest()

    def path(self, key: RunKey) -> Path:
        """The file of a run."""
        crash, seed, cell = key
        return self.directory / "runs" / crash / f"seed-{seed}" / f"{cell}.json"

    def load(self, key: RunKey, fingerprint: str) -> Run | None:
        """A run that is stored under the same setting."""
        try:
            stored = msgspec.json.decode(self.path(key).read_bytes(), type=Stored)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return stored.run if stored.setting == fingerprint else None

    def save(self, key: RunKey, fingerprint: str, run: Run) -> None:
        """Store a run as a whole or not at all."""
        self.write(self.path(key), msgspec.json.encode(Stored(fingerprint, run)))

    @staticmethod
    def write(path: Path, content: bytes) -> None:
        """Write a file by way of a new one beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
