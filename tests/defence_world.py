"""What challengers and defending provers have around them, straight from a world's ledger."""

from __future__ import annotations

from typing import Any

from dispute_world import DisputeWorld

from protocol.errors import SafetyViolation
from protocol.events import BlockDiff
from protocol.settlement import BatchHeader
from prover.defence import Defence, Material
from prover.tree import StateTree


class LedgerInbox:
    """The inbox straight from the ledger, as a verified follower would have it."""

    def __init__(self, world: DisputeWorld) -> None:
        self._world = world

    def count_at(self, height: int) -> int:
        return self._world.ledger.entries_at(height)

    def entries(self, first: int, end: int) -> list[Any]:
        ledger = self._world.ledger
        return [one for _, one in ledger.entries(first, end - first, ledger.height)]

    def release(self, cursor: int) -> None:
        del cursor


class Store:
    """The undo of batches as a prover's store keeps it."""

    def __init__(self) -> None:
        self.headers: dict[int, BatchHeader] = {}
        self.undo: dict[int, dict[bytes, bytes | None]] = {}

    def header(self, number: int) -> BatchHeader | None:
        return self.headers.get(number)

    def undo_to(self, number: int) -> dict[bytes, bytes | None]:
        if number + 1 not in self.undo:
            raise SafetyViolation("long final")
        found: dict[bytes, bytes | None] = {}
        for one in sorted(self.undo, reverse=True):
            if one > number:
                found.update(self.undo[one])
        return found


def prover() -> tuple[DisputeWorld, StateTree, Store, Defence]:
    """Three batches of a world, as their prover has built them."""
    world, store = DisputeWorld(), Store()
    tree = StateTree(world.truth.leaves(0))
    first = 1
    for blocks in (3, 4, 2):
        world.fill(blocks)
        number = world.post()
        store.headers[number] = world.posted[number][0].header
        changes = {k: v for one in world.changes[first - 1 :] for k, v in one.items()}
        store.undo[number] = {key: tree.get(key) for key in changes}
        tree.update(changes)
        first += blocks
    return world, tree, store, Defence(world.chain, tree, store)


def material(world: DisputeWorld, number: int) -> Material:
    """Blocks, diffs and inbox of a batch, as the ledger and execution give them."""
    header = world.posted[number][0].header
    heights = range(header.first_block, header.last_block + 1)
    diffs = [
        BlockDiff(
            height, world.log.blocks[height - 1].header.block_id(), world.cursors[height],
            list(world.changes[height - 1].items()), [], 0,
        )
        for height in heights
    ]  # fmt: skip
    blocks = [world.log.blocks[height - 1] for height in heights]
    first, end = world.cursors[header.first_block - 1], world.cursors[header.last_block]
    return Material(blocks, diffs, LedgerInbox(world).entries(first, end))
