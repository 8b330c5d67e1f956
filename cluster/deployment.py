"""A testnet for containers or for Kubernetes: its folder, and the files that run it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec

from client.console import note
from cluster.compose import give_to
from cluster.compose_file import (
    CONTAINER_UID,
    FIRST_LINE,
    ComposeOptions,
    compose_file,
    container_targets,
)
from cluster.kubernetes import SECRETS_FILE, apply_command, prepare_folder, write_manifests
from cluster.kubernetes_pods import Deployment
from cluster.testnet import TARGETS_FILE, TestnetOptions, contained, create_testnet
from protocol.errors import ConfigError
from store.testnet import Testnet

METRICS_FOLDER = Path(__file__).resolve().parents[1] / "deploy"
"""Where Prometheus' and Grafana's files lie in a checkout."""

_MEANT_BY_COMPOSE = set("$:\"'{}\n")


def create_deployment(
    directory: Path,
    options: TestnetOptions,
    compose: Path | None,
    kubernetes: Path | None,
    image: str = "trilemma:latest",
) -> tuple[Testnet, str]:
    """Create the testnet and the compose file or the manifests; it, and how to start it.

    Raises `ConfigError` where both are asked for, or something of another is in the way.
    """
    if compose is not None and kubernetes is not None:
        raise ConfigError("a testnet is for compose or for Kubernetes; leave one of them out")
    if _MEANT_BY_COMPOSE & set(image.replace(":", "")) or not image.strip():
        raise ConfigError(f"{image!r} is no name of an image")
    if kubernetes is not None:
        plan = Deployment(namespace=options.name, image=image)
        prepare_folder(kubernetes, plan.namespace, options.overwrite)
        options = msgspec.structs.replace(contained(options, "kubernetes"), faults=False)
        testnet = create_testnet(directory, options)
        write_manifests(testnet, kubernetes, plan)
        note(f"{kubernetes / SECRETS_FILE} holds private keys (mode 0600); delete it once applied")
        return testnet, apply_command(kubernetes)
    if compose is None:
        raise ConfigError("name the compose file or the folder of the manifests")
    _check_ours(compose, directory)
    testnet = create_testnet(directory, contained(options, "compose"))
    root = os.geteuid() == 0
    uid, gid = (CONTAINER_UID, CONTAINER_UID) if root else (os.getuid(), os.getgid())
    metrics = METRICS_FOLDER if (METRICS_FOLDER / "prometheus").is_dir() else None
    seen = _as_seen(testnet.directory, compose)
    choice = ComposeOptions(
        testnet=seen,
        deploy="" if metrics is None else _as_seen(metrics, compose),
        targets=f"{seen}/{TARGETS_FILE}",
        image=f"${{TRILEMMA_IMAGE:-{image}}}",
        user=f"{uid}:{gid}",
    )
    try:
        (testnet.directory / TARGETS_FILE).write_text(container_targets(testnet.processes))
        give_to(testnet.directory, uid, gid)
        compose.write_text(compose_file(testnet.processes, choice))
    except OSError as error:
        raise ConfigError(f"cannot write {compose}: {error.strerror}") from None
    return testnet, f"docker compose -f {shlex.quote(str(compose))} up -d"


def _check_ours(compose: Path, directory: Path) -> None:
    """Before anything is made: nobody else's file goes, no other testnet's containers are taken for
    this one's, and compose can name every path."""
    if compose.exists() and not _is_ours(compose):
        raise ConfigError(f"{compose} was not written by trilemma init; take another name")
    folder = compose.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder} for the compose file")
    # Compose names containers and volumes after the folder.
    for other in sorted((*folder.glob("*.yml"), *folder.glob("*.yaml"))):
        if other.name != compose.name and other.is_file() and _is_ours(other):
            raise ConfigError(
                f"with {other} in one folder, compose takes the containers and volumes of both for "
                "the same; write the file to a folder of its own"
            )
    for path in (directory.absolute(), METRICS_FOLDER):
        if _MEANT_BY_COMPOSE & set(str(path)):
            raise ConfigError(f"compose cannot name {str(path)!r}; take a path of plain letters")


def _is_ours(compose: Path) -> bool:
    try:
        with compose.open(errors="replace") as file:
            return file.readline().rstrip("\n") == FIRST_LINE
    except OSError as error:
        raise ConfigError(f"cannot read {compose}: {error.strerror}") from None


def _as_seen(path: Path, compose: Path) -> str:
    """A path as the compose file names it: relative where it lies below."""
    home = compose.absolute().parent.resolve()
    path = path.resolve()
    return f"./{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
