"""`trilemma sim`: run seeds of simulated scenarios on all cores, and say what broke."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from client.console import Json, emit, every_few_seconds, note
from cluster.workers import run_tasks
from protocol.errors import ConfigError
from sim.runner import (
    EXIT_NO_PROGRESS,
    EXIT_OK,
    EXIT_VIOLATION,
    Outcome,
    Report,
    Scenario,
    exit_status,
    run_seeds,
)

CHUNK = 10
"""Seeds that one worker takes at a time."""

SHOWN_FAULTS = 4
SHOWN_HEX = 12
IDENTITY = re.compile("(?:[0-9a-f]{2}){16,}")
"""Hashes and ids, of which nobody reads more than the beginning."""
_ENUMERATED = re.compile(r"<\w+\.\w+: (\d+)>")

PIPED_WIDTH = 130
MAX_SEEDS = 1_000_000
MIN_VALIDATORS, MAX_VALIDATORS = 4, 31

Task = tuple[str, int, int, int]
"""Scenario, first seed, number of seeds, validators."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sim)


def all_scenarios() -> dict[str, Scenario]:
    """Every scenario by name: those of consensus, then those of the whole exchange."""
    from sim.pipeline_scenarios import PIPELINE_SCENARIOS
    from sim.pipeline_shared import SHARED_SCENARIOS
    from sim.scenarios import SCENARIOS

    return {**SCENARIOS, **PIPELINE_SCENARIOS, **SHARED_SCENARIOS}


def choose(name: str) -> list[Scenario]:
    """The scenarios that a name stands for; raises `ConfigError` for an unknown one."""
    from sim.pipeline_scenarios import PIPELINE_SCENARIOS
    from sim.pipeline_shared import SHARED_SCENARIOS
    from sim.scenarios import SCENARIOS

    groups = {
        "all": all_scenarios(), "consensus": SCENARIOS, "pipeline": PIPELINE_SCENARIOS,
        "shared": SHARED_SCENARIOS,
    }  # fmt: skip
    if name in groups:
        return list(groups[name].values())
    found = all_scenarios().get(name)
    if found is None:
        near = difflib.get_close_matches(name, [*groups, *all_scenarios()], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"there is no scenario {name!r}{hint}; `trilemma sim --scenario list` shows all"
        )
    return [found]


def sim(
    seeds: Annotated[
        int, typer.Option(min=1, max=MAX_SEEDS, help="Runs in all, dealt over the scenarios.")
    ] = 400,
    scenario: Annotated[
        str,
        typer.Option(help="One by name; consensus, pipeline, shared or all; list shows them."),
    ] = "all",
    validators: Annotated[
        int, typer.Option(min=MIN_VALIDATORS, max=MAX_VALIDATORS, help="Members of the cluster.")
    ] = 4,
    replay: Annotated[
        int | None,
        typer.Option(
            min=0, help="Run this one seed of the one --scenario, and show the end of its trace."
        ),
    ] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first run.")] = 1,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one for each core.")] = 0,
    trace: Annotated[int, typer.Option(min=0, help="Lines of trace that a replay shows.")] = 60,
    as_json: Json = False,
) -> None:
    """Run the machines on a virtual clock, network and disk, under faults, from seeds."""
    if scenario == "list":
        _list(as_json=as_json)
        return
    chosen = choose(scenario)
    if replay is not None:
        if len(chosen) != 1:
            raise ConfigError("a replay needs the one scenario that the seed belongs to")
        raise typer.Exit(_replay(chosen[0], replay, validators, trace, as_json=as_json))
    if seeds < len(chosen):
        run = ", ".join(one.name for one in chosen[:seeds])
        note(f"{seeds} seeds for {len(chosen)} scenarios; only these are run: {run}")
    reports = run_all(chosen, seeds, validators, first_seed, jobs or os.cpu_count() or 1)
    _show(reports, validators, as_json=as_json)
    raise typer.Exit(exit_status(reports))


def tasks(chosen: list[Scenario], seeds: int, validators: int, first_seed: int) -> Iterator[Task]:
    """Chunks of seeds: as many for each scenario as for the next, or one less."""
    share, rest = divmod(seeds, len(chosen))
    for place, one in enumerate(chosen):
        end = first_seed + share + (1 if place < rest else 0)
        for first in range(first_seed, end, CHUNK):
            yield one.name, first, min(CHUNK, end - first), validators


def work(task: Task) -> Report:
    """Run one chunk, in a worker."""
    name, first, count, validators = task
    return run_seeds(all_scenarios()[name], range(first, first + count), validators)


def run_all(
    chosen: list[Scenario], seeds: int, validators: int, first_seed: int, jobs: int
) -> list[Report]:
    """One report for each scenario, in their order; failures are told as they are found."""
    reports = {one.name: Report(one.name, one.title, one.bites, rare=one.rare) for one in chosen}
    waiting = list(tasks(chosen, seeds, validators, first_seed))
    with _progress(seeds) as advance:

        def take(part: Report) -> None:
            reports[part.scenario].merge(part)
            advance(part.seeds)
            for outcome in part.violations + part.stalled:
                note(_failure(outcome))

        try:
            run_tasks(waiting, work, jobs, take)
        except KeyboardInterrupt:
            done = sum(report.seeds for report in reports.values())
            broken = sum(len(r.violations) + len(r.stalled) for r in reports.values())
            note(f"interrupted after {done} of {seeds} runs, {broken} of which failed")
            raise
    return [report for report in reports.values() if report.seeds]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many runs are done: a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            shown = bar.add_task("seeds", total=total)
            yield lambda count: bar.advance(shown, count)
        return
    done = 0
    tell = every_few_seconds("{} of {} runs")

    def advance(count: int) -> None:
        nonlocal done
        done += count
        tell(done, total)

    yield advance


