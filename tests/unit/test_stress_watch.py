"""Who is below maintenance, and since when: the sorted lists against looking at everybody."""

from __future__ import annotations

import pytest

from sim.random import SplitMix64
from sim.stress_exchange import product
from sim.stress_report import delays
from sim.stress_watch import Holdings, Watch

RULES = product()


def long(lots: int, price: int, margin_percent: int) -> tuple[int, int]:
    worth = RULES.value_uusd(lots, price)
    return lots, worth * margin_percent // 100 - worth


def watch_of(*held: tuple[int, int], ticks: int = 1_000) -> Watch:
    holdings = Holdings(RULES)
    for account, (size, cash) in enumerate(held):
        holdings.put(account, size, cash)
    return Watch(holdings, ticks)


@pytest.mark.parametrize("seed", range(6))
def test_both_sets_are_those_of_looking_at_everybody(seed: int) -> None:
    print(f"seed {seed}")
    rng = SplitMix64(seed)
    held: dict[int, tuple[int, int]] = {}

    def draw(account: int) -> None:
        size = rng.between(-500_000, 500_000) if rng.below(6) else 0
        worth = RULES.value_uusd(size, 1_000)
        held[account] = (size, abs(worth) * rng.between(-3, 60) // 100 - worth)

    for account in range(60):
        draw(account)
    watch = watch_of(*held.values())
    for now in range(1, 400):
        kind = rng.below(3)
        if kind == 0:
            watch.move_true(rng.between(500, 1_500), now)
        elif kind == 1:
            watch.move_mark(rng.between(500, 1_500), now, now)
        else:
            account = rng.below(60)
            draw(account)
            watch.put(account, *held[account], now, now)

        def below(ticks: int) -> set[int]:
            return {
                account
                for account, (size, cash) in held.items()
                if size
                and cash + RULES.value_uusd(size, ticks) < RULES.maintenance_uusd(size, ticks)
            }

        true, mark = below(watch.true_ticks), below(watch.mark_ticks)
        assert set(watch.below_true) == true
        assert set(watch.below_mark) == mark
        assert set(watch.episodes) == true | mark
        lots = [sum(abs(held[a][0]) for a in one) for one in (true | mark, true, mark)]
        assert list(watch.backlog_lots()) == lots


def test_an_episode_measures_each_delay() -> None:
    watch = watch_of(long(100, 1_000, 10))
    watch.move_true(900, 1_000)
    watch.move_mark(900, 6_500, 6_000)
    assert watch.order(0, 6_500)
    assert not watch.order(0, 6_700)
    watch.put(0, 0, 5, 9_500, 9_000)
    found = delays(watch.closed)
    assert not watch.episodes
    assert [d.most for d in (found.oracle, found.queue, found.budget, found.liquidity)] == [
        5_000, 500, 0, 3_000,
    ]  # fmt: skip
    assert not watch.closed[0].wrongful


def test_an_order_is_wrongful_where_the_true_price_does_not_ask_for_it() -> None:
    watch = watch_of(long(100, 1_000, 10), long(100, 1_000, 10))
    watch.put(0, *long(100, 1_000, 12), 1, 1)
    watch.move_true(905, 1_000)
    watch.move_true(1_000, 2_000)
    watch.move_mark(880, 3_000, 2_900)
    for account in (0, 1):
        assert watch.order(account, 3_000)
        assert watch.episodes[account].wrongful
    # One was below at the true price once, the other never.
    assert set(watch.ever_true) == {1}


def test_a_price_that_recovers_before_the_mark_follows_is_missed() -> None:
    watch = watch_of(long(100, 1_000, 10))
    watch.move_true(900, 1_000)
    watch.move_true(1_000, 2_000)
    found = delays(watch.closed)
    assert len(watch.closed) == 1 and watch.closed[0].sent_ms == 0
    assert found.oracle.count == found.queue.count == 0


def test_an_account_that_no_price_saves_is_below_at_all_of_them() -> None:
    watch = watch_of((-5, 0), ticks=1)
    assert set(watch.below_true) == {0}
    watch.move_true(10_000, 1)
    assert set(watch.below_true) == {0}


def test_a_liquidation_that_ends_within_its_block_is_counted() -> None:
    """The mark, the order and the closed position become known at once."""
    watch = watch_of(long(100, 1_000, 10))
    watch.move_true(850, 40)
    watch.move_mark(850, 100, 50)
    assert watch.order(0, 100)
    watch.put(0, 0, 0, 100, 80)
    found = delays(watch.closed)
    assert (found.queue.most, found.liquidity.most, found.oracle.most) == (50, 0, 10)
