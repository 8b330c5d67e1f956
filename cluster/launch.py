"""Start a testnet's supervisor in the background and wait until every process serves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from client.faults import NoProgress
from client.status import Values, sample
from cluster.layout import bind_error
from protocol.errors import ConfigError, TrilemmaError
from store.config import Role, parse_address
from store.testnet import Testnet

POLL_S = 0.2


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

    That is when all processes serve and the deposits of genesis have reached the exchange.

    Raises `LaunchFailed` with the end of its log, or `NoProgress` after `wait_s` seconds.
    """
    testnet = Testnet.load(directory)
    log_path = testnet.log_path("supervisor")
    log_path.parent.mkdir(exist_ok=True)
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "up", str(testnet.directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if child.poll() is not None:
            lines = log_path.read_text(errors="replace").strip().splitlines()
            why = lines[-1].removeprefix("trilemma: ") if lines else f"status {child.returncode}"
            raise LaunchFailed(f"the testnet did not start: {why}")
        statuses = uvloop.run(sample(testnet))
        if all(values is not None for values in statuses.values()) and funded(testnet, statuses):
            return child.pid
        time.sleep(POLL_S)
    child.terminate()
    raise NoProgress(f"not all processes serve after {wait_s:g} s; see {log_path.parent}")


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
