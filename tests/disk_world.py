"""The ledger blocks of a world on a validator's disk."""

from __future__ import annotations

from pathlib import Path

from exit_world import ExitWorld

from node.app import ExecutedBlock
from node.store import ValidatorStore, WriteBatch


def stored(world: ExitWorld, directory: Path) -> None:
    """Put the world's ledger blocks on a disk, those that are not there yet."""
    store = ValidatorStore(directory, world.chain)
    height = store.load_ledger(world.genesis_root).height
    executed = [
        ExecutedBlock(block, world.certificate(), outcome, [])
        for block, outcome in zip(world.blocks, world.outcomes, strict=True)
        if block.header.height > height
    ]
    store.write(WriteBatch(executed=executed))
    store.close()
