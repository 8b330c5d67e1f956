"""Who leads: round robin where a view was entered by a timeout certificate, reputation otherwise.

After Cohen, Gelashvili, Kokoris-Kogias, Li, Malkhi, Sonnino, Spiegelman: "Be Aware of Your Leaders"
(2022). The leader of view v on top of a certified block of view v - 1 is a function of that block
and its ancestors: all who extend the block agree on it, whatever else they have seen. Members that
neither voted nor proposed lately do not lead, nor does one whose last turn in the window failed. A
view that follows a failed one is led in turn by everybody, so an unlucky window costs views and
never liveness.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from consensus.members import MemberSet
from protocol.chain import QC, Header

ACTIVE_BLOCKS = 32
"""Newest blocks in which a member must have voted or proposed to lead: who died is out soon."""

CACHED = 64
"""Blocks whose successor's candidates are remembered."""


class Entry(NamedTuple):
    """What a block says of members: bit sets of indices, and indices (-1: nobody)."""

    height: int
    active: int
    proposer: int
    skipped: int


class Reputation:
    """Leaders of one epoch. Committed blocks are noted in order; uncommitted ones come along."""

    def __init__(self, members: MemberSet, origin: QC, window: int) -> None:
        self._members = members
        self._origin = origin
        self._window = window
        self._entries: deque[Entry] = deque(maxlen=window)
        self._candidates: dict[bytes, list[int]] = {}

    def note(self, header: Header, justify: QC) -> None:
        """Take the next committed block of the epoch."""
        if self._entries and header.height != self._entries[-1].height + 1:
            self._entries.clear()
        self._entries.append(_entry(header, justify))

    def after(
        self, parent: Header, parent_id: bytes, uncommitted: Sequence[tuple[Header, QC]] = ()
    ) -> int:
        """Leader of the view after that of a certified block.

        `uncommitted` are headers and QCs of the blocks above the newest committed one, lowest
        first, up to the parent itself.
        """
        view = parent.view + 1
        if len(self._members) == 1 or parent_id == self._origin.block_id:
            return self._members.leader(view)
        candidates = self._candidates.get(parent_id)
        if candidates is None:
            chain = [*self._entries, *(_entry(*block) for block in uncommitted)]
            candidates = _eligible(chain[: -self._window - 1 : -1], len(self._members))
            if len(self._candidates) >= CACHED:
                del self._candidates[next(iter(self._candidates))]
            self._candidates[parent_id] = candidates
        # Where every turn failed, whoever proposed the parent goes on.
        return candidates[view % len(candidates)] if candidates else parent.proposer


def _entry(header: Header, justify: QC) -> Entry:
    active = 1 << header.proposer
    for signature in justify.signatures:
        active |= 1 << signature.member
    skipped = -1 if header.skipped is None else header.skipped
    return Entry(header.height, active, header.proposer, skipped)


def _eligible(newest_first: Iterable[Entry], size: int) -> list[int]:
    """Indices of members that were active and whose last turn did not fail, ascending."""
    active = seen = failed = 0
    everybody = (1 << size) - 1
    for age, entry in enumerate(newest_first):
        if active == seen == everybody:
            break  # older blocks say nothing more
        if age < ACTIVE_BLOCKS:
            active |= entry.active
        # A block and the failed turn before it: the block came later.
        for member, bad in ((entry.proposer, False), (entry.skipped, True)):
            if member < 0 or seen >> member & 1:
                continue
            seen |= 1 << member
            failed |= (1 << member) if bad else 0
    return [member for member in range(size) if (active & ~failed) >> member & 1]
