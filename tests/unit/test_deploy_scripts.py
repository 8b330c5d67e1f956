"""The scripts that run the containers: which testnets they take, and what they remove."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.testnet import TestnetOptions, contained, create_testnet
from store.testnet import Place

DEPLOY = Path(__file__).parents[2] / "deploy"
SMALL = TestnetOptions(validators=1, traders=0)
FAKE_DOCKER = """#!/bin/sh
echo "$@" >>"$DOCKER_CALLS"
[ "$1 $2" != "volume ls" ] || cat "$DOCKER_CALLS.volumes"
"""


class Checkout:
    """A folder with the scripts alone, and a docker that only notes how it is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.testnet = folder / "net"
        self.calls = folder / "calls"
        self.calls.touch()
        self.volumes = folder / "calls.volumes"
        self.volumes.touch()
        shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns("wheels"))
        docker = folder / "bin" / "docker"
        docker.parent.mkdir()
        docker.write_text(FAKE_DOCKER)
        docker.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script on the testnet."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "DOCKER_CALLS": str(self.calls),
            "TRILEMMA_TESTNET": str(self.testnet),
            "TRILEMMA_UID": str(os.getuid()),
            "TRILEMMA_GID": str(os.getgid()),
            "VENV_PYTHON": sys.executable,
            "PYTHONPATH": str(DEPLOY.parent),
        }
        environment.pop("COMPOSE_PROJECT_NAME", None)
        return subprocess.run(
            ["sh", f"deploy/{script}"], cwd=self.folder, env=environment, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip

    def commands(self) -> list[str]:
        """What docker was asked to do, beside for its version and its volumes."""
        lines = self.calls.read_text().splitlines()
        return [line for line in lines if "version" not in line and "volume ls" not in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("place", ["host", "kubernetes"])
@pytest.mark.parametrize("script", ["compose-down.sh", "compose-up.sh", "prepare-compose.sh"])
def test_a_testnet_of_another_place_is_left_alone(
    checkout: Checkout, script: str, place: Place
) -> None:
    """TRILEMMA_TESTNET names the testnet of every command, so that it may be any."""
    create_testnet(checkout.testnet, SMALL if place == "host" else contained(SMALL, place))
    before = sorted(checkout.testnet.rglob("*"))
    done = checkout.run(script)
    assert done.returncode == 2 and "unset TRILEMMA_TESTNET" in done.stderr, done
    assert sorted(checkout.testnet.rglob("*")) == before
    assert not checkout.commands() and not (checkout.folder / ".env").exists()


@pytest.mark.parametrize("hidden", ["testnet.json", "config", "config/validator-0.toml"])
def test_a_testnet_that_cannot_be_read_is_not_called_another_kind(
    checkout: Checkout, hidden: str
) -> None:
    """Its files are the containers' user's, and may be that one's alone."""
    create_testnet(checkout.testnet, contained(SMALL, "compose"))
    (checkout.testnet / hidden).chmod(0)
    if os.access(checkout.testnet / hidden, os.R_OK):
        pytest.skip("root reads everything")
    try:
        done = checkout.run("compose-down.sh")
    finally:
        (checkout.testnet / hidden).chmod(0o700)
    assert done.returncode == 2 and f"cannot read {checkout.testnet / hidden}" in done.stderr, done
    assert not checkout.commands() and (checkout.testnet / "testnet.json").exists()


def test_what_containers_ran_goes_with_all_of_them(checkout: Checkout) -> None:
    create_testnet(checkout.testnet, contained(SMALL, "compose"))
    done = checkout.run("compose-down.sh")
    assert done.returncode == 0, done
    assert checkout.commands() == ["compose --profile metrics down --volumes --timeout 15"]
    assert not checkout.testnet.exists()
    assert checkout.run("compose-down.sh").returncode == 0, "there is nothing left to remove"


@pytest.mark.parametrize("script", ["compose-up.sh", "prepare-compose.sh"])
def test_state_of_a_testnet_that_is_gone_is_named_before_anything_is_made(
    checkout: Checkout, script: str
) -> None:
    checkout.volumes.write_text("trilemma_validator-0\n")
    done = checkout.run(script)
    assert done.returncode == 2 and "make compose-down" in done.stderr, done
    assert not checkout.testnet.exists() and not checkout.commands()
    create_testnet(checkout.testnet, contained(SMALL, "compose"))
    assert checkout.run("prepare-compose.sh").returncode == 0, "they are this testnet's"


def test_plain_compose_finds_the_testnet_and_its_user(checkout: Checkout) -> None:
    create_testnet(checkout.testnet, contained(SMALL, "compose"))
    done = checkout.run("prepare-compose.sh")
    assert done.returncode == 0, done
    lines = (checkout.folder / ".env").read_text().splitlines()
    assert lines[1:] == [
        "COMPOSE_PROJECT_NAME=trilemma",
        f"TRILEMMA_TESTNET={checkout.testnet}",
        f"TRILEMMA_UID={os.getuid()}",
        f"TRILEMMA_GID={os.getgid()}",
    ]
