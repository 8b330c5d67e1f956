"""Commands about processes: init, up, down, restart, status, demo, and each kind of process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.console import Directory, Json, emit, note, run, testnet_directory
from cluster.init_command import CHALLENGERS, init

if TYPE_CHECKING:
    from cluster.supervisor import Supervisor
    from store.testnet import Testnet

PROCESSES = {
    "node": "node.process",
    "sequencer": "sequencer.process",
    "execution": "execution.process",
    "prover": "prover.process",
    "challenger": "prover.process_challenger",
}
"""Kinds of processes, and their modules."""

ConfigFile = Annotated[Path, typer.Option("--config", help="The process's TOML file.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (init, up, down, restart, status, demo):
        app.command()(command)
    for name in PROCESSES:
        what = {"node": "base-layer validator", "execution": "execution node"}.get(name, name)
        about = f"Run one {what} from its TOML file; `up` runs all of a testnet's."
        app.command(name, help=about, rich_help_panel="Single processes")(_process_command(name))


def up(
    context: typer.Context,
    directory: Directory = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Return once all processes serve and accounts are funded."
        ),
    ] = False,
    wait_s: Annotated[
        float, typer.Option(min=1, help="Seconds that processes may take to serve.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Run the testnet's processes until Ctrl-C, creating the testnet if there is none.

    With --json it prints pids and ports as soon as all serve."""
    from cluster.launch import launch_detached, require_host, require_ports
    from cluster.lock import AlreadyRunning, stop_command, supervisor_pid
    from cluster.supervisor import Supervisor
    from cluster.testnet import TestnetOptions, ensure_testnet
    from store.testnet import DESCRIPTION_FILE

    begun = time.monotonic()
    folder = testnet_directory(context, directory).absolute()
    running = supervisor_pid(folder)
    if running is not None:
        raise AlreadyRunning(folder, running)
    fresh = not (folder / DESCRIPTION_FILE).exists()
    testnet = ensure_testnet(folder, TestnetOptions(challengers=CHALLENGERS))
    if fresh:
        note(f"made a testnet in {folder}, as trilemma init does")
    require_host(testnet)
    require_ports(testnet)

    def tell() -> None:
        emit(_serving(testnet, time.monotonic() - begun), "", as_json=True)

    if detach:
        pid = launch_detached(testnet.directory, wait_s)
        note(f"the testnet runs (pid {pid}); stop it with: {stop_command(testnet.directory)}")
        if as_json:
            tell()
        return
    supervisor = Supervisor(testnet, report=note if _on_terminal() else _note_dated)
    run(_run_and_tell(supervisor, wait_s, tell) if as_json else supervisor.run(wait_s))


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _note_dated(text: str) -> None:
    """Tell progress where it is kept, as in a log."""
    from client.units import utc

    with contextlib.suppress(OSError):  # a full disk must not stop the supervisor
        note(f"{utc(time.time_ns() // 1_000_000)} {text}")


async def _run_and_tell(supervisor: Supervisor, wait_s: float, tell: Callable[[], None]) -> None:
    """Run a testnet until it is to stop; `tell` once all of its processes serve."""
    from protocol.errors import TrilemmaError

    running = asyncio.create_task(supervisor.run(wait_s))
    await asyncio.sleep(0)  # it starts them without a pause, or fails
    with contextlib.suppress(TrilemmaError):  # `running` raises the same, unless asked to stop
        await supervisor.wait_ready(wait_s)
        tell()
    await running


def _serving(testnet: Testnet, ready_s: float) -> dict[str, Any]:
    """A testnet that serves, for programs; `ready_s` is how long that took."""
    from msgspec.structs import asdict

    from cluster.faults_hold import RunFolder
    from cluster.lock import supervisor_pid

    folder = RunFolder(testnet.directory)
    return {
        "directory": str(testnet.directory),
        "supervisor_pid": supervisor_pid(testnet.directory),
        "ready_s": round(ready_s, 3),
        "processes": [asdict(one) | {"pid": folder.pid(one.name)} for one in testnet.processes],
    }


