"""The compose file agrees with the testnet that its containers create."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.compose import main
from cluster.layout import peer_port
from store.config import load_chain, load_config, load_process_key, parse_address
from store.testnet import Testnet

COMPOSE_FILE = (Path(__file__).parents[2] / "docker-compose.yml").read_text()


def service(name: str) -> str:
    found = re.search(rf"^  {name}:\n((?:    .*\n|\n)+)", COMPOSE_FILE, re.MULTILINE)
    return found.group(1) if found else ""


def test_init_creates_the_testnet_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    first = Testnet.load(tmp_path).chain().chain_id
    assert main([str(tmp_path)]) == 0
    assert Testnet.load(tmp_path).chain().chain_id == first
    assert "testnet of 7 processes" in capsys.readouterr().out
    (tmp_path / "testnet.json").unlink()
    assert main([str(tmp_path)]) == 2
    assert main([]) == 2


def test_every_process_has_a_service_that_publishes_its_port(tmp_path: Path) -> None:
    main([str(tmp_path)])
    testnet = Testnet.load(tmp_path)
    volumes = COMPOSE_FILE.partition("\nvolumes:\n")[2]
    for entry in testnet.processes:
        text = service(entry.name)
        config = load_config(testnet.config_path(entry.name))
        load_process_key(config, load_chain(config))
        port = parse_address(entry.public)[1]
        assert parse_address(config.public) == ("0.0.0.0", port)
        assert f'ports: ["127.0.0.1:{port}:{port}"]' in text
        assert f"command: [{entry.role}, --config, /testnet/config/{entry.name}.toml]" in text
        assert f"cluster.health, --config, /testnet/config/{entry.name}.toml]" in text
        assert f"- {entry.name}:/data\n" in text and f"  {entry.name}: {{}}" in volumes
        assert config.data.parent == Path("/data")
        for peer in config.peers:
            index = testnet.process(peer.name).index
            assert peer.address == f"{peer.name}:{peer_port(26_600, entry.role, index)}"
