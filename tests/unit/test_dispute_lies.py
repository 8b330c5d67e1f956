"""Every kind of lie about an execution loses its game: engines that lie, over trading that uses
everything the exchange has."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import engine_world
from duel_world import Changes, Verdict, batch_of, duel, with_sections
from engine_world import GOOD, World, accept
from rich_flow import RichFlow

from execution.engine import Engine
from execution.phases import work_of
from execution.steps import Stage, plan
from protocol.chain import EMPTY_HASH, Header, payload_hash
from protocol.codec import encode
from protocol.genesis import Chain
from protocol.ordering import OrderedBlock, OrderedPayload
from protocol.settlement import InboxEntry
from prover.game import Player, Trace
from prover.tree import StateTree
from sim.lying_engines import LIES, Given, Lie, LyingExecution
from sim.lying_players import LyingPlayer

SEEDS = (1, 2)
BLOCKS = 200
SINCE = 40
"""First block of which anybody lies."""


class Done(NamedTuple):
    """A block of the flow, and what it did."""

    height: int
    time_ms: int
    inbox: list[InboxEntry]
    cursor: int
    batches: list[bytes]
    changes: Changes


@cache
def flow(seed: int) -> tuple[Chain, list[Done]]:
    """Blocks of rich trading, from the first."""
    done: list[Done] = []

    class Recorded(World):
        def block(self, batches: list[bytes], inbox: Any = None) -> Any:
            result = super().block(batches, inbox)
            done.append(
                Done(self.height, self.time_ms, inbox or [], self.cursor, batches, result.changes)
            )
            return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rich_flow.World", Recorded)
        trading = RichFlow(seed)
        while len(done) < BLOCKS:
            trading.block(2, 4)
    return trading.world.chain, done


def ordered(done: Done) -> OrderedBlock:
    """The block as the log has it."""
    payload = encode(OrderedPayload(0, done.batches))
    header = Header(
        bytes(32), 0, done.height, done.height, EMPTY_HASH, done.height - 1, done.time_ms, 0,
        payload_hash(payload), EMPTY_HASH, 0, EMPTY_HASH,
    )  # fmt: skip
    return OrderedBlock(header, payload)


# --- the game


def lied(chain: Chain, done: list[Done], lie: Lie) -> list[Changes]:
    """What the liar says, up to some blocks behind its first lie; empty where it told none."""
    liar = LyingExecution(lie, chain, Engine(chain, accept).leaves().items(), accept, SINCE)
    said: list[Changes] = []
    behind = 0
    for one in done:
        told = liar.apply(Given(one.height, one.time_ms, one.inbox, one.cursor, one.batches))
        said.append(told.changes)
        behind += bool(behind or said[-1] != one.changes)
        if behind == 7:
            return said
    return said if behind else []


def trace_of(chain: Chain, changes: list[Changes]) -> Trace:
    trace = Trace(StateTree(Engine(chain, accept).leaves().items()), 0)
    trace.extend(changes)
    return trace


def fight(chain: Chain, done: list[Done], defender: Player, challenger: Player) -> Verdict:
    """Play a game to its end: which step decided, and whether the batch stands."""
    last = done[-1].height
    roots = defender.trace.roots([0, last])
    inbox = [entry for one in done for entry in one.inbox]
    steps = batch_of(
        chain, 1, [ordered(one) for one in done], [0, *(one.cursor for one in done)], inbox,
        (roots[0], roots[1]),
    )  # fmt: skip
    return duel(steps, with_sections(defender), with_sections(challenger), chain)


def stage_of(done: Done, chain: Chain, number: int) -> Stage:
    """The stage of a step of a block."""
    work = work_of(chain.genesis, done.inbox, done.cursor, done.batches)
    return plan(work, chain.genesis)[number].stage


@pytest.mark.parametrize("name", LIES)
def test_each_kind_of_lie_loses_its_game(name: str) -> None:
    lie = LIES[name](b"x" * 20)
    bit = 0
    for seed in SEEDS:
        chain, done = flow(seed)
        said = lied(chain, done, lie)
        if not said:
            continue
        bit += 1
        upto = done[: len(said)]
        truth = [one.changes for one in upto]
        first = next(n for n, (a, b) in enumerate(zip(said, truth, strict=True), 1) if a != b)
        true = Player(chain, trace_of(chain, truth), accept)
        false = LyingPlayer(chain, trace_of(chain, said), lie, accept)
        verdict = fight(chain, upto, false, true)
        assert (verdict.block + 1, verdict.stands) == (first, False)
        # The step that decides is one of the stage in which the lie shows, or one before it.
        assert stage_of(done[first - 1], chain, verdict.number) <= lie.stage
        # The other way round the liar is the challenger, and loses just the same.
        verdict = fight(chain, upto, true, false)
        assert (verdict.block + 1, verdict.stands) == (first, True)
    assert bit, "the flow gave no occasion for this lie"


def test_the_flow_lets_every_phase_work() -> None:
    kinds = set()
    for seed in SEEDS:
        chain, done = flow(seed)
        engine = Engine(chain, accept)
        for one in done:
            engine.apply(one.height, one.time_ms, b"", one.inbox, one.cursor, one.batches)
            kinds |= {type(event).__name__ for event in engine.state.events}
    assert {"Fill", "FundingRate", "LiquidationBegun", "WithdrawalQueued", "Deposited"} <= kinds
    assert engine_world.GOOD == GOOD