def down(context: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """Stop the testnet's processes, if they run."""
    from cluster.lock import stop_supervisor, supervisor_pid

    folder = testnet_directory(context, directory).absolute()
    supervisor = supervisor_pid(folder)
    pids = _pids(folder, described=supervisor is None)
    stopped = stop_supervisor(folder)
    note("the testnet is stopped" if stopped else "the testnet does not run")
    if as_json:
        data = {
            "directory": str(folder),
            "supervisor_pid": supervisor if stopped else None,
            "stopped": [
                {"name": name, "pid": pid} for name, pid in pids.items() if stopped and pid
            ],
        }
        emit(data, "", as_json=True)


def _pids(directory: Path, *, described: bool) -> dict[str, int | None]:
    """The pids of a testnet's processes, where it need not be `described` also of one whose
    description is damaged."""
    from cluster.faults_hold import RUN_FOLDER, RunFolder
    from protocol.errors import ConfigError
    from store.testnet import Testnet

    try:
        names = [one.name for one in Testnet.load(directory).processes]
    except ConfigError:
        if described:
            raise
        names = sorted(path.stem for path in (directory / RUN_FOLDER).glob("*.pid"))
    return {name: RunFolder(directory).pid(name) for name in names}


def restart(
    context: typer.Context,
    directory: Directory = None,
    process: Annotated[
        list[str] | None, typer.Option("--process", help="Only this one; may be repeated.")
    ] = None,
    rolling: Annotated[
        bool, typer.Option("--rolling/--together", help="One after the other, or all at once.")
    ] = True,
    wait_s: Annotated[
        float, typer.Option(min=1, help="Seconds that a process may take until it is ready.")
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """Restart processes, here or in containers, as after an upgrade."""
    from cluster.restart import find_restarter, restart_rolling, restart_together
    from store.testnet import Testnet

    testnet = Testnet.load(testnet_directory(context, directory))
    names = [testnet.process(name).name for name in process or []]
    names = names or [entry.name for entry in testnet.processes]
    restarter = find_restarter(testnet)
    if rolling:
        names = restart_rolling(testnet, restarter, names, wait_s, note)
    else:
        restart_together(testnet, restarter, names, wait_s)
    data = {"restarted": names, "rolling": rolling}
    emit(data, f"restarted and ready: {', '.join(names)}", as_json=as_json)


def status(
    context: typer.Context,
    directory: Directory = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds over which rates are taken.")
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """One row per process: height, view, peers, actions per second, lag, bytes on disk.

    Below them stands who stopped for safety's sake. With --watch on a terminal also history, books
    and faults. Exits with 1 where none answers."""
    from rich.console import Console

    from client.status import show_status
    from cluster.standings import standings
    from store.testnet import Testnet

    testnet = Testnet.load(testnet_directory(context, directory))
    console = Console()
    if watch and not as_json and console.is_terminal:
        from cluster.dashboard_view import watch as watch_live

        run(watch_live(testnet, console))
        return
    shown = show_status(
        testnet, watch=watch, interval_s=interval_s, as_json=as_json, standings=standings
    )
    answering = run(shown)
    if answering < len(testnet.processes):
        from cluster.faults_stopped import safety_stops

        for line in safety_stops(testnet):
            note(line)
    if not answering:
        from store.running import is_supervised

        # What runs and does not answer is in the table.
        runs = is_supervised(testnet.directory)
        note(f"no process answers; {'its supervisor runs' if runs else testnet.start_hint}")
        raise typer.Exit(1)


def _process_command(name: str) -> Callable[[Path], None]:
    def process(config: ConfigFile) -> None:
        module = "cluster.byzantine" if _lies(config) else PROCESSES[name]
        main = importlib.import_module(module).main
        raise typer.Exit(main(config))

    return process


def _lies(config: Path) -> bool:
    """Whether a configuration names a lie; one that is wrong the process itself complains of."""
    from protocol.errors import ConfigError
    from store.config import load_config

    try:
        return b"byzantine" in config.read_bytes() and bool(load_config(config).byzantine)
    except (OSError, ConfigError):
        return False


def demo(
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds to send orders.")] = 20.0,
    rate: Annotated[int, typer.Option(min=1, help="Actions per second.")] = 4_000,
    seed: Annotated[int, typer.Option(help="Seed of the flow.")] = 1,
) -> None:
    """A whole exchange for half a minute: measured, settled and audited."""
    from cluster.demo import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(seconds=seconds, rate=rate, seed=seed)))
