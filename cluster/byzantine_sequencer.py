"""Sequencers that lie: to one signer, or to the other sequencers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import structlog

from cluster.byzantine_node import SEED, Equivocates
from consensus import Broadcast, MemberSet
from execution.admission import Kind, open_one
from net.clock import now_ms
from net.service import ClientSession, StatusValues
from protocol.actions import ActionBatch, OraclePrice, SignedBatch
from protocol.codec import Wire, encode
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import SCHEME_ED25519, Key
from protocol.messages import Submit
from sequencer.machine import Pass, SequencerEffect
from sequencer.peer import PassedBatches
from sequencer.process import SequencerProcess
from sim.random import SplitMix64, derive_seed
from store.config import ProcessConfig

FALSE_PRICES = 16
"""So many in a message."""

_log = structlog.get_logger()


class LyingSequencer(SequencerProcess):
    """A sequencer that counts its lies."""

    lies = 0

    def _status(self) -> StatusValues:
        return {
            **super()._status(),
            "byzantine": self._config.byzantine,
            "lies_told": self.lies,
        }


class CensoringSequencer(LyingSequencer):
    """Drops what the victim (a public key; empty: whoever comes first) submits, without a word."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key, victim: bytes) -> None:
        super().__init__(config, chain, key)
        self._victim = victim

    def _submit(self, session: ClientSession, request: Submit) -> Wire | None:
        opened = open_one(request.batch)
        signed = opened.signed
        if signed is not None and opened.kind < Kind.ORACLE:
            if not self._victim:
                self._victim = signed.signer
                _log.critical("CENSORING a signer", signer=signed.signer.hex())
            if signed.signer == self._victim:
                self.lies += 1
                return None
        return super()._submit(session, request)


class EquivocatingSequencer(LyingSequencer):
    """Runs a behaviour in the place of its replica."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key) -> None:
        super().__init__(config, chain, key)
        self.name, self.key = config.name, key
        machine: Any = self._machine
        stand: Any = self
        self.world = SimpleNamespace(
            kernel=SimpleNamespace(stream=lambda name: SplitMix64(derive_seed(SEED, name))),
            bite=self._bite, config=machine.replica.config, operations=[],
            checkers=SimpleNamespace(roots={}, blocks={0: b""}),
        )  # fmt: skip
        machine.replica = Equivocates(stand, machine.replica)

    @property
    def members(self) -> MemberSet:
        """The sequencers."""
        return self._machine.members

    def _bite(self, kind: str, count: int = 1) -> None:
        del kind
        self.lies += count


class MisquotingSequencer(LyingSequencer):
    """Passes false prices on to the others, with everything that it tells all of them."""

    def _answer(self, effect: SequencerEffect) -> None:
        super()._answer(effect)
        if isinstance(effect, Broadcast):
            super()._answer(Pass(PassedBatches([self._price() for _ in range(FALSE_PRICES)])))

    def _price(self) -> bytes:
        self.lies += 1
        oracle = bytes.fromhex(self._chain.genesis.oracles[0])
        batch = ActionBatch(0, now_ms(), 0, [OraclePrice(0, self.lies)])
        return encode(SignedBatch(SCHEME_ED25519, oracle, encode(batch), bytes(64)))


def make(config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> LyingSequencer:
    """A sequencer that lies."""
    kind, _, text = names[0].partition(":")
    if kind == "equivocates":
        return EquivocatingSequencer(config, chain, key)
    if kind == "false-prices":
        return MisquotingSequencer(config, chain, key)
    try:
        victim = bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"censors:{text}: the victim is a public key in hex") from None
    return CensoringSequencer(config, chain, key, victim)
