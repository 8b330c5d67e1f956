"""Whether a log was longer once than it is here: the base layer remembers what it has settled.

A sequencer that lost its data looks like one that starts for the first time. With others there, a
quorum of them tells what its key has signed (`consensus.rejoin`); a sequencer alone is its own
quorum, and so is a set of them that lost everything together.
"""

from __future__ import annotations

from protocol.chain import Remembered
from protocol.errors import SafetyViolation


class SettledLog:
    """What the base layer has settled of the log, and what that forbids a sequencer that signs.

    `empty`: its log had no block at the start; `alone`: there is no other sequencer.
    """

    def __init__(self, *, empty: bool, alone: bool, signs: bool) -> None:
        self._empty = empty
        self._alone = alone
        self.height = 0
        """Up to here the log is known to be settled."""
        self.asks = signs and (empty or alone)
        """Whether the base layer is to be asked."""
        self.waiting = signs and empty
        """Whether nothing may be signed before it has told."""

    def told(self, height: int, committed_height: int) -> None:
        """The log is settled up to `height`, and known here up to `committed_height`.

        Raises `SafetyViolation` where it was lost, and nobody else has it.
        """
        if self._alone and height > committed_height:
            raise SafetyViolation(
                f"the base layer has settled this log up to block {height}, but here it ends at "
                f"block {committed_height}: it was lost, or comes from a backup. The key must not "
                "sign again: trilemma restore brings back a backup of this sequencer, which then "
                "serves its log and signs nothing; without one, users leave by the base layer"
            )
        self.height = max(self.height, height)
        self.waiting = False

    def counts(self, answer: Remembered) -> bool:
        """Whether somebody who answers knows all that is settled: the word of those who forgot it,
        too, says nothing of what a forgetful member has signed."""
        return not self._empty or answer.qc.height >= self.height

    def trouble(self, committed_height: int) -> str:
        """Why the sequencer does not sign yet; empty where it may."""
        if self.waiting:
            return "not taking part: the base layer has not told yet how far the log is settled"
        if self._empty and committed_height < self.height:
            return (
                f"catching up: the log is settled up to block {self.height}, and ends here at "
                f"block {committed_height}"
            )
        return ""
