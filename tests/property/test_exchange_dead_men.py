"""Many dead-man's switches at once: engine and naive exchange agree who goes off in which block."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from engine_world import market
from naive_chains import chain_of
from naive_duel import Duel

from protocol import actions as act
from protocol.events import DeadManSet
from protocol.genesis import Limits


@pytest.mark.parametrize("seed", range(12))
def test_switches_that_fall_due_together(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    limits = Limits(expiries_per_block=rng.choice((1, 2, 3, 7)))
    duel = Duel(chain_of([market(0), market(1)], limits), accounts=7, dollars=1_000)
    accounts = [account.number for account in duel.x.traders()]
    went: Counter[int] = Counter()
    late: list[int] = []
    for _ in range(4):
        until = duel.time_ms + 60_000
        for account in rng.sample(accounts, len(accounts)):
            number, exit_ = rng.randrange(2), act.TriggerOrder(0, act.SELL, 1, act.STOP, 800, 700)
            orders = [act.Order(number, act.BUY, 900 - n, 1) for n in range(rng.choice((0, 1, 9)))]
            duel.act(account, *orders, exit_, act.Twap(1, act.BUY, 50, 3_600_000))
            duel.act(account, act.ScheduleCancel(until + rng.choice((0, 0, 5, 900))))
        duel.block([], wait_ms=until - duel.time_ms)
        while any(row.dead_man for row in duel.x.accounts.values()):
            went.update(e.account for e in duel.events if isinstance(e, DeadManSet) and e.fired)
            if rng.random() < 0.1:
                duel.restart()
            late += [n for n in accounts if 0 < duel.x.accounts[n].dead_man <= duel.time_ms]
            busy = [n for n in accounts if duel.x.accounts[n].dead_man and rng.random() < 0.1]
            if busy:
                # Who is late may still trade, and put the switch off.
                duel.act(busy[0], act.Order(0, act.BUY, 880, 1))
                duel.act(busy[0], act.ScheduleCancel(rng.choice((0, duel.time_ms + 6_000))))
            else:
                duel.block([], wait_ms=rng.choice((10, 10, 1_000)))
    # Somebody waited, and most went off.
    assert late and 2 * len(went) > len(accounts)
