"""What the sequencer finds on its disk again, and what it throws away."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from ledger_world import GENESIS_MS, OrderedLog, key_of, make_chain

import sequencer.store as store_module
from consensus import Committed, Persist, PersistBlock, VotingState
from protocol.actions import ActionBatch, Order, batch_id, sign_batch
from protocol.chain import EMPTY_HASH, Block, CommitCertificate, genesis_header, genesis_qc
from protocol.errors import SafetyViolation
from sequencer.machine import PersistBatches, RecoveredSequencer, Sequencer
from sequencer.store import SequencerStore

CHAIN = make_chain([(key_of("alice"), 0, 0)], sequencers=1)


def batch(number: int) -> bytes:
    body = ActionBatch(16, GENESIS_MS + number, 0, [Order(0, 0, 600_000, 1)])
    return sign_batch(key_of("alice"), CHAIN.chain_id, 0, body)


class Blocks:
    """Committed blocks with certificates, the payloads given."""

    def __init__(self) -> None:
        self.log = OrderedLog(CHAIN)

    def next(self, inbox_height: int | None = None, *batches: bytes) -> Block:
        genesis = genesis_header(CHAIN.log_id, CHAIN.genesis.time_ms, EMPTY_HASH)
        self.log.append(inbox_height, batches)
        block = self.log.blocks[-1]
        return Block(block.header, block.payload, genesis_qc(genesis), None)

    def certificate(self, height: int) -> CommitCertificate:
        return self.log.certificate(self.log.blocks[height - 1].header)


def never(identity: bytes) -> bool:
    return False


def test_a_new_directory_is_empty(tmp_path: Path) -> None:
    store = SequencerStore(tmp_path)
    found = store.recover()
    assert (list(found.accepted), list(found.recent)) == ([], [])
    assert (found.inbox_height, found.inbox_cursor) == (0, 0)
    assert found.consensus.tip is None and found.consensus.voting_state is None
    assert store.height == 0 and store.stored(1) is None and store.chunk(1) is None
    store.close()


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    blocks = Blocks()
    first = blocks.next(3, batch(1))
    empty = blocks.next()
    waiting = blocks.next(4, batch(2))
    store = SequencerStore(tmp_path)
    store.recover()
    store.write_batches(PersistBatches(0, [batch(1), batch(2)]))
    for block in (first, empty, waiting):
        store.write_block(block)
    store.write_committed(first, blocks.certificate(2), 7)
    store.write_committed(empty, blocks.certificate(2), 7)
    store.sync()
    store.close()

    store = SequencerStore(tmp_path)
    found = store.recover()
    assert store.height == 2
    assert list(found.accepted) == [batch(1), batch(2)] and list(found.recent) == [first, empty]
    assert found.consensus.tip == empty and found.consensus.certificate == blocks.certificate(2)
    assert list(found.consensus.blocks) == [waiting]
    assert (found.inbox_height, found.inbox_cursor) == (3, 7)
    assert store.stored(1) == (first, None), "block 1 was committed with block 2"
    assert store.stored(2) == (empty, blocks.certificate(2))
    assert store.stored(3) is None and store.stored(0) is None
    store.close()


def test_pruning_keeps_what_still_waits(tmp_path: Path) -> None:
    blocks = Blocks()
    store = SequencerStore(tmp_path)
    store.recover()
    store.write_batches(PersistBatches(0, [batch(1)]))
    store.write_batches(PersistBatches(0, [batch(2), batch(3)]))
    store.write_batches(PersistBatches(0, [batch(4)]))
    committed, above = blocks.next(0, batch(1)), blocks.next(0, batch(2))
    store.write_block(committed)
    store.write_block(above)
    store.write_committed(committed, blocks.certificate(1), 0)
    store.sync()
    store.prune({batch_id(batch(3)), batch_id(batch(4))}.__contains__)
    store.close()
    store = SequencerStore(tmp_path)
    found = store.recover()
    assert list(found.accepted)[-3:] == [batch(2), batch(3), batch(4)]
    assert list(found.consensus.blocks) == [above]
    store.prune(never)
    store.close()
    store = SequencerStore(tmp_path)
    found = store.recover()
    assert list(found.consensus.blocks) == [above], "an uncommitted block is never pruned"
    assert list(found.recent) == [committed]
    store.close()


def test_a_start_reads_back_one_block_more_than_may_hold_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to that block's time everything may be forgotten that was ordered."""
    monkeypatch.setattr(store_module, "RECENT_BLOCKS", 3)
    blocks, store = Blocks(), SequencerStore(tmp_path)
    store.recover()
    made = [blocks.next(0, batch(number)) for number in range(8)]
    for block in made:
        store.write_block(block)
        store.write_committed(block, blocks.certificate(block.header.height), 0)
    store.sync()
    store.close()
    store = SequencerStore(tmp_path)
    assert list(store.recover().recent) == made[4:]
    store.write_batches(PersistBatches(3, [batch(9)]))
    store.close()
    store = SequencerStore(tmp_path)
    assert list(store.recover().recent) == made[2:]
    store.close()


