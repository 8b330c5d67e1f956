"""The pods of a role: its StatefulSet, with probes, volumes and what a container may do."""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.compose_file import CONTAINER_UID, TESTNET_IN_CONTAINER
from cluster.testnet import NAMES
from store.config import Role, load_config, parse_address
from store.testnet import CONFIG_FOLDER, GENESIS_FILE, KEY_FOLDER, Testnet

APP = "trilemma"

REQUESTS: dict[Role, tuple[str, str, str, str]] = {
    "node": ("250m", "512Mi", "2Gi", "20Gi"),
    "sequencer": ("500m", "512Mi", "2Gi", "20Gi"),
    "execution": ("1", "1Gi", "4Gi", "50Gi"),
    "prover": ("500m", "1Gi", "4Gi", "20Gi"),
    "challenger": ("500m", "1Gi", "4Gi", "20Gi"),
}
"""CPU and memory asked for, the most memory, and the size of the volume. There is no limit on CPU:
a process that is throttled misses its views."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the pods run and from which image."""

    namespace: str = APP
    image: str = "trilemma:latest"


def labels(plan: Deployment, component: str = "") -> dict[str, str]:
    """Labels of the deployment's objects, and with a component the selector of its pods."""
    found = {"app.kubernetes.io/name": APP, "app.kubernetes.io/instance": plan.namespace}
    return {**found, "app.kubernetes.io/component": component} if component else found


def stateful_set(testnet: Testnet, plan: Deployment, role: Role, digest: str) -> dict[str, Any]:
    """One pod for each process of the role; a new `digest` of the configuration restarts them."""
    name = NAMES[role]
    selector = labels(plan, name)
    config = load_config(testnet.config_path(testnet.of_role(role)[0].name))
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/path": "/metrics",
        "prometheus.io/port": str(parse_address(config.observe)[1]),
        "trilemma.io/config": digest,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": plan.namespace, "labels": selector},
        "spec": {
            "serviceName": f"{name}-peers",
            "replicas": len(testnet.of_role(role)),
            # All at once the first time; a change goes from pod to pod, each ready before the next.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": selector, "annotations": annotations},
                "spec": _pod(testnet, plan, role),
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": REQUESTS[role][3]}},
                    },
                }
            ],
        },
    }


def _pod(testnet: Testnet, plan: Deployment, role: Role) -> dict[str, Any]:
    selector = {"matchLabels": labels(plan, NAMES[role])}
    apart = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": CONTAINER_UID,
            "runAsGroup": CONTAINER_UID,
            "fsGroup": CONTAINER_UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 100, "podAffinityTerm": apart}
                ]
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
        ],
        "initContainers": [_key_container(plan)],
        "containers": [_process_container(testnet, plan, role)],
        "volumes": _volumes(testnet, role),
    }


def _volumes(testnet: Testnet, role: Role) -> list[dict[str, Any]]:
    name = NAMES[role]
    keys = [
        {
            "secret": {
                "name": f"{entry.name}-key",
                "items": [{"key": "key", "path": f"{entry.name}.key"}],
            }
        }
        for entry in testnet.of_role(role)
    ]
    return [
        {"name": "genesis", "configMap": {"name": "genesis"}},
        {"name": "config", "configMap": {"name": f"{name}-config"}},
        {"name": "all-keys", "projected": {"sources": keys, "defaultMode": 0o440}},
        {"name": "own-key", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]


_SEALED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_PULL_POLICY = "IfNotPresent"
"""Said of every container: else an image tagged `latest` is pulled at each start, from a registry
that may not have it."""
_POD_NAME = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def _key_container(plan: Deployment) -> dict[str, Any]:
    """Hands the pod its own key, in memory and with the mode that a process asks of a key: all pods
    of a StatefulSet have the same volumes, and those of Secrets are open to a group."""
    return {
        "name": "key",
        "image": plan.image,
        "imagePullPolicy": _PULL_POLICY,
        "command": ["install", "-m", "0600", "/all-keys/$(POD_NAME).key", "/own-key/"],
        "env": [_POD_NAME],
        "resources": _resources("10m", "16Mi", "64Mi"),
        "securityContext": _SEALED,
        "volumeMounts": [
            {"name": "all-keys", "mountPath": "/all-keys", "readOnly": True},
            {"name": "own-key", "mountPath": "/own-key"},
        ],
    }


def _process_container(testnet: Testnet, plan: Deployment, role: Role) -> dict[str, Any]:
    config = load_config(testnet.config_path(testnet.of_role(role)[0].name))
    addresses = {"public": config.public, "peer": config.peer_listen, "observe": config.observe}
    cpu, memory, most_memory, _ = REQUESTS[role]
    home = TESTNET_IN_CONTAINER
    return {
        "name": role,
        "image": plan.image,
        "imagePullPolicy": _PULL_POLICY,
        "args": [role, "--config", f"{home}/{CONFIG_FOLDER}/$(POD_NAME).toml"],
        "env": [_POD_NAME],
        "ports": [
            {"name": name, "containerPort": parse_address(address)[1]}
            for name, address in addresses.items()
            if address
        ],
        # A start may have a long log to execute again: twenty minutes.
        "startupProbe": _probe("/healthz", period_s=5, failures=240),
        "livenessProbe": _probe("/healthz", period_s=10, failures=6),
        "readinessProbe": _probe("/readyz", period_s=3, failures=3),
        "resources": _resources(cpu, memory, most_memory),
        "securityContext": _SEALED,
        "volumeMounts": [
            {
                "name": "genesis",
                "mountPath": f"{home}/{GENESIS_FILE}",
                "subPath": GENESIS_FILE,
                "readOnly": True,
            },
            {"name": "config", "mountPath": f"{home}/{CONFIG_FOLDER}", "readOnly": True},
            {"name": "own-key", "mountPath": f"{home}/{KEY_FOLDER}", "readOnly": True},
            {"name": "data", "mountPath": "/data"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "observe"},
        "periodSeconds": period_s,
        "timeoutSeconds": 4,
        "failureThreshold": failures,
    }


def _resources(cpu: str, memory: str, most_memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": most_memory}}
