"""What random runs found, told as short stories that engine and naive exchange must agree on."""

from __future__ import annotations

from engine_world import market
from naive_chains import GUARDIANS, chain_of
from naive_duel import Duel

from protocol import actions as act
from protocol.errors import Code
from protocol.events import OrderChanged, TriggerFired
from protocol.genesis import Limits

BUY, SELL = act.BUY, act.SELL
ANN, BEN, CAT = 16, 17, 18


def small_duel(limits: Limits | None = None, **rules: int) -> Duel:
    """One simple market, $100 each."""
    return Duel(chain_of([market(0, **rules)], limits or Limits()), dollars=100)


def order(side: int, price: int, lots: int, tif: int = act.GTC, flags: int = 0) -> act.Order:
    return act.Order(0, side, price, lots, tif, 0, flags)


def trade(duel: Duel, buyer: int, seller: int, lots: int) -> None:
    duel.act(seller, order(SELL, 1_000, lots))
    duel.act(buyer, order(BUY, 1_000, lots))


def test_a_flip_takes_reduce_only_orders_out() -> None:
    duel = small_duel()
    trade(duel, ANN, BEN, 1)
    duel.act(ANN, order(SELL, 1_010, 1, flags=act.REDUCE_ONLY), order(SELL, 1_005, 2))
    duel.act(CAT, order(BUY, 1_005, 2))
    assert not [o for o in duel.x.orders if o.flags & act.REDUCE_ONLY]


def test_reduce_only_orders_shrink_in_order_of_age_after_a_restart_too() -> None:
    duel = small_duel()
    trade(duel, ANN, BEN, 10)
    for price in (1_020, 1_010, 1_015):
        duel.act(ANN, order(SELL, price, 10, flags=act.REDUCE_ONLY))
    duel.restart()
    duel.act(CAT, order(BUY, 990, 4))
    duel.act(ANN, order(SELL, 990, 4))
    shrunk = [e.order_id for e in duel.events if isinstance(e, OrderChanged)]
    assert shrunk == sorted(shrunk) and len(shrunk) == 3


def test_a_reduce_only_order_that_cannot_be_modified_stays() -> None:
    duel = small_duel(Limits(fills_per_block=1))
    trade(duel, ANN, BEN, 2)
    duel.act(CAT, order(BUY, 990, 1))
    duel.act(CAT, order(BUY, 989, 1))
    resting = duel.act(ANN, order(SELL, 1_010, 2, flags=act.REDUCE_ONLY))[0].order_id
    results = duel.act(ANN, order(SELL, 990, 1), act.Modify(0, resting, 989, 1))
    assert [r.code for r in results] == [0, Code.BUSY]
    assert duel.x.order(ANN, resting) is not None


def test_a_position_that_comes_by_transfer_counts_with_what_rests() -> None:
    duel = small_duel(max_position_lots=10)
    child = ANN | 1 << 40
    trade(duel, ANN, BEN, 9)
    duel.act(ANN, act.Transfer(child, 20_000_000))
    duel.act(child, order(BUY, 990, 9))
    found = duel.act(ANN, act.TransferPosition(child, 0, 2))[0].code
    assert found == Code.POSITION_LIMIT


def test_a_reduce_only_taker_does_not_open_the_way_past_the_limit() -> None:
    duel = small_duel(max_position_lots=10)
    trade(duel, BEN, ANN, 10)
    duel.act(ANN, order(BUY, 990, 20))
    duel.act(CAT, order(SELL, 1_000, 10))
    duel.act(ANN, order(BUY, 1_000, 10, act.IOC, act.REDUCE_ONLY))
    duel.act(CAT, order(SELL, 990, 15))
    assert abs(duel.x.accounts[ANN].holdings[0].size) <= 10


