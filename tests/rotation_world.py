"""A command that exchanges a validator's key: killed in the middle of what it does, or on a ledger
that is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client.faults import NoProgress
from client.sdk import Exchange
from client.validators import ValidatorSetView, ValidatorView
from cluster import rotate
from cluster.rotate import Rotation
from cluster.rotate_files import Journal, RotationFiles
from cluster.rotate_places import LocalPlace
from cluster.testnet import TestnetOptions, create_testnet
from protocol.genesis import Staking
from protocol.keys import Key
from store.config import load_config
from store.keyfiles import load_key
from store.ownership import claim_directory
from store.testnet import Testnet

NAME = "validator-2"
PEER = "127.0.0.1:31999"


def claimed_testnet(folder: Path) -> Testnet:
    """A testnet whose validator `NAME` has its data directory, as one that ran."""
    made = create_testnet(folder / "net", TestnetOptions(free_ports=True, traders=1))
    config = load_config(made.config_path(NAME))
    config.data.mkdir()
    claim_directory(config, made.chain(), load_key(config.key))
    return made


class Killed(Exception):
    """The command ends here."""


class Life:
    """How many changes the command makes before it is killed."""

    def __init__(self, changes: int) -> None:
        self.left = changes

    def change(self) -> None:
        """One change less; raises `Killed` instead of the one too many."""
        self.left -= 1
        if self.left < 0:
            raise Killed

    def bounds(self, monkeypatch: pytest.MonkeyPatch, functions: Iterable[tuple[Any, str]]) -> None:
        """Count the calls of these functions, each given by module and name, as changes."""

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                self.change()
                return change(*arguments)

            return call

        for module, name in functions:
            monkeypatch.setattr(module, name, counted(getattr(module, name)))


def files_of(testnet: Testnet, name: str = NAME) -> RotationFiles:
    return RotationFiles(LocalPlace(testnet, name))


def begun(testnet: Testnet) -> tuple[RotationFiles, Journal]:
    files = files_of(testnet)
    with files.lock():
        return files, files.begin(PEER)


class World:
    """A rotation whose ledger is made up: `told` is what it does to it, in order."""

    def __init__(self, testnet: Testnet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files, self.journal = begun(testnet)
        self.old, self.new = self.files.keys(self.journal)
        self.exchange = Exchange.connect(testnet.directory)
        self.told: list[str] = []
        self.stakes = {self.journal.old: 1_000, self.journal.new: 0}
        self.balances = {self.old.address: 1_000}
        self.has_quorum = True
        monkeypatch.setattr(self.exchange.ledger, "balance", self.balance)
        monkeypatch.setattr(rotate, "validator_set", self.found)
        monkeypatch.setattr(rotate, "bond", self.bond)
        monkeypatch.setattr(rotate, "unbond", self.unbond)
        monkeypatch.setattr(Rotation, "_require_quorum", self.require_quorum)
        monkeypatch.setattr(Rotation, "_fund", self.fund)

    def rotation(self, peer: str = "", payer: str = "trader-00") -> Rotation:
        """The command, run anew."""
        testnet = Testnet.load(self.files.testnet.directory)
        place = LocalPlace(testnet, NAME)
        made = Rotation(self.exchange, place, payer=payer, peer=peer)
        made._rules = Staking(epoch_ms=1_000, min_stake_uusd=100)
        return made

    async def change_stakes(self) -> None:
        await self.rotation()._change_stakes(self.journal, self.old, self.new)

    async def found(self, _: Exchange) -> ValidatorSetView:
        rows = [
            ValidatorView("", "", key, 0, 0, stake_uusd, False, 0, [], "")
            for key, stake_uusd in self.stakes.items()
        ]
        return ValidatorSetView(1, 1, 0, rows)

    async def balance(self, address: bytes) -> SimpleNamespace:
        return SimpleNamespace(balance_uusd=self.balances.get(address, 0))

    async def bond(self, _: Exchange, key: Key, amount_uusd: int, *__: object) -> None:
        assert key.public == self.new.public
        self.stakes[self.journal.new] += amount_uusd
        self.told.append("bond")

    async def unbond(self, _: Exchange, key: Key, amount_uusd: int) -> None:
        assert key.public == self.old.public and not amount_uusd
        self.stakes[self.journal.old] = 0
        self.told.append("unbond")

    async def require_quorum(self, *_: object) -> None:
        if not self.has_quorum:
            raise NoProgress("no quorum")

    async def fund(self, *_: object) -> None:
        self.told.append("fund")
