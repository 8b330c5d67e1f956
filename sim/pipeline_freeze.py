"""Runs at whose end the exchange is gone: the shard freezes, and everybody is paid out."""

from __future__ import annotations

from typing import Any

from node.exits import share_uusd
from node.ledger import Ledger
from protocol.exits import decode_claim
from protocol.ledger_leaves import CLAIM_KIND
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit
from sim.actors_claimant import Disk
from sim.actors_process import Process
from sim.checkers import Stalled, Violation
from sim.kernel import US_PER_MS
from sim.pipeline import CHECK_EVERY_US, Exchange
from sim.pipeline_checks import audit
from sim.pipeline_faults import Plan

DEFENDED = ("sequencers", "censor")
KINDS = (*DEFENDED, "execution", "provers")


def vanish(world: Exchange) -> None:
    """Sequencers, execution or provers are gone for ever from some moment on, or the inbox is
    ignored."""
    random = world.kernel.stream("vanish")
    at_us = random.between(1_500, 4_000) * US_PER_MS
    # Without the diffs of execution nobody can defend a batch against those who lie.
    kind = random.pick(DEFENDED if world.liars else KINDS)
    gone: dict[str, list[Process]] = {
        "sequencers": [*world.sequencers],
        "execution": [*world.executions],
        "provers": [*world.provers],
    }
    if kind == "censor":
        _censor(world, at_us)

    def strike() -> None:
        world.history.count(f"vanished_{kind}")
        for process in gone.get(kind, ()):
            process.crash()
            world.servers.remove(process)

    world.kernel.at(at_us, strike)


def _censor(world: Exchange, at_us: int) -> None:
    """No sequencer learns of inbox entries any more."""

    def deaf(sequencer: Any) -> None:
        hear = sequencer._ledger_news

        def news(height: int, count: int) -> None:
            if world.kernel.now_us < at_us:
                hear(height, count)

        sequencer._ledger_news = news

    for one in world.sequencers:
        deaf(one)


def let_claim(world: Exchange) -> None:
    """Claimants read the disk of some honest validator."""
    random = world.kernel.stream("disks")

    def disk() -> Disk | None:
        up = [one for one in world.honest() if one.alive]
        if not up:
            return None
        found = random.pick(up)
        blocks = found.store.blocks
        return found.ledger, lambda height: blocks[height][0] if height in blocks else None

    for claimant in world.claimants:
        claimant.disk = disk


FREEZING: tuple[Plan, ...] = (vanish, let_claim)


def finish_frozen(world: Exchange) -> None:
    """Go on until everybody is paid, and check that it adds up."""
    world.heal()
    until_us = world.kernel.now_us + world.options.patience_us
    while not _done(world):
        if world.kernel.now_us >= until_us:
            states = [(one.name, one.ledger.height, one.ledger.frozen) for one in world.honest()]
            done = [one.done for one in world.claimants]
            raise Stalled(f"not frozen and paid within patience: {states}, claimants {done}")
        world.kernel.run(world.kernel.now_us + CHECK_EVERY_US)
    check_frozen(world)


def _done(world: Exchange) -> bool:
    history = world.history
    answered = max((one.height for one in history.ledger_answers.values()), default=0)
    return all(one.done for one in world.claimants) and all(
        one.alive and one.store.height >= answered and one.ledger.frozen for one in world.honest()
    )


def check_frozen(world: Exchange) -> None:
    """What the bridge held is paid, to the last micro-dollar that belongs to anybody."""
    history = world.history
    if history.counters.get("forgeries_taken"):
        raise Violation("conservation", "a forged claim, or a second payment, was taken")
    for validator in world.honest():
        validator.ledger.require_conserved()
        _check_sums(validator.name, validator.ledger)
    ledger = world.honest()[0].ledger
    final = ledger.final()
    root = world.truth.root(final.last_block)
    if root != final.state_root:
        raise Violation("dispute", f"the shard froze at batch {final.batch}, which is wrong")
    report = audit(world, world.honest()[0])
    history.count("audited_batches", report.batches)
    history.count("frozen_runs")


def _check_sums(name: str, ledger: Ledger) -> None:
    freeze, shard = ledger.exits.frozen_at(), ledger.shard_leaf()
    if freeze is None:
        raise Violation("freeze", f"{name} has no freeze")
    claims = [decode_claim(raw) for key, raw in ledger.leaves() if key[:1] == CLAIM_KIND]
    if any(not one.paid for one in claims):
        raise Violation("freeze", f"{name} has claims to be paid")
    nobodys_uusd = _nobodys_uusd(ledger)
    if freeze.refunds_uusd != nobodys_uusd:
        raise Violation(
            "freeze", f"{name} has {freeze.refunds_uusd} uusd to refund, {nobodys_uusd} nobody's"
        )
    if sum(one.amount_uusd for one in claims) != freeze.claims_uusd:
        raise Violation("freeze", f"{name} counted other claims")
    paid_uusd = sum(share_uusd(one.amount_uusd, freeze) for one in claims)
    if paid_uusd != freeze.paid_uusd or paid_uusd > freeze.funds_uusd:
        raise Violation("freeze", f"{paid_uusd} uusd are due, {freeze.paid_uusd} were paid")
    left_uusd = freeze.funds_uusd - paid_uusd
    if freeze.claims_uusd >= freeze.funds_uusd and left_uusd > len(claims):
        raise Violation("freeze", f"{left_uusd} uusd of the funds were paid to nobody")
    if claims and shard.funds_uusd != left_uusd + nobodys_uusd:
        raise Violation(
            "conservation",
            f"the bridge holds {shard.funds_uusd}, of claims {left_uusd} are left, and "
            f"{nobodys_uusd} are nobody's",
        )
    if shard.batch != ledger.final().batch:
        raise Violation("freeze", f"{name} stands at batch {shard.batch}")


def _nobodys_uusd(ledger: Ledger) -> int:
    """Deposits for the funds of the exchange that the final state never took in."""
    first, count = ledger.final().inbox_cursor, ledger.inbox().count
    entries = ledger.entries(first, count - first, ledger.height) if count > first else []
    return sum(
        one.amount_uusd
        for _, one in entries
        if isinstance(one, InboxDeposit) and one.account < FIRST_ACCOUNT
    )
