"""A sequencer that orders nothing of one signer."""

from __future__ import annotations

import structlog

from execution.admission import Kind, open_one
from net.service import ClientSession, StatusValues
from protocol.codec import Wire
from protocol.errors import ConfigError
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.messages import Submit
from sequencer.process import SequencerProcess
from store.config import ProcessConfig

_log = structlog.get_logger()


class CensoringSequencer(SequencerProcess):
    """Drops what the victim (a public key; empty: whoever comes first) submits, without a word."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key, victim: bytes) -> None:
        super().__init__(config, chain, key)
        self._victim = victim
        self._dropped = 0

    def _submit(self, session: ClientSession, request: Submit) -> Wire | None:
        opened = open_one(request.batch)
        signed = opened.signed
        if signed is not None and opened.kind < Kind.ORACLE:
            if not self._victim:
                self._victim = signed.signer
                _log.critical("CENSORING a signer", signer=signed.signer.hex())
            if signed.signer == self._victim:
                self._dropped += 1
                return None
        return super()._submit(session, request)

    def _status(self) -> StatusValues:
        return {
            **super()._status(),
            "byzantine": self._config.byzantine,
            "lies_told": self._dropped,
        }


def make(config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> CensoringSequencer:
    """A sequencer that censors."""
    text = names[0].partition(":")[2]
    try:
        victim = bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"censors:{text}: the victim is a public key in hex") from None
    return CensoringSequencer(config, chain, key, victim)
