"""Configuration files and key files: what is read, and what is refused with which sentence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cluster.testnet import TestnetOptions, create_testnet
from protocol.errors import ConfigError
from protocol.keys import Key
from store.config import load_chain, load_config, load_process_key, parse_address
from store.keyfiles import load_key, save_key

MINIMAL = {
    "role": '"execution"',
    "name": '"execution-0"',
    "index": "0",
    "genesis": '"../genesis.json"',
    "key": '"../keys/execution-0.key"',
    "data": '"/var/data"',
    "public": '"127.0.0.1:26640"',
}


def write(tmp_path: Path, **changes: str) -> Path:
    path = tmp_path / "config" / "process.toml"
    path.parent.mkdir(exist_ok=True)
    fields = MINIMAL | changes
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items() if value))
    return path


def test_paths_are_relative_to_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    # As a message shows it.
    assert config.genesis == tmp_path / "genesis.json"
    assert config.data == Path("/var/data")
    assert (config.role, config.index, config.peers, config.log_json) == ("execution", 0, [], False)


def test_a_folder_that_is_a_link_has_its_own_parent(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path = write(tmp_path / "disk")
    (tmp_path / "config").symlink_to(path.parent)
    (tmp_path / "disk" / "genesis.json").touch()
    config = load_config(tmp_path / "config" / path.name)
    assert config.genesis.exists() and config.genesis.samefile(tmp_path / "disk" / "genesis.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"colour": '"red"'}, "unknown field `colour`"),
        ({"role": '"king"'}, "Invalid enum value 'king'"),
        ({"name": ""}, "missing required field `name`"),
        ({"name": '""'}, "a process has a name"),
        ({"index": "-1"}, "index of 0 or more"),
        ({"index": '"0"'}, "Expected `int`"),
        ({"data": "5"}, "a path is a text"),
        ({"public": '"127.0.0.1:0"'}, "bad port"),
        ({"public": '"127.0.0.1:65536"'}, "bad port"),
        ({"public": '"127.0.0.1:http"'}, "bad port"),
        ({"public": '"26640"'}, "write host:port"),
        ({"public": '"::1:26640"'}, "in brackets"),
        ({"validators": '["a:1", "b"]'}, "write host:port"),
        ({"log_level": '"loud"'}, "log_level is one of"),
        ({"peer_listen": '"127.0.0.1:1"'}, "peer_listen is for"),
        ({"public": '"127.0.0.1'}, "malformed"),
    ],
)
def test_a_bad_configuration_is_refused(
    tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(write(tmp_path, **changes))
    assert "process.toml" in str(caught.value)


def test_a_missing_or_binary_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "binary.toml")


def test_addresses() -> None:
    assert parse_address("example:1") == ("example", 1)
    assert parse_address("[::1]:65535") == ("::1", 65535)
    for bad in (":1", "host:", "host:1x", "host:\u0663", "", "[::1]"):
        with pytest.raises(ConfigError):
            parse_address(bad)


def test_a_process_must_have_its_place_in_genesis(tmp_path: Path) -> None:
    testnet = create_testnet(tmp_path / "net", TestnetOptions(traders=0))
    path = testnet.config_path("validator-1")
    text = path.read_text()
    config = load_config(path)
    chain = load_chain(config)
    assert chain.chain_id == testnet.chain().chain_id
    assert load_process_key(config, chain).public.hex() == chain.genesis.validators[1].public_key

    path.write_text(text.replace("index = 1", "index = 4"))
    with pytest.raises(ConfigError, match="genesis has 4"):
        load_chain(load_config(path))
    path.write_text(text.replace('name = "validator-3"', 'name = "mallory"'))
    with pytest.raises(ConfigError, match="peers must be those of genesis"):
        load_chain(load_config(path))
    path.write_text(text.replace("validator-1.key", "validator-2.key"))
    with pytest.raises(ConfigError, match="is not the key of node 1"):
        load_process_key(load_config(path), chain)
    testnet.genesis_path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read the genesis file .*genesis\.json"):
        load_chain(config)


def test_keys_come_back_from_private_files(tmp_path: Path) -> None:
    key, path = Key(bytes(range(32))), tmp_path / "a.key"
    save_key(key, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).seed() == key.seed()
    with pytest.raises(ConfigError, match="never overwritten"):
        save_key(Key.generate(), path)
    assert load_key(path).seed() == key.seed()


def test_bad_key_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    with pytest.raises(ConfigError, match="No such file"):
        load_key(path)
    save_key(Key.generate(), path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)
    path.chmod(0o600)
    for content in (b"", b"ab" * 31, b"zz" * 32, b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="64 hex digits"):
            load_key(path)
    with pytest.raises(ConfigError, match="cannot write"):
        save_key(Key.generate(), tmp_path / "absent" / "a.key")
