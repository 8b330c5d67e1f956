"""The prover's database: position, leaves, what is to be posted, and the outbox."""

from __future__ import annotations

from pathlib import Path

from pipeline_world import DOLLAR, PipelineWorld

from protocol.actions import BUY, CancelClient, Order, Withdraw
from protocol.settlement import PostBatch
from prover.batcher import Batch
from prover.store import ProverStore
from prover.tree import StateTree


def begun(path: Path, world: PipelineWorld) -> ProverStore:
    store = ProverStore(path)
    assert store.position() is None and store.posting() is None
    store.begin(world.batcher.position, list(world.batcher.tree.iterate()))
    return store


def written(store: ProverStore, world: PipelineWorld, *, settled: bool = False) -> Batch:
    batch = world.batcher.build(world.batcher.end_of_next())
    assert batch.certificate is not None
    posting = PostBatch(batch.header, batch.data, batch.certificate)
    store.write(batch, world.batcher.position, None if settled else posting)
    return batch


def test_a_batch_survives_reopening(tmp_path: Path) -> None:
    world = PipelineWorld()
    store = begun(tmp_path, world)
    genesis_leaves = dict(store.leaves())
    world.order(inbox_height=0)
    world.order(world.sign(world.alice, Order(0, BUY, 600_000, 2, 0, 7)))
    batch = written(store, world)
    store.close()

    store = ProverStore(tmp_path)
    assert store.position() == world.batcher.position
    leaves = list(store.leaves())
    assert leaves == sorted(leaves) and dict(leaves) == world.engine.leaves() != genesis_leaves
    assert StateTree(leaves).root == batch.header.post_state_root
    posting = store.posting()
    assert posting is not None and posting.data == batch.data and store.unsettled() == 1
    store.settled()
    assert store.posting() is None and store.unsettled() is None
    assert store.stored_bytes > 0
    store.close()


def test_leaves_that_are_gone_are_gone(tmp_path: Path) -> None:
    world = PipelineWorld()
    store = begun(tmp_path, world)
    world.order(inbox_height=0)
    world.order(world.sign(world.alice, Order(0, BUY, 600_000, 2, 0, 7)))
    written(store, world)
    resting = len(list(store.leaves()))
    world.order(world.sign(world.alice, CancelClient(0, 7)))
    batch = written(store, world, settled=True)
    assert any(value is None for value in batch.changes.values())
    assert store.posting() is None, "an adopted batch is settled already"
    assert dict(store.leaves()) == world.engine.leaves()
    assert len(list(store.leaves())) <= resting
    store.close()


def test_withdrawals_come_with_all_entries_of_their_batch(tmp_path: Path) -> None:
    world = PipelineWorld()
    store = begun(tmp_path, world)
    world.order(inbox_height=0)
    for amount in (1, 2):
        world.order(world.sign(world.alice, Withdraw(amount * DOLLAR, world.alice.address)))
    first = written(store, world)
    world.order(world.sign(world.bob, Withdraw(DOLLAR, world.bob.address)))
    second = written(store, world)
    number = first.header.outbox_first
    assert store.withdrawal(number) == store.withdrawal(number + 1) == (1, first.outbox)
    assert store.withdrawal(number + 2) == (2, second.outbox)
    assert len(first.outbox) == 2 and store.withdrawal(number + 3) is None
    store.close()
