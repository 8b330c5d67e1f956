"""The pool of waiting transactions, and the blocks that a validator proposes and votes for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1]))

from app_world import PAYLOAD_BYTES, AppWorld
from ledger_world import STATE_ROOT, LedgerWorld, OrderedLog, key_of, make_chain

from node.app import (
    MAX_BLOCK_TRANSACTIONS,
    OPEN_BEAT_MS,
    LedgerApplication,
    decode_ledger_payload,
)
from node.genesis import genesis_ledger
from node.mempool import MempoolLimits
from protocol.chain import CommitCertificate
from protocol.codec import encode
from protocol.errors import Code, Rejected
from protocol.exits import FreezeLeaf
from protocol.genesis import Pace, SettlementRules
from protocol.ledger_leaves import freeze_key

WINDOW_PACE = Pace(150, 40, 20_000, 600, 3_000, 1 << 20)


def code_of(world: AppWorld, raw: bytes) -> Code:
    with pytest.raises(Rejected) as refused:
        world.app.submit(raw, 0)
    return refused.value.code


def test_nothing_waits_nothing_is_proposed() -> None:
    world = AppWorld()
    assert not world.app.has_work()
    assert world.app.propose([], 0) == b""
    world.app.check(world.make_block(b""), [])


def test_a_sender_is_served_in_nonce_order_however_they_came() -> None:
    world = AppWorld()
    raws = [world.tx(world.alice, nonce) for nonce in range(3)]
    world.app.submit(raws[2], 0)
    assert not world.app.has_work()
    assert world.propose() == []
    world.app.submit(raws[0], 0)
    assert world.app.has_work()
    assert world.propose() == [raws[0]]
    world.app.submit(raws[1], 0)
    assert world.propose() == raws


def test_a_repeat_is_known_and_another_with_the_same_nonce_is_refused() -> None:
    world = AppWorld()
    raw = world.tx(world.alice, 0)
    identity, new = world.app.submit(raw, 0)
    assert new and world.app.submit(raw, 5) == (identity, False)
    assert len(world.app.mempool) == 1
    assert code_of(world, world.tx(world.alice, 0, 2)) == Code.FEE_TOO_LOW


def test_uncommitted_ancestors_are_not_proposed_again() -> None:
    world = AppWorld()
    raws = [world.tx(world.alice, nonce) for nonce in range(2)]
    for raw in raws:
        world.app.submit(raw, 0)
    parent = world.make_block(encode(raws[:1]))
    assert world.propose(parent) == raws[1:]
    assert world.propose(world.make_block(encode(raws))) == []
    assert world.propose() == raws


def test_committed_and_outdated_transactions_leave_the_pool() -> None:
    world = AppWorld()
    first, rival, second = (
        world.tx(world.alice, 0), world.tx(world.alice, 0, 7), world.tx(world.alice, 1)
    )  # fmt: skip
    identity, _ = world.app.submit(first, 0)
    world.app.submit(second, 0)
    assert world.commit(rival) == [identity]
    assert world.propose() == [second]
    assert world.commit(second) == []
    assert (len(world.app.mempool), world.app.mempool.total_bytes) == (0, 0)
    assert not world.app.has_work()


def test_a_full_pool_pushes_back() -> None:
    world = AppWorld(MempoolLimits(transactions=3))
    for nonce in range(2):
        world.app.submit(world.tx(world.alice, nonce), 0)
    world.app.submit(world.tx(world.bob, 0), 0)
    assert code_of(world, world.tx(world.alice, 2)) == Code.BUSY
    size = len(world.tx(world.alice, 0))
    world = AppWorld(MempoolLimits(total_bytes=(2 * size - 1) * 4 // 3))
    world.app.submit(world.tx(world.alice, 0), 0)
    assert code_of(world, world.tx(world.bob, 0)) == Code.BUSY


def test_clients_leave_room_for_batches() -> None:
    world = AppWorld(MempoolLimits(transactions=8))
    for nonce in range(6):
        world.app.submit(world.tx(world.alice, nonce), 0)
    assert code_of(world, world.tx(world.bob, 0)) == Code.BUSY
    world.log.append()
    assert world.app.submit(world.sign(world.prover, world.batch()), 0)[1]


def test_transactions_that_cannot_run_yet_never_fill_the_pool() -> None:
    """Nonces above a missing one need no money: anybody could send thousands of them."""
    world = AppWorld(MempoolLimits(transactions=8))
    strangers = [key_of(f"stranger {number}") for number in range(20)]
    for key in strangers[:4]:
        world.app.submit(world.tx(key, 1), 0)
    assert code_of(world, world.tx(strangers[4], 1)) == Code.BUSY
    assert code_of(world, world.tx(strangers[0], 2)) == Code.BUSY
    world.app.submit(world.tx(world.alice, 0), 0)
    world.app.submit(world.tx(world.alice, 1), 0)
    assert world.propose() == [world.tx(world.alice, nonce) for nonce in range(2)]


def test_one_sender_cannot_fill_the_pool() -> None:
    world = AppWorld(MempoolLimits(per_sender=3))
    for nonce in range(3):
        world.app.submit(world.tx(world.alice, nonce), 0)
    assert code_of(world, world.tx(world.alice, 3)) == Code.BAD_LEDGER_NONCE
    world.app.submit(world.tx(world.bob, 0), 0)


def test_what_waits_too_long_is_dropped() -> None:
    world = AppWorld(MempoolLimits(wait_ms=100))
    gap, _ = world.app.submit(world.tx(world.alice, 1), 0)
    ready, _ = world.app.submit(world.tx(world.bob, 0), 50)
    assert world.app.mempool.expire(99) == []
    assert world.app.mempool.expire(100) == [gap]
    assert world.app.has_work()
    assert world.app.mempool.expire(150) == [ready]
    assert not world.app.has_work() and world.app.mempool.total_bytes == 0


def test_what_can_never_take_effect_is_refused_at_once() -> None:
    world = AppWorld()
    world.log.append()
    payouts_before_any_batch = LedgerWorld(world.chain)
    payouts_before_any_batch.settle([])
    assert code_of(world, world.tx(world.bob, 0, 51)) == Code.INSUFFICIENT_BALANCE
    assert code_of(world, world.tx(world.bob, 0, 0)) == Code.BAD_AMOUNT
    assert code_of(world, world.sign(world.alice, world.batch())) == Code.NOT_A_PROVER
    assert code_of(world, bytes(PAYLOAD_BYTES)) == Code.TRANSACTION_TOO_LARGE
    assert code_of(world, b"\xc1") == Code.MALFORMED
    world.commit(world.tx(world.bob, 0))
    assert code_of(world, world.tx(world.bob, 0)) == Code.BAD_LEDGER_NONCE


def test_blocks_stay_within_their_bytes_and_senders_take_turns() -> None:
    world = AppWorld()
    alice = [world.tx(world.alice, nonce) for nonce in range(30)]
    for raw in alice:
        world.app.submit(raw, 0)
    bob = world.tx(world.bob, 0)
    world.app.submit(bob, 0)
    chosen = world.propose()
    assert chosen == alice[: len(chosen)] and 10 < len(chosen) < 30
    assert len(encode(chosen)) <= PAYLOAD_BYTES < len(encode(alice[: len(chosen) + 2]))
    world.commit(*chosen)
    assert world.propose()[0] == bob


def test_blocks_with_anything_but_signed_transactions_get_no_vote() -> None:
    world = AppWorld()
    raw = world.tx(world.alice, 0)
    forged = raw[:-1] + bytes((raw[-1] ^ 1,))
    world.log.append()
    stranger = world.sign(world.alice, world.batch())
    for payload, code in (
        (b"\xc1", Code.MALFORMED),
        (encode([]), Code.TOO_MANY_ACTIONS),
        (b"\xdc\x00\x01" + encode(raw), Code.NON_CANONICAL),
        (encode([forged]), Code.BAD_SIGNATURE),
        (encode([raw, raw]), Code.NONCE_USED),
        (encode([stranger]), Code.NOT_A_PROVER),
        (encode([b""] * (MAX_BLOCK_TRANSACTIONS - 1)), Code.FRAME_TOO_LARGE),
        (encode([world.tx(world.bob, 0, -1)]), Code.BAD_AMOUNT),
    ):
        with pytest.raises(Rejected) as refused:
            world.app.check(world.make_block(payload), [])
        assert refused.value.code == code
    world.app.check(world.make_block(encode([raw])), [])
    with pytest.raises(Rejected):
        decode_ledger_payload(encode([b""] * (MAX_BLOCK_TRANSACTIONS + 1)))


# --- pace of blocks while a batch's window is open


def paced_world() -> AppWorld:
    world = AppWorld()
    rules = SettlementRules(window_ms=3_000)
    world.chain = make_chain([(key_of("alice"), 1_000, 500)], settlement=rules, pace=WINDOW_PACE)
    world.ledger = genesis_ledger(world.chain, STATE_ROOT)
    world.app = LedgerApplication(world.ledger, 1 << 20)
    return world


def commit_at(world: AppWorld, step_ms: int, *raws: bytes, app_height: int | None = None) -> None:
    """Commit a block `step_ms` after the last one that names the root of `app_height`."""
    block = world.make_block(encode(list(raws)) if raws else b"")
    named = max(0, world.ledger.height - 1) if app_height is None else app_height
    header = replace(
        block.header, chain_id=world.chain.chain_id, time_ms=world.time_ms + step_ms,
        app_height=named,
    )  # fmt: skip
    certificate = CommitCertificate(world._qc(header), header, block.justify)
    world.app.commit(replace(block, header=header), certificate)


def test_blocks_go_on_slowly_while_a_window_is_open_and_fast_at_its_end() -> None:
    world = paced_world()
    now_ms = world.time_ms
    assert world.app.beat(now_ms) == (None, None)
    world.log = OrderedLog(world.chain)
    world.log.append()
    commit_at(world, 100, world.sign(world.prover, world.batch()))
    assert world.ledger.shard_leaf().batch == 1
    due_ms = world.time_ms + 3_000
    assert world.app.beat(world.time_ms) == (OPEN_BEAT_MS, due_ms)
    commit_at(world, 1_000)
    assert world.app.beat(due_ms - 1) == (OPEN_BEAT_MS, due_ms)
    assert world.app.beat(due_ms) == (WINDOW_PACE.empty_interval_ms, None)
    for _ in range(2):
        commit_at(world, 1_000)
    # Final, and on until a header names the root after that.
    assert world.ledger.final().batch == 1
    assert world.app.beat(world.time_ms) == (WINDOW_PACE.empty_interval_ms, None)
    height = world.ledger.height
    commit_at(world, 20, app_height=height - 1)
    assert world.app.beat(world.time_ms) == (WINDOW_PACE.empty_interval_ms, None)
    commit_at(world, 20, app_height=height)
    assert world.app.beat(world.time_ms) == (None, None)


def test_a_disputed_batch_does_not_hurry_the_chain() -> None:
    world = paced_world()
    world.log = OrderedLog(world.chain)
    world.log.append()
    world.ledger.settling.holds = lambda number: True
    commit_at(world, 100, world.sign(world.prover, world.batch()))
    for _ in range(4):
        commit_at(world, 1_000)
    assert world.app.beat(world.time_ms + 10_000) == (OPEN_BEAT_MS, None)


def test_a_restarted_validator_keeps_the_pace() -> None:
    world = paced_world()
    world.log = OrderedLog(world.chain)
    world.log.append()
    commit_at(world, 100, world.sign(world.prover, world.batch()))
    again = LedgerApplication(world.ledger, 1 << 20)
    assert again.beat(world.time_ms) == world.app.beat(world.time_ms) != (None, None)


def test_a_batch_that_can_take_no_effect_enters_no_pool() -> None:
    world = paced_world()
    world.log = OrderedLog(world.chain)
    world.log.append()
    post = world.batch()
    assert world.app.submit(world.sign(world.prover, post), 0)[1]
    commit_at(world, 100, world.sign(world.prover, post))
    assert code_of(world, world.sign(world.prover, post)) == Code.WRONG_BATCH_NUMBER
    world.log.append()
    later = world.batch()
    world.ledger.write(freeze_key(0), FreezeLeaf(0, 0, world.ledger.final().state_root, 0))
    assert code_of(world, world.sign(world.prover, later)) == Code.SHARD_FROZEN
