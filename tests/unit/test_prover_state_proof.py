"""A prover proves leaves of the state after its newest batch, and refuses what it cannot prove."""

from __future__ import annotations

import pytest
from pipeline_world import PipelineWorld

from execution import leaves as lv
from protocol.actions import BUY, Order
from protocol.errors import Code, Rejected
from protocol.messages import StateProofRequest
from protocol.tree_proof import decode_tree_proof, verify_proof
from prover.settlement import STATE_KEYS_MAX, state_proof_view


def test_leaves_are_proven_under_the_root_of_the_newest_batch() -> None:
    world = PipelineWorld()
    keys = [lv.CLOCK_KEY, lv.RECEIPTS_KEY, lv.account_key(16)]
    with pytest.raises(Rejected) as refused:
        state_proof_view(StateProofRequest(1, keys), world.batcher)
    assert refused.value.code == Code.NOT_READY
    world.order(inbox_height=0)
    world.order(world.sign(world.alice, Order(0, BUY, 600_000, 2)))
    batch, _ = world.settle()
    view = state_proof_view(StateProofRequest(7, keys), world.batcher)
    assert (view.request_id, view.batch) == (7, batch.header.number)
    values = verify_proof(batch.header.post_state_root, decode_tree_proof(view.proof), keys)
    leaves = world.engine.leaves()
    assert values == {key: leaves.get(key) for key in keys}
    assert values[lv.RECEIPTS_KEY] is None, "there were no liquidations"
    assert lv.decode_clock(values[lv.CLOCK_KEY] or b"").height == batch.header.last_block


@pytest.mark.parametrize("keys", [[], [b"a"] * (STATE_KEYS_MAX + 1), [b""], [b"a" * 10_000]])
def test_what_is_no_question_is_refused(keys: list[bytes]) -> None:
    with pytest.raises(Rejected) as refused:
        state_proof_view(StateProofRequest(1, keys), PipelineWorld().batcher)
    assert refused.value.code == Code.WRONG_TYPE
