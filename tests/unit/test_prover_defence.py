"""A prover's defence: moves out of the undo of open batches and the diffs of a disputed one, and a
tree that always stands again where it stood."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from defence_world import material, prover
from ledger_world import key_of

from protocol.chain import Block, genesis_qc
from protocol.codec import encode
from protocol.dispute import CHALLENGER, DEFENDER, STEPS_PER_BLOCK, Cut, DisputeLeaf, Prove
from protocol.errors import Code, Rejected
from protocol.messages import BlocksView
from protocol.settlement import BatchHeader
from prover.defence import Material
from prover.game import Player
from prover.process_contest import posted_blocks
from prover.witness import Added, added, decode_witness, shown_hash
from prover.witness_maker import Gathered

ALICE = key_of("alice").address


def game_on(header: BatchHeader, low: int, high: int, turn: int = DEFENDER) -> DisputeLeaf:
    roots = [header.pre_state_root, header.post_state_root]
    return DisputeLeaf(low, high, roots, turn, 0, [1, 1], 0)


def test_moves_in_the_middle_of_history_are_right_and_leave_no_trace() -> None:
    world, tree, store, defence = prover()
    before = tree.root
    for number in (1, 2, 3):
        header = store.headers[number]
        found = material(world, number)
        blocks, diffs, _ = found
        count = len(blocks)
        cut = defence.reply(header, found, ALICE, game_on(header, 0, count * STEPS_PER_BLOCK))
        assert isinstance(cut, Cut)
        at = [header.first_block - 1 + count * part // min(3, count) for part in (1, 2)]
        assert cut.roots == world.truth.roots(at[: len(cut.roots)])
        for index in range(count):
            low = index * STEPS_PER_BLOCK
            inside = defence.reply(
                header, found, ALICE, game_on(header, low, low + STEPS_PER_BLOCK)
            )
            assert isinstance(inside, Cut) and len(inside.roots) == 2
            move = defence.reply(header, found, ALICE, game_on(header, low + 2, low + 3))
            assert isinstance(move, Prove) and move.block == encode(blocks[index])
            assert move.inbox_cursors[1] == diffs[index].inbox_cursor
            assert tree.root == before
        assert defence.reply(header, found, ALICE, game_on(header, 0, 1, CHALLENGER)) is None
        assert tree.root == before


def test_an_answer_shows_all_that_the_other_side_has_shown() -> None:
    world, tree, store, defence = prover()
    header, found = store.headers[2], material(world, 2)
    game = game_on(header, 2, 3)
    first = defence.reply(header, found, ALICE, game)
    assert isinstance(first, Prove) and not first.added_leaves
    before = first.witness
    with Player(world.chain, world.truth).walk(world.posted[2][0], 0) as walked:
        walked.to(2)
        shown = Gathered(walked._tree, world.posted[2][0].step(0, 2).scope(world.chain))
        shown.add(decode_witness(before))
        shown.note([17])
        larger = encode(shown.witness(0))
    state = tree.root
    answered = msgspec.structs.replace(game, shown=shown_hash(larger), rounds=2)
    move = defence.reply(header, found, ALICE, answered, larger)
    assert isinstance(move, Prove) and tree.root == state
    beyond = Added(move.added_accounts, move.added_leaves)
    assert beyond == added(move.witness, larger)
    assert decode_witness(move.witness).accounts == decode_witness(larger).accounts


def test_what_belongs_to_another_batch_is_refused_and_the_tree_stands() -> None:
    world, tree, store, defence = prover()
    before = tree.root
    header = store.headers[2]
    blocks, diffs, inbox = right = material(world, 2)
    game = game_on(header, 0, 4 * STEPS_PER_BLOCK)
    lied = msgspec.structs.replace(diffs[1], changes=[(b"\x01" * 9, b"x")])
    for told in (
        Material(blocks[1:], diffs, inbox), Material(blocks, diffs[1:], inbox),
        Material(blocks, [diffs[0], lied, *diffs[2:]], inbox),
        Material(blocks, diffs, [*inbox, *material(world, 1).inbox]),
    ):  # fmt: skip
        with pytest.raises(Rejected) as caught:
            defence.reply(header, told, ALICE, game)
        assert caught.value.code == Code.BAD_PROOF
        assert tree.root == before
    assert isinstance(defence.reply(header, right, ALICE, game), Cut)


def test_only_what_was_built_here_is_ours() -> None:
    _, _, store, defence = prover()
    header = store.headers[2]
    assert defence.owns(header)
    assert not defence.owns(msgspec.structs.replace(header, post_state_root=bytes(32)))
    assert not defence.owns(msgspec.structs.replace(header, number=9))


def test_the_data_of_a_batch_is_found_in_the_block_that_settled_it() -> None:
    world, _, _, _ = prover()
    settled = world.ledger.batch(2)
    assert settled is not None
    height = settled.ledger_height
    raws = [b"no transaction", world.sign(world.prover, world.posts[2])]
    header = world.headers[height - 1]
    block = Block(header, encode(raws), genesis_qc(header), None)
    view = BlocksView(1, [block], world.log.certificate(world.log.blocks[0].header))
    assert posted_blocks(view, settled) == world.posted[2][0].blocks
    other = msgspec.structs.replace(settled, ledger_height=height + 1)
    empty = BlocksView(1, [Block(header, b"", genesis_qc(header), None)], view.certificate)
    for told, wanted in ((view, other), (empty, settled)):
        with pytest.raises(Rejected, match="without batch 2"):
            posted_blocks(told, wanted)
