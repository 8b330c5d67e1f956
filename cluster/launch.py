"""Start a testnet's supervisor in the background and wait until every process serves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from client.console import note
from client.faults import NoProgress
from client.status import Values, sample
from cluster.faults_hold import RunFolder
from cluster.layout import bind_error
from protocol.errors import ConfigError, TrilemmaError
from store.config import Role, parse_address
from store.testnet import Testnet

POLL_S = 0.2
STOP_S = 30.0
"""How long a supervisor may take to stop all its processes."""

LATER_S = 10.0
"""How much longer than its launcher a supervisor waits: the launcher tells who is late."""

_SAID = "trilemma: "


class LaunchFailed(TrilemmaError):
    """The supervisor ended instead of serving (exit 1)."""


def require_host(testnet: Testnet) -> None:
    """Raise `ConfigError` where the processes are not this host's: they would find neither their
    data nor each other."""
    if testnet.place != "host":
        raise ConfigError(
            f"the testnet in {testnet.directory} is made for {testnet.place}, not for this host; "
            f"{testnet.start_hint}"
        )


def require_ports(testnet: Testnet) -> None:
    """Raise `ConfigError`, which says what to do, where a process would find its port in use."""
    for entry in testnet.processes:
        for address in (entry.public, entry.peer, entry.observe):
            # Whatever else is wrong the process itself says better.
            if address and bind_error(*parse_address(address)) == errno.EADDRINUSE:
                raise ConfigError(
                    f"{address}, where {entry.name} listens, is already in use, as by another "
                    "testnet; stop what uses it, or make a testnet on other ports: "
                    "trilemma init DIRECTORY --free-ports (or --base-port N)"
                )


def launch_detached(directory: Path, wait_s: float) -> int:
    """Start ``trilemma up`` in its own session; returns its pid once one can trade.

    That is when all processes serve and the deposits of genesis have reached the exchange. Whatever
    comes in between, Ctrl-C too, everything is stopped again.

    Raises `LaunchFailed` with the last words of its log, or `NoProgress` after `wait_s` seconds.
    """
    testnet = Testnet.load(directory)
    log_path = testnet.log_path("supervisor")
    log_path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "cluster.cli", "up", str(testnet.directory)]
    with log_path.open("ab") as log:
        begin = log.tell()
        child = subprocess.Popen(
            [*command, "--wait-s", f"{wait_s + LATER_S:g}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        late = _await_all(testnet, child, wait_s)
        if child.poll() is not None:
            why = _last_words(log_path, begin) or f"status {child.returncode}"
            raise LaunchFailed(f"the testnet did not start: {why}")
        if late:
            raise NoProgress(
                f"{late} after {wait_s:g} s; everything is stopped again; see {log_path.parent}"
            )
    except BaseException:
        _stop(child)
        raise
    return child.pid


def _await_all(testnet: Testnet, child: subprocess.Popen[bytes], wait_s: float) -> str:
    """Wait until one can trade, the supervisor has ended or time is over: what is missing then."""
    deadline = time.monotonic() + wait_s
    late = "no process serves"
    while time.monotonic() < deadline and child.poll() is None:
        statuses = uvloop.run(sample(testnet))
        silent = [name for name, values in statuses.items() if values is None]
        if not silent and funded(testnet, statuses):
            return ""
        late = "all processes serve, but the deposits of genesis have not arrived"
        if silent:
            late = f"not all processes serve: {', '.join(_stands(testnet, one) for one in silent)}"
        time.sleep(POLL_S)
    return late


def _stands(testnet: Testnet, name: str) -> str:
    """A process that does not serve, and what its supervisor says of it."""
    standing = RunFolder(testnet.directory).standing(name)
    if standing is None:
        return f"{name} (not started)"
    ended = "" if standing.exit_status is None else f", ended with status {standing.exit_status}"
    return f"{name} ({standing.state}{ended})"


def _last_words(log: Path, begin: int) -> str:
    """Why a supervisor ended: its closing sentence, with all lines of it, else its last line."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").strip().splitlines()
    said = [place for place, line in enumerate(lines) if line.startswith(_SAID)]
    return "\n".join(lines[said[-1] :] if said else lines[-1:]).removeprefix(_SAID)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Have a supervisor stop its processes, and wait for it."""
    if child.poll() is not None:
        return
    note("stopping")
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()  # its processes die with it
        child.wait()


def funded(testnet: Testnet, statuses: dict[str, Values | None]) -> bool:
    """Whether execution has taken in what the base layer's inbox holds: since genesis, the start of
    the funds and the first deposits."""
    entries = _numbers(testnet, statuses, "node", "inbox_entries")
    cursors = _numbers(testnet, statuses, "execution", "inbox_cursor")
    return min(cursors, default=0) >= min(entries, default=0)


def _numbers(
    testnet: Testnet, statuses: dict[str, Values | None], role: Role, field: str
) -> list[int]:
    """A number of the status of each process of a role; -1 where it tells none."""
    values = [(statuses[one.name] or {}).get(field) for one in testnet.of_role(role)]
    return [value if isinstance(value, int) else -1 for value in values]
