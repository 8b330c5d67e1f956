"""Restart a running testnet's processes one after the other, each ready before the next goes.

A process that runs under `trilemma up` is stopped and started, so that it runs the code that is
installed by then. A container is made anew by compose, from the image that its name stands for by
then, with its volume, its ports and the user it ran as.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from client.console import note
from client.faults import NoProgress
from cluster.faults_containers import COMPOSE_LABEL, described_containers
from cluster.faults_targets import DOWN, LocalTarget, TestnetDown
from cluster.ready import check
from cluster.rotate_places import command
from protocol.errors import ConfigError, TrilemmaError
from store.config import parse_address
from store.running import is_supervised
from store.testnet import Testnet

COMMAND_S = 120.0
_POLL_S = 0.1
_ANY_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class RestartFailed(TrilemmaError):
    """A process could not be restarted (exit 1)."""


class Restarter(Protocol):
    """Whoever runs the processes."""

    def restart(self, name: str) -> None:
        """Stop a process, if it runs, and start it; returns once it was started."""


class LocalProcesses:
    """Processes under a supervisor on this machine."""

    def __init__(self, testnet: Testnet) -> None:
        self._target = LocalTarget(testnet)

    def restart(self, name: str) -> None:
        """SIGTERM, and start it again."""
        if self._target.state(name) != DOWN:
            self._target.stop(name)
        self._target.start(name)


class Containers:
    """Containers of one compose project, by the names of their processes."""

    def __init__(self, testnet: Testnet, described: dict[str, dict[str, Any]]) -> None:
        self._testnet = testnet
        self._described = described

    def restart(self, name: str) -> None:
        """Have compose make the container anew, as its own labels say where and how."""
        container = self._described.get(name)
        if container is None:
            raise ConfigError(f"there is no container of {name}")
        labels = container["Config"]["Labels"]
        files = labels[f"{COMPOSE_LABEL}project.config_files"].split(",")
        uid, _, gid = container["Config"]["User"].partition(":")
        command = [*_compose(), "-p", labels[f"{COMPOSE_LABEL}project"]]
        for file in files:
            command += ["-f", file]
        command += ["up", "-d", "--no-deps", "--no-build", "--force-recreate"]
        environment = {
            **os.environ,
            "TRILEMMA_TESTNET": str(self._testnet.directory),
            "TRILEMMA_IMAGE": container["Config"]["Image"],
            "TRILEMMA_UID": uid,
            "TRILEMMA_GID": gid or uid,
        }
        folder = labels.get(f"{COMPOSE_LABEL}project.working_dir", ".")
        _run([*command, name], environment, Path(folder))


def find_restarter(testnet: Testnet) -> Restarter:
    """Whoever runs this testnet; raises `ConfigError` where nobody does."""
    if is_supervised(testnet.directory):
        return LocalProcesses(testnet)
    found = described_containers(testnet)
    if found:
        return Containers(testnet, found)
    raise TestnetDown(testnet)


def restart_rolling(
    testnet: Testnet,
    restarter: Restarter,
    names: list[str],
    wait_s: float,
    report: Callable[[str], None],
) -> list[str]:
    """Restart these processes in this order, but first those that are not ready now: taking a
    second one away beside them could cost the quorum. Returns them as they were restarted.

    Raises `NoProgress`, with all later ones untouched, for one that is not ready again in time, and
    before any is touched where a process that is not named is not ready.
    """
    troubles = {entry.name: readiness(testnet, entry.name) for entry in testnet.processes}
    for name, trouble in troubles.items():
        if trouble and name not in names:
            raise NoProgress(f"{name} is not ready ({trouble}); restart or repair it first")
    order = sorted(names, key=lambda name: not troubles[name])
    with _told_when_stopped(testnet, order, report) as done:
        for name in order:
            started = time.monotonic()
            restarter.restart(name)
            await_ready(testnet, name, wait_s)
            done.append(name)
            report(f"{name} restarted, ready after {time.monotonic() - started:.1f} s")
    return order


def restart_together(
    testnet: Testnet,
    restarter: Restarter,
    names: list[str],
    wait_s: float,
    report: Callable[[str], None] = note,
) -> None:
    """Restart these processes without waiting in between; raises `NoProgress` as above."""
    with _told_when_stopped(testnet, names, report) as done:
        for name in names:
            restarter.restart(name)
            done.append(name)
        for name in names:
            await_ready(testnet, name, wait_s)


@contextmanager
def _told_when_stopped(
    testnet: Testnet, names: list[str], report: Callable[[str], None]
) -> Iterator[list[str]]:
    """Tell whoever stops a restart which processes are done, as the block lists them, and which one
    it was that may be down now."""
    done: list[str] = []
    try:
        yield done
    except KeyboardInterrupt:
        left = names[len(done) :]
        told = [f"restarted: {', '.join(done) or 'none'}"]
        if left:
            told.append(f"{left[0]} was being restarted, and may be down")
            told += [f"untouched: {', '.join(left[1:])}"] if left[1:] else []
            chosen = [word for name in left for word in ("--process", name)]
            told.append(f"go on with: {command(testnet, 'restart', *chosen)}")
        report(f"stopped; {'; '.join(told)}")
        raise


def await_ready(testnet: Testnet, name: str, wait_s: float) -> None:
    """Wait until a process is ready; raises `NoProgress` with what it says."""
    deadline = time.monotonic() + wait_s
    while trouble := readiness(testnet, name):
        if time.monotonic() > deadline:
            raise NoProgress(f"{name} is not ready after {wait_s:g} s: {trouble}")
        time.sleep(_POLL_S)


def readiness(testnet: Testnet, name: str) -> str:
    """Empty where a process says that it is ready, else why not."""
    address = testnet.process(name).observe
    if not address:
        raise ConfigError(f"{name} has no observe address, which tells when it is ready")
    host, port = parse_address(address)
    return check(port, _ANY_HOSTS.get(host, host))


def _compose() -> list[str]:
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if done.returncode == 0 else ["docker-compose"]


def _run(
    command: list[str], environment: dict[str, str] | None = None, folder: Path | None = None
) -> str:
    try:
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ConfigError(f"there is no {command[0]} command here") from None
    except subprocess.TimeoutExpired:
        raise RestartFailed(f"{' '.join(command)}: no end in {COMMAND_S:g} s") from None
    if done.returncode:
        raise RestartFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
