"""What a master account realised counts once in a deleveraging, however many accounts it has."""

from __future__ import annotations

from engine_world import market
from liquidation_world import FREE, Crash, usd

from execution import leaves as lv
from protocol.events import LIQUIDATION_DELEVERAGED
from protocol.settlement import account_number

LOSER, LONG, OWNER, OTHER = 16, 17, 20, 21
SUB, SECOND = account_number(OWNER, 1), account_number(OWNER, 2)


def realised(world: Crash, master: int, uusd: int) -> None:
    """Let a master account have realised so much within the day."""
    state = world.engine.state
    hour = state.time_ms // 3_600_000
    state.realised.put(lv.realised_key(master, 0), lv.RealisedLeaf([(hour, uusd)]))


def taken(world: Crash, loser: int) -> dict[int, int]:
    """Lots that each counterparty took over from a loser."""
    return {
        r.account: r.size_lots
        for r in world.receipts
        if r.kind == LIQUIDATION_DELEVERAGED and r.of_account == loser != r.account
    }


def test_accounts_of_a_master_share_what_it_realised() -> None:
    """Two masters short alike who realised alike take over alike, one of them in three accounts."""
    holders = {
        LOSER: (-usd(1), {0: 300}),
        LONG: (usd(1_000), {0: 300}),
        OWNER: (usd(100), {0: -100}),
        SUB: (usd(100), {0: -50}),
        SECOND: (usd(100), {0: -150}),
        OTHER: (usd(100), {0: -300}),
    }
    world = Crash(holders, [market(0, **FREE)])  # type: ignore[arg-type]
    realised(world, OWNER, usd(6))
    realised(world, OTHER, usd(6))
    world.block([])
    assert taken(world, LOSER) == {OTHER: 150, SECOND: 75, OWNER: 50, SUB: 25}


def test_a_loss_counts_once_too() -> None:
    """Each has an open profit of $3 at most; a loss of $3 of the master takes half of its $6."""
    holders = {
        LOSER: (-usd(1), {0: 300}),
        LONG: (usd(1_000), {0: 300}),
        OWNER: (usd(100), {0: (-150, 1_020)}),
        SUB: (usd(100), {0: (-150, 1_020)}),
        OTHER: (usd(100), {0: (-300, 1_010)}),
    }
    world = Crash(holders, [market(0, **FREE)])  # type: ignore[arg-type]
    realised(world, OWNER, -usd(3))
    world.block([])
    assert taken(world, LOSER) == {OTHER: 150, OWNER: 75, SUB: 75}


def test_what_is_realised_on_the_other_side_counts_there() -> None:
    """A long of the same master takes nothing away from what its short counts for."""
    holders = {
        LOSER: (-usd(1), {0: 200}),
        SUB: (usd(1_000), {0: 400}),
        OWNER: (usd(100), {0: -300}),
        OTHER: (usd(100), {0: -300}),
    }
    world = Crash(holders, [market(0, **FREE)])  # type: ignore[arg-type]
    realised(world, OWNER, usd(3))
    realised(world, OTHER, usd(3))
    world.block([])
    assert taken(world, LOSER) == {OWNER: 100, OTHER: 100}


def test_ranks_of_all_its_accounts_follow_when_one_trades() -> None:
    """The first loser's ranking is there when the second one's sale lets 20 realise $3, which its
    sub-account shares when the third is closed."""
    first, second, third = 16, 17, 18
    holders = {
        first: (usd(9), {0: 100}),
        second: (usd(56), {0: 400}),
        third: (usd(5) - 500_000, {0: 50}),
        OWNER: (usd(300), {0: (-200, 1_000)}),
        SUB: (usd(300), {0: (-100, 1_000)}),
        OTHER: (usd(300), {0: (-250, 1_010)}),
    }
    world = Crash(holders, [market(0, initial_price_ticks=1_100, **FREE)])  # type: ignore[arg-type]
    world.bid(OWNER, 970, 100)
    world.report(1_000)
    assert taken(world, first) == {OTHER: 100}
    assert world.size(OWNER) == -100 + taken(world, third)[OWNER]
    # $1.5 each: what 21 had open is left after it bore $1 of the first one's shortfall.
    assert sorted(taken(world, third)) == [OWNER, OTHER, SUB]
    assert sorted(taken(world, third).values()) == [16, 17, 17]
