"""Judging a step on a witness: what is no state of the agreed root, or no state at all, is refused
and harms nobody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from dispute_world import DisputeWorld
from ledger_world import key_of

from execution import leaves as lv
from protocol.actions import BUY, Order
from protocol.codec import encode
from protocol.errors import Code, Rejected
from prover.step_input import WHOLE, StepInput
from prover.steps import walk
from prover.tree import StateTree
from prover.witness import FRAME, Witness, account_keys, account_prefixes, execute
from prover.witness_maker import make

Leaves = list[tuple[bytes, bytes]]
ALICE = key_of("alice")
ACCOUNTS = [0, 1, 2, 3, 16, 17, 18, 19]


@pytest.fixture(scope="module")
def world() -> DisputeWorld:
    """Four blocks; the last one fills nothing but rests an order."""
    world = DisputeWorld()
    world.fill(2)
    world.order(world.act(ALICE, Order(0, BUY, 590_000, 10)), inbox_height=0)
    world.order(world.act(ALICE, Order(0, BUY, 590_001, 10)), inbox_height=0)
    return world


def step_of(world: DisputeWorld, block: int = 4, number: int = WHOLE) -> StepInput:
    """A step of a block as the log and the ledger's inbox have it."""
    first, end = world.cursors[block - 1 : block + 1]
    placed = world.ledger.entries(first, end - first, world.ledger.height)
    return StepInput(world.log.blocks[block - 1], [one for _, one in placed], end, number)


def whole(leaves: Leaves) -> bytes:
    """A witness that shows every leaf, of whatever state."""
    tree = StateTree(leaves)
    keys = {key for key, _ in leaves} | set(FRAME)
    for number in ACCOUNTS:
        keys.update(account_keys(number), account_prefixes(number))
    return encode(Witness(ACCOUNTS, tree.prove(keys)))


def run(world: DisputeWorld, leaves: Leaves, **changed: Any) -> bytes:
    """Execute a block on a state, whose root is agreed on."""
    root, step = StateTree(leaves).root, step_of(world, changed.pop("block", 4))
    return execute(world.chain, root, whole(leaves), step._replace(**changed))


def refused(world: DisputeWorld, leaves: Leaves, **changed: Any) -> str:
    with pytest.raises(Rejected) as caught:
        run(world, leaves, **changed)
    assert caught.value.code == Code.BAD_WITNESS
    return caught.value.text


def test_a_right_state_leads_to_the_root_that_execution_has(world: DisputeWorld) -> None:
    for block in range(2, 5):
        assert (
            run(world, world.truth.leaves(block - 1), block=block)
            == (world.truth.roots([block])[0])
        )


def test_the_steps_of_a_block_lead_to_its_root_and_nothing_happens_behind_the_last(
    world: DisputeWorld,
) -> None:
    for block in range(1, 5):
        tree = StateTree(world.truth.leaves(block - 1))
        with walk(world.chain, tree, step_of(world, block, 0)) as walked:
            for number in (*range(14), 1 << 19):
                root, witness = walked.to(number), walked.witness(number)
                after = execute(world.chain, root, witness, step_of(world, block, number))
                assert after == walked.to(number + 1)
        assert after == world.truth.roots([block])[0]


def test_made_up_states_are_refused_whatever_breaks_on_them(world: DisputeWorld) -> None:
    leaves = world.truth.leaves(3)
    there = dict(leaves)
    assert "witness is refused" in refused(world, [])
    for missing in there:
        changed = [one for one in leaves if one[0] != missing]
        try:
            run(world, changed)  # some leaves are missed by nobody
        except Rejected as error:
            assert error.code == Code.BAD_WITNESS
    for key in there:
        for value in (b"", b"\xc1", b"\xc0", encode([1]), encode(-1), encode([])):
            try:
                run(world, sorted({**there, key: value}.items()))
            except Rejected as error:
                assert error.code == Code.BAD_WITNESS
    assert "executed" in refused(world, leaves, block=2)  # a block of the past
    cursor = world.cursors[4]
    for wrong in (1 << 60, 0, cursor - 1, cursor + 1):
        assert "takes the inbox to" in refused(world, leaves, inbox_cursor=wrong)


@pytest.mark.parametrize("number", range(1, 12))
def test_made_up_states_inside_of_a_block_are_refused_or_executed(
    world: DisputeWorld, number: int
) -> None:
    tree = StateTree(world.truth.leaves(3))
    with walk(world.chain, tree, step_of(world, 4, 0)) as walked:
        walked.to(number)
        there = dict(tree.iterate())
    if lv.PROGRESS_KEY not in there:
        return
    assert run(world, sorted(there.items()), number=number)
    row = lv.decode_progress(there[lv.PROGRESS_KEY])
    for name in row.__struct_fields__:
        for lie in (0, -1, 1 << 40, 1 << 63, None, [], [99], [16, 16], [[0, 0, 0]]):
            fields = [lie if one == name else getattr(row, one) for one in row.__struct_fields__]
            _tried(world, {**there, lv.PROGRESS_KEY: encode(fields)}, number)
    for key in there:
        for value in (b"\xc0", encode([1]), encode([])):
            _tried(world, {**there, key: value}, number)
        _tried(world, {one: there[one] for one in there if one != key}, number)


def _tried(world: DisputeWorld, leaves: dict[bytes, bytes], number: int) -> None:
    try:
        run(world, sorted(leaves.items()), number=number)
    except Rejected as error:
        assert error.code == Code.BAD_WITNESS


def test_numbers_that_no_state_has_are_refused_before_they_are_used(world: DisputeWorld) -> None:
    leaves = dict(world.truth.leaves(3))
    order_key = next(key for key in leaves if key[:1] == lv.ORDER)
    order = lv.decode_order(leaves[order_key])
    market, side, price, order_id = lv.parse_order_key(order_key)
    market_key = lv.market_key(0)
    marks = lv.decode_market(leaves[market_key])
    lies: list[tuple[bytes, bytes]] = [
        (lv.account_key(16), encode((ALICE.address, 1 << 62))),
        (order_key, encode(msgspec.structs.replace(order, remaining_lots=1 << 31))),
        (order_key, encode(msgspec.structs.replace(order, remaining_lots=0))),
        (lv.order_key(market, side, price, (1 << 64) - 1), leaves[order_key]),
        (market_key, encode(msgspec.structs.replace(marks, mark_ticks=-5))),
    ]
    for key, value in lies:
        assert "out of range" in refused(world, sorted({**leaves, key: value}.items()))
    assert order_id


def test_a_witness_must_be_of_the_agreed_root(world: DisputeWorld) -> None:
    leaves = world.truth.leaves(3)
    tree, step = StateTree(leaves), step_of(world)
    alice = lv.decode_account(dict(leaves)[lv.account_key(16)])
    more = encode(msgspec.structs.replace(alice, cash_uusd=alice.cash_uusd + 1))
    rich = sorted({**dict(leaves), lv.account_key(16): more}.items())
    assert run(world, rich)  # a state like any other, but not the one agreed on
    right = make(world.chain, tree, step)
    assert execute(world.chain, tree.root, right, step) == world.truth.roots([4])[0]
    for witness in (whole(rich), whole([]), b"", right[:-1], right + b"\x00", b"\x00" * 40):
        with pytest.raises(Rejected, match="bad_witness"):
            execute(world.chain, tree.root, witness, step)
