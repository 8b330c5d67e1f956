"""The manifests of a testnet: valid, consistent with its configurations, and tight-lipped."""

from __future__ import annotations

import stat
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cluster.deployment import create_deployment
from cluster.kubernetes import SECRETS_FILE, manifests
from cluster.kubernetes_pods import Deployment
from cluster.testnet import NAMES, TestnetOptions
from protocol.errors import ConfigError
from store.config import load_chain, load_config, load_process_key, parse_address
from store.testnet import Testnet

OPTIONS = TestnetOptions(
    name="dev", validators=4, sequencers=4, executions=2, challengers=1, traders=2
)
ROLES = ("validator", "sequencer", "execution", "prover")
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Testnet, Path]:
    base = tmp_path_factory.mktemp("kubernetes")
    testnet, start = create_deployment(base / "net", OPTIONS, None, base / "manifests")
    assert start == f"kubectl apply --server-side -f {base / 'manifests'}"
    return testnet, base / "manifests"


@cache
def everything(folder: Path) -> tuple[Manifest, ...]:
    files = sorted(folder.iterdir())
    return tuple(each for path in files for each in yaml.safe_load_all(path.read_text()))


def objects(folder: Path, kind: str = "") -> list[Manifest]:
    return [each for each in everything(folder) if not kind or each["kind"] == kind]


def named(folder: Path, kind: str, name: str) -> Manifest:
    (found,) = [each for each in objects(folder, kind) if each["metadata"]["name"] == name]
    return found


def container(folder: Path, role: str) -> Manifest:
    found: Manifest = named(folder, "StatefulSet", role)["spec"]["template"]["spec"]["containers"]
    return found[0]


@pytest.mark.parametrize("version", ["1.27", "1.30", "1.33"])
def test_every_manifest_fits_the_schema_of_kubernetes(
    made: tuple[Testnet, Path], version: str
) -> None:
    for each in objects(made[1]):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_same_testnet_gives_the_same_files(made: tuple[Testnet, Path]) -> None:
    testnet, folder = made
    again = manifests(Testnet.load(testnet.directory), Deployment(namespace="dev"))
    assert list(again) == sorted(path.name for path in folder.iterdir())
    for name, content in again.items():
        assert list(yaml.safe_load_all((folder / name).read_text())) == content


def test_each_role_has_one_set_whose_selectors_find_its_pods(made: tuple[Testnet, Path]) -> None:
    testnet, folder = made
    for role, name in NAMES.items():
        stateful = named(folder, "StatefulSet", name)
        spec = stateful["spec"]
        pod = spec["template"]["metadata"]["labels"]
        assert spec["replicas"] == len(testnet.of_role(role))
        assert spec["selector"]["matchLabels"] == pod
        assert spec["serviceName"] == f"{name}-peers"
        for service in (f"{name}-peers", name):
            assert named(folder, "Service", service)["spec"]["selector"] == pod
        budget = named(folder, "PodDisruptionBudget", name)["spec"]
        assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": pod}}
        policy = named(folder, "NetworkPolicy", name)["spec"]
        assert policy["podSelector"]["matchLabels"] == pod


def test_ports_and_names_are_those_of_the_configurations(made: tuple[Testnet, Path]) -> None:
    testnet, folder = made
    resolved = {
        f"{entry.name}.{named(folder, 'StatefulSet', NAMES[entry.role])['spec']['serviceName']}"
        for entry in testnet.processes
    }
    for entry in testnet.processes:
        config = load_config(testnet.config_path(entry.name))
        load_process_key(config, load_chain(config))
        assert not config.faults and config.log_json
        inside = container(folder, NAMES[entry.role])
        ports = {each["name"]: each["containerPort"] for each in inside["ports"]}
        told = {"public": config.public, "peer": config.peer_listen, "observe": config.observe}
        assert ports == {name: parse_address(each)[1] for name, each in told.items() if each}
        addresses = [each.address for each in config.peers]
        addresses += config.validators + config.sequencers + config.execution + config.prover
        for address in addresses:
            host, port = parse_address(address)
            assert host in resolved, host
            service = named(folder, "Service", host.split(".")[1])["spec"]
            assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
            assert port in [each["port"] for each in service["ports"]]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert inside[probe]["httpGet"]["port"] == "observe"
        text = named(folder, "ConfigMap", f"{NAMES[entry.role]}-config")["data"]
        assert text[f"{entry.name}.toml"] == testnet.config_path(entry.name).read_text()