def _failure(outcome: Outcome) -> str:
    what = "violation" if outcome.violation else "no progress"
    return (
        f"{what} in scenario {outcome.scenario}, seed {outcome.seed}: "
        f"{outcome.violation or outcome.stalled}\n  replay: {outcome.replay}"
    )


def _replay(chosen: Scenario, seed: int, validators: int, trace: int, *, as_json: bool) -> int:
    outcome = chosen.run(seed, validators, trace)
    status = EXIT_OK
    if outcome.violation:
        status = EXIT_VIOLATION
    elif outcome.stalled:
        status = EXIT_NO_PROGRESS
    events = [_event(line) for line in outcome.lines[max(0, len(outcome.lines) - trace) :]]
    verdict = "nothing broke" if status == EXIT_OK else _failure(outcome)
    shown = [
        *(_event_text(event) for event in events), "",
        f"{chosen.name} with {validators} validators, seed {seed}: "
        f"{outcome.virtual_us / 1e6:.1f} virtual seconds, {outcome.blocks} blocks",
        f"faults: {_faults(outcome.bit, len(outcome.bit))}",
        f"trace hash {outcome.trace_hash}",
        verdict,
    ]  # fmt: skip
    emit(_data(outcome) | {"trace": events}, "\n".join(shown), as_json=as_json)
    return status


def _event(line: str) -> dict[str, Any]:
    """A line of a trace (`sim.kernel.Kernel.trace`) as data; bytes are in hex."""
    time_us, kind, values = line.split(" ", 2)
    try:
        found = ast.literal_eval(_ENUMERATED.sub(r"\1", values))
    except (SyntaxError, ValueError):
        found = (values.strip(),)  # of something that is no plain value
    plain = [one.hex() if isinstance(one, bytes) else one for one in found]
    return {"time_us": int(time_us), "event": kind, "values": plain}


def _event_text(event: dict[str, Any]) -> str:
    """An event for people: virtual seconds, what happened, and to what; ids by their beginning."""
    values = [
        f"{one[:SHOWN_HEX]}…" if isinstance(one, str) and IDENTITY.fullmatch(one) else str(one)
        for one in event["values"]
        if one not in (None, "")
    ]
    return f"{event['time_us'] / 1e6:>12.6f}  {event['event']:<10}  {'  '.join(values)}".rstrip()


def _data(outcome: Outcome) -> dict[str, object]:
    return {
        "scenario": outcome.scenario,
        "seed": outcome.seed,
        "validators": outcome.size,
        "violation": outcome.violation,
        "stalled": outcome.stalled,
        "trace_hash": outcome.trace_hash,
        "virtual_us": outcome.virtual_us,
        "blocks": outcome.blocks,
        "faults": outcome.bit,
        "replay": outcome.replay,
    }


def _faults(bit: dict[str, int], most: int) -> str:
    faults = {k: n for k, n in bit.items() if not k.startswith("replica_") and n}
    ranked = sorted(faults, key=lambda kind: (-faults[kind], kind))
    shown = [f"{kind} {faults[kind]:,}" for kind in ranked[:most]]
    if len(ranked) > most:
        shown.append(f"{len(ranked) - most} kinds more")
    return ", ".join(shown) or "none"


def _list(*, as_json: bool) -> None:
    found = all_scenarios()
    width = max(len(name) for name in found)
    lines = [f"{name:<{width}}  {one.title}" for name, one in found.items()]
    emit({name: one.title for name, one in found.items()}, "\n".join(lines), as_json=as_json)


def _show(reports: list[Report], validators: int, *, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "validators": validators,
                "scenarios": [
                    {
                        "scenario": report.scenario,
                        "seeds": report.seeds,
                        "virtual_hours": round(report.virtual_hours, 4),
                        "blocks": report.blocks,
                        "faults": report.faults,
                        "never_happened": report.missing,
                        "violations": [_data(outcome) for outcome in report.violations],
                        "stalled": [_data(outcome) for outcome in report.stalled],
                    }
                    for report in reports
                ],
            },
            "",
            as_json=True,
        )
        return
    table = Table(title=f"{sum(r.seeds for r in reports):,} runs, {validators} validators")
    table.add_column("scenario", no_wrap=True)
    for name in ("seeds", "virtual hours", "blocks"):
        table.add_column(name, justify="right")
    table.add_column("faults that bit", ratio=1)
    for name in ("stalled", "violations"):
        table.add_column(name, justify="right")
    for report in reports:
        faults = _faults(report.bit, SHOWN_FAULTS)
        if report.missing:
            faults = f"[red]never happened: {', '.join(report.missing)}[/red]; {faults}"
        table.add_row(
            report.scenario, f"{report.seeds:,}", f"{report.virtual_hours:.2f}",
            f"{report.blocks:,}", faults, str(len(report.stalled)), str(len(report.violations)),
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "all", f"{sum(r.seeds for r in reports):,}",
        f"{sum(r.virtual_hours for r in reports):.2f}", f"{sum(r.blocks for r in reports):,}", "",
        str(sum(len(r.stalled) for r in reports)), str(sum(len(r.violations) for r in reports)),
    )  # fmt: skip
    # Piped output has no width of its own, and a narrow table would be unreadable.
    terminal = Console()
    (terminal if terminal.is_terminal else Console(width=PIPED_WIDTH)).print(table)
    for outcome in [o for r in reports for o in r.violations + r.stalled]:
        print(_failure(outcome), flush=True)
