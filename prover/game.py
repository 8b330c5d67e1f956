"""The two players of a dispute: what is needed to make every move, and the moves themselves.

Pure. The defender knows the state changes of its batch block by block, the challenger those of its
own execution; either can say the state root after any block that is not final, by leading one state
tree back and forth, and inside of a block by executing its steps. Which side is right nobody has to
say: who can show the step wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

from execution.batches import VerifySignature
from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    STEPS_PER_BLOCK,
    Choose,
    Cut,
    DisputeLeaf,
    Prove,
    cuts,
    leaf_limit,
    positions,
    step_leaf,
    witness_limit,
)
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.genesis import Chain
from protocol.keys import verify
from protocol.merkle import list_proof
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, InboxEntry
from protocol.tree_proof import TreeProof
from prover.step_input import StepInput
from prover.steps import Walk, walk
from prover.tree import StateTree
from prover.window import HELD_BYTES, Change, Records, Segment, Window, coalesced
from prover.witness import NOTHING, added, leaf_count
from prover.witness_maker import FIRST_ROOM, Room


class Trace:
    """The states after recent blocks, out of one tree that stands behind the newest of them.

    `records`: where older blocks are kept instead of in memory, see `prover.window`; `held_bytes`:
    how much of them memory may hold before that.
    """

    def __init__(
        self,
        tree: StateTree,
        block: int,
        records: Records | None = None,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self._tree = tree
        self._window = Window(block, records, held_bytes)
        self._oldest: dict[bytes, bytes] | None = None
        """The leaves after `first`, from when on the way back there is long."""

    @property
    def first(self) -> int:
        """Lowest block whose state is known."""
        return self._window.first

    @property
    def last(self) -> int:
        """Block whose state the tree holds."""
        return self._window.last

    def extend(
        self, changes: Sequence[Mapping[bytes, bytes | None]], notes: Sequence[bytes] = ()
    ) -> Segment:
        """Lead the tree over the next blocks, at least one; `notes`: one of each, or none."""
        net = coalesced(one.items() for one in changes)
        undo = [(key, self._tree.get(key)) for key in net]
        self._tree.update(net)
        blocks = [list(one.items()) for one in changes]
        segment = Segment(self.last + 1, blocks, undo, list(notes))
        self._window.append(segment)
        if self._oldest is None and self._window.put_away:
            self._oldest = dict(self.leaves(self.first))
        return segment

    def forget(self, block: int) -> None:
        """States before `block` are not needed any more; whole segments go."""
        for segment in self._window.forget(block):
            if self._oldest is not None:
                _lead(self._oldest, segment.changes)

    def changes(self, before: int, block: int) -> Iterator[list[Change]]:
        """What each block behind `before`, up to `block`, changed."""
        return self._window.changes(before, block)

    def notes(self, before: int, block: int) -> list[bytes]:
        """The notes of the blocks behind `before`, up to `block`."""
        return list(self._window.notes(before, block))

    def undo(self) -> dict[bytes, bytes | None]:
        """What leads the tree back to the state after `first`."""
        return self._window.undo(self.first)

    # --- states

    def roots(self, blocks: Sequence[int]) -> list[bytes]:
        """State roots (32 bytes each) after these blocks, which come in rising order."""
        if not blocks:
            return []
        found: list[bytes] = []
        with self.at(blocks[0]):
            for before, block in zip([blocks[0], *blocks], blocks, strict=False):
                self._tree.update(coalesced(self._window.changes(before, block)))
                found.append(self._tree.root)
        return found

    def leaves(self, block: int) -> list[tuple[bytes, bytes]]:
        """All leaves of the state after a block, in key order.

        Where blocks are in a log, those behind `first` are soonest told.
        """
        self._require(block)
        if self._oldest is None:
            with self.at(block):
                return list(self._tree.iterate())
        found = dict(self._oldest)
        _lead(found, self._window.changes(self.first, block))
        return sorted(found.items())

    def prove(self, block: int, keys: Sequence[bytes]) -> TreeProof:
        """Proof of leaves under the state root after a block."""
        with self.at(block):
            return self._tree.prove(keys)

    def _require(self, block: int) -> None:
        if not self.first <= block <= self.last:
            raise SafetyViolation(f"the state after block {block} is not known")

    @contextmanager
    def at(self, block: int) -> Iterator[StateTree]:
        """The tree after `block` while this is open, or later: it returns to its end from there."""
        self._require(block)
        back = self._window.undo(block)
        ends = {key: self._tree.get(key) for key in back}
        self._tree.update(back)
        try:
            yield self._tree
        finally:
            self._tree.update(ends)


def _lead(leaves: dict[bytes, bytes], changes: Iterable[Iterable[Change]]) -> None:
    """Lead leaves over what blocks changed."""
    for block in changes:
        for key, value in block:
            if value is None:
                leaves.pop(key, None)
            else:
                leaves[key] = value


class BatchSteps(NamedTuple):
    """What a game is about: a batch's header, its ordered blocks, the inbox cursors before the
    first and after each of them, and the inbox entries in between."""

    header: BatchHeader
    blocks: Sequence[OrderedBlock]
    cursors: Sequence[int]
    inbox: Sequence[InboxEntry]

    def cursors_of(self, index: int) -> tuple[int, int]:
        """Inbox cursors before and after a block."""
        return self.cursors[index], self.cursors[index + 1]

    def step(self, index: int, number: int = 0) -> StepInput:
        """A step of a block."""
        first, end = (cursor - self.cursors[0] for cursor in self.cursors_of(index))
        return StepInput(self.blocks[index], self.inbox[first:end], self.cursors[index + 1], number)

    def proof(self, index: int) -> list[bytes]:
        """Path of a block and its cursors to the batch's `steps_root`."""
        leaves = [
            step_leaf(block.header.block_id(), self.cursors_of(place))
            for place, block in enumerate(self.blocks)
        ]
        return list_proof(leaves, index)