def test_only_secrets_hold_keys_and_their_file_is_private(made: tuple[Testnet, Path]) -> None:
    testnet, folder = made
    secrets = {each["metadata"]["name"]: each for each in objects(folder, "Secret")}
    assert list(secrets) == [f"{entry.name}-key" for entry in testnet.processes]
    for entry in testnet.processes:
        raw = testnet.key_path(entry.name).read_bytes()
        key, packed = raw.decode().strip(), b64encode(raw).decode()
        secret = secrets[f"{entry.name}-key"]
        assert secret["data"] == {"key": packed} and "stringData" not in secret
        for each in objects(folder):
            shown = str(each)
            assert key not in shown, each["metadata"]
            assert each["kind"] == "Secret" or packed not in shown, each["metadata"]
    traders = [testnet.key_path(name).read_bytes() for name in (*testnet.traders, "oracle")]
    text = "".join(path.read_text() for path in folder.iterdir())
    for raw in traders:
        assert raw.decode().strip() not in text and b64encode(raw).decode() not in text
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes.pop(SECRETS_FILE) == 0o600
    for stateful in objects(folder, "StatefulSet"):
        pod = stateful["spec"]["template"]["spec"]
        for each in (*pod["initContainers"], *pod["containers"]):
            assert [variable["name"] for variable in each["env"]] == ["POD_NAME"]
        # The process is given the folder with its own key, never the one with all.
        mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert "all-keys" not in mounts and mounts["own-key"] == "/testnet/keys"


def test_pods_may_do_little(made: tuple[Testnet, Path]) -> None:
    for stateful in objects(made[1], "StatefulSet"):
        pod = stateful["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for each in (*pod["initContainers"], *pod["containers"]):
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["limits"]["memory"] and each["resources"]["requests"]["cpu"]
            assert each["imagePullPolicy"] == "IfNotPresent", each["name"]


def test_the_network_lets_through_what_is_named_alone(made: tuple[Testnet, Path]) -> None:
    testnet, folder = made
    assert named(folder, "NetworkPolicy", "default")["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in named(folder, "NetworkPolicy", "default")["spec"]
    for role, name in NAMES.items():
        config = load_config(testnet.config_path(testnet.of_role(role)[0].name))
        rules = named(folder, "NetworkPolicy", name)["spec"]["ingress"]
        by_port = {rule["ports"][0]["port"]: rule.get("from") for rule in rules}
        assert by_port.pop(parse_address(config.public)[1]) is None
        (watchers,) = by_port.pop(parse_address(config.observe)[1])
        assert watchers["namespaceSelector"]["matchLabels"] == {"trilemma.io/monitoring": "true"}
        if config.peer_listen:
            (peers,) = by_port.pop(parse_address(config.peer_listen)[1])
            assert peers["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == name
        assert not by_port


def test_bad_names_and_folders_of_others_are_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    options = TestnetOptions(name="My Chain", traders=0)
    with pytest.raises(ConfigError, match="no name for a namespace"):
        create_deployment(tmp_path / "net", options, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="no name of an image"):
        create_deployment(tmp_path / "net", OPTIONS, None, tmp_path / "out", "${X}")
    (tmp_path / "out").mkdir()
    for name in ("00-namespace.yaml", "notes.txt"):
        (tmp_path / "out" / name).write_text("mine")
    for overwrite, words in ((False, "is not empty"), (True, "which is no manifest")):
        options = TestnetOptions(name="dev", traders=0, overwrite=overwrite)
        with pytest.raises(ConfigError, match=words):
            create_deployment(tmp_path / "net", options, None, tmp_path / "out")
        assert (tmp_path / "out" / "00-namespace.yaml").exists()
    assert not (tmp_path / "net").exists()


def test_manifests_are_replaced_when_told_so(tmp_path: Path) -> None:
    options = TestnetOptions(name="dev", traders=0)
    first, _ = create_deployment(tmp_path / "net", options, None, tmp_path / "out")
    key = first.key_path("validator-0").read_text()
    options = TestnetOptions(name="dev", traders=0, overwrite=True)
    create_deployment(tmp_path / "net", options, None, tmp_path / "out", "example.org/it:1")
    images = {each["image"] for each in (container(tmp_path / "out", name) for name in ROLES)}
    assert images == {"example.org/it:1"}
    assert key not in (tmp_path / "out" / SECRETS_FILE).read_text()
