"""Games between two players by the ledger's rules, without a ledger; and players who lie."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
from engine_world import accept
from witness_world import Block

from execution.batches import VerifySignature
from execution.engine import Engine
from protocol.codec import encode
from protocol.dispute import (
    CHALLENGER,
    DEFENDER,
    STEPS_PER_BLOCK,
    WITNESS_ROUNDS,
    Choose,
    Cut,
    DisputeLeaf,
    Prove,
    positions,
    witness_limit,
)
from protocol.errors import Rejected
from protocol.genesis import Chain
from protocol.ordering import OrderedBlock
from protocol.settlement import BatchHeader, InboxEntry
from prover.game import BatchSteps, Player, Trace
from prover.step_input import StepInput
from prover.steps import Walk
from prover.tree import StateTree
from prover.witness import (
    NOTHING,
    Added,
    _counting,
    added,
    decode_witness,
    execute,
    require_larger,
)
from prover.witness_maker import Gathered, root_after

ADDRESS = b"c" * 20
SECTIONS = 32
Changes = dict[bytes, bytes | None]


class GaveUp(Exception):
    """A player has nothing more to show."""


class Verdict(NamedTuple):
    """How a game ended: at which step, whether the batch stands, the witnesses, and how many moves
    both sides made."""

    block: int
    number: int
    stands: bool
    witnesses: list[bytes]
    moves: int


def batch_of(
    chain: Chain,
    first: int,
    blocks: Sequence[OrderedBlock],
    cursors: Sequence[int],
    inbox: Sequence[InboxEntry],
    roots: tuple[bytes, bytes],
) -> BatchSteps:
    """A batch from block `first` on that claims to lead from one root to another."""
    header = BatchHeader(
        chain.chain_id, 3, 1, first, first + len(blocks) - 1, blocks[-1].header.block_id(),
        roots[0], roots[1], bytes(32), cursors[-1], bytes(32), 0, 0, bytes(32), 0,
    )  # fmt: skip
    return BatchSteps(header, blocks, cursors, inbox)


def player_of(block: Block) -> Player:
    """Who knows a block as it was."""
    height = block.step.block.header.height
    trace = Trace(StateTree(block.tree.iterate()), height - 1)
    trace.extend([block.changes])
    return with_sections(Player(block.chain, trace, accept))


def with_sections(player: Player) -> Player:
    """The player in a game of few moves."""
    player.sections = SECTIONS
    return player


def single(block: Block, root: bytes) -> BatchSteps:
    """A batch of one block that claims to lead to a root."""
    cursor, inbox = block.step.inbox_cursor, block.step.inbox
    header = block.step.block.header
    return batch_of(
        block.chain, header.height, [block.step.block], [cursor - len(inbox), cursor], inbox,
        (block.tree.root, root),
    )  # fmt: skip


def duel(steps: BatchSteps, defender: Player, challenger: Player, chain: Chain) -> Verdict:
    """Play a game to its end. `chain`: that of the judge."""
    header = steps.header
    blocks = header.last_block - header.first_block + 1
    roots = [header.pre_state_root, header.post_state_root]
    game = DisputeLeaf(0, blocks * STEPS_PER_BLOCK, roots, DEFENDER, 0, [0, 0], 0)
    witnesses: list[bytes] = []
    moves = 0
    while True:
        side, before = game.turn, witnesses[-1] if witnesses else b""
        player = defender if side == DEFENDER else challenger
        make = player.defend if side == DEFENDER else player.challenge
        where = divmod(game.low, STEPS_PER_BLOCK)
        try:
            move = make(steps, ADDRESS, game, before)
        except GaveUp:
            return Verdict(*where, side == CHALLENGER, witnesses, moves)
        moves += 1
        if isinstance(move, Cut):
            cut = [game.roots[0], *move.roots, game.roots[-1]]
            game = msgspec.structs.replace(game, roots=cut, turn=CHALLENGER)
        elif isinstance(move, Choose):
            at, part = positions(game, SECTIONS), move.part
            game = msgspec.structs.replace(
                game, low=at[part], high=at[part + 1], roots=game.roots[part : part + 2],
                turn=DEFENDER,
            )  # fmt: skip
        else:
            assert isinstance(move, Prove)
            witnesses.append(move.witness)
            shown = judged(steps, game, move, chain)
            if not shown or game.rounds + 1 == WITNESS_ROUNDS:
                won = bool(shown)
                return Verdict(*where, won == (side == DEFENDER), witnesses, moves)
            game = msgspec.structs.replace(
                game, shown=shown, rounds=game.rounds + 1, turn=DEFENDER + CHALLENGER - side
            )


def judged(steps: BatchSteps, game: DisputeLeaf, move: Prove, chain: Chain) -> bytes:
    """What a witness shows, as the ledger judges it; empty where it loses."""
    step = steps.step(*divmod(game.low, STEPS_PER_BLOCK))
    try:
        assert len(move.witness) <= witness_limit(game)
        beyond = Added(move.added_accounts, move.added_leaves)
        shown = require_larger(move.witness, beyond, game.shown)
        root = execute(chain, game.roots[0], move.witness, step, accept)
    except Rejected:
        return b""
    return shown if (root == game.roots[-1]) == (game.turn == DEFENDER) else b""


# --- liars


class LyingWalk(Walk):
    """Steps of a block, of which one changes something else than it ought to."""

    def __init__(
        self,
        block: Block,
        tree: StateTree,
        number: int,
        said: Changes,
        verify: VerifySignature = accept,
    ) -> None:
        super().__init__(block.chain, tree, block.step._replace(number=0), verify)
        self._lie = number
        self._said = said

    def pass_idle(self, upto: int) -> None:
        super().pass_idle(min(upto, self._lie) if self.number <= self._lie else upto)

    def step(self, height: int) -> Changes:
        if self.number != self._lie:
            return super().step(height)
        after = {**dict(self._tree.iterate()), **self._said}
        leaves = [(key, value) for key, value in after.items() if value is not None]
        engine = Engine.restore(self._chain, leaves, self._verify)
        self._steps = self._block.steps(engine)
        return self._said


class LyingPlayer(Player):
    """Tells of one step of a block something else than it does, and goes on from there as it ought
    to. It shows `witness` for it, and then whatever makes its lie true, if it finds that."""

    def __init__(
        self,
        block: Block,
        number: int,
        said: Changes,
        witness: bytes = b"",
        verify: VerifySignature = accept,
    ) -> None:
        self.block, self.number, self.said, self.first = block, number, said, witness
        self.rng = random.Random(number)
        self.stubborn = False
        """Shows its own witness again, whatever the other side has shown."""
        tree = StateTree(block.tree.iterate())
        walked = LyingWalk(block, tree, number, said, verify)
        self.root = walked.to(STEPS_PER_BLOCK)
        self.net = net = {key: tree.get(key) for key in walked.undo}
        """What it says that the block changes."""
        tree.update(walked.undo)
        trace = Trace(tree, block.step.block.header.height - 1)
        trace.extend([net])
        super().__init__(block.chain, trace, verify)
        self.sections = SECTIONS

    @contextmanager
    def walk(self, steps: BatchSteps, index: int) -> Iterator[Walk]:
        with self.trace.at(steps.header.first_block - 1 + index) as tree:
            walked = LyingWalk(self.block, tree, self.number, self.said, self._verify)
            try:
                yield walked
            finally:
                tree.update(walked.undo)

    def witness(self, steps: BatchSteps, position: int, before: bytes) -> bytes:
        """Its own lie, or the best that it finds to add to the other side's witness."""
        if position % STEPS_PER_BLOCK != self.number:
            return super().witness(steps, position, before)
        if self.first and (not before or self.stubborn):
            return self.first
        with self.walk(steps, 0) as walked:
            walked.to(self.number)
            return self._search(walked._tree, steps.step(0, self.number), before)

    def _search(self, tree: StateTree, step: StepInput, before: bytes) -> bytes:
        claimed = root_after(tree, self.said)
        for share in (0.0, 0.1, 0.3, 0.6, 1.0):
            witness = some(self.chain, tree, step, self.rng, share, before)
            if before and added(witness, before) == NOTHING:
                continue
            try:
                if execute(self.chain, tree.root, witness, step, self._verify) == claimed:
                    return witness
            except Rejected:
                continue
        raise GaveUp


def some(
    chain: Chain, tree: StateTree, step: StepInput, rng: random.Random, share: float, before: bytes
) -> bytes:
    """A witness of what another one shows, and of a share of all accounts."""
    found = Gathered(tree, step.scope(chain))
    if before:
        found.add(decode_witness(before))
    for key, _ in tree.iterate(b"a"):
        if rng.random() < share:
            found.note([int.from_bytes(key[1:], "big")])
    return encode(found.witness(rng.choice((0, 1, 3))))


def changes_on(
    chain: Chain, witness: bytes, step: StepInput, verify: VerifySignature = accept
) -> Changes:
    """What a step changes where only a witness is there."""
    leaves = _counting(decode_witness(witness), step.scope(chain).signers)
    return step.run(Engine.restore(chain, leaves, verify))
