"""Logs of a process: JSON lines in containers, readable ones on a terminal.

Every line says which process wrote it and, where it is known, at which height, view and batch. The
same event over and over is written a few times and then counted: what fails a thousand times a
second must not fill a disk.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from store.config import ProcessConfig

REPEATS = 20
"""Lines of one event within `REPEATS_S`; more are counted, and the count stands in the next one."""

REPEATS_S = 10.0
EVENTS_MAX = 1_000
"""Different events that are remembered for that."""

Place = Callable[[], Mapping[str, int]]


class LogPlace:
    """Puts into every line which process it is of, and where that stands."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        self.place: Place = dict
        """Height, view and batch, as far as there are such."""

    def __call__(self, _: Any, method: str, line: EventDict) -> EventDict:
        for key, value in (*self._names.items(), *self.place().items()):
            line.setdefault(key, value)
        return line


class Repeats:
    """Drops lines that repeat too often; what is critical never."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, _: Any, method: str, line: EventDict) -> EventDict:
        if method == "critical":
            return line
        key, now_s = (method, str(line.get("event"))), self._clock()
        since_s, count = self._counts.pop(key, (now_s, 0))
        if now_s - since_s >= REPEATS_S:
            if count > REPEATS:
                line["suppressed"] = count - REPEATS
            since_s, count = now_s, 0
        while len(self._counts) >= EVENTS_MAX:
            del self._counts[next(iter(self._counts))]
        self._counts[key] = (since_s, count + 1)
        if count >= REPEATS:
            raise structlog.DropEvent
        return line


class LogStream:
    """Writes lines to a file at once; what its disk does not take is lost, and counted.

    A full disk of logs is no reason to end a process, whose own data may lie elsewhere.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.lost = 0
        """Lines lost since the last one that was written."""
        try:
            self._descriptor: int | None = file.fileno()
        except (OSError, ValueError):
            self._descriptor = None

    def write(self, text: str) -> int:
        """Write, past any buffer: what is left in one would fail again later."""
        try:
            if self._descriptor is None:
                self._file.write(text)
            else:
                os.write(self._descriptor, text.encode("utf-8", "replace"))
        except OSError:
            self.lost += 1
        else:
            self.lost = 0
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def tell_lost(self, _: Any, method: str, line: EventDict) -> EventDict:
        """A line says how many before it were lost."""
        if self.lost:
            line["lost_lines"] = self.lost
        return line


_place: LogPlace = LogPlace({})


def set_log_place(place: Place) -> None:
    """Say where this process stands; called for every line, so it has to be cheap."""
    _place.place = place


def configure_logging(config: ProcessConfig) -> None:
    """Have this process log as its configuration says, to stderr; libraries' warnings too."""
    global _place
    _place = LogPlace({"node": config.name, "role": config.role})
    stream = LogStream(sys.stderr)
    shared: list[Processor] = [
        stream.tell_lost,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _place,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if config.log_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[Repeats(), *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, config.log_level.upper())
        ),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", stream)),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_repeats_filter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _repeats_filter() -> Callable[[logging.LogRecord], bool]:
    """The same for what libraries log."""
    repeats = Repeats()

    def keep(record: logging.LogRecord) -> bool:
        try:
            repeats(None, record.levelname.lower(), {"event": record.msg})
        except structlog.DropEvent:
            return False
        return True

    return keep
