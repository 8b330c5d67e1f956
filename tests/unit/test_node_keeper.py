"""A validator that prunes keeps the state behind what it forgets, so that its disk proves exits."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from disk_world import stored
from exit_world import DOLLAR, ExitWorld, traded

from node.app import ExecutedBlock, LedgerApplication
from node.kept_state import needed_from
from node.machine import Validator
from node.process_keeper import STATE_NAME, keep, main, read_kept_state, rebuilt_from_disk
from node.rounds import Round
from node.snapshots import SnapshotSource
from node.store import DATABASE_NAME, ValidatorStore, WriteBatch
from node.store_reading import StoreReading
from protocol.errors import Code, ConfigError, Rejected
from protocol.settlement import Deposit


def pruned(directory: Path, below: int) -> None:
    """Forget blocks, whatever recovery would need."""
    with sqlite3.connect(directory / DATABASE_NAME) as database:
        database.execute("DELETE FROM blocks WHERE height < ?", (below,))


def test_the_disk_alone_gives_the_final_state(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world)
    stored(world, tmp_path)
    state = rebuilt_from_disk(tmp_path, world.chain)
    assert dict(state.tree.iterate()) == world.engine.leaves()
    assert state.claim(world.account("carol")) == world.rebuilt().claim(world.account("carol"))


def test_a_kept_state_takes_the_place_of_blocks_that_are_gone(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world, 2)
    stored(world, tmp_path)
    assert keep(tmp_path, world.chain) == 3
    kept = read_kept_state(tmp_path / STATE_NAME)
    assert kept is not None and kept.batch == 3
    first = len(world.blocks) + 1
    traded(world, 2)
    stored(world, tmp_path)
    pruned(tmp_path, first)
    state = rebuilt_from_disk(tmp_path, world.chain)
    assert dict(state.tree.iterate()) == world.engine.leaves()
    (tmp_path / STATE_NAME).unlink()
    with pytest.raises(Rejected) as refused:
        rebuilt_from_disk(tmp_path, world.chain)
    assert refused.value.code == Code.NOT_RETAINED


def test_the_database_is_read_beside_its_writer_as_of_one_moment(tmp_path: Path) -> None:
    world = ExitWorld()
    stored(world, tmp_path)
    writer = ValidatorStore(tmp_path, world.chain)
    reading = StoreReading(tmp_path, world.chain)
    height = reading.ledger.height
    world.act("alice", Deposit(world.keys["alice"].address, DOLLAR))
    newest = ExecutedBlock(world.blocks[-1], world.certificate(), world.outcomes[-1], [])
    writer.write(WriteBatch(executed=[newest]))
    assert reading.block(height) is not None and reading.block(height + 1) is None
    reading.close()
    again = StoreReading(tmp_path, world.chain)
    assert again.ledger.height == height + 1 and again.ledger.root == world.ledger.root
    again.close()
    writer.close()


def test_what_is_no_validators_disk_is_told(tmp_path: Path) -> None:
    world = ExitWorld()
    with pytest.raises(ConfigError, match="no validator's data directory"):
        rebuilt_from_disk(tmp_path, world.chain)
    stored(world, tmp_path)
    with pytest.raises(ConfigError, match="another chain"):
        StoreReading(tmp_path, ExitWorld(forced_ms=77_000).chain)
    (tmp_path / STATE_NAME).write_bytes(b"\xc1")
    with pytest.raises(ConfigError, match="no kept state"):
        rebuilt_from_disk(tmp_path, world.chain)
    assert main(tmp_path, tmp_path / "no-genesis.json") == 1


def test_blocks_with_batches_wait_for_the_state_that_they_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ExitWorld(window_ms=1_500, clock_ms=10)
    world.pass_ms(1_500)
    traded(world, 2)
    world.pass_ms(1_600)
    traded(world, 1)
    assert (world.ledger.final().batch, world.ledger.shard_leaf().batch) == (3, 4)
    heights = {
        number: settled.ledger_height
        for number in range(1, 5)
        if (settled := world.ledger.batch(number)) is not None
    }
    stored(world, tmp_path)
    store = ValidatorStore(tmp_path, world.chain)
    app = LedgerApplication(world.ledger, 1 << 20)
    machine = Validator(
        world.chain, None, app, store.genesis_root(), store.recovered(), stored=store.block,
        snapshots=SnapshotSource(store, store.snapshot_base(), 10), retain_blocks=1,
    )  # fmt: skip
    source = machine._snapshots
    assert source is not None
    monkeypatch.setattr(source, "prune_below", lambda tip, retain: tip)
    for kept, below in ((0, heights[1]), (2, heights[3]), (3, heights[4])):
        machine.kept_batch = kept
        done = Round()
        machine._prune(done)
        assert done.batch.prune_below == below
    newest = world.ledger.height
    assert (needed_from(world.ledger, 3, 5), needed_from(world.ledger, 4, newest)) == (5, newest)
    store.close()
