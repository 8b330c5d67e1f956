"""Challengers that do harm: one that is in league with a liar, and one that disputes everything."""

from __future__ import annotations

from collections.abc import Sequence

import prover.process_challenger as honest
from cluster.byzantine import replaced
from execution.inbox import VerifiedInbox
from net.service import StatusValues
from protocol.dispute import CHALLENGER, Choose, DisputeAction, OpenDispute
from protocol.genesis import Chain
from protocol.keys import Key
from protocol.ordering import OrderedBlock
from prover.challenger import Challenger
from prover.process_challenger import ChallengerProcess
from store.config import ProcessConfig

NOTHING_LEADS_HERE = b"\x5a" * 32


class PlaysToLose(Challenger):
    """Opens its game on a wrong batch as others do, and then names what is right as wrong."""

    def move(self, before: bytes = b"") -> DisputeAction | None:
        """The last part is behind the lie, where nothing changes any more: the prover shows it."""
        game, settled = self.game, self.settled
        plays = self.wrong and game is not None and game.turn == CHALLENGER and not game.shown
        if plays and game is not None and settled is not None:
            return Choose(settled.header.number, len(game.roots) - 2)
        return super().move(before)


class DisputesEverything(Challenger):
    """Opens a game on every batch, and lets its clock run out in those on right ones."""

    disputed = 0

    def check(self, blocks: Sequence[OrderedBlock], inbox: VerifiedInbox) -> None:
        """As an honest one; what is right is disputed all the same."""
        number = self.next
        super().check(blocks, inbox)
        if not self.wrong:
            self._victims.append(number)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._victims: list[int] = []

    def move(self, before: bytes = b"") -> DisputeAction | None:
        """A dispute of what is right, or an honest move."""
        if self.wrong or not self._victims:
            return super().move(before)
        self.disputed += 1
        return OpenDispute(self._victims.pop(), NOTHING_LEADS_HERE)


KINDS: dict[str, type[Challenger]] = {
    "plays-to-lose": PlaysToLose,
    "disputes-everything": DisputesEverything,
}


class LyingChallenger(ChallengerProcess):
    """A challenger of one of these kinds."""

    def __init__(self, config: ProcessConfig, chain: Chain, key: Key, kind: str) -> None:
        with replaced(honest, Challenger=KINDS[kind]):
            super().__init__(config, chain, key)

    def _status(self) -> StatusValues:
        disputed = getattr(self._machine, "disputed", 0)
        return {
            **super()._status(),
            "byzantine": self._config.byzantine,
            "right_batches_disputed": disputed,
        }


def make(config: ProcessConfig, chain: Chain, key: Key, names: list[str]) -> LyingChallenger:
    """A challenger that does harm."""
    return LyingChallenger(config, chain, key, names[0])
