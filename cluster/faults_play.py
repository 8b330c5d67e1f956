"""`trilemma faults run`: an experiment with a live timeline, and its report on disk."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import textwrap
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIG_DFL, SIGHUP, SIGTERM, getsignal
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.console import emit, note, run
from cluster.faults_course import RunClock, Show, Tell
from cluster.faults_report import (
    PAGE,
    Report,
    missing_files,
    open_folder,
    read_report,
    write_report,
)
from cluster.faults_run import RunOptions, run_experiment
from cluster.faults_schedule import Experiment, load_experiment
from cluster.faults_watch import Sample
from protocol.errors import ConfigError

OUT = Path(".trilemma/faults")
EXPERIMENTS = Path(__file__).parents[1] / "faults"
LINE_EVERY_S = 5.0
SHOWN_MOMENTS = 12
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40


def play(
    file: Path, *, seed: int | None, testnet: Path | None, short: bool, out: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Run the experiment of a file; returns the exit status. Raises `ConfigError` where its report
    could not be written."""
    experiment = load_experiment(found_experiment(file))
    if short:
        experiment = experiment.short()
    folder = out or OUT / experiment.about.name
    if not re.fullmatch(r"[a-z0-9-]+", experiment.about.name):
        raise ConfigError("an experiment's name is of lower case letters, digits and hyphens")
    open_folder(folder)
    used = experiment.about.seed if seed is None else seed
    about = f"{experiment.about.name}, seed {used}: {experiment.about.description}"
    note(wrapped([about], sys.stderr))
    clock = RunClock()
    with told_when_stopped(clock, removed=testnet is None), timeline(experiment) as (tell, show):
        options = RunOptions(seed=seed, testnet=testnet)
        report = run_until_asked(run_experiment(experiment, options, tell, show, clock))
    # First: pictures take their time, and the disk may be full by now.
    emit(report, wrapped(report.lines(), sys.stdout), as_json=as_json)
    for line in write_report(report, folder):
        note(line)
    note(f"the report with its pictures: {folder / PAGE}")
    return report.status


def show_report(folder: Path, *, as_json: bool) -> None:
    """Show a report again, and make those of its files that are missing, where that can be."""
    report = read_report(folder)
    emit(report, wrapped(report.lines(), sys.stdout), as_json=as_json)
    missing = missing_files(folder)
    try:
        notes = write_report(report, folder, missing)
    except OSError as error:
        notes = [f"{', '.join(missing)} cannot be made in {folder}: {error.strerror}"]
    for line in notes:
        note(line)


def found_experiment(file: Path) -> Path:
    """A file, or the one of this name among the experiments of the project; raises `ConfigError`
    for a name that none of them has."""
    if file.suffix or (file.exists() and not file.is_dir()):
        return file
    known = {path.stem: path for path in EXPERIMENTS.glob("*.toml")}
    if file.name not in known:
        raise ConfigError(f"there is no experiment {file.name!r}; there are {_listed(known)}")
    return known[file.name]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none here: name a file"


def show_experiments(*, as_json: bool) -> None:
    """Show the project's experiments, which `trilemma faults run` takes by their names."""
    found = {path.stem: load_experiment(path) for path in sorted(EXPERIMENTS.glob("*.toml"))}
    rows = [
        {"name": name, "description": one.about.description, "row": one.about.row,
         "duration_s": one.about.duration_s}
        for name, one in found.items()
    ]  # fmt: skip
    lines = [f"{name:<24} {one.about.description}" for name, one in found.items()]
    emit({"experiments": rows}, wrapped(lines, sys.stdout, 25), as_json=as_json)


def wrapped(lines: Iterable[str], stream: TextIO, indent: int = 4) -> str:
    """Lines for people: on a terminal broken between words; elsewhere as they are, so that a
    program finds each of them whole."""
    if not stream.isatty():
        return "\n".join(lines)
    width = max(40, shutil.get_terminal_size().columns)
    broken = [
        textwrap.fill(
            line, width, subsequent_indent=" " * indent, break_long_words=False,
            break_on_hyphens=False, replace_whitespace=False,
        )
        for line in lines
    ]  # fmt: skip
    return "\n".join(broken)


