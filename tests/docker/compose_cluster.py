"""The containers under test, the client on this host, and what a machine needs for both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import TrilemmaError
from store.testnet import Testnet

ROOT = Path(__file__).parents[2]
PROJECT = "trilemma-test"
BUILD_LIMIT_S = 900
COMMAND_LIMIT_S = 120
TRIES = 90
"""Seconds that something may take which needs several processes; a bound, not a measure."""


class ComposeCluster:
    """The containers of a compose project, and the client's command line on this host."""

    def __init__(self, testnet: Path, project: str = PROJECT) -> None:
        self.testnet = testnet
        self.project = project
        self.environment = {
            **os.environ,
            "TRILEMMA_TESTNET": str(testnet),
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": str(testnet.parent / "docker-compose.yml"),
            "VENV_PYTHON": sys.executable,
        }

    def clear(self) -> None:
        """Remove what a run of these tests that was cut off left of this project."""
        label = f"label=com.docker.compose.project={self.project}"
        for listed, remove in (
            (("ps", "-aq"), ("rm", "--force", "--volumes")),
            (("volume", "ls", "-q"), ("volume", "rm")),
            (("network", "ls", "-q"), ("network", "rm")),
        ):
            if left := self.docker(*listed, "--filter", label).split():
                self.docker(*remove, *left)

    def create(self, *options: str) -> None:
        """The testnet and its compose file, as `trilemma init` makes them."""
        self.trilemma("init", "--compose", self.environment["COMPOSE_FILE"], *options)

    @property
    def names(self) -> list[str]:
        """The processes."""
        return [entry.name for entry in Testnet.load(self.testnet).processes]

    def inspected(self, name: str) -> dict[str, Any]:
        """What docker says of a process's container."""
        (found,) = json.loads(self.docker("inspect", self.container(name)))
        return dict(found)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command of the client on this host."""
        command = [sys.executable, "-m", "cluster.cli", "--testnet", str(self.testnet)]
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def script(self, name: str, limit_s: int = BUILD_LIMIT_S) -> None:
        """Run a script of deploy/."""
        self._run(["sh", f"deploy/{name}"], limit_s)

    def compose(self, *arguments: str) -> str:
        """Run compose on the cluster, as the scripts do."""
        line = '. deploy/compose-command.sh; compose "$@"'
        return self._run(["sh", "-c", line, "sh", *arguments], COMMAND_LIMIT_S)

    def docker(self, *arguments: str) -> str:
        """Run docker."""
        return self._run(["docker", *arguments], COMMAND_LIMIT_S).strip()

    def trilemma(self, *arguments: str, limit_s: int = COMMAND_LIMIT_S) -> Any:
        """Run the client on this host; its JSON."""
        command = [sys.executable, "-m", "cluster.cli", "--testnet", str(self.testnet)]
        return json.loads(self._run([*command, *arguments, "--json"], limit_s))

    def container(self, service: str) -> str:
        """Id of a service's container, running or not."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.project}"
        return self.docker("ps", "-aq", "--filter", label, "--filter", project)

    def _run(self, command: list[str], limit_s: int) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        if done.returncode != 0:
            shown = " ".join(command)
            raise RuntimeError(f"{shown}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


def eventually(what: str, attempt: Callable[[], bool]) -> None:
    """Try once a second until it holds; fails with the last error after `TRIES`."""
    trouble = ""
    for _ in range(TRIES):
        try:
            if attempt():
                return
        except (RuntimeError, OSError, TrilemmaError) as error:
            trouble = str(error)
        time.sleep(1)
    pytest.fail(f"{what}: not within {TRIES} tries\n{trouble}")


def answers(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def docker_trouble() -> str:
    """Why the cluster cannot be run here, or an empty text."""
    if not answers("docker", "info"):
        return "no docker daemon answers; on a Debian machine: sh deploy/ensure-docker.sh"
    if not answers("docker", "compose", "version") and shutil.which("docker-compose") is None:
        return "neither 'docker compose' nor docker-compose is installed"
    if not answers("docker", "image", "inspect", "trilemma-base:bookworm"):
        if os.geteuid() != 0:
            return "the base image is missing; make it with: sudo sh deploy/make-base-image.sh"
        if shutil.which("debootstrap") is None:
            return "the base image is missing, and debootstrap, which makes it, is not installed"
    return ""


def prepare_machine() -> int | None:
    """Install and start docker where this is a machine of CI's; pid of a daemon it started."""
    allowed = os.environ.get("CI") == "true" and os.geteuid() == 0
    if not allowed or shutil.which("apt-get") is None or not docker_trouble():
        return None
    done = subprocess.run(
        ["sh", "deploy/ensure-docker.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"docker could not be installed: {done.stderr.strip()}")
    return int(done.stdout) if done.stdout.strip().isdigit() else None
