"""The compose cluster for the tests of this folder, or the reason why there is none."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_cluster import PROJECT, ComposeCluster, docker_trouble, eventually, prepare_machine


@pytest.fixture(scope="session")
def machine() -> Iterator[None]:
    """A docker daemon that answers."""
    daemon = prepare_machine()
    try:
        if trouble := docker_trouble():
            pytest.skip(trouble)
        yield
    finally:
        if daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGTERM)


@pytest.fixture(scope="session")
def cluster(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    """A fresh compose cluster that serves; taken down with its volumes afterwards."""
    running = ComposeCluster(tmp_path_factory.mktemp("compose") / "testnet")
    with serving(running):
        yield running


@pytest.fixture
def own_cluster(machine: None, tmp_path: Path) -> Iterator[ComposeCluster]:
    """One for a single test, after which a validator may never sign again."""
    running = ComposeCluster(tmp_path / "testnet", f"{PROJECT}-own")
    with serving(running, "--free-ports"):
        yield running


@pytest.fixture(scope="module")
def small_cluster(
    machine: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeCluster]:
    """Another one beside it, with one sequencer, short epochs and ports of its own."""
    running = ComposeCluster(tmp_path_factory.mktemp("small") / "testnet", f"{PROJECT}-small")
    fewer = ("--sequencers", "1", "--executions", "1", "--challengers", "0", "--traders", "4")
    with serving(running, *fewer, "--epoch-s", "20", "--free-ports"):
        yield running


@contextlib.contextmanager
def serving(running: ComposeCluster, *options: str) -> Iterator[None]:
    """Make a cluster's image, testnet and containers, and take them down at the end."""
    running.clear()
    running.script("build-image.sh")
    running.create(*options)
    try:
        running.script("compose-up.sh")
        eventually("the deposits arrive", lambda: bool(running.trilemma("account")))
        yield
        print(running.compose("logs", "--tail", "40"))
    finally:
        running.script("compose-down.sh")