class Player:
    """The moves of either side, from the states that it knows.

    `verify_signature`: as engines take it. All moves raise `Rejected(bad_witness)` where what a
    step looks at is too large to be shown.
    """

    def __init__(
        self,
        chain: Chain,
        trace: Trace,
        verify_signature: VerifySignature = verify,
    ) -> None:
        self.chain = chain
        self.trace = trace
        self.sections = chain.genesis.settlement.sections
        self._verify = verify_signature
        self._room = FIRST_ROOM

    # --- moves

    def defend(
        self, steps: BatchSteps, challenger: bytes, game: DisputeLeaf, before: bytes = b""
    ) -> Cut | Prove | None:
        """The defender's next move in a challenger's (address) game; None while it is not ours.

        `before`: the witness that `game.shown` names, where there is one.
        """
        if game.turn != DEFENDER:
            return None
        if game.high - game.low > 1:
            at = cuts(game.low, game.high, self.sections)
            return Cut(steps.header.number, challenger, self.roots(steps, at))
        return self._prove(steps, challenger, game, before)

    def challenge(
        self, steps: BatchSteps, challenger: bytes, game: DisputeLeaf, before: bytes = b""
    ) -> Choose | Prove | None:
        """The challenger's next move: the first part behind which the roots differ from those of
        its own execution, or a larger witness; None while it is not its turn.

        Raises `SafetyViolation` where its own execution leads to all of the roots: it disputes
        nothing.
        """
        if game.turn != CHALLENGER:
            return None
        if game.shown:
            return self._prove(steps, challenger, game, before)
        ours = self.roots(steps, positions(game, self.sections)[1:])
        for part, (mine, theirs) in enumerate(zip(ours, game.roots[1:], strict=True)):
            if mine != theirs:
                return Choose(steps.header.number, part)
        raise SafetyViolation(f"nothing in batch {steps.header.number} is disputed")

    def _prove(
        self, steps: BatchSteps, challenger: bytes, game: DisputeLeaf, before: bytes
    ) -> Prove:
        index = game.low // STEPS_PER_BLOCK
        self._room = Room(witness_limit(game), leaf_limit(game))
        witness = self.witness(steps, game.low, before)
        if len(witness) > witness_limit(game) or leaf_count(witness) > leaf_limit(game):
            raise Rejected(
                Code.BAD_WITNESS, f"what the step looks at takes {len(witness)} bytes to show"
            )
        beyond = added(witness, before) if before else NOTHING
        return Prove(
            steps.header.number, challenger, witness, beyond.accounts, beyond.leaves,
            encode(steps.blocks[index]), steps.cursors_of(index), steps.proof(index),
        )  # fmt: skip

    # --- states

    def roots(self, steps: BatchSteps, at: Sequence[int]) -> list[bytes]:
        """State roots (32 bytes each) at positions in rising order."""
        parts = [
            (index, [one % STEPS_PER_BLOCK for one in inside])
            for index, inside in groupby(at, lambda one: one // STEPS_PER_BLOCK)
        ]
        # All at once: each way back reads everything that is newer.
        before = steps.header.first_block - 1
        whole = iter(self.trace.roots([before + index for index, inner in parts if inner == [0]]))
        found: list[bytes] = []
        for index, numbers in parts:
            if numbers == [0]:
                found.append(next(whole))
                continue
            with self.walk(steps, index) as walked:
                found += [walked.to(number) for number in numbers]
        return found

    def witness(self, steps: BatchSteps, position: int, before: bytes) -> bytes:
        """A witness of the state at a position, for the step there; it shows all of `before`."""
        index, number = divmod(position, STEPS_PER_BLOCK)
        with self.walk(steps, index) as walked:
            return walked.witness(number, before, self._room)

    @contextmanager
    def walk(self, steps: BatchSteps, index: int) -> Iterator[Walk]:
        """The states inside a block, while this is open."""
        with (
            self.trace.at(steps.header.first_block - 1 + index) as tree,
            walk(self.chain, tree, steps.step(index), self._verify) as walked,
        ):
            yield walked
