"""`trilemma faults`: break a running testnet on purpose, and run experiments on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.console import SIGNED, Json, emit, listed, note, run, testnet_directory
from protocol.errors import ConfigError, TrilemmaError

if TYPE_CHECKING:
    from cluster.faults_api import Nemesis
    from cluster.faults_evidence import Fault

faults_app = typer.Typer(
    name="faults",
    help="Break a running testnet on purpose: processes, links, clocks, disks; run experiments.",
    no_args_is_help=True,
    add_completion=False,
)

Names = Annotated[list[str], typer.Argument(metavar="PROCESS...", help="As `status` names them.")]
Name = Annotated[str, typer.Argument(metavar="PROCESS", help="As `status` names it.")]
Seed = Annotated[int, typer.Option(help="Seed of what is drawn.")]

CLOCK_BY_HAND, DISK_BY_HAND = "clock-by-hand", "disk-by-hand"
"""What `faults clock` and `faults disk` set: one of each, beside those of others."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(faults_app)


def _nemesis(context: typer.Context, seed: int = 1) -> Nemesis:
    from cluster.faults_api import Nemesis
    from store.testnet import Testnet

    return Nemesis(Testnet.load(testnet_directory(context)), seed=seed)


def _order(nemesis: Nemesis, work: Callable[[], Awaitable[Fault]], *, as_json: bool) -> None:
    """Order a fault that stays after the command, and tell it."""

    async def go() -> Fault:
        fault = await work()
        if owed := nemesis.plans.owed:  # they would be told later, by whom?
            await nemesis.end(fault)
            raise await _untold(nemesis, owed[0])
        return fault

    fault = run(go())
    data = {"kind": fault.kind, "text": fault.text, "evidence": fault.evidence}
    proof = "".join(
        f"\n  {name}: {text}" for name, text in fault.evidence.items() if text not in fault.text
    )
    emit(data, f"{fault.text}{proof}", as_json=as_json)


async def _untold(nemesis: Nemesis, name: str) -> TrilemmaError:
    """Why a process cannot be told what to suffer."""
    from cluster.faults_targets import PAUSED, RUNNING, FaultFailed

    state = await nemesis.ask(nemesis.target.state, name)
    if state == RUNNING:
        return FaultFailed(f"{name} does not answer, so that no process was told anything")
    back = "resume" if state == PAUSED else "restart"
    return ConfigError(
        f"{name} is {state} and cannot be told; bring it back first: trilemma faults {back} {name}"
    )


@faults_app.command("list")
def show(
    context: typer.Context,
    kinds: Annotated[bool, typer.Option("--kinds", help="Also which faults there are.")] = False,
    as_json: Json = False,
) -> None:
    """Show what every process suffers now.

    Where none does, or with --kinds, it also says which faults there are."""
    from cluster.faults_kinds import KINDS

    nemesis = _nemesis(context)
    active = run(nemesis.active())
    rows = [f"{one.process:<14} {one.kind:<14} {one.what}" for one in active]
    text = "\n".join(rows) if rows else "no process suffers anything"
    if kinds or not rows:
        text += f"\n\n{listed('kinds', sorted(KINDS))}"
    emit({"active": active, "kinds": sorted(KINDS)}, text, as_json=as_json)


