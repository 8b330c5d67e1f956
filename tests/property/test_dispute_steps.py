"""Random games down to one step, with liars on either side: every stage of a block and every kind
of action can be disputed, and who tells the truth wins.

`TRILEMMA_FLOW_SEEDS` multiplies the number of seeds.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from duel_world import Changes, LyingPlayer, Verdict, changes_on, duel, player_of, single, some
from witness_world import Block, blocks, verify

from execution.engine import Engine
from execution.leaves import PROGRESS_KEY, account_key, decode_account
from execution.phases import work_of
from execution.steps import Stage, Step, batch_of, plan
from protocol.actions import (
    Bracket,
    Cancel,
    CancelAll,
    MarketOrder,
    MassQuote,
    Modify,
    Oco,
    OraclePrice,
    Order,
    ScheduleCancel,
    SetLeverage,
    SetMode,
    SetProtection,
    Transfer,
    TransferPosition,
    TriggerOrder,
    Twap,
    Withdraw,
)
from protocol.codec import encode
from protocol.errors import TrilemmaError
from prover.steps import walk

SEEDS = 3 * int(os.environ.get("TRILEMMA_FLOW_SEEDS", "1"))
KINDS = {
    Bracket, Cancel, CancelAll, MarketOrder, MassQuote, Modify, Oco, OraclePrice, Order,
    ScheduleCancel, SetLeverage, SetMode, SetProtection, Transfer, TransferPosition, TriggerOrder,
    Twap, Withdraw,
}  # fmt: skip
RICHER = account_key(16)


def kinds_of(block: Block) -> list[tuple[Step, type | None]]:
    """The steps of a block, with the kind of action that each is about."""
    step = block.step
    work = work_of(block.chain.genesis, step.inbox, step.inbox_cursor, step.payload().batches)
    found: list[tuple[Step, type | None]] = []
    for one in plan(work, block.chain.genesis):
        opened = batch_of(one, work)
        batch = None if opened is None else opened.batch
        found.append((one, None if batch is None else type(batch.actions[one.action])))
    return found


def changes_of(block: Block, number: int) -> tuple[Changes, Changes]:
    """What a step of a block changes, and the same with an account that gets richer by it."""
    with walk(block.chain, block.tree, block.step._replace(number=0), verify) as walked:
        walked.to(number)
        before = dict(block.tree.iterate())
        engine = Engine.restore(block.chain, before.items(), verify)
        changes = block.step._replace(number=number).run(engine)
    row = decode_account(changes.get(RICHER) or before[RICHER])
    more = msgspec.structs.replace(row, cash_uusd=row.cash_uusd + 1)
    return changes, {**changes, RICHER: encode(more)}


def both(block: Block, liar: LyingPlayer, number: int) -> Iterator[Verdict]:
    """The liar defends its own batch, and disputes a right one; it loses both games."""
    honest = player_of(block)
    lost = duel(single(block, liar.root), liar, honest, block.chain)
    assert (lost.number, lost.stands) == (number, False)
    yield lost
    stands = duel(single(block, block.result), honest, liar, block.chain)
    assert (stands.number, stands.stands) == (number, True)
    yield stands


def test_every_stage_and_every_kind_of_action_can_be_disputed() -> None:
    seen: set[tuple[Stage, type | None]] = set()
    largest, moves = Counter[str](), 0
    for seed in (0, 1, 2, 31):
        for block in blocks(seed, 100):
            for number, (step, kind) in enumerate(kinds_of(block)):
                what = (step.stage, kind)
                if what in seen:
                    continue
                changes, richer = changes_of(block, number)
                if not changes.keys() - {PROGRESS_KEY}:
                    continue
                seen.add(what)
                for verdict in both(block, LyingPlayer(block, number, richer), number):
                    moves = max(moves, verdict.moves)
                    for witness in verdict.witnesses:
                        name = step.stage.name
                        largest[name] = max(largest[name], len(witness))
    print("moves", moves, "largest witness in bytes", dict(largest))
    assert {stage for stage, _ in seen} == set(Stage)
    assert {kind for _, kind in seen} >= KINDS


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whoever_hides_anything_loses(seed: int) -> None:
    rng, seen = random.Random(seed), Counter[str]()
    for block in blocks(seed, 60):
        for _ in range(4):
            liar = hiding_something(block, rng, seen)
            if liar is not None:
                for verdict in both(block, liar, liar.number):
                    seen[f"{len(verdict.witnesses)} witnesses"] += 1
                break
    print(dict(seen))
    assert seen["2 witnesses"] > 1


def hiding_something(block: Block, rng: random.Random, seen: Counter[str]) -> LyingPlayer | None:
    """Who executes some step on part of the state, and tells what it changes there; None where that
    is the truth."""
    # Of stages in many steps the first one has something to do, if any.
    likely = [n for n, (step, kind) in enumerate(kinds_of(block)) if kind or not step.batch]
    number = rng.choice(likely)
    step, share = block.step._replace(number=number), rng.choice((0.0, 0.2, 0.6))
    with walk(block.chain, block.tree, block.step._replace(number=0), verify) as walked:
        walked.to(number)
        witness = some(block.chain, block.tree, step, rng, share, b"")
        try:
            said = changes_on(block.chain, witness, step)
        except (TrilemmaError, KeyError):
            seen["cannot be told"] += 1
            return None
    if said == changes_of(block, number)[0]:
        seen["true"] += 1
        return None
    liar = LyingPlayer(block, number, said, witness)
    if liar.root == block.result:  # the next step makes up for it
        seen["made up for"] += 1
        return None
    liar.stubborn = rng.random() < 0.3
    return liar
