"""Kubernetes manifests of a testnet: one StatefulSet per role, and all that it needs.

Everything follows from the testnet's description and its configurations, in a fixed order, so that
the same testnet gives the same files. Keys stand in Secrets alone, one for each pod; the container
of a pod sees its own. The schema is that of Kubernetes 1.25 and newer (PodDisruptionBudget v1,
topology spread).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml

from cluster.kubernetes_pods import APP, Deployment, labels, stateful_set
from cluster.testnet import NAMES
from protocol.errors import ConfigError
from store.config import Role, load_config, parse_address
from store.testnet import Testnet

Manifest = dict[str, Any]

CONFIG_MAP_BYTES = 1 << 20
"""The most that Kubernetes takes in one ConfigMap."""
MONITORING = {"trilemma.io/monitoring": "true"}
"""Label of the namespaces from which metrics may be read."""
SECRETS_FILE = "20-secrets.yaml"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HEADER = "# Written by: trilemma init --kubernetes\n"
_SECRET_HEADER = (
    "# PRIVATE KEYS. Keep this file out of version control, and delete it once applied.\n"
)


def manifests(testnet: Testnet, plan: Deployment) -> dict[str, list[Manifest]]:
    """The objects of each file, in the order in which they are applied."""
    files = {
        "00-namespace.yaml": [_namespace(plan)],
        "10-config.yaml": _config_maps(testnet, plan),
        SECRETS_FILE: _secrets(testnet, plan),
        "30-network.yaml": _policies(testnet, plan),
    }
    for number, role in enumerate(_roles(testnet)):
        name = NAMES[role]
        files[f"{40 + number}-{name}.yaml"] = [
            *_services(testnet, plan, role),
            _disruption_budget(plan, name),
            stateful_set(testnet, plan, role, config_digest(testnet, role)),
        ]
    return files


def write_manifests(testnet: Testnet, folder: Path, plan: Deployment) -> None:
    """Write the files into a folder that `prepare_folder` emptied.

    The Secrets' file has mode 0600. Raises `ConfigError`.
    """
    files = manifests(testnet, plan)
    try:
        for name, objects in files.items():
            text = yaml.safe_dump_all(objects, sort_keys=False, width=100)
            secret = name == SECRETS_FILE
            mode = 0o600 if secret else 0o644
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "w") as file:
                file.write(_HEADER + (_SECRET_HEADER if secret else "") + text)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror}") from None


def apply_command(folder: Path) -> str:
    """What creates all of it. The server merges: a client would put each object, keys too, into an
    annotation of its own, and these hold 256 KiB at most."""
    return f"kubectl apply --server-side -f {shlex.quote(str(folder))}"


def prepare_folder(folder: Path, namespace: str, overwrite: bool) -> None:
    """Before anything is made: the folder takes the files, and the name is one that Kubernetes
    takes; raises `ConfigError`."""
    if not _LABEL.fullmatch(namespace):
        raise ConfigError(
            f"{namespace!r} is no name for a namespace; take small letters, digits and hyphens"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from None
    if present and not overwrite:
        raise ConfigError(f"the folder {folder} is not empty; take another, or overwrite it")
    for name in present:
        if not re.fullmatch(r"\d\d-[a-z]+\.yaml", name):
            raise ConfigError(f"{folder} holds {name}, which is no manifest; empty it yourself")
    for name in present:
        (folder / name).unlink()


def config_digest(testnet: Testnet, role: Role) -> str:
    """Changes with the genesis or a configuration of the role, so that its pods start anew."""
    digest = hashlib.sha256(testnet.genesis_path.read_bytes())
    for entry in testnet.of_role(role):
        digest.update(testnet.config_path(entry.name).read_bytes())
    return digest.hexdigest()


def _roles(testnet: Testnet) -> list[Role]:
    return [role for role in NAMES if testnet.of_role(role)]


def _head(kind: str, version: str, name: str, plan: Deployment, component: str = "") -> Manifest:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": plan.namespace,
            "labels": labels(plan, component),
        },
    }


def _namespace(plan: Deployment) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": plan.namespace,
            "labels": {
                **labels(plan),
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    }


def _config_maps(testnet: Testnet, plan: Deployment) -> list[Manifest]:
    contents = {"genesis": {"genesis.json": testnet.genesis_path.read_text()}}
    for role in _roles(testnet):
        contents[f"{NAMES[role]}-config"] = {
            f"{entry.name}.toml": testnet.config_path(entry.name).read_text()
            for entry in testnet.of_role(role)
        }
    for name, files in contents.items():
        if sum(len(text.encode()) for text in files.values()) > CONFIG_MAP_BYTES:
            raise ConfigError(f"{name} is larger than a ConfigMap may be; take fewer traders")
    return [
        {**_head("ConfigMap", "v1", name, plan), "data": files} for name, files in contents.items()
    ]


def _secrets(testnet: Testnet, plan: Deployment) -> list[Manifest]:
    return [
        {
            **_head("Secret", "v1", f"{entry.name}-key", plan, NAMES[entry.role]),
            "type": "Opaque",
            "immutable": True,
            # No `stringData`: the server does not own what it never stores under that name.
            "data": {"key": b64encode(testnet.key_path(entry.name).read_bytes()).decode()},
        }
        for entry in testnet.processes
    ]


def _ports(testnet: Testnet, role: Role) -> dict[str, int]:
    """The ports of a role's processes, by name, as their configurations say."""
    config = load_config(testnet.config_path(testnet.of_role(role)[0].name))
    addresses = {"public": config.public, "peer": config.peer_listen, "observe": config.observe}
    return {name: parse_address(address)[1] for name, address in addresses.items() if address}


