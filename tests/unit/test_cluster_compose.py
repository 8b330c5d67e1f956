"""The compose file agrees with the testnet that its containers run, and gives away nothing."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli import app
from cluster.commands import register
from cluster.compose import main
from cluster.compose_file import (
    ComposeOptions,
    compose_file,
    container_targets,
    default_compose_file,
)
from cluster.layout import peer_port
from cluster.testnet import COMPOSE_OPTIONS, TestnetOptions, contained, process_entries
from store.config import load_chain, load_config, load_process_key, parse_address
from store.testnet import Testnet

ROOT = Path(__file__).parents[2]
METRICS = ("prometheus", "grafana")

if not app.registered_commands:
    register(app)


def parsed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_repositorys_file_is_what_the_generator_writes() -> None:
    assert (ROOT / "docker-compose.yml").read_text() == default_compose_file(), (
        "write it again: python -c 'from cluster.compose_file import *; "
        'print(default_compose_file(), end="")\' > docker-compose.yml'
    )
    names = [name for name in parsed(default_compose_file())["services"] if name not in METRICS]
    counts = {"validator": 4, "sequencer": 4, "execution": 2, "prover": 1, "challenger": 1}
    assert names == [f"{role}-{index}" for role, count in counts.items() for index in range(count)]


def test_prometheus_scrapes_every_process_of_the_repositorys_file() -> None:
    shipped = json.loads((ROOT / "deploy/prometheus/targets/compose.json").read_text())
    assert shipped == json.loads(container_targets(process_entries(COMPOSE_OPTIONS)))
    volumes = parsed(default_compose_file())["services"]["grafana"]["volumes"]
    for mount in volumes[:-1]:
        assert (ROOT / mount.split(":")[0]).is_dir(), mount


def test_the_testnet_is_created_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--owner", f"{os.getuid()}:{os.getgid()}"]) == 0
    first = Testnet.load(tmp_path).chain().chain_id
    assert main([str(tmp_path)]) == 0
    assert Testnet.load(tmp_path).chain().chain_id == first
    assert "testnet of 12 processes" in capsys.readouterr().out
    assert main([str(tmp_path), "--owner", "nobody"]) == 2
    (tmp_path / "testnet.json").unlink()
    assert main([str(tmp_path)]) == 2


def test_every_process_has_a_service_with_its_ports_and_its_files_alone(tmp_path: Path) -> None:
    main([str(tmp_path)])
    testnet = Testnet.load(tmp_path)
    file = parsed(compose_file(testnet.processes, ComposeOptions(testnet=str(tmp_path))))
    for entry in testnet.processes:
        service = file["services"][entry.name]
        config = load_config(testnet.config_path(entry.name))
        load_process_key(config, load_chain(config))
        ports = [parse_address(address)[1] for address in (entry.public, entry.observe)]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
        assert parse_address(config.public) == ("0.0.0.0", ports[0])
        assert parse_address(config.observe) == ("0.0.0.0", ports[1])
        assert service["healthcheck"]["test"][-1] == str(ports[1])
        assert service["command"] == [
            entry.role, "--config", f"/testnet/config/{entry.name}.toml"
        ]  # fmt: skip
        *files, data = service["volumes"]
        assert data == f"{entry.name}:/data" and entry.name in file["volumes"]
        assert config.data.parent == Path("/data") and config.log_json
        wanted = (testnet.genesis_path, testnet.config_path(entry.name))
        assert [Path(each["source"]) for each in files] == [
            *wanted, testnet.key_path(entry.name)
        ]  # fmt: skip
        for each in files:
            inside = Path(each["source"]).relative_to(tmp_path)
            assert each["target"] == f"/testnet/{inside}"
            assert each["read_only"] and each["type"] == "bind"
        for peer in config.peers:
            index = testnet.process(peer.name).index
            assert peer.address == f"{peer.name}:{peer_port(26_600, entry.role, index)}"


def test_containers_may_do_little_and_are_told_no_secret() -> None:
    text = default_compose_file()
    for name, service in parsed(text)["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"] and service["mem_limit"] == service["memswap_limit"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        if name in METRICS:
            # A plain `up` works where neither image can be had.
            assert service["profiles"] == ["metrics"] and ":v" in service["image"].replace(
                "grafana:", "grafana:v"
            )
        else:
            assert "environment" not in service and service["user"].startswith("${TRILEMMA_UID")
    assert "PASSWORD" not in text.upper()


def test_other_sizes_have_their_services_and_ports() -> None:
    options = TestnetOptions(validators=7, sequencers=1, executions=3, base_port=30_000)
    entries = process_entries(contained(options, "compose"), 30_000)
    file = parsed(compose_file(entries, ComposeOptions(deploy="")))
    assert set(file["services"]) == {entry.name for entry in entries} == set(file["volumes"])
    assert file["services"]["validator-6"]["ports"][0] == "127.0.0.1:30006:30006"
    assert process_entries(COMPOSE_OPTIONS)[4].name == "sequencer-0"


def test_init_writes_the_file_beside_its_testnet(tmp_path: Path) -> None:
    target = tmp_path / "compose.yml"
    command = ["init", str(tmp_path / "net"), "--compose", str(target), "--validators", "5"]
    command += ["--executions", "1", "--traders", "2", "--image", "example.org/trilemma:0.2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"docker compose -f {target} up -d" in done.output
    testnet = Testnet.load(tmp_path / "net")
    assert len(testnet.of_role("node")) == 5 and len(testnet.of_role("sequencer")) == 4
    service = parsed(target.read_text())["services"]["validator-4"]
    assert [each["source"] for each in service["volumes"][:-1]] == [
        "./net/genesis.json", "./net/config/validator-4.toml", "./net/keys/validator-4.key"
    ]  # fmt: skip
    assert service["image"] == "${TRILEMMA_IMAGE:-example.org/trilemma:0.2}"
    uid = os.getuid() or 10_001
    assert service["user"].split(":")[0] == str(uid)
    watched = json.loads((testnet.directory / "prometheus.json").read_text())
    assert len(watched) == len(testnet.processes)
    there = {"targets": ["validator-4:26744"], "labels": {"process": "validator-4"}}
    assert there in watched, "as containers name each other"
    mounts = parsed(target.read_text())["services"]["prometheus"]["volumes"]
    assert "./net/prometheus.json:/etc/prometheus/targets/compose.json:ro" in mounts
    key = testnet.key_path("validator-4").stat()
    assert (key.st_uid, stat.S_IMODE(key.st_mode)) == (uid, 0o600)


def test_two_testnets_are_not_one_project_of_compose(tmp_path: Path) -> None:
    """Compose would take the containers and volumes of one for those of the other."""
    first, other = tmp_path / "compose.yml", tmp_path / "other.yaml"
    few = ["--traders", "0", "--validators", "1", "--sequencers", "1", "--executions", "1"]
    command = ["init", str(tmp_path / "net"), *few, "--compose"]
    assert CliRunner().invoke(app, [*command, str(first)]).exit_code == 0
    again = CliRunner().invoke(app, [*command, str(first), "--overwrite"])
    assert again.exit_code == 0, again.output
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new"), *few, "--compose", str(other)])
    assert done.exit_code != 0 and "folder of its own" in str(done.exception)
    assert not other.exists() and not (tmp_path / "new").exists()


def test_init_refuses_before_it_makes_anything_and_replaces_nobody_elses_file(
    tmp_path: Path,
) -> None:
    target = tmp_path / "compose.yml"
    target.write_text("services: {}\n")
    done = CliRunner().invoke(app, ["init", str(tmp_path / "net"), "--compose", str(target)])
    assert done.exit_code != 0 and "was not written by" in str(done.exception)
    both = ["--compose", str(target), "--kubernetes", str(tmp_path / "k")]
    done = CliRunner().invoke(app, ["init", str(tmp_path / "net"), *both])
    assert done.exit_code != 0 and not (tmp_path / "net").exists()
    assert target.read_text() == "services: {}\n"
    none = ["init", str(tmp_path / "net"), "--compose", str(tmp_path / "new.yml"), "--sequencers"]
    done = CliRunner().invoke(app, [*none, "0"])
    assert "1 to 20 sequencer processes, not 0" in str(done.exception)
    assert not (tmp_path / "net").exists() and not (tmp_path / "new.yml").exists()
