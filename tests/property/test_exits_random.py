"""Whatever happened before a freeze: money is conserved, nobody waits for another, all claims get
the same share, and nothing is paid that is not there."""

from __future__ import annotations

import random
from typing import Any

import pytest
from exit_world import CLAIM_MS, DOLLAR, NAMES, ExitWorld
from ledger_world import key_of

from node.ledger import Ledger
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    HALTED,
    OPEN,
    REDUCE_ONLY,
    SELL,
    Action,
    CancelAll,
    MarketOrder,
    Order,
    Withdraw,
)
from protocol.errors import Code
from protocol.exits import Collect, Refund
from protocol.settlement import Deposit, InboxDeposit

SEEDS = [(seed, False) for seed in range(700, 706)] + [(seed, True) for seed in range(707, 713)]
PAID = (Code.OK, Code.ALREADY_PAID)


class Story:
    """A shard that trades, pays and is frozen at a random place, by one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        window_ms = self.rng.choice([0, 0, 1_500])
        self.world = ExitWorld(window_ms=window_ms, clock_ms=10, prover_bond_uusd=DOLLAR)
        self.world.log.step_ms = 1_000
        self.mark = 1_000

    def action(self, forced: bool) -> Action:
        rng, name = self.rng, self.rng.choice(NAMES)
        kind = rng.random()
        if kind < 0.3:
            return Withdraw(rng.randrange(1, 300 * DOLLAR), key_of(name).address)
        if kind < 0.4:
            return CancelAll(ALL_MARKETS)
        side, market = rng.choice([BUY, SELL]), rng.randrange(2)
        if forced or kind < 0.5:
            return MarketOrder(market, side, rng.randrange(1, 900), 90_000, 0, REDUCE_ONLY)
        price = self.mark + rng.randrange(-3, 4) * 5
        return Order(market, side, price, rng.randrange(1, 2_500))

    def round(self) -> None:
        """A ledger block or two, perhaps an ordered block, perhaps a batch."""
        rng, world = self.rng, self.world
        name = rng.choice(NAMES)
        if rng.random() < 0.3:
            world.act(name, Deposit(key_of(rng.choice(NAMES)).address, rng.randrange(1, DOLLAR)))
        if rng.random() < 0.2:
            world.force(name, self.action(True), by=rng.choice(NAMES))
        batches = [world.signed(rng.choice(NAMES), self.action(False)) for _ in range(4)]
        if rng.random() < 0.4:
            self.mark = max(500, self.mark + rng.randrange(-60, 61))
            batches += [world.price(0, self.mark), world.price(1, self.mark)]
        if rng.random() < 0.1:
            # A halt keeps liquidations back, so that losses can pass what accounts hold.
            batches.append(world.vote(rng.randrange(2), rng.choice([HALTED, OPEN])))
        world.take_in(*batches)
        if rng.random() < 0.4 and not world.ledger.frozen:
            world.settle_all()
            self.pay(world.ledger)
        world.ledger.require_conserved()

    def crash(self) -> None:
        """The marks jump in halted markets, where nobody is liquidated: somebody owes."""
        world = self.world
        world.take_in(world.vote(0, HALTED), world.vote(1, HALTED))
        world.take_in(world.price(0, 5 * self.mark), world.price(1, 5 * self.mark))
        world.settle_all()
        world.pass_ms(2_000)

    def pay(self, ledger: Ledger) -> None:
        """Try some of the withdrawals that are settled."""
        for number in self.numbers():
            if self.rng.random() < 0.3:
                self.world.act("alice", self.world.payout(number))

    def numbers(self) -> list[int]:
        final = self.world.ledger.final()
        return list(range(final.outbox_next))


def run(seed: int, crash: bool) -> Story:
    story = Story(seed)
    for _ in range(story.rng.randrange(4, 14)):
        story.round()
    if crash:
        story.crash()
    if story.rng.random() < 0.5:
        story.world.act("bob", Deposit(key_of("carol").address, 77))
    story.world.freeze()
    return story


def finish(story: Story, order: list[Any]) -> dict[str, int]:
    """Everything that can be claimed and paid, in this order; the balances after it."""
    world = story.world
    state = world.rebuilt()
    accounts = [world.account(name) for name in NAMES]
    for step in order:
        if isinstance(step, str):
            world.act("dave", state.claim(world.account(step)))
    world.ledger.require_conserved()
    world.pass_ms(CLAIM_MS)
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None
    for step in order:
        if isinstance(step, str):
            world.act("bob", Collect(world.account(step)))
        elif step[0] == "refund":
            world.act("bob", Refund(step[1]))
        else:
            assert world.act("bob", world.payout(step[1])) in PAID
        world.ledger.require_conserved()
        assert world.ledger.shard_leaf().funds_uusd >= 0
    after = world.ledger.exits.frozen_at()
    assert after is not None and after.paid_uusd <= after.funds_uusd
    assert len(accounts) - 1 >= after.funds_uusd - after.paid_uusd or (
        after.claims_uusd <= after.funds_uusd
    )
    return {name: world.balance(name) for name in NAMES}


@pytest.mark.parametrize(("seed", "crash"), SEEDS)
def test_the_order_of_claims_refunds_and_payouts_does_not_matter(seed: int, crash: bool) -> None:
    story = run(seed, crash)
    world, rng = story.world, story.rng
    held_uusd = world.ledger.shard_leaf().funds_uusd
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None
    count = world.ledger.inbox().count
    entries = [entry for _, entry in world.ledger.entries(frozen.inbox_cursor, count, 1 << 62)]
    refunds = [entry for entry in entries if isinstance(entry, InboxDeposit)]
    assert frozen.refunds_uusd == sum(entry.amount_uusd for entry in refunds)
    steps: list[Any] = [*NAMES, *[("refund", entry.index) for entry in refunds]]
    steps += [("payout", number) for number in story.numbers()]
    leaves, height, blocks = world.ledger.leaves(), world.ledger.height, list(world.blocks)
    found = []
    for _ in range(3):
        rng.shuffle(steps)
        world.ledger = Ledger(world.chain, leaves, height)
        world.blocks = list(blocks)
        before = {name: world.balance(name) for name in NAMES}
        after = finish(story, steps)
        found.append(after)
        gained = sum(after.values()) - sum(before.values())
        assert 0 <= gained == held_uusd - world.ledger.shard_leaf().funds_uusd
    assert found[0] == found[1] == found[2]
    frozen = world.ledger.exits.frozen_at()
    assert frozen is not None
    print("seed", seed, frozen.claims_uusd, "of", frozen.funds_uusd, "refunds", len(refunds))
    assert crash == (frozen.claims_uusd > frozen.funds_uusd), "a crash that left nobody owing"
