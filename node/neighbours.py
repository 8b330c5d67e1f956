"""Whom a validator has links with, and by which certificates it knows them.

These are the members of the epoch, those of the next one once it is decided, and candidates: who
has stake, or waits for its return, follows the chain without a vote.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.ledger_leaves import EpochMember, ValidatorLeaf

MAX_CANDIDATES = 32
"""Most candidates with a link, those of the highest stake: anybody may bond a little."""


@dataclass(slots=True)
class Neighbour:
    """A validator's certificates (DER, newest last) and its newest address (empty: that of the
    configuration)."""

    public_key: bytes
    certificates: list[bytes] = field(default_factory=list)
    address: str = ""

    def learn(self, certificate: bytes, address: str) -> None:
        """Take over what a newer leaf says."""
        if certificate in self.certificates:
            self.certificates.remove(certificate)
        self.certificates.append(certificate)
        self.address = address or self.address


def neighbours(
    current: Iterable[EpochMember],
    following: Iterable[EpochMember],
    validators: Iterable[ValidatorLeaf],
) -> list[Neighbour]:
    """Neighbours from the members of the epoch, of the next one, and all validators there are."""
    found: dict[bytes, Neighbour] = {}
    for member in (*current, *following):
        known = found.setdefault(member.public_key, Neighbour(member.public_key))
        known.learn(member.certificate, member.address)
    candidates = []
    for leaf in validators:
        if leaf.public_key in found:
            found[leaf.public_key].learn(leaf.certificate, leaf.address)
        elif leaf.stake_uusd > 0 or leaf.unbonding:
            candidates.append(leaf)
    candidates.sort(key=_weight, reverse=True)
    for leaf in candidates[:MAX_CANDIDATES]:
        known = found[leaf.public_key] = Neighbour(leaf.public_key)
        known.learn(leaf.certificate, leaf.address)
    return list(found.values())


def _weight(leaf: ValidatorLeaf) -> tuple[int, int, bytes]:
    return leaf.stake_uusd, sum(one.amount_uusd for one in leaf.unbonding), leaf.public_key