def test_pruning_frees_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool and the voting states of a long life do not pile up."""
    blocks = Blocks()
    store = SequencerStore(tmp_path)
    store.recover()
    filler = [sign_large(number) for number in range(40)]
    sizes = []
    for round_number in range(60):
        store.write_batches(PersistBatches(round_number, filler * 8))
        block = blocks.next(0)
        store.write_block(block)
        store.write_committed(block, blocks.certificate(round_number + 1), 0)
        store.sync()
        store.prune(never)
        sizes.append(store.stored_bytes)
    written = 60 * 8 * sum(len(raw) for raw in filler)
    assert written > 100 << 20 > sizes[-1]
    store.close()


def sign_large(number: int) -> bytes:
    body = ActionBatch(16, GENESIS_MS + number, 0, [Order(0, 0, 600_000, 1)] * 100)
    return sign_batch(key_of("alice"), CHAIN.chain_id, 0, body) * 6


def test_chunks_end_at_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks()
    store = SequencerStore(tmp_path)
    store.recover()
    made = [blocks.next(0, batch(number)) for number in range(6)]
    for height, ends_at in ((1, 2), (2, 2), (3, 3), (4, 6), (5, 6), (6, 6)):
        store.write_committed(made[height - 1], blocks.certificate(ends_at), 0)
    store.sync()

    def heights(first: int) -> tuple[list[int], int]:
        chunk = store.chunk(first)
        assert chunk is not None
        assert chunk.certificate.qc.height == chunk.blocks[-1].header.height
        return [block.header.height for block in chunk.blocks], chunk.certificate.qc.height

    assert heights(1) == ([1, 2, 3, 4, 5, 6], 6)
    monkeypatch.setattr(store_module, "CHUNK_BYTES", 1)
    assert heights(1) == ([1, 2], 2)
    assert heights(2) == ([2], 2)
    assert heights(3) == ([3], 3)
    assert heights(4) == ([4, 5, 6], 6), "a big commit step is never cut"
    assert store.chunk(7) is None
    store.close()


def test_a_commit_step_that_was_torn_is_taken_back(tmp_path: Path) -> None:
    blocks = Blocks()
    made = [blocks.next(0, batch(number)) for number in range(5)]
    store = SequencerStore(tmp_path)
    store.recover()
    # The end of the second step, height 5, never came to the disk.
    for height, ends_at in ((1, 2), (2, 2), (3, 5), (4, 5)):
        store.write_committed(made[height - 1], blocks.certificate(ends_at), height)
    store.close()
    for _ in range(2):
        store = SequencerStore(tmp_path)
        found = store.recover()
        assert found.consensus.tip == made[1] and store.height == 2
        assert found.inbox_cursor == 2 and list(found.recent) == made[:2]
        store.close()
    store = SequencerStore(tmp_path)
    store.recover()
    store.write_committed(made[2], blocks.certificate(3), 3)
    store.close()
    assert SequencerStore(tmp_path).recover().consensus.tip == made[2]


def test_what_others_passed_on_waits_for_the_next_sync(tmp_path: Path) -> None:
    store = SequencerStore(tmp_path)
    store.recover()
    store.write_batches(PersistBatches(0, [batch(1)], origin=2))
    store.sync()
    assert store._pool.synced_index == 0
    store.write_batches(PersistBatches(0, [batch(2)]))
    store.sync()
    assert store._pool.synced_index == 2
    store.close()
    assert list(SequencerStore(tmp_path).recover().accepted) == [batch(1), batch(2)]


def test_who_passed_a_batch_on_is_known_again_until_it_is_promised_here(tmp_path: Path) -> None:
    store = SequencerStore(tmp_path)
    store.recover()
    store.write_batches(PersistBatches(0, [batch(1)]))
    store.write_batches(PersistBatches(0, [batch(2), batch(3)], 2))
    store.write_batches(PersistBatches(0, [batch(4)], 1))
    store.write_batches(PersistBatches(0, [batch(3)]))
    store.close()
    found = SequencerStore(tmp_path).recover()
    assert list(found.accepted) == [batch(number) for number in (1, 2, 3, 4, 3)]
    assert found.passed_by == {batch_id(batch(2)): 2, batch_id(batch(4)): 1}


def test_a_pool_of_an_earlier_release_is_read_as_promised_here(tmp_path: Path) -> None:
    store = SequencerStore(tmp_path)
    store.recover()
    store._pool.append(msgspec.msgpack.encode([0, [batch(1)]]))
    store.close()
    found = SequencerStore(tmp_path).recover()
    assert (list(found.accepted), found.passed_by) == ([batch(1)], {})


def test_a_whole_life_over_two_restarts(tmp_path: Path) -> None:
    """The machine's own effects, stored and recovered: the log goes on, the voting state too."""
    now_ms = GENESIS_MS + 1_000
    ordered: list[bytes] = []
    last_view = 0
    for life in range(3):
        store = SequencerStore(tmp_path)
        found = store.recover()
        state = found.consensus.voting_state
        if life:
            assert isinstance(state, VotingState) and state.last_voted_view >= last_view
            last_view = state.last_voted_view
        machine = started(store, found)
        carry_out(store, machine, machine.start(now_ms))
        carry_out(store, machine, machine.note_settled(0, now_ms))
        raw = batch(100 + life)
        machine.submit((1, life), raw, {key_of("alice").public}, now_ms)
        carry_out(store, machine, machine.flush(now_ms))
        for _ in range(200):
            due_ms = machine.replica.next_deadline_ms()
            if due_ms is None or due_ms > now_ms + 150:
                break
            now_ms = max(now_ms, due_ms)
            carry_out(store, machine, machine.tick(now_ms))
        ordered.append(raw)
        assert all(machine.pool.committed_at(batch_id(one)) for one in ordered)
        store.close()


