"""Random triggers, pairs, marks, modes and cancels against a list that is searched for every block.

Each block also runs on an engine restored from the leaves (see `WaitingWorld`).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest
from engine_world import ORACLES, market
from waiting_world import A, B, C, WaitingWorld, trigger

from protocol.actions import (
    BUY,
    HALTED,
    OPEN,
    POST_ONLY_MODE,
    SELL,
    STOP,
    TAKE_PROFIT,
    TRAILING,
    Cancel,
    CancelAll,
    Oco,
    OraclePrice,
    SetMode,
    TriggerOrder,
)
from protocol.events import BatchExecuted, TriggerChanged
from protocol.genesis import Limits

RUNS = int(os.environ.get("TRILEMMA_TRIGGER_RUNS", "12"))
OUT_OF_THE_WAY = {BUY: 300, SELL: 3_000}
"""Limits of what fires: it rests and never trades."""


@dataclass
class Waiting:
    """A trigger as its owner thinks of it."""

    id: int
    account: int
    action: TriggerOrder
    best: int
    link: int = 0
    due: bool = False

    def sees(self, mark: int) -> None:
        self.best = max(self.best, mark) if self.action.side == SELL else min(self.best, mark)

    def touched(self, mark: int) -> bool:
        side, kind, ticks = self.action.side, self.action.kind, self.action.trigger_ticks
        if kind == TRAILING:
            return mark <= self.best - ticks if side == SELL else mark >= self.best + ticks
        down = (side == SELL) == (kind == STOP)
        return mark <= ticks if down else mark >= ticks


class Rivals:
    """The engine and the list."""

    def __init__(self, seed: int) -> None:
        print("seed", seed)
        self.rng = random.Random(seed)
        self.budget = self.rng.choice((1, 2, 3, 50))
        self.world = WaitingWorld(
            [market(0), market(1)], Limits(triggers_per_block=self.budget), guardians=1
        )
        self.waiting: dict[int, Waiting] = {}
        self.marks = [1_000, 1_000]
        self.modes = [OPEN, OPEN]
        self.gone: set[int] = set()
        self.fired = 0
        self.late = 0
        """Due triggers that the mark has left again, summed over the blocks."""

    def drop(self, one: int) -> None:
        found = self.waiting.pop(one, None)
        if found is not None:
            self.gone.add(one)
            self.drop(found.link)

    def expected(self) -> list[int]:
        """What fires in a block at these marks."""
        fired: list[int] = []
        for w in self.waiting.values():
            number = w.action.market
            w.sees(self.marks[number])
            if self.modes[number] == OPEN and w.touched(self.marks[number]):
                w.due = True
        for w in sorted(self.waiting.values(), key=lambda w: (w.action.market, w.id)):
            fires = w.due and self.modes[w.action.market] == OPEN and w.id in self.waiting
            if fires and len(fired) < self.budget:
                fired.append(w.id)
                self.drop(w.id)
        self.fired += len(fired)
        due = [w for w in self.waiting.values() if w.due]
        self.late += sum(1 for w in due if not w.touched(self.marks[w.action.market]))
        return fired

    def action(self) -> TriggerOrder:
        rng, number = self.rng, self.rng.randrange(2)
        side, kind = rng.randrange(2), rng.choice((STOP, TAKE_PROFIT, TRAILING))
        ticks = (
            rng.randint(1, 60) if kind == TRAILING else self.marks[number] + rng.randint(-40, 40)
        )
        return trigger(side, 1, kind, ticks, market=number, limit_ticks=OUT_OF_THE_WAY[side])

    def block(self) -> None:
        rng, world = self.rng, self.world
        self.gone = set()
        batches: list[bytes] = []
        if rng.random() < 0.8:
            width = rng.choice((3, 15, 40))
            self.marks = [max(700, min(1_300, m + rng.randint(-width, width))) for m in self.marks]
            prices = [OraclePrice(number, mark) for number, mark in enumerate(self.marks)]
            batches += [world.batch(0, *prices, by=oracle) for oracle in ORACLES]
        number = rng.randrange(2)
        closed = self.modes[number] != OPEN
        if rng.random() < (0.6 if closed else 0.1):
            self.modes[number] = OPEN if closed else rng.choice((POST_ONLY_MODE, HALTED))
            guardian = bytes.fromhex(world.chain.genesis.guardians[0])
            batches.append(world.batch(0, SetMode(number, self.modes[number]), by=guardian))
        fired = self.expected()
        account, wanted = rng.choice((A, B, C)), []
        for _ in range(rng.randint(0, 4)):
            kind = rng.random()
            mine = [w for w in self.waiting.values() if w.account == account]
            if kind < 0.2 and mine:
                one = rng.choice(mine)
                wanted.append(Cancel(one.action.market, one.id))
            elif kind < 0.23:
                wanted.append(CancelAll(rng.randrange(2)))
            elif kind < 0.4:
                first = self.action()
                other = self.action()
                pair = (first.market, first.side, OUT_OF_THE_WAY[first.side])
                wanted.append(Oco(first, trigger(
                    pair[1], 1, other.kind, other.trigger_ticks, market=pair[0], limit_ticks=pair[2]
                )))  # fmt: skip
            else:
                wanted.append(self.action())
        if wanted:
            batches.append(world.batch(account, *wanted))
        world.block(batches)
        assert world.fired() == fired
        if wanted:
            answer = [e for e in world.of(BatchExecuted) if e.account == account][-1]
            for action, result in zip(wanted, answer.results, strict=True):
                if not result.code:
                    self.did(account, action, result.order_id)
        changed = {e.trigger_id for e in world.of(TriggerChanged) if not e.size_lots}
        assert changed == self.gone
        listed = {int.from_bytes(key[3:], "big") for key in world.mirror if key[:1] == b"t"}
        assert listed == set(self.waiting)

    def did(self, account: int, action: object, order_id: int) -> None:
        if isinstance(action, Cancel):
            self.drop(action.order_id)
        elif isinstance(action, CancelAll):
            for w in list(self.waiting.values()):
                if w.account == account and w.action.market == action.market:
                    self.drop(w.id)
        elif isinstance(action, Oco):
            assert isinstance(action.first, TriggerOrder)
            self.add(account, action.first, order_id, order_id + 1)
            self.add(account, action.second, order_id + 1, order_id)
        elif isinstance(action, TriggerOrder):
            self.add(account, action, order_id, 0)

    def add(self, account: int, action: TriggerOrder, trigger_id: int, link: int) -> None:
        mark = self.marks[action.market]
        self.waiting[trigger_id] = Waiting(trigger_id, account, action, mark, link)


@pytest.mark.parametrize("seed", range(RUNS))
def test_triggers_fire_as_a_list_of_them_would(seed: int) -> None:
    rivals = Rivals(seed)
    for _ in range(120):
        rivals.block()
    assert rivals.fired > 20
    assert rivals.late or rivals.budget > 1 or seed >= 12