@contextmanager
def told_when_stopped(clock: RunClock, *, removed: bool) -> Iterator[None]:
    """Tell of a run that is stopped early what became of its faults; `removed`: its testnet goes
    with them."""
    try:
        yield
    except KeyboardInterrupt:
        if removed:
            note("stopped; its testnet is removed, and no report was written")
        elif clock.unhealed:
            note(
                "stopped; faults may be left, and no report was written; end them with: trilemma "
                "faults heal"
            )
        else:
            note("stopped; every fault is healed, and no report was written")
        raise


def run_until_asked(work: Coroutine[Any, Any, Report]) -> Report:
    """Run to the report. Who is asked to end (SIGTERM, SIGHUP) ends as with Ctrl-C: faults are
    healed, processes stopped, folders removed. What is ignored, as under nohup, stays so."""

    async def asked() -> Report:
        loop, running = asyncio.get_running_loop(), asyncio.ensure_future(work)
        numbers = [one for one in (SIGTERM, SIGHUP) if getsignal(one) is SIG_DFL]
        for number in numbers:
            # Whoever asks twice gets no more: a second cancellation would end the healing.
            loop.add_signal_handler(number, lambda: running.cancelling() or running.cancel())
        try:
            return await running
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    try:
        return run(asked())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def timeline(experiment: Experiment) -> Iterator[tuple[Tell, Show]]:
    """A live view on a terminal; lines elsewhere. Both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        yield lines.tell, lines.show
        return
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(console=console, refresh_per_second=4))
        view = _View(experiment, live)
        try:
            yield view.tell, view.show
        except KeyboardInterrupt:
            view.end()
            raise


class _Lines:
    """A line for each thing that happens, and one with numbers every few seconds."""

    def __init__(self) -> None:
        self._next_s = LINE_EVERY_S

    def tell(self, at_s: float, what: str, text: str) -> None:
        note(f"{at_s:6.1f} s  {what}: {text}")

    def show(self, one: Sample) -> None:
        if one.at_s >= self._next_s:
            self._next_s = one.at_s + LINE_EVERY_S
            note(f"{one.at_s:6.1f} s  {summary(one)}")


class _View:
    """Numbers, sparklines and the newest moments."""

    def __init__(self, experiment: Experiment, live: Live) -> None:
        self._about = experiment.about
        self._live = live
        self._moments: list[str] = []
        self._samples: list[Sample] = []

    def tell(self, at_s: float, what: str, text: str) -> None:
        self._moments.append(f"{at_s:6.1f} s  {what}: {text}")
        self._draw()

    def show(self, one: Sample) -> None:
        self._samples.append(one)
        self._draw()

    def end(self) -> None:
        """Leave what happened on the terminal, and no numbers: their faults are over."""
        self._live.update(Group(*self._newest()))

    def _newest(self) -> list[Text]:
        return [Text(line, overflow="ellipsis") for line in self._moments[-SHOWN_MOMENTS:]]

    def _draw(self) -> None:
        table = Table(box=None, pad_edge=False, title=f"{self._about.name}", title_justify="left")
        for column in ("", "now", "so far"):
            table.add_column(column)
        if self._samples:
            now, recent = self._samples[-1], self._samples[-SPARK_WIDTH:]
            for state in ("accepted", "executed", "settled", "final"):
                rates = [one.per_s.get(state, 0.0) for one in recent]
                table.add_row(f"{state}/s", f"{rates[-1]:,.0f}", sparkline(rates))
            lags = [float(one.lag or 0) for one in recent]
            table.add_row("lag", "?" if now.lag is None else f"{now.lag:,}", sparkline(lags))
            table.add_row("down", ", ".join(now.down) or "none", "")
            table.add_row("faults", str(len(now.active)), "; ".join(now.active))
        self._live.update(Group(table, Text(""), *self._newest()))


def sparkline(values: list[float]) -> str:
    """Values as bars, the highest one full."""
    top = max(values, default=0.0)
    if top <= 0:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[round(value / top * (len(SPARKS) - 1))] for value in values)


def summary(one: Sample) -> str:
    """A sample in a line."""
    rates = ", ".join(
        f"{state} {one.per_s.get(state, 0):,.0f}/s" for state in ("accepted", "executed", "settled")
    )
    parts = [rates, f"lag {'?' if one.lag is None else one.lag}"]
    if one.down:
        parts.append(f"down: {', '.join(one.down)}")
    return ", ".join(parts)
