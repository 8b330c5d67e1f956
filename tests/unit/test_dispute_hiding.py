"""Whoever hides what counts loses: the best order, an account that fails, a trigger that is due, a
counterparty that ranks better."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from duel_world import Changes, LyingPlayer, changes_on, duel, player_of, single
from witness_world import Block, blocks, verify

from execution.engine import Engine
from execution.phases import work_of
from execution.steps import Stage, plan
from protocol import events as ev
from protocol.errors import TrilemmaError
from protocol.settlement import master_of
from prover.steps import walk
from sim.lying_play import hiding

SEEDS = (31, 15, 39)
"""Flows in which somebody is deleveraged."""
BLOCKS = 110


class Hidden(NamedTuple):
    """A step that somebody executes without an account, and what it changes then."""

    block: Block
    number: int
    said: Changes
    witness: bytes


def makers(event: Any) -> list[int]:
    return [event.maker_account] if isinstance(event, ev.Fill) else []


def failing(event: Any) -> list[int]:
    return [event.account] if isinstance(event, ev.LiquidationBegun) else []


def triggered(event: Any) -> list[int]:
    return [event.account] if isinstance(event, ev.TriggerFired) else []


def deleveraged(event: Any) -> list[int]:
    if not isinstance(event, ev.Receipt) or event.kind != ev.LIQUIDATION_DELEVERAGED:
        return []
    return [event.account] if event.of_account != event.account else []


KINDS: dict[str, tuple[Stage, Callable[[Any], list[int]]]] = {
    "the best order": (Stage.TAKING, makers),
    "an account that fails": (Stage.LIQUIDATIONS, failing),
    "a trigger that is due": (Stage.TRIGGERS, triggered),
    "a better-ranked counterparty": (Stage.LIQUIDATIONS, deleveraged),
}


def hidden(stage: Stage, of: Callable[[Any], list[int]]) -> Iterator[Hidden]:
    """Steps of the stage that end differently without an account that they are about."""
    for seed in SEEDS:
        for block in blocks(seed, BLOCKS):
            work = work_of(
                block.chain.genesis, block.step.inbox, block.step.inbox_cursor,
                block.step.payload().batches,
            )  # fmt: skip
            for number, step in enumerate(plan(work, block.chain.genesis)):
                if step.stage == stage:
                    yield from _without(block, number, of)


def _without(block: Block, number: int, of: Callable[[Any], list[int]]) -> list[Hidden]:
    found: list[Hidden] = []
    step = block.step._replace(number=number)
    with walk(block.chain, block.tree, block.step._replace(number=0), verify) as walked:
        walked.to(number)
        engine = Engine.restore(block.chain, block.tree.iterate(), verify)
        changes = step.run(engine)
        for account in sorted({one for event in engine.state.events for one in of(event)}):
            alike = {n for n in engine.state.accounts if master_of(n) == master_of(account)}
            try:
                witness = hiding(block.chain, block.tree, step, alike, changes)
                said = changes_on(block.chain, witness, step)
            except (TrilemmaError, KeyError):  # it cannot even be told
                continue
            if said != changes:
                found.append(Hidden(block, number, said, witness))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_hides_it_loses(kind: str) -> None:
    played = 0
    for one in hidden(*KINDS[kind]):
        liar, honest = LyingPlayer(*one), player_of(one.block)
        if liar.root == one.block.result:  # a trigger that the next step fires
            continue
        verdict = duel(single(one.block, liar.root), liar, honest, one.block.chain)
        assert (verdict.number, verdict.stands) == (one.number, False)
        right = single(one.block, one.block.result)
        for liar.stubborn in (False, True):
            verdict = duel(right, honest, liar, one.block.chain)
            assert (verdict.number, verdict.stands) == (one.number, True)
        played += len(verdict.witnesses) > 1
        if played == 4:
            return
    assert played, "the flow gave no occasion for this lie"
