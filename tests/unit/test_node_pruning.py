"""A validator's disk proves every exit, whatever was pruned and whenever it crashed."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest
from disk_world import stored
from exit_world import ExitWorld, traded

import store.files
from node import process_keeper
from node.kept_state import kept_file, needed_from
from node.process_keeper import STATE_NAME, keep, rebuilt_from_disk
from node.process_states import KeptStates
from node.store import DATABASE_NAME, ValidatorStore
from protocol.errors import Code, ConfigError, Rejected, SafetyViolation
from store.files import lock_directory, write_atomic


def pruned(directory: Path, world: ExitWorld, beyond: int = 0) -> None:
    """Delete all blocks that the kept state allows to go, and some beyond them."""
    kept = KeptStates(directory / STATE_NAME).batch()
    below = needed_from(world.ledger, kept, world.ledger.height + 1) + beyond
    with sqlite3.connect(directory / DATABASE_NAME) as database:
        database.execute("DELETE FROM blocks WHERE height < ?", (below,))
    database.close()


def proves(directory: Path, world: ExitWorld) -> None:
    """The disk gives the final state, and a claim under the final root."""
    state = rebuilt_from_disk(directory, world.chain)
    assert state.tree.root == world.ledger.final().state_root
    assert state.batch == world.ledger.final().batch
    account = world.account("carol")
    assert not state.batch or state.claim(account).account == account


def lost(directory: Path, world: ExitWorld) -> bool:
    """Whether the disk does not give the state any more."""
    try:
        proves(directory, world)
    except Rejected as refused:
        assert refused.code == Code.NOT_RETAINED
        return True
    return False


@pytest.mark.parametrize("seed", range(5))
def test_trading_keeping_and_pruning_in_any_order(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    world = ExitWorld(window_ms=random.choice([0, 700]), clock_ms=10)
    for _ in range(14):
        draw = random.random()
        if draw < 0.5:
            traded(world, random.randrange(1, 3))
            stored(world, tmp_path)
        elif draw < 0.75:
            stored(world, tmp_path)
            assert keep(tmp_path, world.chain) == world.ledger.final().batch
        else:
            stored(world, tmp_path)
            pruned(tmp_path, world)
        proves(tmp_path, world)


@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "rename"])
def test_a_crash_while_a_state_is_kept_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    world = ExitWorld()
    traded(world, 1)
    stored(world, tmp_path)
    keep(tmp_path, world.chain)
    pruned(tmp_path, world)
    traded(world, 2)
    stored(world, tmp_path)
    real = getattr(os, call)

    def crash(*arguments: Any, **options: Any) -> Any:
        if call == "open" and not str(arguments[0]).endswith(".tmp"):
            return real(*arguments, **options)
        raise OSError(errno.EIO, "the power is gone")

    kept = KeptStates(tmp_path / STATE_NAME).batch()
    with monkeypatch.context() as patch:
        patch.setattr(store.files.os, call, crash)
        with pytest.raises(OSError, match="power"):
            keep(tmp_path, world.chain)
    assert KeptStates(tmp_path / STATE_NAME).batch() == kept
    pruned(tmp_path, world)
    proves(tmp_path, world)
    assert keep(tmp_path, world.chain) == world.ledger.final().batch > kept


def test_only_one_keeps_a_state_and_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world, 1)
    stored(world, tmp_path)
    torn = tmp_path / f".{STATE_NAME}.4711.tmp"
    torn.write_bytes(b"half")
    with (
        lock_directory(tmp_path / process_keeper.LOCK_FOLDER),
        pytest.raises(ConfigError, match="another process"),
    ):
        keep(tmp_path, world.chain)
    assert torn.exists() and not (tmp_path / STATE_NAME).exists()
    assert keep(tmp_path, world.chain) == 2
    assert not torn.exists()


def test_a_long_way_is_kept_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = ExitWorld()
    traded(world, 3)
    stored(world, tmp_path)
    monkeypatch.setattr(process_keeper, "PIECE_S", 0.0)
    written: list[int] = []
    write = process_keeper.write_atomic

    def count(path: Path, data: bytes) -> None:
        write(path, data)
        written.append(KeptStates(path).batch())

    monkeypatch.setattr(process_keeper, "write_atomic", count)
    assert keep(tmp_path, world.chain) == 4
    assert written == [1, 2, 3, 4]
    assert keep(tmp_path, world.chain) == 4 and len(written) == 4


def test_where_blocks_are_gone_others_are_asked_for_their_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ExitWorld()
    traded(world, 2)
    helpful = kept_file(world.rebuilt())
    traded(world, 1)
    stored(world, tmp_path)
    asked: list[tuple[str, ...]] = []

    async def fetch(reading: Any, path: Path, validators: tuple[str, ...]) -> None:
        asked.append(validators)
        write_atomic(path, helpful)

    monkeypatch.setattr(process_keeper, "_fetch", fetch)
    assert keep(tmp_path, world.chain, ("a:1",)) == 4 and not asked, "all blocks are here"
    proves(tmp_path, world)
    (tmp_path / STATE_NAME).unlink()
    following = world.ledger.batch(4)
    assert following is not None
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        database.execute("DELETE FROM blocks WHERE height < ?", (following.ledger_height,))
    database.close()
    with pytest.raises(Rejected) as refused:
        keep(tmp_path, world.chain)
    assert refused.value.code == Code.NOT_RETAINED
    assert keep(tmp_path, world.chain, ("a:1",)) == 4 and asked == [("a:1",)]
    proves(tmp_path, world)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, None])
def test_a_damaged_state_is_made_anew_where_its_blocks_are_here(
    tmp_path: Path, damage: bytes | None
) -> None:
    world = ExitWorld()
    traded(world, 2)
    stored(world, tmp_path)
    keep(tmp_path, world.chain)
    path = tmp_path / STATE_NAME
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    traded(world, 1)
    stored(world, tmp_path)
    assert keep(tmp_path, world.chain) == world.ledger.final().batch
    proves(tmp_path, world)


def test_the_bound_is_sharp(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world, 1)
    stored(world, tmp_path)
    keep(tmp_path, world.chain)
    traded(world, 1)
    stored(world, tmp_path)
    pruned(tmp_path, world)
    proves(tmp_path, world)
    pruned(tmp_path, world, 1)
    assert lost(tmp_path, world)


def test_a_database_that_is_not_whole_is_not_executed(tmp_path: Path) -> None:
    world = ExitWorld()
    traded(world, 1)
    stored(world, tmp_path)
    ValidatorStore(tmp_path, world.chain).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as database:
        database.execute("DELETE FROM leaves WHERE substr(key, 1, 1) = x'04'")
    database.close()
    with pytest.raises((SafetyViolation, Rejected)):
        keep(tmp_path, world.chain)
