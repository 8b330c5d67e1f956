"""What `validator bond` fills in, and what a command says of a validator that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client import validators
from client.sdk import Exchange
from cluster.testnet import TestnetOptions, contained, create_testnet
from protocol.errors import ConfigError
from protocol.keys import Key
from protocol.ledger_leaves import ValidatorLeaf
from protocol.settlement import Bond
from store.testnet import Testnet

CERTIFICATE = b"certificate"


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    directory = tmp_path_factory.mktemp("validators") / "testnet"
    return create_testnet(directory, TestnetOptions(validators=4, traders=1, free_ports=True))


async def bonded(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch, key: Key, known: str, given: str = ""
) -> Bond:
    """The bond that is sent for a validator whose address in the ledger is `known`."""
    sent: list[Any] = []
    leaf = ValidatorLeaf(key.public, 1, CERTIFICATE, known, 0, [])

    async def leaves(*_: object) -> tuple[dict[bytes, ValidatorLeaf | None], int]:
        return {key.public: leaf}, 1

    async def send(signer: Key, action: Any) -> None:
        assert signer is key
        sent.append(action)

    monkeypatch.setattr(validators, "_leaves", leaves)
    exchange = Exchange.connect(testnet.directory)
    exchange.ledger = SimpleNamespace(send=send)  # type: ignore[assignment]
    await validators.bond(exchange, key, 5, given, None)
    (bond,) = sent
    assert isinstance(bond, Bond) and bond.certificate == CERTIFICATE
    return bond


async def test_a_validator_of_the_testnet_gets_its_own_peer_address(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = testnet.process("validator-2").peer
    key = testnet.key("validator-2")
    assert own and (await bonded(testnet, monkeypatch, key, "")).address == own
    assert (await bonded(testnet, monkeypatch, key, "a:1")).address == "a:1"
    assert (await bonded(testnet, monkeypatch, key, "a:1", "b:2")).address == "b:2"


async def test_in_containers_it_is_the_one_that_other_containers_dial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = contained(TestnetOptions(traders=1, free_ports=True), "compose")
    testnet = create_testnet(tmp_path / "compose", options)
    port = testnet.process("validator-2").peer.rpartition(":")[2]
    key = testnet.key("validator-2")
    assert (await bonded(testnet, monkeypatch, key, "")).address == f"validator-2:{port}"


async def test_any_other_validator_has_to_name_its_address(
    testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--address"):
        await bonded(testnet, monkeypatch, Key(bytes(range(32))), "")


def test_a_validator_that_is_not_there_cannot_be_asked_first(testnet: Testnet) -> None:
    Exchange.connect(testnet.directory, first_address=3)
    for number in (4, 9):
        with pytest.raises(ConfigError, match="0 to 3"):
            Exchange.connect(testnet.directory, first_address=number)