def test_a_trailing_stop_fires_where_its_market_was_halted_meanwhile() -> None:
    for restarts in (False, True):
        duel = small_duel()
        duel.mark(1_000)
        trade(duel, ANN, BEN, 5)
        stop = act.TriggerOrder(0, SELL, 5, act.TRAILING, 20, 0, 10_000, 0, act.REDUCE_ONLY)
        duel.act(ANN, stop)
        duel.block([])
        vote(duel, act.HALTED)
        duel.mark(1_030)
        duel.mark(1_000)
        if restarts:
            duel.restart()
        vote(duel, act.OPEN)
        assert [e.mark_ticks for e in duel.events if isinstance(e, TriggerFired)] == [1_000]


def test_fill_or_kill_sees_reduce_only_orders_shrink_on_its_way() -> None:
    for lots, code in ((11, Code.NOT_FILLABLE), (10, 0)):
        duel = small_duel()
        trade(duel, ANN, BEN, 10)
        only = act.REDUCE_ONLY
        duel.act(ANN, order(SELL, 1_000, 6), order(SELL, 1_001, 10, flags=only))
        duel.act(BEN, order(BUY, 995, 3, flags=only), order(BUY, 994, 10, flags=only))
        assert duel.act(CAT, order(BUY, 1_005, lots, act.FOK))[0].code == code
        assert duel.act(CAT, order(SELL, 990, lots, act.FOK))[0].code == code


def test_fill_or_kill_sees_protection_and_counts_what_it_looks_at() -> None:
    duel = small_duel(Limits(fills_per_block=9, refusals_per_action=500))
    duel.act(ANN, act.SetProtection(0, 2, 1_000))
    duel.act(ANN, *[order(SELL, 1_000 + n, 1) for n in range(4)])
    duel.act(BEN, order(SELL, 1_009, 1))
    kill = [order(BUY, 1_009, lots, act.FOK) for lots in (4, 3)]
    assert [r.code for r in duel.act(CAT, *kill)] == [Code.NOT_FILLABLE, Code.NOT_FILLABLE]
    assert duel.act(CAT, kill[1])[0].code == 0
    duel.act(ANN, *[order(SELL, 1_000 + n, 1) for n in range(3)])
    # Five orders opposite are looked at, and then four: that is all for this block.
    kill = [order(BUY, 1_002, lots, act.FOK) for lots in (9, 9, 9, 9)]
    codes = [r.code for r in duel.act(CAT, *kill)]
    assert codes.count(Code.BUSY) >= 1


def test_orders_that_are_over_are_never_met() -> None:
    for tif in (act.IOC, act.FOK):
        duel = small_duel(Limits(expiries_per_block=1))
        until = duel.time_ms + 40
        for n in range(3):
            duel.act(ANN, act.Order(0, SELL, 1_000 + n, 1, act.GTC, 0, 0, until))
        duel.act(BEN, order(SELL, 1_005, 1))
        result = duel.act(CAT, order(BUY, 1_005, 1, tif), wait_ms=100)[0]
        assert result.filled_lots == 1
        assert [o.account for o in duel.x.orders] == []


def test_fill_or_kill_passes_makers_without_margin() -> None:
    duel = small_duel()
    duel.act(ANN, order(BUY, 1_000, 950))
    duel.mark(900)
    duel.act(BEN, order(BUY, 890, 5))
    assert duel.act(CAT, order(SELL, 890, 5, act.FOK))[0].code == 0
    assert not [o for o in duel.x.orders if o.account == ANN]


def vote(duel: Duel, mode: int) -> None:
    duel.block([(key, 0, [act.SetMode(0, mode)]) for key in GUARDIANS])


def test_a_batch_for_an_account_that_does_not_exist_yet_is_answered_action_by_action() -> None:
    duel = small_duel()
    child = ANN | 1 << 40
    results = duel.act(child, order(BUY, 990, 1), act.Transfer(ANN, 1))
    assert [r.code for r in results] == [Code.UNKNOWN_ACCOUNT] * 2
    duel.act(ANN, act.Transfer(child, 20_000_000))
    assert duel.act(child, order(BUY, 990, 1))[0].code == 0
