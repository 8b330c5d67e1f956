"""Bytes of the witnesses on which disputed steps are judged, and the moves of a dispute.

    python -m bench.witness [--accounts 64] [--orders 20] [--failing 8] [--blocks 5] [--json]

A population of accounts with so many resting orders each, over three markets, trades as in
`bench.engine`; then the marks fall so far that some of them fail. Of each block every stage is
shown, and a sample of its actions. Signatures count as valid.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from bench.engine import BLOCK_MS, MARKETS, MID_TICKS, START_MS, Flow, chain, deposits
from execution import Engine
from execution.steps import Stage
from protocol.actions import BUY, IOC, SELL, Action, Order
from protocol.chain import EMPTY_HASH, Header
from protocol.codec import encode
from protocol.dispute import STEPS_PER_BLOCK, cuts
from protocol.events import LiquidationBegun
from protocol.genesis import Chain, Limits
from protocol.ordering import OrderedBlock, OrderedPayload
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit
from prover.step_input import StepInput
from prover.steps import walk
from prover.tree import StateTree
from prover.witness import execute, leaf_count

SAMPLE = 6
"""Actions of a block that are shown."""

BATCH_BLOCKS = 4_000
"""Blocks of a large batch."""

LOTS = 200
FALL_TICKS = 2_400


def valid(key: bytes, signature: bytes, digest: bytes) -> bool:
    """Takes every signature."""
    return True


class Population:
    """An engine, its tree, and blocks that are shown step by step."""

    def __init__(
        self, accounts: int, orders: int, failing: int, limits: Limits | None = None
    ) -> None:
        self.rules: Chain = chain(limits)
        self.engine = Engine(self.rules, valid)
        self.tree = StateTree(self.engine.leaves().items())
        self.flow = Flow(1, accounts)
        self.rng = random.Random(1)
        self.height = self.cursor = self.failed = 0
        self.sizes: dict[int, int] = {}
        self.measured: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self.failing = failing
        inbox = deposits(self.flow.signers)
        # Those who fail hold a position of 200 lots at 60,000 on little more than its margin.
        margin_uusd = LOTS * MID_TICKS * 1_000 * 51 // 1_000
        poor = [
            InboxDeposit(one.index, one.account, one.address, margin_uusd)
            for one in inbox[:failing]
        ]
        self.apply([], [*poor, *inbox[failing:]])
        for number in range(failing):
            rich = failing + number % max(1, accounts - failing)
            self.apply([self._order(rich, SELL), self._order(number, BUY)])
        for _ in range(orders):
            self.apply([self.flow.oracle(), *self._resting(range(failing, accounts))])

    def _order(self, owner: int, side: int) -> bytes:
        return self._sign(owner, [Order(0, side, MID_TICKS, LOTS)])

    def _sign(self, owner: int, actions: Sequence[Action]) -> bytes:
        return self.flow.sign(self.flow.signers[owner], FIRST_ACCOUNT + owner, [*actions])

    def _resting(self, owners: Sequence[int]) -> Iterator[bytes]:
        for owner in owners:
            market, side = self.rng.randrange(MARKETS), self.rng.randrange(2)
            away = self.rng.randint(1, 300) * (-1 if side == BUY else 1)
            price = self.flow.mids[market] + away
            yield self._sign(owner, [Order(market, side, price, self.rng.randint(1, 100))])

    def step(self, batches: Sequence[bytes], inbox: Sequence[Any] = ()) -> StepInput:
        """The next block, before its first step."""
        height, cursor = self.height + 1, self.cursor + len(inbox)
        header = Header(
            EMPTY_HASH, 0, 0, height, EMPTY_HASH, 0, START_MS + height * BLOCK_MS, 0, EMPTY_HASH,
            EMPTY_HASH, 0, EMPTY_HASH,
        )  # fmt: skip
        payload = encode(OrderedPayload(0, [*batches]))
        return StepInput(OrderedBlock(header, payload), inbox, cursor, 0)

    def apply(self, batches: Sequence[bytes], inbox: Sequence[Any] = ()) -> None:
        """Execute a block."""
        step = self.step(batches, inbox)
        header = step.block.header
        result = self.engine.apply(
            header.height, header.time_ms, b"", inbox, step.inbox_cursor, batches
        )
        self.flow.follow(result, self.sizes)
        self.failed += sum(isinstance(event, LiquidationBegun) for event in result.events)
        self.tree.update(result.changes)
        self.height, self.cursor = header.height, step.inbox_cursor

    def measure(self, batches: Sequence[bytes]) -> None:
        """Show the next block's stages and some of its actions, then execute it."""
        step = self.step(batches)
        with walk(self.rules, self.tree, step, valid) as walked:
            plan = step.steps(Engine.restore(self.rules, self.tree.iterate(), valid)).plan
            actions = [n for n, one in enumerate(plan) if one.stage in (Stage.MAKING, Stage.TAKING)]
            # Of stages in many steps the first ones find something due, if any.
            shown = {n for n, one in enumerate(plan) if n not in actions and one.batch < SAMPLE}
            # The first action takes as much as it may.
            shown |= {*self.rng.sample(actions, min(SAMPLE, len(actions))), actions[0]}
            for number in sorted(shown):
                root, witness = walked.to(number), walked.witness(number)
                begun = time.process_time_ns()
                execute(self.rules, root, witness, step._replace(number=number), valid)
                spent_us = (time.process_time_ns() - begun) // 1_000
                figures = (len(witness), leaf_count(witness), spent_us)
                self.measured[plan[number].stage.name].append(figures)
        self.apply(batches)

    def block(self) -> list[bytes]:
        """A block of trading, which begins with a sweep."""
        sweep = Order(1, BUY, self.flow.mids[1] + 40, 2_000, IOC)
        mixed = [self.flow.batch(owner=self.rng.randrange(self.failing, len(self.flow.signers)))]
        return [self.flow.oracle(), self._sign(len(self.flow.signers) - 1, [sweep]), *mixed]


def moves(blocks: int, sections: int) -> int:
    """Cuts, and as many choices, until one step of a batch is left."""
    low, high, count = 0, blocks * STEPS_PER_BLOCK, 0
    while high - low > 1:
        high = [*cuts(low, high, sections), high][0]
        count += 1
    return count


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=64)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--failing", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    population = Population(options.accounts, options.orders, options.failing)
    for _ in range(options.blocks):
        population.measure(population.block())
    population.flow.mids = [mid - FALL_TICKS for mid in population.flow.mids]
    for _ in range(3):
        population.measure(population.block())
    figures: dict[str, Any] = {"leaves": len(population.tree), "failed": population.failed}
    for stage in Stage:
        rows = population.measured[stage.name]
        if rows:
            largest = max(rows)
            figures[stage.name] = {
                "median_bytes": round(statistics.median(row[0] for row in rows)),
                "largest_bytes": largest[0], "its_leaves": largest[1], "judged_us": largest[2],
            }  # fmt: skip
    figures["cuts"] = {str(n): moves(BATCH_BLOCKS, n) for n in (2, 16, 64)}
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:>14}  {value}")


if __name__ == "__main__":
    main()