def test_what_was_ordered_long_ago_does_not_wait_again_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequencer.pool.RECENT_MAX", 2)
    monkeypatch.setattr("sequencer.pool.REPEAT_BLOCKS", 1)
    blocks, store = Blocks(), SequencerStore(tmp_path)
    store.recover()
    store.write_batches(PersistBatches(0, [batch(number) for number in range(7)]))
    for number in range(6):
        store.write_committed(blocks.next(0, batch(number)), blocks.certificate(number + 1), 0)
    store.prune(lambda identity: identity == batch_id(batch(6)))
    store.close()
    store = SequencerStore(tmp_path)
    pool = started(store, store.recover()).pool
    assert len(pool) == 1 and batch_id(batch(6)) in pool
    store.close()


def started(store: SequencerStore, found: RecoveredSequencer) -> Sequencer:
    return Sequencer(CHAIN, 0, key_of("sequencer-0"), found, store.stored)


def carry_out(store: SequencerStore, machine: Sequencer, effects: list[object]) -> None:
    for effect in effects:
        if isinstance(effect, PersistBatches):
            store.write_batches(effect)
        elif isinstance(effect, PersistBlock):
            store.write_block(effect.block)
        elif isinstance(effect, Persist):
            store.write_voting(effect.state)
        elif isinstance(effect, Committed):
            store.write_committed(effect.block, effect.certificate, machine.pool.inbox_cursor)
    store.sync()
    store.prune(machine.pool.__contains__)


def test_large_blocks_do_not_fill_the_memory_and_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = Blocks()
    made = [blocks.next(0, batch(number)) for number in range(9)]
    each = store_module.RECORD_BYTES + len(made[0].payload)
    monkeypatch.setattr(store_module, "CACHED_BYTES", 3 * each)
    store = SequencerStore(tmp_path)
    for number, block in enumerate(made[:8], 1):
        store.write_committed(block, blocks.certificate(number), 0)
        assert len(store._newest) <= 3
        assert [store.stored(height) for height in range(1, number + 1)] == [
            (one, blocks.certificate(height)) for height, one in enumerate(made[:number], 1)
        ], "what is not in the log yet is read, too"
    store.sync()
    store.write_committed(made[8], blocks.certificate(9), 0)
    store.sync()
    for height, block in enumerate(made, 1):
        assert store.stored(height) == (block, blocks.certificate(height))
    store.close()


def test_who_follows_a_few_full_blocks_behind_makes_nobody_read_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, blocks = SequencerStore(tmp_path), Blocks()
    for height in range(1, 16):
        store.write_committed(blocks.next(0, bytes(1 << 20)), blocks.certificate(height), 0)
        store.sync()
    monkeypatch.delattr(store._log.__class__, "read")
    for height in range(1, 16):
        assert store.stored(height) is not None
    store.close()


def test_a_committed_block_never_stands_in_the_wrong_place(tmp_path: Path) -> None:
    store, blocks = SequencerStore(tmp_path), Blocks()
    blocks.next()
    second = blocks.next()
    with pytest.raises(SafetyViolation, match="would stand behind"):
        store.write_committed(second, blocks.certificate(1), 0)
    assert store.height == 0
    store.close()
