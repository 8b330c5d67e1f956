"""Whatever is ordered can be settled: chunks of the log fit a batch, and its data the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_world import OrderedLog, key_of, make_chain

from protocol.actions import ActionBatch, SignedBatch, Withdraw, batch_id, open_batch
from protocol.batch_data import unpack_blocks
from protocol.chain import Block, Header
from protocol.codec import encode
from protocol.events import BlockDiff
from protocol.genesis import Chain
from protocol.ordering import OrderedBlock, OrderedChunk, decode_payload
from protocol.settlement import MAX_BATCH_DATA_BYTES
from prover.batcher import BATCH_BLOCKS_MAX, BATCH_BYTES_MAX, Batcher, Position
from prover.tree import StateTree
from sequencer.pool import BatchPool
from sequencer.store import BLOCK_OVERHEAD_BYTES, CHUNK_BYTES, SequencerStore

PAYLOAD_BYTES = 1 << 20
"""What the sequencer's pace allows a block."""


def batcher_of(chain: Chain) -> Batcher:
    tree = StateTree()
    position = Position(0, 0, b"", tree.root, 0, 0)
    return Batcher(chain.chain_id, 0, key_of("prover").public, tree, position)


def settle(batcher: Batcher, chunk: OrderedChunk) -> bytes:
    """Data of the one batch that holds the chunk."""
    batcher.add_chunk(chunk)
    for block in chunk.blocks:
        header = block.header
        batcher.add_diff(BlockDiff(header.height, header.block_id(), 0, [], [], 0))
    end = batcher.end_of_next()
    assert end == chunk.blocks[-1].header.height, "this chunk fits no batch: nothing settles again"
    return batcher.build(end).data


def monotonous(nonce: int) -> bytes:
    """A well-formed batch of almost nothing but zeros, which nobody signed."""
    body = encode(ActionBatch(16, nonce, 0, [Withdraw(1, bytes(16_000))]))
    raw = encode(SignedBatch(1, bytes(32), body, bytes(64)))
    open_batch(raw)
    return raw


def test_data_that_compresses_beyond_the_ledgers_bound_is_still_accepted_by_it() -> None:
    chain = make_chain([])
    log, batcher = OrderedLog(chain), batcher_of(chain)
    for height in range(2):
        log.append(0, [monotonous(height * 100 + n) for n in range(57)])
    chunk = OrderedChunk(log.blocks, log.certificate(log.blocks[-1].header))
    data = settle(batcher, chunk)
    assert len(data) <= MAX_BATCH_DATA_BYTES
    assert unpack_blocks(data) == log.blocks


@pytest.mark.parametrize("share", [1.0, 0.98, 0.7, 0.4, 0.01])
def test_every_chunk_of_the_log_fits_a_batch(tmp_path: Path, share: float) -> None:
    chain = make_chain([], sequencers=1)
    log, store = OrderedLog(chain), SequencerStore(tmp_path)
    size = int((PAYLOAD_BYTES - 200) * share)
    for height in range(1, 8):
        log.append(0, [bytes((height,)) * size])
        header = log.blocks[-1].header
        assert len(log.blocks[-1].payload) <= PAYLOAD_BYTES
        certificate = log.certificate(header)
        store.write_committed(
            Block(header, log.blocks[-1].payload, certificate.qc, None), certificate, 0
        )
    store.sync()
    batcher, height = batcher_of(chain), 1
    while height <= store.height:
        chunk = store.chunk(height)
        assert chunk is not None and chunk.blocks[0].header.height == height
        assert chunk.certificate.qc.height == chunk.blocks[-1].header.height
        settle(batcher, chunk)
        height += len(chunk.blocks)
    assert batcher.position.block == 7
    store.close()


def test_a_commit_step_beyond_the_bounds_of_a_batch_goes_alone() -> None:
    chain = make_chain([], sequencers=1)
    log, batcher = OrderedLog(chain), batcher_of(chain)
    for height in range(4):
        log.append(0, [bytes((height,)) * (PAYLOAD_BYTES - 200)])
    last = log.certificate(log.blocks[2].header)
    data = settle(batcher, OrderedChunk(log.blocks[:3], last))
    assert len(encode(log.blocks[:3])) > BATCH_BYTES_MAX
    assert unpack_blocks(data) == log.blocks[:3]
    settle(batcher, OrderedChunk(log.blocks[3:], log.certificate(log.blocks[3].header)))


def test_uncommitted_blocks_together_carry_no_more_than_one_payload() -> None:
    chain = make_chain([], sequencers=1)
    log, pool = OrderedLog(chain), BatchPool(PAYLOAD_BYTES, 256, 0, 0, 0)
    for number in range(300):
        raw = monotonous(number)
        pool.add(batch_id(raw), raw, *open_batch(raw))
    uncommitted: list[Block] = []
    for _ in range(3):
        payload = pool.propose(uncommitted, 0)
        batches = decode_payload(payload).batches[:40] if payload else []
        log.append(0, batches)
        qc = log.qc(log.blocks[-1].header, 1)
        uncommitted.append(Block(log.blocks[-1].header, log.blocks[-1].payload, qc, None))
    assert PAYLOAD_BYTES * 3 // 4 < sum(len(one.payload) for one in uncommitted) <= PAYLOAD_BYTES
    assert pool.propose(uncommitted, 0) == b""
    assert len(pool.propose(uncommitted[2:], 0)) > PAYLOAD_BYTES * 3 // 4


def test_a_chunk_of_empty_blocks_holds_no_more_of_them_than_a_batch() -> None:
    assert CHUNK_BYTES // BLOCK_OVERHEAD_BYTES <= BATCH_BLOCKS_MAX
    top, digest = (1 << 64) - 1, b"\xff" * 32
    header = Header(
        digest, top, top, top, digest, top, top, top, digest, digest, top, digest
    )  # fmt: skip
    assert len(encode(OrderedBlock(header, b""))) <= BLOCK_OVERHEAD_BYTES
