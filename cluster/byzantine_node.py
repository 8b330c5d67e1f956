"""Validators that lie to other validators, by the behaviours of the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from consensus import Event, MemberSet, Replica
from net.service import StatusValues
from node.process import ValidatorProcess
from node.rounds import replica_config
from node.snapshots import SyncedSnapshot
from protocol.chain import ConsensusMessage
from protocol.genesis import Chain
from protocol.keys import Key
from sim.byzantine import Byzantine, EquivocatingLeader, EquivocatingVoter
from sim.byzantine_forgers import Flooder, ForgedCertificates, InvalidPayloads
from sim.random import SplitMix64, derive_seed
from store.config import ProcessConfig

SEED = 1
_OWN = frozenset(
    {"node", "replica", "random", "qcs", "tcs", "headers", "leaders", "_stopped", "name"}
)
"""What a behaviour has of its own; everything else is the replica's."""


class Standing(Byzantine):
    """A behaviour in the place of a real replica."""

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:
            raise AttributeError(name)
        return getattr(self.replica, name)

    def __setattr__(self, name: str, value: object) -> None:
        target = self if name in _OWN else self.replica
        object.__setattr__(target, name, value)


class Equivocates(Standing, EquivocatingLeader, EquivocatingVoter):
    """Two blocks in a view, and votes for both."""

    name = "equivocates"


class Garbage(Standing, Flooder, InvalidPayloads, ForgedCertificates):
    """Blocks of which something is wrong, certificates of nobody, and floods."""

    name = "garbage"


class Silent(Standing):
    """Nothing at all."""

    name = "silent"

    def change(
        self, members: Sequence[int], message: ConsensusMessage
    ) -> list[tuple[int, ConsensusMessage]]:
        """Nobody is told."""
        del members, message
        self.bite()
        return []

    def also(self, event: Event, now_ms: int) -> list[tuple[int, ConsensusMessage]]:
        """Nothing beside."""
        del event, now_ms
        return []


KINDS: dict[str, type[Standing]] = {kind.name: kind for kind in (Equivocates, Garbage, Silent)}


class LyingValidator(ValidatorProcess):
    """A validator behind a behaviour."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key, kind: str) -> None:
        super().__init__(config, chain, key)
        self.name, self.key = config.name, key
        self.lies = 0
        self._kind = KINDS[kind]
        self._roots: dict[int, bytes] = {}
        blocks: dict[int, bytes] = {0: b""}
        self.world = SimpleNamespace(
            kernel=SimpleNamespace(stream=lambda name: SplitMix64(derive_seed(SEED, name))),
            bite=self._bite, config=replica_config(chain.genesis.ledger_pace), operations=[],
            checkers=SimpleNamespace(roots=self._roots, blocks=blocks),
        )  # fmt: skip
        self._wrap()

    @property
    def members(self) -> MemberSet:
        """Members of the current epoch."""
        return self._machines.validator.members

    def _wrap(self) -> None:
        validator: Any = self._machines.validator
        stand: Any = self
        honest: Replica = validator.replica
        validator.replica = self._kind(stand, honest)

    def _bite(self, kind: str, count: int = 1) -> None:
        del kind
        self.lies += count

    async def _start_anew(self, snapshot: SyncedSnapshot) -> None:
        await super()._start_anew(snapshot)
        self._wrap()

    def _status(self) -> StatusValues:
        return {**super()._status(), "byzantine": self._config.byzantine, "lies_told": self.lies}


def make(config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> LyingValidator:
    """A validator that lies."""
    return LyingValidator(config, chain, key, names[0])
