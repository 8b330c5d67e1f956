"""A further validator of a testnet: what is made for it is complete and fits together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from client.validators import read_certificate_beside
from cluster import cli
from cluster.defaults import staking_of
from cluster.join import JoiningValidator, prepare_validator
from cluster.testnet import TestnetOptions, create_testnet
from net.tls import is_usable
from node.process import ValidatorProcess
from protocol.errors import ConfigError
from store.config import JOINING, load_chain, load_config, load_process_key
from store.keyfiles import load_key, save_key
from store.testnet import Testnet


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    options = TestnetOptions(free_ports=True, traders=1)
    return create_testnet(tmp_path_factory.mktemp("join") / "net", options)


@pytest.fixture
def joining(testnet: Testnet, tmp_path: Path) -> JoiningValidator:
    return prepare_validator(tmp_path / "fifth", testnet)


def test_a_joining_validator_can_start_with_what_was_made(joining: JoiningValidator) -> None:
    config = load_config(joining.config_path)
    chain = load_chain(config)
    key = load_process_key(config, chain)
    assert (config.index, config.name, key.address) == (JOINING, "fifth", joining.address)
    certificate = read_certificate_beside(joining.key_path)
    assert certificate is not None and is_usable(certificate, key.public)
    assert joining.key_path.stat().st_mode & 0o077 == 0
    assert [peer.name for peer in config.peers] == [f"validator-{i}" for i in range(4)]
    config.data.mkdir()

    async def start() -> None:
        process = ValidatorProcess(config, chain, key)
        assert len(process._peers.mesh.peers) == 4
        assert not process._machines.validator.is_member
        await process._peers.close()

    asyncio.run(start())


def test_a_key_with_money_can_be_given_and_a_genesis_validators_cannot(
    testnet: Testnet, tmp_path: Path
) -> None:
    given = testnet.key_path("trader-00")
    made = prepare_validator(tmp_path / "rich", testnet, key_file=given, name="rich")
    assert load_key(made.key_path).public == load_key(given).public
    with pytest.raises(ConfigError, match="validator of genesis"):
        prepare_validator(tmp_path / "no", testnet, key_file=testnet.key_path("validator-1"))
    with pytest.raises(ConfigError, match="not an empty directory"):
        prepare_validator(tmp_path / "rich", testnet)


def test_where_nobody_can_bond_no_validator_is_made(tmp_path: Path) -> None:
    fixed = create_testnet(tmp_path / "net", TestnetOptions(traders=0, staking=staking_of(0)))
    with pytest.raises(ConfigError, match="--epoch-s"):
        prepare_validator(tmp_path / "fifth", fixed)
    assert not (tmp_path / "fifth").exists()


def test_configurations_that_fit_no_validator_are_refused(
    testnet: Testnet, joining: JoiningValidator
) -> None:
    text = joining.config_path.read_text()
    for old, new, words in (
        ('certificate = "validator.crt"\n', "", "has a certificate"),
        ("index = -1", "index = -2", "an index of 0 or more"),
        ("index = -1", "index = 0", "have theirs in genesis"),
        ('role = "node"', 'role = "prover"', "an index of 0 or more"),
    ):
        assert old in text
        joining.config_path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=words):
            load_config(joining.config_path)
    joining.config_path.write_text(text)
    joining.key_path.unlink()
    save_key(testnet.key("validator-2"), joining.key_path)
    config = load_config(joining.config_path)
    with pytest.raises(ConfigError, match="key of validator 2 in genesis"):
        load_process_key(config, load_chain(config))


def test_a_certificate_of_another_key_stops_the_process(
    testnet: Testnet, joining: JoiningValidator
) -> None:
    joining.key_path.unlink()
    save_key(testnet.key("trader-00"), joining.key_path)
    config = load_config(joining.config_path)
    chain = load_chain(config)
    config.data.mkdir()

    async def start() -> None:
        with pytest.raises(ConfigError, match="does not belong to the validator's key"):
            ValidatorProcess(config, chain, load_process_key(config, chain))

    asyncio.run(start())


def test_the_command_says_what_comes_next(
    testnet: Testnet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["trilemma", "validator", "init", str(tmp_path / "v"), "--testnet"]
    monkeypatch.setattr("sys.argv", [*argv, str(testnet.directory), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    data = json.loads(capsys.readouterr().out)
    assert load_config(Path(data["config"])).peer_listen == data["peer"]
    assert len(bytes.fromhex(data["address"])) == 20


def test_the_steps_that_are_printed_bond_before_they_start(
    testnet: Testnet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["trilemma", "validator", "init", str(tmp_path / "v"), "--testnet"]
    monkeypatch.setattr("sys.argv", [*argv, str(testnet.directory)])
    with pytest.raises(SystemExit):
        cli.main()
    steps = [line for line in capsys.readouterr().out.splitlines() if "  trilemma " in line]
    kinds = ("withdraw 2000", "validator bond 1000", "node --config", "validator list")
    assert len(steps) == len(kinds)
    assert all(kind in step for kind, step in zip(kinds, steps, strict=True))
