"""`trilemma stress`: can the liquidation engine keep up under load and delay?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import msgspec
import typer

from client.console import Json, emit, note
from client.faults import EXIT_OK, EXIT_SAFETY
from protocol.errors import ConfigError, SafetyViolation

if TYPE_CHECKING:
    from cluster.stress_files import Results
    from sim.stress_frontier import Plan, RunKey
    from sim.stress_queue import Policy
    from sim.stress_report import Point, Run
    from sim.stress_setting import Cell, Shape, Start, Window

T = TypeVar("T")

DEFAULT_OUT = Path(".trilemma/stress")
PPM = 1_000_000
PIPED_WIDTH = 140


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(stress)


class Task(NamedTuple):
    """One run."""

    window: Window
    shape: Shape
    seed: int
    cell: Cell

    @property
    def key(self) -> RunKey:
        """What its result is stored under."""
        return self.window.name, self.seed, self.cell.name


class Done(NamedTuple):
    """What came of a task: the run, or the safety violation that ended it."""

    task: Task
    run: Run | None
    violation: str


Crashes = Annotated[
    str | None,
    typer.Option(
        help="march-2020, may-2021, october-2025, synthetic, or all (the recorded ones); "
        "several with commas.  [default: all with --data, otherwise synthetic]"
    ),
]


def stress(
    crash: Crashes = None,
    data: Annotated[
        Path | None, typer.Option(help="Directory with recorded candles (.csv or .csv.xz).")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Runs of each cell.  [default: 20; 1 with --quick]"),
    ] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first run.")] = 1,
    loads: Annotated[
        str | None, typer.Option("--load", help="Loads, as multiples.  [default: 1,3,10]")
    ] = None,
    delays: Annotated[
        str | None, typer.Option("--delay", help="Oracle delays in seconds.  [default: 0,1,5,30]")
    ] = None,
    staleness: Annotated[
        str, typer.Option(help="Ages in seconds from which prices are stale; 0: none.")
    ] = "60",
    policy: Annotated[
        str, typer.Option(help="How blocks are filled: fifo, reserved, or both.")
    ] = "reserved",
    impact: Annotated[
        str, typer.Option(help="Whether liquidations move the true price: off, on, or both.")
    ] = "off",
    accounts: Annotated[
        int | None,
        typer.Option(min=20, max=1_000_000, help="Traders.  [default: 10000; 200 with --quick]"),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(help="A cost of the model, such as visit_ns=25000; may be repeated."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one for each core.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory for results and pictures.")] = DEFAULT_OUT,
    quick: Annotated[bool, typer.Option(help="A small synthetic frontier, in seconds.")] = False,
    as_json: Json = False,
) -> None:
    """Can the liquidation engine keep up under load and delay?

    Runs it through crashes in virtual time and draws the frontier. Runs that are stored already are
    not run again."""
    from cluster.stress_files import ALL, Results, windows
    from sim.stress_frontier import Plan, frontier
    from sim.stress_setting import QUICK, SYNTHETIC, Shape

    shape = _shape(QUICK if quick else Shape(), accounts, cost or [])
    names = (crash or (SYNTHETIC if data is None else ALL)).split(",")
    found = windows(names, data, shape)
    count = seeds or (1 if quick else 20)
    plan = Plan(
        [window.name for window in found],
        range(first_seed, first_seed + count),
        _numbers("--load", loads or ("1" if quick else "1,3,10"), PPM),
        _numbers("--delay", delays or ("0,5" if quick else "0,1,5,30"), 1_000),
        _numbers("--staleness", staleness, 1_000),
        _policies(policy),
        _choice("--impact", impact, {"off": [False], "on": [True], "both": [False, True]}),
    )
    results = Results(out, shape)
    runs, violations = run_all(plan, found, shape, results, jobs or os.cpu_count() or 1)
    points = frontier(plan, runs)
    pictures = _draw(points, runs, found, results)
    data_found = {"points": points, "violations": violations, "files": pictures}
    results.write(out / "frontier.json", msgspec.json.format(msgspec.json.encode(data_found)))
    _show(points, violations, pictures, as_json=as_json)
    raise typer.Exit(EXIT_SAFETY if violations else EXIT_OK)


def _numbers(option: str, text: str, unit: int) -> list[int]:
    """Numbers, separated by commas, in whole units."""
    found = []
    for part in text.split(","):
        try:
            value = Decimal(part.strip()) * unit
        except InvalidOperation:
            value = Decimal(-1)
        if not 0 <= value < 1 << 40 or value != int(value):
            raise ConfigError(f"{option}: {part.strip()!r} is not a number of 0 or more")
        found.append(int(value))
    return list(dict.fromkeys(found))


def _choice(option: str, text: str, choices: Mapping[str, T]) -> T:
    if text not in choices:
        raise ConfigError(f"{option}: {text!r} is none of {', '.join(choices)}")
    return choices[text]


def _policies(text: str) -> list[Policy]:
    from sim.stress_queue import Policy

    choices = {policy.name.lower(): [policy] for policy in Policy}
    return _choice("--policy", text, {**choices, "both": list(Policy)})


def _shape(shape: Shape, accounts: int | None, costs: list[str]) -> Shape:
    """The shape with what was asked for."""
    changed = shape.costs._asdict()
    for text in costs:
        name, _, value = text.partition("=")
        if name not in changed or not value.isdigit():
            raise ConfigError(f"--cost: {text!r} is not NAME=NUMBER of {', '.join(changed)}")
        changed[name] = int(value)
    shape = shape._replace(costs=shape.costs._replace(**changed))
    return shape if accounts is None else shape._replace(accounts=accounts)


def run_all(
    plan: Plan, windows: Sequence[Window], shape: Shape, results: Results, jobs: int
) -> tuple[dict[RunKey, Run], list[str]]:
    """All runs of the plan, stored ones included, and the violations that ended others."""
    from cluster.workers import run_tasks

    by_name = {window.name: window for window in windows}
    marks = {window.name: results.fingerprint(window) for window in windows}
    runs: dict[RunKey, Run] = {}
    waiting: list[Task] = []
    violations: list[str] = []
    for crash, seed, cell in plan.runs():
        task = Task(by_name[crash], shape, seed, cell)
        stored = results.load(task.key, marks[crash])
        if stored is None:
            waiting.append(task)
        else:
            runs[task.key] = stored
    total = len(runs) + len(waiting)
    note(f"{total} runs, {len(runs)} of them stored in {results.directory}")

    def take(done: Done) -> None:
        crash, seed, cell = done.task.key
        if done.run is None:
            violations.append(f"{crash}, seed {seed}, {cell}: {done.violation}")
            note(f"safety violation: {violations[-1]}")
        else:
            runs[done.task.key] = done.run
            results.save(done.task.key, marks[crash], done.run)
        note(f"{len(runs) + len(violations)} of {total}: {crash}, seed {seed}, {cell}")

    run_tasks(waiting, work, jobs, take)
    return runs, violations


def work(task: Task) -> Done:
    """Do one run, here or in a worker."""
    from sim.stress_world import World

    try:
        return Done(task, World(_start(task), task.cell).run(), "")
    except SafetyViolation as violation:
        return Done(task, None, str(violation))


_kept: list[Start] = []


def _start(task: Task) -> Start:
    """What all cells of a crash and seed share; the last one is kept."""
    from sim.stress_setting import prepare

    wanted = (task.window, task.shape, task.seed)
    if not _kept or (_kept[0].window, _kept[0].shape, _kept[0].seed) != wanted:
        _kept[:] = [prepare(*wanted)]
    return _kept[0]


def _draw(
    points: Sequence[Point],
    runs: dict[RunKey, Run],
    windows: Sequence[Window],
    results: Results,
) -> list[str]:
    """The frontier, and of each of its maps the lightest and heaviest cell in the first seed."""
    from cluster.stress_pictures import frontier_svg, run_svg

    if not points:
        return []
    titles = {window.name: window.title for window in windows}
    pictures = {"frontier.svg": frontier_svg(points, titles)}
    maps: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        key = (point.crash, point.policy, point.staleness_ms, point.impact)
        maps.setdefault(key, []).append(point)
    for cells in maps.values():
        for point in (cells[0], cells[-1]):
            run = runs[(point.crash, point.verdicts[0].seed, point.cell)]
            name = f"run-{run.crash}-{run.cell}.svg"
            pictures[name] = run_svg(run, titles[run.crash])
    for name, content in pictures.items():
        results.write(results.directory / name, content)
    return [str(results.directory / name) for name in ("frontier.json", *pictures)]


def _show(
    points: Sequence[Point], violations: list[str], files: list[str], *, as_json: bool
) -> None:
    if as_json:
        emit({"points": points, "violations": violations, "files": files}, "", as_json=True)
        return
    from rich.console import Console
    from rich.table import Table

    from cluster.stress_pictures import backlog_text, seconds
    from sim.stress_setting import load_text

    table = Table(title="worst seed of each cell; losses in basis points of open interest")
    for name in ("crash", "blocks", "load", "delay", "stale", "impact"):
        table.add_column(name, no_wrap=True)
    for name in ("kept up", "queue p99.9", "backlog", "excess", "over 0.1x", "traders", "wrongful"):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            point.crash, point.policy, load_text(point.load_ppm), f"{point.delay_ms / 1_000:g} s",
            f"{point.staleness_ms / 1_000:g} s", "on" if point.impact else "off",
            f"{point.kept_up} of {point.seeds}", seconds(point.queue_ms[1]),
            backlog_text(point.backlog_ms[1]),
            *(
                f"{spread[1] / 100:+.2f}"
                for spread in (
                    point.excess_ppm, point.excess_over_tenth_ppm, point.trader_excess_ppm
                )
            ),
            f"{point.wrongful[1]:,}",
        )  # fmt: skip
    # Piped output has no width of its own, and a narrow table would be unreadable.
    terminal = Console()
    (terminal if terminal.is_terminal else Console(width=PIPED_WIDTH)).print(table)
    for violation in violations:
        print(f"safety violation: {violation}")
    for file in files:
        print(file, flush=True)
