"""Blocks of random trading with the state before each, for witnesses and steps."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from engine_world import World, accept, signer
from rich_flow import RichFlow

from execution.engine import Engine
from protocol.actions import Order
from protocol.chain import EMPTY_HASH, Header
from protocol.codec import encode
from protocol.genesis import Chain
from protocol.ordering import OrderedBlock, OrderedPayload
from prover.step_input import StepInput
from prover.tree import StateTree
from prover.witness import decode_witness, execute
from prover.witness_maker import Gathered

verify = accept


class Block(NamedTuple):
    """A block, the state before it, and the root after it."""

    chain: Chain
    tree: StateTree
    step: StepInput
    result: bytes
    changes: dict[bytes, bytes | None]

    def engine(self) -> Engine:
        """An engine that stands before the block."""
        return Engine.restore(self.chain, self.tree.iterate(), accept)

    def execute(self, witness: bytes) -> bytes:
        """The root that the block gives on a witness."""
        return execute(self.chain, self.tree.root, witness, self.step, accept)

    def some(self, rng: random.Random, share: float, *more: bytes) -> bytes:
        """A witness of whatever: of a share of all accounts and leaves, and what others show."""
        found = Gathered(self.tree, self.step.scope(self.chain))
        for one in more:
            found.add(decode_witness(one))
        if not more:
            found.keys.update(self.changes)
        for key, _ in self.tree.iterate():
            if rng.random() < share:
                found.keys.add(key)
                if key[:1] == b"a":
                    found.note([int.from_bytes(key[1:], "big")])
        return encode(found.witness(rng.choice((0, 1, 3))))


def ordered(height: int, time_ms: int, batches: Sequence[bytes]) -> OrderedBlock:
    """An ordered block as far as execution looks at it."""
    header = Header(
        EMPTY_HASH, 0, 0, height, EMPTY_HASH, 0, time_ms, 0, EMPTY_HASH, EMPTY_HASH, 0, EMPTY_HASH
    )
    return OrderedBlock(header, encode(OrderedPayload(0, list(batches))))


def named(account: int) -> Block:
    """A block with a batch for this account."""
    world = World(dollars=100)
    before = StateTree(world.mirror.items())
    batches = [world.batch(account, Order(0, 0, 1_000, 1, 0, 0, 0, 0), by=signer(16))]
    result = world.block(batches)
    step = StepInput(ordered(world.height, world.time_ms, batches), [], world.cursor)
    after = StateTree(world.mirror.items()).root
    return Block(world.chain, before, step, after, result.changes)


def blocks(seed: int, count: int) -> Iterator[Block]:
    """Random blocks of `RichFlow`, in order; with odd seeds cancels come first."""
    print("seed", seed)
    rng = random.Random(seed)
    flow = RichFlow(seed, dollars=rng.choice((25, 60, 110)))
    world = flow.world
    apply, found = world.block, []

    def block(batches: list[bytes], inbox: Any = None) -> Any:
        before = StateTree(world.mirror.items())
        result = apply(batches, inbox)
        after = StateTree(world.mirror.items()).root
        step = StepInput(ordered(world.height, world.time_ms, batches), inbox or [], world.cursor)
        found.append(Block(world.chain, before, step, after, result.changes))
        return result

    world.block = block  # type: ignore[method-assign]
    for _ in range(count):
        flow.block(rng.randint(1, 4), rng.choice((1, 2, 6)))
        yield from found
        found.clear()
