"""The two players of a dispute: what is needed to make every move, and the moves themselves.

Pure. The defender knows the state changes of its batch block by block, the challenger those of its
own execution; either can say the state root after any block that is not final, by leading one state
tree back and forth. Which side is right nobody has to say: who can show the step wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from protocol.codec import Decoder, Wire, encode
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    Choose,
    Cut,
    DisputeLeaf,
    Prove,
    cuts,
    positions,
    step_leaf,
)
from protocol.errors import SafetyViolation
from protocol.merkle import list_proof
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader
from protocol.tree_proof import TreeProof
from prover.judge import make_witness
from prover.tree import StateTree

Change = tuple[bytes, bytes | None]
"""A state key and its value after (in undo: before) something; None: absent."""


class Segment(Wire, frozen=True):
    """What consecutive blocks from `first_block` on changed, each by itself, and the values before
    the first of them."""

    first_block: int
    changes: list[list[Change]]
    undo: list[Change]

    @property
    def last_block(self) -> int:
        """Height of its last block."""
        return self.first_block + len(self.changes) - 1


decode_segment: Decoder[Segment] = Decoder(Segment)


def coalesced(changes: Iterable[Iterable[Change]]) -> dict[bytes, bytes | None]:
    """What blocks changed together."""
    net: dict[bytes, bytes | None] = {}
    for block in changes:
        net.update(block)
    return net


class Trace:
    """The states after recent blocks, out of one tree that stands behind the newest of them."""

    def __init__(self, tree: StateTree, block: int) -> None:
        self._tree = tree
        self._block = block
        self._segments: list[Segment] = []

    @property
    def first(self) -> int:
        """Lowest block whose state is known."""
        return self._segments[0].first_block - 1 if self._segments else self._block

    @property
    def last(self) -> int:
        """Block whose state the tree holds."""
        return self._segments[-1].last_block if self._segments else self._block

    @property
    def segments(self) -> Sequence[Segment]:
        """What is kept, oldest first."""
        return self._segments

    def extend(self, changes: Sequence[Mapping[bytes, bytes | None]]) -> Segment:
        """Lead the tree over the next blocks, at least one."""
        net = coalesced(one.items() for one in changes)
        undo = [(key, self._tree.get(key)) for key in net]
        self._tree.update(net)
        segment = Segment(self.last + 1, [list(one.items()) for one in changes], undo)
        self._segments.append(segment)
        return segment

    def follow(self, segment: Segment) -> None:
        """Take up a segment over which somebody else has led the tree already."""
        if segment.first_block != self.last + 1 or not segment.changes:
            raise SafetyViolation(
                f"blocks from {segment.first_block} on do not follow block {self.last}"
            )
        self._segments.append(segment)

    def forget(self, block: int) -> None:
        """States before `block` are not needed any more; whole segments go."""
        while self._segments and self._segments[0].last_block <= block:
            self._block = self._segments.pop(0).last_block

    def drop(self, block: int) -> None:
        """Take off the segments behind `block`, over which somebody has led the tree back."""
        while self._segments and self._segments[-1].first_block > block:
            self._segments.pop()
        if self.last != block:
            raise SafetyViolation(f"no segment ends with block {block}")

    # --- states

    def roots(self, blocks: Sequence[int]) -> list[bytes]:
        """State roots (32 bytes each) after these blocks, which come in rising order."""
        if not blocks:
            return []
        found: list[bytes] = []
        with self._at(blocks[0]):
            for before, block in zip([blocks[0], *blocks], blocks, strict=False):
                self._tree.update(coalesced(self._between(before, block)))
                found.append(self._tree.root)
        return found

    def leaves(self, block: int) -> list[tuple[bytes, bytes]]:
        """All leaves of the state after a block, in key order."""
        with self._at(block):
            return list(self._tree.iterate())

    def prove(self, block: int, keys: Sequence[bytes]) -> TreeProof:
        """Proof of leaves under the state root after a block."""
        with self._at(block):
            return self._tree.prove(keys)

    def _between(self, before: int, block: int) -> Iterator[list[Change]]:
        for segment in self._segments:
            low = max(before + 1 - segment.first_block, 0)
            yield from segment.changes[low : max(block + 1 - segment.first_block, 0)]

    @contextmanager
    def _at(self, block: int) -> Iterator[None]:
        """The tree after `block` while this is open, or later: it returns to its end from there."""
        if not self.first <= block <= self.last:
            raise SafetyViolation(f"the state after block {block} is not known")
        back: dict[bytes, bytes | None] = {}
        ends: dict[bytes, bytes | None] = {}
        for segment in reversed(self._segments):
            if segment.last_block <= block:
                break
            back.update(segment.undo)
            if segment.first_block <= block:
                back.update(coalesced(segment.changes[: block + 1 - segment.first_block]))
        for key in back:
            ends[key] = self._tree.get(key)
        self._tree.update(back)
        try:
            yield
        finally:
            self._tree.update(ends)


class BatchSteps(Wire, frozen=True):
    """A batch's header, encoded ordered blocks, and the inbox cursor after each of them."""

    header: BatchHeader
    blocks: list[OrderedBlock]
    cursors: list[int]

    def proof(self, index: int) -> list[bytes]:
        """Path of a block and its cursor to the batch's `steps_root`."""
        leaves = [
            step_leaf(block.header.block_id(), cursor)
            for block, cursor in zip(self.blocks, self.cursors, strict=True)
        ]
        return list_proof(leaves, index)


class Defender:
    """Defends batches that its owner executed rightly."""

    def __init__(self, trace: Trace, sections: int) -> None:
        self.trace = trace
        self._sections = sections

    def reply(self, steps: BatchSteps, challenger: bytes, game: DisputeLeaf) -> Cut | Prove | None:
        """The next move in a challenger's (address) game; None while it is not ours.

        Raises `Rejected(bad_witness)` where the state is too large to be shown.
        """
        if game.turn != DEFENDER:
            return None
        number, before = steps.header.number, steps.header.first_block - 1
        if game.high - game.low > 1:
            at = [before + one for one in cuts(game.low, game.high, self._sections)]
            return Cut(number, challenger, self.roots(at))
        return Prove(
            number, challenger, make_witness(self.leaves(before + game.low)),
            encode(steps.blocks[game.low]), steps.cursors[game.low], steps.proof(game.low),
        )  # fmt: skip

    def roots(self, blocks: Sequence[int]) -> list[bytes]:
        """State roots after blocks, as they are shown."""
        return self.trace.roots(blocks)

    def leaves(self, block: int) -> list[tuple[bytes, bytes]]:
        """The state after a block, as it is shown."""
        return self.trace.leaves(block)


def choose(trace: Trace, header: BatchHeader, game: DisputeLeaf, sections: int) -> Choose | None:
    """The challenger's move: the first part behind which the roots differ from those of its own
    execution; None while it is not its turn.

    Raises `SafetyViolation` where its own execution leads to all of them: it disputes nothing.
    """
    if game.turn != CHALLENGER:
        return None
    at = [header.first_block - 1 + one for one in positions(game, sections)]
    ours = trace.roots(at)
    for part, (mine, theirs) in enumerate(zip(ours[1:], game.roots[1:], strict=True)):
        if mine != theirs:
            return Choose(header.number, part)
    raise SafetyViolation(f"nothing in batch {header.number} is disputed")
