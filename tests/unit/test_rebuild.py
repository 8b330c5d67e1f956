"""The final state out of what a validator's disk holds, and the claims that come of it."""

from __future__ import annotations

import msgspec
import pytest
from exit_world import DOLLAR, ExitWorld, traded
from pipeline_world import rewrite_header

from node.app import decode_ledger_payload
from node.rebuild import CheckedState, RebuiltState, decode_checked_state, posted_outbox
from protocol.chain import Block
from protocol.codec import encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.settlement import PostBatch


def test_ledger_and_blocks_alone_give_the_state_that_the_engine_has() -> None:
    world = ExitWorld()
    traded(world)
    state = world.rebuilt()
    assert dict(state.tree.iterate()) == world.engine.leaves()
    assert state.tree.root == world.ledger.final().state_root
    assert state.batch == world.ledger.final().batch == 4
    assert state.account_number(world.keys["alice"].address) == world.account("alice")


def test_what_is_not_final_is_not_executed() -> None:
    world = ExitWorld(window_ms=2_000, clock_ms=10)
    world.pass_ms(2_000)
    traded(world)
    state = world.rebuilt()
    assert state.batch == 1 and state.tree.root == world.ledger.final().state_root
    world.pass_ms(2_000)
    assert state.advance(world.block_at).batch == 4
    assert dict(state.tree.iterate()) == world.engine.leaves()


def test_a_kept_state_spares_the_blocks_before_it() -> None:
    world = ExitWorld()
    traded(world, 2)
    kept = decode_checked_state(encode(world.rebuilt().checked()))
    first = len(world.blocks)
    traded(world, 2)

    def pruned(height: int) -> Block | None:
        return world.block_at(height) if height > first else None

    with pytest.raises(Rejected) as refused:
        world.rebuilt(pruned)
    assert refused.value.code == Code.NOT_RETAINED
    state = RebuiltState(world.ledger, kept)
    state.advance(pruned)
    assert dict(state.tree.iterate()) == world.engine.leaves()


def test_a_kept_state_that_is_not_the_ledgers_is_refused() -> None:
    world = ExitWorld()
    traded(world)
    kept = world.rebuilt().checked()
    leaves = [(key, value) for key, value in kept.leaves if key[:1] != b"p"]
    wrong: list[CheckedState] = [
        msgspec.structs.replace(kept, leaves=leaves),
        msgspec.structs.replace(kept, batch=2),
        msgspec.structs.replace(kept, batch=9),
        msgspec.structs.replace(kept, inbox_height=1),
        msgspec.structs.replace(kept, chain_id=bytes(32)),
    ]
    for one in wrong:
        with pytest.raises(Rejected):
            RebuiltState(world.ledger, one)


def test_a_refused_transaction_with_the_same_header_does_not_mislead() -> None:
    world = ExitWorld()
    world.order()
    batch = world.batcher.build(world.batcher.end_of_next())
    assert batch.certificate is not None
    bad = PostBatch(batch.header, b"\x00", batch.certificate, [])
    good = PostBatch(batch.header, batch.data, batch.certificate, [])
    nonce = world.ledger.account(world.prover.address).nonce
    raws = [world.sign_at(world.prover, bad, nonce), world.sign_at(world.prover, good, nonce + 1)]
    outcome = world.ledger_block(*raws)
    assert [one.code for one in outcome.results] == [Code.BAD_BATCH_DATA, Code.OK]
    assert len(decode_ledger_payload(world.blocks[-1].payload)) == 2
    assert world.rebuilt().batch == 2


def test_a_final_root_that_its_data_do_not_give_stops_the_rebuilding() -> None:
    world = ExitWorld()
    world.order()
    wrong = {"post_state_root": b"\x05" * 32}
    _, outcome = world.settle(rewrite_header(wrong))
    assert outcome.results[-1].code == Code.OK
    with pytest.raises(SafetyViolation, match="another state root"):
        world.rebuilt()


def test_the_outbox_comes_out_of_the_block_that_posted_it() -> None:
    world = ExitWorld()
    traded(world, 1)
    settled = world.ledger.batch(2)
    assert settled is not None
    block = world.block_at(settled.ledger_height)
    assert block is not None
    entries = posted_outbox(block, settled.header)
    assert [(one.number, one.amount_uusd) for one in entries] == [(0, DOLLAR)]
    with pytest.raises(Rejected):
        posted_outbox(world.blocks[0], settled.header)


def test_there_is_no_claim_of_an_account_that_does_not_exist() -> None:
    state = ExitWorld().rebuilt()
    for account in (99, -1, 1 << 63):
        with pytest.raises(Rejected) as refused:
            state.claim(account)
        assert refused.value.code == Code.UNKNOWN_ACCOUNT
