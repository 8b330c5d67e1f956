"""Every kind of lie about an execution loses its game: engines that lie, over trading that uses
everything the exchange has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import engine_world
from duel_world import batch_of, duel, with_sections
from engine_world import GOOD, START_MS, World, accept, signer
from rich_flow import RichFlow

from execution import Engine, funding
from execution.leaves import account_key, decode_account
from protocol.actions import ActionBatch, SignedBatch, Withdraw
from protocol.chain import EMPTY_HASH, Header, payload_hash
from protocol.codec import encode
from protocol.genesis import Chain
from protocol.ordering import OrderedBlock, OrderedPayload
from protocol.settlement import InboxEntry
from prover.game import Player, Trace
from prover.tree import StateTree

SEEDS = (1, 2)
BLOCKS = 200
Changes = dict[bytes, bytes | None]


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


# --- liars: what an engine of theirs says that a block changed


class Liar:
    """Executes as it ought to, until a test makes it something else."""

    def __init__(self, chain: Chain) -> None:
        self.engine = Engine(self.chain_of(chain), accept)
        self.cursor = 0

    def chain_of(self, chain: Chain) -> Chain:
        return chain

    def block(self, done: Done) -> Changes:
        return self.apply(done, done.inbox, done.batches)

    def apply(self, done: Done, inbox: list[InboxEntry], batches: list[bytes]) -> Changes:
        self.cursor += len(inbox)
        return self.engine.apply(
            done.height, done.time_ms, b"", inbox, self.cursor, batches
        ).changes


class Mints(Liar):
    """One account has more than it ought to."""

    def block(self, done: Done) -> Changes:
        changes = super().block(done)
        key = account_key(17)
        if done.height < 40 or (done.height > 40 and key not in changes):
            return changes
        raw = changes.get(key) or self.engine.leaves()[key]
        leaf = decode_account(raw)
        more = msgspec.structs.replace(leaf, cash_uusd=leaf.cash_uusd + 1)
        return {**changes, key: encode(more)}


class DropsABatch(Liar):
    """Fills of one batch never happened."""

    def block(self, done: Done) -> Changes:
        batches = done.batches[1:] if done.height % 20 == 19 else done.batches
        return self.apply(done, done.inbox, batches)


class IgnoresTime(Liar):
    """Who came later is served first."""

    def block(self, done: Done) -> Changes:
        return self.apply(done, done.inbox, done.batches[::-1])


class MispricesFunding(Liar):
    """Funding is paid at another rate."""

    def block(self, done: Done) -> Changes:
        true = funding._rate_ppb
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(funding, "_rate_ppb", lambda market, row: true(market, row) + 500_000)
            return super().block(done)


def with_maintenance(chain: Chain, change: Callable[[int], int]) -> Chain:
    """The chain with another maintenance margin, made from the initial one, everywhere."""

    def changed(one: Any) -> Any:
        return msgspec.structs.replace(one, maintenance_ppm=change(one.initial_ppm))

    markets = [
        msgspec.structs.replace(changed(one), margin_tiers=[changed(t) for t in one.margin_tiers])
        for one in chain.genesis.markets
    ]
    return msgspec.structs.replace(
        chain, genesis=msgspec.structs.replace(chain.genesis, markets=markets)
    )


class SellsTheHealthy(Liar):
    """Liquidates accounts above maintenance."""

    def chain_of(self, chain: Chain) -> Chain:
        return with_maintenance(chain, lambda initial_ppm: initial_ppm - 1_000)


class SparesTheUnhealthy(Liar):
    """Leaves accounts alone that are below maintenance."""

    def chain_of(self, chain: Chain) -> Chain:
        return with_maintenance(chain, lambda _: 1)


class DeleveragesOthers(Liar):
    """Shares a deleveraging among other counterparties."""

    def chain_of(self, chain: Chain) -> Chain:
        limits = msgspec.structs.replace(chain.genesis.limits, deleverage_counterparties=1)
        genesis = msgspec.structs.replace(chain.genesis, limits=limits)
        return msgspec.structs.replace(chain, genesis=genesis)


class IgnoresTheInbox(Liar):
    """A deposit never arrives."""

    def block(self, done: Done) -> Changes:
        inbox = [] if done.height > 2 else done.inbox
        return self.apply(done, inbox, done.batches)


class InventsAWithdrawal(Liar):
    """An action that nobody ordered."""

    def block(self, done: Done) -> Changes:
        batches = done.batches
        if done.height == 60:
            body = encode(ActionBatch(18, START_MS + 10_000_000, 0, [Withdraw(1, b"x" * 20)]))
            batches = [*batches, encode(SignedBatch(1, signer(18), body, GOOD))]
        return self.apply(done, done.inbox, batches)


LIARS: list[type[Liar]] = [
    Mints, DropsABatch, IgnoresTime, MispricesFunding, SellsTheHealthy, SparesTheUnhealthy,
    DeleveragesOthers, IgnoresTheInbox, InventsAWithdrawal,
]  # fmt: skip


# --- the game


def lied(chain: Chain, done: list[Done], liar: Liar) -> list[Changes]:
    """What the liar says, up to some blocks behind its first lie; empty where it told none."""
    said: list[Changes] = []
    behind = 0
    for one in done:
        said.append(liar.block(one))
        behind += bool(behind or said[-1] != one.changes)
        if behind == 7:
            return said
    return said if behind else []


def trace_of(chain: Chain, changes: list[Changes]) -> Trace:
    trace = Trace(StateTree(Engine(chain, accept).leaves().items()), 0)
    trace.extend(changes)
    return trace


def fight(chain: Chain, done: list[Done], defender: Player, challenger: Player) -> tuple[int, bool]:
    """Play a game to its end: the block that decided, and whether the batch stands."""
    last = done[-1].height
    roots = defender.trace.roots([0, last])
    inbox = [entry for one in done for entry in one.inbox]
    steps = batch_of(
        chain, 1, [ordered(one) for one in done], [0, *(one.cursor for one in done)], inbox,
        (roots[0], roots[1]),
    )  # fmt: skip
    verdict = duel(steps, with_sections(defender), with_sections(challenger), chain)
    return verdict.block + 1, verdict.stands


@pytest.mark.parametrize("kind", LIARS, ids=lambda kind: kind.__name__)
def test_each_kind_of_lie_loses_its_game(kind: type[Liar]) -> None:
    bit = 0
    for seed in SEEDS:
        chain, done = flow(seed)
        said = lied(chain, done, kind(chain))
        if not said:
            continue
        bit += 1
        upto = done[: len(said)]
        truth = [one.changes for one in upto]
        first = next(n for n, (a, b) in enumerate(zip(said, truth, strict=True), 1) if a != b)
        true = Player(chain, trace_of(chain, truth), accept)
        # Inside of a block a liar executes as its own engine does.
        false = Player(kind(chain).engine.state.chain, trace_of(chain, said), accept)
        assert fight(chain, upto, false, true) == (first, False)
        # The other way round the liar is the challenger, and loses just the same.
        assert fight(chain, upto, true, false) == (first, True)
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
