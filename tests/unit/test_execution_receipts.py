"""Receipts: numbers without gaps, the list under the state root, and offline proofs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_world import make_chain, market
from liquidation_world import Crash, usd

from execution import leaves as lv
from execution.receipt_proof import (
    ReceiptProof,
    ReceiptTree,
    decode_receipt_proof,
    verify_receipt,
    verify_receipt_proof,
)
from execution.receipts import Receipts, extended, receipts_root
from execution.state import State
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.events import Receipt
from protocol.merkle import EMPTY_LIST_ROOT, list_proof, list_root
from prover.tree import StateTree

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 33, 100]


def receipt(number: int, **changes: Any) -> Receipt:
    """A receipt of this number."""
    fields = {
        "kind": 0, "height": 7, "account": 16, "of_account": 16, "market": 0, "size_lots": -5,
        "mark_ticks": 985, "price_ticks": 940, "amount_uusd": 5_000, "equity_uusd": 45,
        "maintenance_uusd": 49, "rank": 0, "insurance_uusd": 3, "share_uusd": 0,
    }  # fmt: skip
    return Receipt(number=number, **(fields | changes))


def test_numbers_count_on_over_blocks_and_restarts() -> None:
    chain = make_chain([market(0)])
    state = State(chain)
    added = 0
    for height in range(1, 6):
        state.begin(height, state.time_ms)
        for _ in range(height):
            Receipts(state).add(0, 16, 16, 0, -5, 985, 940, 5_000, 45, 49, 0, 3, 0)
        assert [e.number for e in state.events if isinstance(e, Receipt)] == list(
            range(added, added + height)
        )
        added += height
        changes = state.commit()
        assert lv.decode_receipts(changes[lv.RECEIPTS_KEY] or b"").count == added
        state = State.restore(chain, state.leaves().items())


@pytest.mark.parametrize("size", SIZES)
def test_the_leaf_is_the_root_of_the_list(size: int) -> None:
    row = lv.ReceiptsLeaf(0, [])
    assert receipts_root(row.peaks) == EMPTY_LIST_ROOT
    receipts = [receipt(number) for number in range(size)]
    for one in receipts:
        row = extended(row, one)
    assert row.count == size and len(row.peaks) == size.bit_count()
    assert receipts_root(row.peaks) == list_root([encode(one) for one in receipts])


@pytest.mark.parametrize("size", SIZES)
def test_every_receipt_is_proven_at_every_size(size: int) -> None:
    encoded = [encode(receipt(number)) for number in range(size)]
    tree = ReceiptTree()
    row = lv.ReceiptsLeaf(0, [])
    for number in range(size):
        tree.append(receipt(number))
        row = extended(row, receipt(number))
    for number in range(size):
        path = tree.path(number, size)
        assert path == list_proof(encoded, number)
        assert verify_receipt(receipt(number), path, row.count, row.peaks)
    for smaller in range(1, size):
        assert tree.path(0, smaller) == list_proof(encoded[:smaller], 0)
        assert tree.path(smaller - 1, smaller) == list_proof(encoded[:smaller], smaller - 1)


def test_anything_else_is_refused() -> None:
    rng = random.Random(1)
    tree, row = ReceiptTree(), lv.ReceiptsLeaf(0, [])
    for number in range(21):
        tree.append(receipt(number))
        row = extended(row, receipt(number))
    path = tree.path(13, 21)
    good = receipt(13)
    assert verify_receipt(good, path, 21, row.peaks)
    for field in Receipt.__struct_fields__:
        forged = (
            receipt(13, **{field: getattr(good, field) + 1}) if field != "number" else receipt(12)
        )
        assert not verify_receipt(forged, path, 21, row.peaks), field
    assert not verify_receipt(receipt(12), path, 21, row.peaks)
    assert not verify_receipt(good, path[:-1], 21, row.peaks)
    assert not verify_receipt(good, [*path, bytes(32)], 21, row.peaks)
    assert not verify_receipt(good, path[::-1], 21, row.peaks)
    assert not verify_receipt(good, path, 20, row.peaks)
    assert not verify_receipt(good, path, 21, row.peaks[::-1])
    assert not verify_receipt(good, path, 21, row.peaks[:-1])
    other = [*path]
    other[rng.randrange(len(path))] = bytes(32)
    assert not verify_receipt(good, other, 21, row.peaks)


def test_the_tree_takes_receipts_in_order_and_knows_its_size() -> None:
    tree = ReceiptTree()
    with pytest.raises(ValueError, match="receipt 1 where 0 is next"):
        tree.append(receipt(1))
    tree.append(receipt(0))
    for number, size in ((0, 2), (1, 1), (-1, 1), (0, 0)):
        with pytest.raises(IndexError, match="no receipt"):
            tree.path(number, size)


def test_a_receipt_is_proven_against_the_state_root_alone() -> None:
    holders = {100 + n: (usd(6), {0: 100}) for n in range(5)}
    w = Crash(holders | {17: (usd(1_000_000), {0: -500}), 18: (usd(1_000_000), {})})
    empty = StateTree(w.engine.leaves().items())
    w.bid(18, 940, 1_000)
    w.mark(985)
    tree = ReceiptTree()
    for one in w.receipts:
        tree.append(one)
    state_tree = StateTree(w.engine.leaves().items())
    proof = state_tree.prove([lv.RECEIPTS_KEY])
    for one in w.receipts:
        whole = ReceiptProof(one, tree.path(one.number, len(tree)), proof)
        verify_receipt_proof(state_tree.root, decode_receipt_proof(encode(whole)))
    forged = ReceiptProof(receipt(0), whole.path, proof)
    with pytest.raises(Rejected, match="does not lead") as caught:
        verify_receipt_proof(state_tree.root, forged)
    assert caught.value.code == Code.BAD_PROOF
    with pytest.raises(Rejected, match="the state has 5 receipts"):
        verify_receipt_proof(state_tree.root, ReceiptProof(receipt(5), [], proof))
    with pytest.raises(Rejected, match="another root"):
        verify_receipt_proof(empty.root, whole)
    none = empty.prove([lv.RECEIPTS_KEY])
    with pytest.raises(Rejected, match="no liquidation receipts"):
        verify_receipt_proof(empty.root, ReceiptProof(receipt(0), [], none))
