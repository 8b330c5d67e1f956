"""Moves and record of a dispute: one challenger's game against one settled batch.

Positions count the steps of the batch's ordered blocks (`STEPS_PER_BLOCK` places for each): the
root at position 0 is the batch's pre-state root, at its last position the post-state root that its
header claims. Both sides agree on the root at the lower end of the open segment and not on the one
at its upper end. The defender cuts the segment by posting roots, the challenger names the part
whose beginning it agrees with and whose end it does not. When the segment is one step, the defender
shows a witness of the state before it, on which the step gives the root that it claims; the
challenger a larger one, on which it gives another; and so on: the larger witness wins. Who lets its
clock run out loses.
"""

from __future__ import annotations

import msgspec

from protocol.codec import Decoder, Wire
from protocol.keys import domain_hash
from protocol.windows import SECTIONS_MAX as SECTIONS_MAX

HASH_BYTES = 32

DEFENDER = 0
CHALLENGER = 1
"""Whose move it is."""

STEPS_PER_BLOCK = 1 << 20
"""Positions of a game for each ordered block. A block has fewer steps: an action takes two bytes of
its payload of 1.5 MiB at least, or an inbox entry, and genesis bounds the others. Behind its last
step nothing changes."""

WITNESS_BYTES = 16 * 1024 * 1024
WITNESS_LEAVES = 160 * 1024
"""Most bytes and leaves of the first witness of a game, and most that each further one may be
larger: whoever answers has room for it, whatever the other side has shown."""

WITNESS_ROUNDS = 4
"""Witnesses of a game, two for each side; who shows the last one has won."""

PART_BYTES = 768 * 1024
"""Bytes of a part of a witness. What is left behind the parts fits a ledger transaction (3 MiB)
with the ordered block that the step is of (1.5 MiB)."""

PART_MS = 2_000
"""What each part adds to the clock of the side that sends it, in window time."""


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
    """A move of both sides once one step is left, the defender's first: a witness of the state
    before it (`prover.witness`), on which the step gives the claimed root if the defender shows it,
    and another one if the challenger does.

    `added_accounts`, `added_leaves`: what it shows beyond the other side's last witness, account
    numbers and places among its leaves, both ascending; empty in the first. `block`: the encoded
    `OrderedBlock` of the step; `inbox_cursors`: inbox entries taken in before and after it; `path`
    leads from their `step_leaf` to the batch's `steps_root`. A witness that does not hold, or shows
    nothing more, loses the game at once. `whole`: where parts came before, the `whole_hash` that
    they named, and `witness` is what is left behind them; empty where it is all.
    """

    batch: int
    challenger: bytes
    witness: bytes
    added_accounts: list[int]
    added_leaves: list[int]
    block: bytes
    inbox_cursors: tuple[int, int]
    path: list[bytes]
    whole: bytes = b""


class ShowPart(Wire, frozen=True, tag=18):
    """The next part of a witness that is too large for one transaction; a `Prove` ends it.

    `whole`: its `whole_hash`; part 0 of another witness begins anew. `part`: how many parts came
    before. `data`: `PART_BYTES` bytes.
    """

    batch: int
    challenger: bytes
    whole: bytes
    part: int
    data: bytes


DisputeAction = OpenDispute | Contradict | Cut | Choose | Prove | ShowPart


PartPlace = tuple[int, bytes]
"""A part of a witness: ledger height of its transaction, and its `part_hash`."""


class DisputeLeaf(Wire, frozen=True):
    """A game as the ledger keeps it; batch and challenger (its address) are in the key.

    `low`, `high`: the open segment. `roots`: of its lower end (agreed), of the cuts waiting for the
    challenger's choice, and of its upper end (disputed). `turn`: whose move; `since_ms`: window
    time from which that side's clock runs; `clocks_ms`: what each side has left. `shown`: what the
    last witness shows (`prover.witness.shown_hash`), empty before there is one; `shown_height`:
    ledger height of the transaction that it came with; `rounds`: witnesses so far; `shown_parts`:
    its parts, if it came in parts.
    """

    low: int
    high: int
    roots: list[bytes]
    turn: int
    since_ms: int
    clocks_ms: list[int]
    bond_uusd: int
    shown: bytes = b""
    shown_height: int = 0
    rounds: int = 0
    shown_parts: list[PartPlace] = msgspec.field(default_factory=list)


class PartsLeaf(Wire, frozen=True):
    """The parts that the side to move in a game has shown of its next witness; their data stands in
    leaves of its own. `whole`: what they are parts of; `paid`: how many parts of this witness, or
    of one before it, have added to the clock."""

    whole: bytes
    places: list[PartPlace]
    paid: int


def whole_hash(witness: bytes) -> bytes:
    """What names a witness that comes in parts (32 bytes)."""
    return domain_hash(b"trilemma/witness", witness)


def part_hash(data: bytes) -> bytes:
    """What names the data of a part (32 bytes)."""
    return domain_hash(b"trilemma/witness-part", data)


def in_parts(move: Prove) -> tuple[list[ShowPart], Prove]:
    """A move with a witness of any size, as it is sent: the parts, then what ends them."""
    witness = move.witness
    if len(witness) <= PART_BYTES:
        return [], move
    whole, count = whole_hash(witness), (len(witness) - 1) // PART_BYTES
    parts = [
        ShowPart(
            move.batch, move.challenger, whole, part,
            witness[part * PART_BYTES : (part + 1) * PART_BYTES],
        )
        for part in range(count)
    ]  # fmt: skip
    last = msgspec.structs.replace(move, witness=witness[count * PART_BYTES :], whole=whole)
    return parts, last


def step_leaf(block_id: bytes, inbox_cursors: tuple[int, int]) -> bytes:
    """Leaf of a batch's `steps_root`, which the ledger computes when it settles the batch: an
    ordered block and the inbox cursors (0 to 2^63 - 1) before and after it (32 bytes)."""
    before, after = (cursor.to_bytes(8, "big") for cursor in inbox_cursors)
    return domain_hash(b"trilemma/step", before, after, block_id)


decode_dispute: Decoder[DisputeLeaf] = Decoder(DisputeLeaf)
decode_parts: Decoder[PartsLeaf] = Decoder(PartsLeaf)


def positions(leaf: DisputeLeaf, sections: int) -> list[int]:
    """Positions of a game's `roots`, in their order."""
    if len(leaf.roots) == 2:
        return [leaf.low, leaf.high]
    return [leaf.low, *cuts(leaf.low, leaf.high, sections), leaf.high]


def cuts(low: int, high: int, sections: int) -> list[int]:
    """The positions strictly between `low` and `high` that cut the segment into at most `sections`
    parts. Parts of several blocks are of whole ones; their lengths differ by at most one block, or
    one step inside of a block."""
    unit = STEPS_PER_BLOCK if high - low > STEPS_PER_BLOCK else 1
    units = (high - low) // unit
    parts = min(sections, units)
    return [low + units * part // parts * unit for part in range(1, parts)]


def witness_limit(game: DisputeLeaf) -> int:
    """Most bytes of the next witness of a game."""
    return WITNESS_BYTES * (game.rounds + 1)


def leaf_limit(game: DisputeLeaf) -> int:
    """Most leaves of the next witness of a game."""
    return WITNESS_LEAVES * (game.rounds + 1)