@faults_app.command()
def add(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="A kind of fault; `faults list` shows them.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PROCESS...]", help="As `status` names them.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A parameter.")
    ] = None,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Order a fault of any kind that works on processes; `faults heal` ends it."""
    from cluster.faults_kinds import Scene, apply, complete, kind_of

    if not kind_of(kind).targets:
        raise ConfigError(f"{kind} belongs to an experiment; order it with: trilemma faults run")
    values = complete(kind, _values(given or []))
    nemesis = _nemesis(context, seed)
    nemesis.known(names or [])
    nothing: Any = None
    scene = Scene(nemesis, nothing)
    if kind == "bad-input":
        raise ConfigError("bad-input lasts while an experiment runs; use: trilemma faults run")
    _order(nemesis, lambda: apply(scene, kind, names or [], values), as_json=as_json)


def _values(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is a TOML value, or else a text."""
    import tomllib

    values: dict[str, Any] = {}
    for pair in given:
        name, found, value = pair.partition("=")
        if not found:
            raise ConfigError(f"write a parameter as NAME=VALUE, not {pair!r}")
        try:
            values[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = value
    return values


@faults_app.command()
def clear(context: typer.Context, names: Names, as_json: Json = False) -> None:
    """End the faults of links, clocks and disks of processes; killed and paused ones stay so."""
    from cluster.faults_wire import clear_faults

    nemesis = _nemesis(context)
    nemesis.known(names)

    async def go() -> None:
        for name in names:
            await clear_faults(nemesis.testnet.process(name))

    run(go())
    emit({"cleared": names}, f"{', '.join(names)}: nothing to suffer any more", as_json=as_json)


@faults_app.command()
def kill(
    context: typer.Context,
    names: Names,
    crash: Annotated[
        bool, typer.Option("--crash", help="Let the supervisor start it again by itself.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Kill processes (SIGKILL) and keep them down until `restart` or `heal`."""
    nemesis = _nemesis(context)
    act = nemesis.crash if crash else nemesis.kill
    _order(nemesis, lambda: act(*names), as_json=as_json)


@faults_app.command()
def pause(context: typer.Context, names: Names, as_json: Json = False) -> None:
    """Stop processes where they are (SIGSTOP) until `resume`."""
    nemesis = _nemesis(context)
    _order(nemesis, lambda: nemesis.pause(*names), as_json=as_json)


@faults_app.command()
def resume(context: typer.Context, names: Names, as_json: Json = False) -> None:
    """Let paused processes go on."""
    nemesis = _nemesis(context)
    run(nemesis.resume(*names))
    emit({"resumed": names}, f"{', '.join(names)}: not paused any more", as_json=as_json)


@faults_app.command()
def restart(context: typer.Context, names: Names, as_json: Json = False) -> None:
    """Stop processes that run, start them again, and wait until they serve."""
    from cluster.faults_ready import restarted

    nemesis = _nemesis(context)
    _order(nemesis, lambda: restarted(nemesis, names), as_json=as_json)


@faults_app.command()
def partition(
    context: typer.Context,
    groups: Annotated[
        list[str] | None,
        typer.Argument(metavar="[GROUP...]", help="Processes of a side, with commas between."),
    ] = None,
    isolate: Annotated[str, typer.Option(help="This process from all others.")] = "",
    one_way: Annotated[
        bool, typer.Option("--one-way", help="Only what the first group sends is lost.")
    ] = False,
    shape: Annotated[
        str, typer.Option(help="halves, one, majorities-ring or bridge of the one group.")
    ] = "",
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Let nothing pass between groups, as: partition validator-0 validator-1,validator-2"""
    nemesis = _nemesis(context, seed)
    sides = [[name for name in group.split(",") if name] for group in groups or []]
    if shape:
        name = shape if shape in ("majorities-ring", "bridge") else f"partition-{shape}"
        members = [name for side in sides for name in side]
        nemesis.known(members)
        _order(nemesis, lambda: nemesis.partition_shape(name, members), as_json=as_json)
        return
    if not isolate and len(sides) < 2:
        raise ConfigError("name two groups at least, or --isolate a process")
    _order(
        nemesis,
        lambda: nemesis.partition(sides, one_way=one_way, isolate=isolate),
        as_json=as_json,
    )


@faults_app.command()
def heal(context: typer.Context, as_json: Json = False) -> None:
    """End every fault: resume, start, reconnect, and wait until all processes serve.

    What stopped because an invariant was broken stays down, and is named."""
    nemesis = _nemesis(context)
    stopped = run(nemesis.heal())
    healed = [name for name in nemesis.names if name not in stopped]
    text = "every process serves, and suffers nothing"
    if stopped:
        text = (
            f"every other process serves; {', '.join(stopped)} stopped for safety's sake and "
            "stays down; its log says why"
        )
    emit({"healed": healed, "stopped_for_safety": stopped}, text, as_json=as_json)


@faults_app.command(context_settings=SIGNED)
def clock(
    context: typer.Context,
    name: Name,
    skew_ms: Annotated[int, typer.Argument(help="Ahead; negative: behind; 0: as it was.")],
    as_json: Json = False,
) -> None:
    """Set a process's clock wrong by so many milliseconds, whatever this command set it to before.

    Other faults of the clock stay, and add up with it."""
    nemesis = _nemesis(context)
    _order(
        nemesis,
        lambda: nemesis.clock_skew(name, skew_ms=skew_ms, label=CLOCK_BY_HAND),
        as_json=as_json,
    )


@faults_app.command()
def disk(
    context: typer.Context,
    name: Name,
    slow_ms: Annotated[int, typer.Option(min=0, help="Each sync takes longer.")] = 0,
    full: Annotated[bool, typer.Option("--full", help="No write finds room.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="No write is allowed.")] = False,
    as_json: Json = False,
) -> None:
    """Make a process's disk slow, full or read-only, whatever this command made of it before."""
    nemesis = _nemesis(context)
    if (slow_ms > 0) + full + read_only != 1:
        raise ConfigError("choose one: --slow-ms N, --full or --read-only")
    if slow_ms:
        _order(
            nemesis,
            lambda: nemesis.slow_disk(name, delay_ms=slow_ms, label=DISK_BY_HAND),
            as_json=as_json,
        )
    elif full:
        _order(nemesis, lambda: nemesis.full_disk(name, label=DISK_BY_HAND), as_json=as_json)
    else:
        _order(nemesis, lambda: nemesis.read_only_disk(name, label=DISK_BY_HAND), as_json=as_json)


@faults_app.command()
def corrupt(
    context: typer.Context,
    name: Name,
    path: Annotated[str, typer.Option(help="The beginning of the file's path.")] = "",
    bits: Annotated[int, typer.Option(min=1, help="How many bits are flipped.")] = 8,
    seed: Seed = 1,
    as_json: Json = False,
) -> None:
    """Kill a process, flip bits anywhere in one of its files, and start it."""
    nemesis = _nemesis(context, seed)
    _order(
        nemesis, lambda: nemesis.corrupt_file(name, path=path or None, bits=bits), as_json=as_json
    )


@faults_app.command()
def byzantine(
    context: typer.Context,
    name: Name,
    mode: Annotated[str, typer.Argument(help="How it lies; empty: it is honest again.")] = "",
    as_json: Json = False,
) -> None:
    """Restart a process so that it lies; without a mode, so that it is honest again."""
    from cluster.faults_damage import byzantine_modes, set_byzantine
    from cluster.faults_ready import restarted

    nemesis = _nemesis(context)
    entry = nemesis.testnet.process(name)
    if mode:
        _order(nemesis, lambda: nemesis.byzantine(mode, name), as_json=as_json)
        return
    set_byzantine(nemesis.testnet, entry, "")
    note(f"a {entry.role} can lie in these ways: {', '.join(byzantine_modes(entry)) or 'none'}")
    _order(nemesis, lambda: restarted(nemesis, [name]), as_json=as_json)


@faults_app.command("run")
def run_file(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="An experiment: a file, or the name of one in faults/.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's own seed.")] = None,
    testnet: Annotated[
        Path | None, typer.Option(help="Directory of the testnet, instead of the global option.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="On a testnet of its own, removed afterwards.")
    ] = False,
    short: Annotated[bool, typer.Option("--short", help="In less time.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report; .trilemma/faults/NAME if not given.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show the experiments there are, and run none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run an experiment: load, faults by the clock, recovery, a verdict and pictures.

    Exits with 0 where it passed, 1 where something expected did not happen, 4 without progress, 5
    where safety is broken. Without a testnet there, it makes one of its own, as with --fresh.
    """
    from cluster.faults_play import play, show_experiments

    if listed:
        show_experiments(as_json=as_json)
        return
    if file is None:
        raise ConfigError("name an experiment; to see those there are: trilemma faults run --list")
    if fresh and testnet is not None:
        raise ConfigError("choose one: --fresh or --testnet DIR")
    directory = testnet_directory(context, testnet)
    if testnet is not None and not (directory / "testnet.json").exists():
        raise ConfigError(f"there is no testnet in {directory}")
    chosen = None if fresh or not (directory / "testnet.json").exists() else directory
    raise typer.Exit(play(file, seed=seed, testnet=chosen, short=short, out=out, as_json=as_json))


@faults_app.command()
def soak(
    file: Annotated[Path, typer.Argument(help="What happens in it.")] = Path("soak"),
    minutes: Annotated[float, typer.Option(min=0.2, help="How long the load lasts.")] = 60.0,
    rate: Annotated[int | None, typer.Option(min=1, help="Actions a second.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's own seed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the reports; .trilemma/faults/soak if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a cluster for an hour with faults at random, and see whether anything grows or drifts.

    Memory, descriptors and threads of every process are sampled. Exits as `run`, and with 1 where
    something grows. On a testnet of its own, on this machine.
    """
    from cluster.faults_soak import soak as soak_for

    status = soak_for(file, minutes=minutes, seed=seed, rate=rate, out=out, as_json=as_json)
    raise typer.Exit(status)


@faults_app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a report.")],
    as_json: Json = False,
) -> None:
    """Show a report again, and make those of its files that are missing."""
    from cluster.faults_play import show_report

    show_report(folder, as_json=as_json)