def _services(testnet: Testnet, plan: Deployment, role: Role) -> list[Manifest]:
    name = NAMES[role]
    ports = _ports(testnet, role)
    every = [{"name": each, "port": port, "targetPort": each} for each, port in ports.items()]
    headless = {
        **_head("Service", "v1", f"{name}-peers", plan, name),
        "spec": {
            "clusterIP": "None",
            # Members find each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": labels(plan, name),
            "ports": every,
        },
    }
    clients = {
        **_head("Service", "v1", name, plan, name),
        "spec": {
            "type": "ClusterIP",
            "selector": labels(plan, name),
            "ports": [port for port in every if port["name"] == "public"],
        },
    }
    return [headless, clients]


def _disruption_budget(plan: Deployment, name: str) -> Manifest:
    return {
        **_head("PodDisruptionBudget", "policy/v1", name, plan, name),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(plan, name)}},
    }


def _policies(testnet: Testnet, plan: Deployment) -> list[Manifest]:
    """Nothing but what is named: peers among themselves, clients at public ports, monitoring at
    the observe port; outwards the chain's own pods and DNS."""
    everyone = {"matchLabels": {"app.kubernetes.io/name": APP}}
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    found = [
        {
            **_head("NetworkPolicy", "networking.k8s.io/v1", "default", plan),
            "spec": {
                "podSelector": everyone,
                "policyTypes": ["Ingress", "Egress"],
                "egress": [{"to": [{"podSelector": everyone}]}, {"ports": dns}],
            },
        }
    ]
    for role in _roles(testnet):
        name = NAMES[role]
        ports = _ports(testnet, role)
        rules: list[Manifest] = [
            {"ports": [_tcp(ports["public"])]},
            {
                "from": [{"namespaceSelector": {"matchLabels": dict(MONITORING)}}],
                "ports": [_tcp(ports["observe"])],
            },
        ]
        if "peer" in ports:
            peers = [{"podSelector": {"matchLabels": labels(plan, name)}}]
            rules.append({"from": peers, "ports": [_tcp(ports["peer"])]})
        policy = _head("NetworkPolicy", "networking.k8s.io/v1", name, plan, name)
        selector = {"matchLabels": labels(plan, name)}
        policy["spec"] = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": rules}
        found.append(policy)
    return found


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}
