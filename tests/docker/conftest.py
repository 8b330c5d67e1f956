"""The compose cluster for the tests of this folder, or the reason why there is none."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from compose_cluster import ComposeCluster, docker_trouble, eventually, prepare_machine


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeCluster]:
    """A fresh compose cluster that serves; taken down with its volumes afterwards."""
    daemon = prepare_machine()
    try:
        if trouble := docker_trouble():
            pytest.skip(trouble)
        running = ComposeCluster(tmp_path_factory.mktemp("compose") / "testnet")
        running.script("build-image.sh")
        running.create()
        try:
            running.script("compose-up.sh")
            eventually("the deposits arrive", lambda: bool(running.trilemma("account")))
            yield running
            print(running.compose("logs", "--tail", "40"))
        finally:
            running.script("compose-down.sh")
    finally:
        if daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGTERM)
