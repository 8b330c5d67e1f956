"""Evidence: two statements signed by one member of which an honest one signs at most one.

Anybody can check it with the keys of the epoch that it names, so the ledger punishes on evidence
alone. What honest members may do is no evidence: several timeouts in one view, a vote and a later
timeout.
"""

from __future__ import annotations

from protocol.chain import Header, Vote
from protocol.codec import Decoder, Wire, encode
from protocol.keys import domain_hash


class DoubleVote(Wire, frozen=True, tag=1):
    """Two votes of one member in one view for different blocks, the lower block id first."""

    first: Vote
    second: Vote

    @property
    def member(self) -> int:
        """Index of the accused in its epoch's member set."""
        return self.first.member

    @property
    def view(self) -> int:
        """View of both statements."""
        return self.first.view

    @property
    def epoch(self) -> int:
        """Epoch of both statements."""
        return self.first.epoch


class DoubleProposal(Wire, frozen=True, tag=2):
    """Two blocks proposed by one leader in one view, the lower block id first."""

    first: Header
    first_signature: bytes
    second: Header
    second_signature: bytes

    @property
    def member(self) -> int:
        """Index of the accused in its epoch's member set."""
        return self.first.proposer

    @property
    def view(self) -> int:
        """View of both statements."""
        return self.first.view

    @property
    def epoch(self) -> int:
        """Epoch of both statements."""
        return self.first.epoch


Evidence = DoubleVote | DoubleProposal

decode_evidence: Decoder[Evidence] = Decoder(Evidence)


def evidence_id(chain_id: bytes, evidence: Evidence) -> bytes:
    """Identity of an offence (32 bytes): one member is punished once for one view of one epoch."""
    place = (evidence.epoch, evidence.view, evidence.member)
    return domain_hash(b"trilemma/evidence", chain_id, encode(place))
