"""Judging a step on a witness: what is no state of the agreed root, or no state at all, is refused
and harms nobody."""

from __future__ import annotations

import sys
import zlib
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
from prover import judge
from prover.judge import execute_block, make_witness
from prover.tree import StateTree

Leaves = list[tuple[bytes, bytes]]
ALICE = key_of("alice")


@pytest.fixture(scope="module")
def world() -> DisputeWorld:
    """Three blocks; the last one fills nothing but rests an order."""
    world = DisputeWorld()
    world.fill(2)
    world.order(world.act(ALICE, Order(0, BUY, 590_000, 10)), inbox_height=0)
    world.order(world.act(ALICE, Order(0, BUY, 590_001, 10)), inbox_height=0)
    return world


def run(world: DisputeWorld, leaves: Leaves, block: int = 4, cursor: int | None = None) -> bytes:
    """Execute a block on a state, whose root is agreed on."""
    root = StateTree(leaves).root
    return judged(world, root, make_witness(leaves), block, cursor)


def judged(
    world: DisputeWorld, root: bytes, witness: bytes, block: int = 4, cursor: int | None = None
) -> bytes:
    ledger = world.ledger
    return execute_block(
        world.chain, root, witness, encode(world.log.blocks[block - 1]),
        lambda first, end: [one for _, one in ledger.entries(first, end - first, ledger.height)],
        world.cursors[block - 1] if cursor is None else cursor,
    )  # fmt: skip


def test_a_right_state_leads_to_the_root_that_execution_has(world: DisputeWorld) -> None:
    for block in range(1, 5):
        leaves = world.truth.leaves(block - 1)
        assert run(world, leaves, block) == world.truth.roots([block])[0]


def refused(world: DisputeWorld, leaves: Leaves, **changed: Any) -> str:
    with pytest.raises(Rejected) as caught:
        run(world, leaves, **changed)
    assert caught.value.code == Code.BAD_WITNESS
    return caught.value.text


def test_made_up_states_are_refused_whatever_breaks_on_them(world: DisputeWorld) -> None:
    leaves = world.truth.leaves(3)
    whole = dict(leaves)
    assert "no state" in refused(world, [])
    for missing in whole:
        changed = [one for one in leaves if one[0] != missing]
        try:
            run(world, changed)  # some leaves are missed by nobody
        except Rejected as error:
            assert error.code == Code.BAD_WITNESS
    for key in whole:
        for value in (b"", b"\xc1", b"\xc0", encode([1]), encode(-1), encode([])):
            try:
                run(world, sorted({**whole, key: value}.items()))
            except Rejected as error:
                assert error.code == Code.BAD_WITNESS
    assert "executed" in refused(world, leaves, block=2)  # a block of the past
    assert "place in the inbox" in refused(world, leaves, cursor=1 << 60)
    assert "place in the inbox" in refused(world, leaves, cursor=0)


def test_numbers_that_no_state_has_are_refused_before_they_are_used(world: DisputeWorld) -> None:
    leaves = dict(world.truth.leaves(3))
    order_key = next(key for key in leaves if key[:1] == lv.ORDER)
    order = lv.decode_order(leaves[order_key])
    market, side, price, order_id = lv.parse_order_key(order_key)
    market_key = lv.market_key(0)
    lies: list[tuple[bytes, bytes]] = [
        (lv.account_key(16), encode((ALICE.address, 1 << 62))),
        (order_key, encode(msgspec.structs.replace(order, remaining_lots=1 << 31))),
        (order_key, encode(msgspec.structs.replace(order, remaining_lots=0))),
        (lv.order_key(market, side, price, (1 << 64) - 1), leaves[order_key]),
        (
            market_key,
            encode(msgspec.structs.replace(lv.decode_market(leaves[market_key]), mark_ticks=-5)),
        ),
    ]
    for key, value in lies:
        assert "out of range" in refused(world, sorted({**leaves, key: value}.items()))
    assert order_id


def test_a_witness_must_be_of_the_agreed_root(world: DisputeWorld) -> None:
    leaves = world.truth.leaves(3)
    root = StateTree(leaves).root
    alice = lv.decode_account(dict(leaves)[lv.account_key(16)])
    more = encode(msgspec.structs.replace(alice, cash_uusd=alice.cash_uusd + 1))
    rich = sorted({**dict(leaves), lv.account_key(16): more}.items())
    assert run(world, rich)  # a state like any other, but not the one agreed on
    swapped = [leaves[1], leaves[0], *leaves[2:]]
    for witness in (
        make_witness(leaves[1:]), make_witness([]), make_witness([*leaves, leaves[0]]),
        make_witness([(b"", b"x"), *leaves]), zlib.compress(b"\x91\x01"),
        zlib.compress(encode(leaves))[:-1], b"\x00" * 40, make_witness(rich),
    ):  # fmt: skip
        with pytest.raises(Rejected, match="bad_witness"):
            judged(world, root, witness)
    assert judged(world, root, make_witness(swapped)) == judged(world, root, make_witness(leaves))


def test_a_witness_is_bounded(world: DisputeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = world.truth.leaves(3)
    size = len(encode(leaves))
    monkeypatch.setattr(judge, "MAX_WITNESS_EXPANDED_BYTES", size)
    assert run(world, leaves)
    witness, root = make_witness(leaves), StateTree(leaves).root
    monkeypatch.setattr(judge, "MAX_WITNESS_EXPANDED_BYTES", size - 1)
    with pytest.raises(Rejected, match="expands beyond"):
        judged(world, root, witness)
    with pytest.raises(Rejected, match="too large"):
        make_witness(leaves)
    monkeypatch.setattr(judge, "MAX_WITNESS_BYTES", len(witness) - 1)
    with pytest.raises(Rejected, match="at most"):
        judged(world, root, witness)
