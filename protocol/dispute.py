"""Moves and record of a dispute: one challenger's game against one settled batch.

Positions count the ordered blocks of the batch: the root at position 0 is the batch's pre-state
root, at its last position the post-state root that its header claims. Both sides agree on the root
at the lower end of the open segment and not on the one at its upper end. The defender cuts the
segment by posting roots, the challenger names the part whose beginning it agrees with and whose end
it does not. When the segment is one step, the defender shows a witness of the state before it, the
ledger executes the step, and the root decides. Who lets its clock run out loses.
"""

from __future__ import annotations

from protocol.codec import Decoder, Wire
from protocol.keys import domain_hash
from protocol.windows import SECTIONS_MAX as SECTIONS_MAX

DEFENDER = 0
CHALLENGER = 1
"""Whose move it is."""


class OpenDispute(Wire, frozen=True, tag=8):
    """Claim that settled batch `batch` leads to `post_state_root`, which is not what its header
    says. Locks the challenger's bond. One open game of a challenger on a batch."""

    batch: int
    post_state_root: bytes


class Contradict(Wire, frozen=True, tag=9):
    """Show that a batch's header contradicts its own post-state root: `proof` is an encoded
    `TreeProof` of the leaves that the header speaks of. Decided at once."""

    batch: int
    proof: bytes


class Cut(Wire, frozen=True, tag=10):
    """The defender's move: roots that cut the open segment of a challenger's game into equal parts
    (`protocol.dispute.cuts` says where), lowest first; the ends are known."""

    batch: int
    challenger: bytes
    roots: list[bytes]


class Choose(Wire, frozen=True, tag=11):
    """The challenger's move: the part (0: the first) whose beginning it agrees with and whose end
    it does not."""

    batch: int
    part: int


class Prove(Wire, frozen=True, tag=12):
    """The defender's last move: a witness of the state before the one step that is left.

    `block`: the encoded `OrderedBlock` of the step; `inbox_cursor`: inbox entries taken in after
    it; `path` leads from their `step_leaf` to the batch's `steps_root`. A witness that is not of
    the agreed state loses the game at once.
    """

    batch: int
    challenger: bytes
    witness: bytes
    block: bytes
    inbox_cursor: int
    path: list[bytes]


DisputeAction = OpenDispute | Contradict | Cut | Choose | Prove


class DisputeLeaf(Wire, frozen=True):
    """A game as the ledger keeps it; batch and challenger (its address) are in the key.

    `low`, `high`: the open segment. `roots`: of its lower end (agreed), of the cuts waiting for the
    challenger's choice, and of its upper end (disputed). `turn`: whose move; `since_ms`: window
    time from which that side's clock runs; `clocks_ms`: what each side has left.
    """

    low: int
    high: int
    roots: list[bytes]
    turn: int
    since_ms: int
    clocks_ms: list[int]
    bond_uusd: int


def step_leaf(block_id: bytes, inbox_cursor: int) -> bytes:
    """Leaf of a batch's `steps_root`, which the ledger computes when it settles the batch: an
    ordered block and the inbox cursor (0 to 2^63 - 1) after it (32 bytes)."""
    return domain_hash(b"trilemma/step", inbox_cursor.to_bytes(8, "big"), block_id)


decode_dispute: Decoder[DisputeLeaf] = Decoder(DisputeLeaf)


def positions(leaf: DisputeLeaf, sections: int) -> list[int]:
    """Positions of a game's `roots`, in their order."""
    if len(leaf.roots) == 2:
        return [leaf.low, leaf.high]
    return [leaf.low, *cuts(leaf.low, leaf.high, sections), leaf.high]


def cuts(low: int, high: int, sections: int) -> list[int]:
    """The positions strictly between `low` and `high` that cut the segment into at most `sections`
    parts whose lengths differ by at most one."""
    parts = min(sections, high - low)
    return [low + (high - low) * part // parts for part in range(1, parts)]
