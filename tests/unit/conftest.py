"""What the tests of faults share: a testnet that is not started, and processes that are not there.
Modules with another `testnet` or `world` have their own."""

from __future__ import annotations

import pytest
from faults_world import World, nemesis_of

from cluster.faults_api import Nemesis
from cluster.testnet import TestnetOptions, create_testnet
from store.testnet import Testnet


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    folder = tmp_path_factory.mktemp("faults") / "testnet"
    return create_testnet(folder, TestnetOptions(traders=0, free_ports=True))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def nemesis(testnet: Testnet, world: World, monkeypatch: pytest.MonkeyPatch) -> Nemesis:
    return nemesis_of(testnet, world, monkeypatch)
