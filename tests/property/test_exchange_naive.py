"""The naive exchange by itself: worked examples, so that it is more than a second opinion."""

from __future__ import annotations

from typing import Any

from engine_world import DOLLAR, ORACLES, START_MS, market, signer
from naive_chains import chain_of
from naive_exchange import NaiveExchange
from naive_margin import im_uusd, mm_uusd, position, reach, tiered_uusd, tv_uusd
from naive_state import Books

from protocol import actions as act
from protocol import events as ev
from protocol.errors import Code
from protocol.events import Event, Result
from protocol.genesis import Limits, MarginTier
from protocol.keys import address_of
from protocol.settlement import FIRST_ACCOUNT, InboxDeposit, account_number

ANN, BEN, CAT = FIRST_ACCOUNT, FIRST_ACCOUNT + 1, FIRST_ACCOUNT + 2
BUY, SELL = act.BUY, act.SELL


class Small:
    """A naive exchange of one market (a lot is $1, IM 10 %, MM 5 %, no fees), $100 each."""

    def __init__(self, limits: Limits | None = None, **rules: Any) -> None:
        free = {"taker_fee_ppm": 0, "maker_fee_ppm": 0}
        chain = chain_of([market(0, **(free | rules))], limits or Limits())
        self.naive = NaiveExchange(chain.genesis)
        self.time_ms = START_MS
        owners = (ANN, BEN, CAT)
        self.run([], [InboxDeposit(n, a, address_of(signer(a)), 100 * DOLLAR)
                      for n, a in enumerate(owners)])  # fmt: skip

    @property
    def x(self) -> Books:
        return self.naive.x

    def run(self, sent: list[Any], inbox: list[InboxDeposit] | None = None) -> list[Event]:
        self.time_ms += 10
        batches = [
            (key, act.ActionBatch(account, self.time_ms, 0, actions))
            for key, account, actions in sent
        ]
        return self.naive.block(self.time_ms, inbox or [], batches)

    def do(self, account: int, *actions: Any) -> Result:
        """The last result of a batch."""
        answer = self.run([(signer(account), account, list(actions))])[-1]
        assert isinstance(answer, ev.BatchExecuted)
        return answer.results[-1]

    def mark(self, ticks: int) -> list[Event]:
        return self.run([(key, 0, [act.OraclePrice(0, ticks)]) for key in ORACLES])

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.x.events if isinstance(event, kind)]

    def trade(self, buyer: int, seller: int, lots: int, price: int = 1_000) -> None:
        self.do(seller, order(SELL, price, lots))
        assert self.do(buyer, order(BUY, price, lots)).status == ev.FILLED


def order(side: int, price: int, lots: int, tif: int = act.GTC, **more: int) -> act.Order:
    return act.Order(0, side, price, lots, tif, **more)


def test_margin_is_what_the_rules_say() -> None:
    small = Small()
    small.trade(ANN, BEN, 100)
    assert (tv_uusd(small.x, ANN), im_uusd(small.x, ANN), mm_uusd(small.x, ANN)) == (
        100 * DOLLAR, 10 * DOLLAR, 5 * DOLLAR,
    )  # fmt: skip
    small.mark(1_100)
    assert tv_uusd(small.x, ANN) == 110 * DOLLAR
    assert tv_uusd(small.x, BEN) == 90 * DOLLAR
    assert im_uusd(small.x, BEN) == 11 * DOLLAR
    # A bid 100 ticks above the mark loses $0.1 a lot at once, beside the margin of 110 lots.
    small.do(ANN, order(BUY, 1_200, 10))
    assert im_uusd(small.x, ANN) == 121 * DOLLAR // 10 + DOLLAR
    # Ben is short 100: his asks add to that, his bids could turn him long.
    small.do(BEN, order(SELL, 1_300, 5), order(BUY, 900, 300))
    assert reach(small.x, BEN, 0) == (200, 105)


def test_tiers_are_marginal_and_rounded_up_once() -> None:
    tiers = [MarginTier(1_000, 200_000, 100_000), MarginTier(3_000, 500_000, 250_000)]
    config = market(0, margin_tiers=tiers)
    assert tiered_uusd(config, 1_000, True) == 100
    assert tiered_uusd(config, 1_001, True) == 101
    assert tiered_uusd(config, 3_000, True) == 500
    assert tiered_uusd(config, 3_001, True) == 501
    assert tiered_uusd(config, 5_000, False) == 50 + 200 + 500


def test_fills_go_by_price_and_then_age_at_the_makers_price() -> None:
    small = Small()
    small.do(BEN, order(SELL, 1_002, 5), order(SELL, 1_001, 5))
    small.do(CAT, order(SELL, 1_001, 5))
    result = small.do(ANN, order(BUY, 1_002, 12))
    assert result == Result(0, ev.FILLED, 4, 12, 0)
    fills = [(f.price_ticks, f.size_lots, f.maker_account) for f in small.of(ev.Fill)]
    assert fills == [(1_001, 5, BEN), (1_001, 5, CAT), (1_002, 2, BEN)]


def test_fill_or_kill_does_nothing_or_everything() -> None:
    small = Small(Limits(fills_per_action=2))
    small.do(BEN, order(SELL, 1_000, 1), order(SELL, 1_001, 1), order(SELL, 1_002, 1))
    before = small.x.next_id
    assert small.do(ANN, order(BUY, 1_002, 3, act.FOK)).code == Code.NOT_FILLABLE
    assert (small.x.next_id, len(small.x.orders)) == (before, 3)
    assert small.do(ANN, order(BUY, 1_002, 2, act.FOK)).status == ev.FILLED


def test_every_mode_of_self_trade_prevention() -> None:
    for flags, left, code in (
        (act.STP_CANCEL_MAKER, [], 0),
        (act.STP_CANCEL_TAKER, [(1_000, 3), (1_001, 2)], Code.SELF_TRADE),
        (act.STP_CANCEL_BOTH, [(1_001, 2)], Code.SELF_TRADE),
        (act.STP_DECREMENT, [(1_001, 1)], 0),
    ):
        small = Small()
        small.do(ANN, order(SELL, 1_000, 3))
        small.do(BEN, order(SELL, 1_001, 2))
        result = small.do(ANN, order(BUY, 1_001, 4, act.IOC, flags=flags))
        assert (result.code, flags) == (code, flags)
        assert [(o.price, o.lots) for o in small.x.side_of(0, SELL)] == left


def test_accounts_of_one_master_trade_unless_the_order_says_otherwise() -> None:
    small = Small()
    child = account_number(ANN, 1)
    small.do(ANN, act.Transfer(child, 50 * DOLLAR), order(SELL, 1_000, 2))
    small.run([(signer(ANN), child, [order(BUY, 1_000, 1)])])
    assert position(small.x, child, 0) == 1
    small.run([(signer(ANN), child, [order(BUY, 1_000, 1, flags=act.STP_MASTER)])])
    assert [e.reason for e in small.of(ev.OrderChanged)] == [ev.REASON_SELF_TRADE]
    assert position(small.x, child, 0) == 1


def test_reduce_only_orders_shrink_oldest_first_and_never_open() -> None:
    small = Small()
    small.trade(ANN, BEN, 10)
    only = act.REDUCE_ONLY
    assert small.do(ANN, order(BUY, 900, 1, flags=only)).code == Code.NOT_REDUCING
    small.do(ANN, order(SELL, 1_100, 50, flags=only), order(SELL, 1_050, 8, flags=only))
    assert [o.lots for o in small.x.orders_of(ANN, 0)] == [10, 8]
    assert reach(small.x, ANN, 0) == (10, 0)
    small.do(BEN, order(BUY, 1_050, 3))
    assert position(small.x, ANN, 0) == 7
    assert [o.lots for o in small.x.orders_of(ANN, 0)] == [7, 5]
    # A flip leaves nothing to reduce on that side.
    small.do(CAT, order(BUY, 1_000, 8))
    small.do(ANN, order(SELL, 1_000, 8))
    assert position(small.x, ANN, 0) == -1
    assert not small.x.orders_of(ANN, 0)


def test_an_account_short_of_margin_may_close_but_not_turn() -> None:
    small = Small()
    small.trade(ANN, BEN, 900)
    small.mark(940)
    assert tv_uusd(small.x, ANN) == 46 * DOLLAR < im_uusd(small.x, ANN)
    small.do(CAT, order(BUY, 940, 950))
    assert small.do(ANN, order(BUY, 900, 1)).code == Code.INSUFFICIENT_MARGIN
    result = small.do(ANN, order(SELL, 940, 950))
    assert (result.status, result.filled_lots) == (ev.CANCELLED, 900)
    assert position(small.x, ANN, 0) == 0


def test_a_maker_without_margin_is_taken_out_and_matching_goes_on() -> None:
    small = Small()
    small.do(ANN, order(BUY, 1_000, 1_000))
    small.mark(900)
    small.do(BEN, order(BUY, 890, 5))
    result = small.do(CAT, order(SELL, 890, 5))
    assert result.filled_lots == 5
    assert [(e.account, e.reason) for e in small.of(ev.OrderChanged)] == [(ANN, ev.REASON_MARGIN)]
    assert [f.maker_account for f in small.of(ev.Fill)] == [BEN]


def test_protection_takes_all_orders_of_the_market_out() -> None:
    small = Small()
    small.do(ANN, act.SetProtection(0, 2, 25), order(SELL, 1_000, 1), order(SELL, 1_001, 1),
             order(SELL, 1_002, 1), order(BUY, 900, 1))  # fmt: skip
    small.do(BEN, order(BUY, 1_000, 1))
    assert len(small.x.orders_of(ANN, 0)) == 3
    small.do(BEN, order(BUY, 1_001, 1))
    assert not small.x.orders_of(ANN, 0)
    assert [e.reason for e in small.of(ev.OrderChanged)] == [ev.REASON_PROTECTION] * 2


def test_a_quote_that_is_refused_leaves_the_old_ones() -> None:
    small = Small()
    small.do(ANN, act.MassQuote(0, [(990, 5)], [(1_010, 5)]))
    small.do(BEN, order(SELL, 1_005, 1))
    assert small.do(ANN, act.MassQuote(0, [(1_005, 5)], [])).code == Code.WOULD_TAKE
    assert [(o.price, o.lots) for o in small.x.orders_of(ANN, 0)] == [(990, 5), (1_010, 5)]
    # Quotes that go make room for the new ones, also where they would have met them.
    assert small.do(ANN, act.MassQuote(0, [(1_004, 5)], [(1_020, 5)])).code == 0
    assert [o.price for o in small.x.orders_of(ANN, 0)] == [1_004, 1_020]


def test_stops_trail_and_fire_once() -> None:
    small = Small()
    small.trade(ANN, BEN, 5)
    small.do(CAT, order(BUY, 900, 50))
    trailing = act.TriggerOrder(0, SELL, 5, act.TRAILING, 40, 0, 100_000, flags=act.REDUCE_ONLY)
    assert small.do(ANN, trailing).status == ev.WAITING
    small.mark(1_030)
    small.mark(991)
    assert small.x.triggers
    small.mark(990)
    fired = small.of(ev.TriggerFired)[0]
    assert (fired.mark_ticks, fired.result.filled_lots) == (990, 5)
    assert position(small.x, ANN, 0) == 0 and not small.x.triggers


def test_exits_of_a_bracket_grow_with_its_fills_and_end_together() -> None:
    small = Small()
    take = act.TriggerOrder(0, SELL, 0, act.TAKE_PROFIT, 1_100, 0, 100_000)
    stop = act.TriggerOrder(0, SELL, 0, act.STOP, 950, 0, 100_000)
    small.do(ANN, act.Bracket(order(BUY, 990, 10), take, stop))
    assert [t.lots for t in small.x.triggers] == [0, 0]
    small.do(BEN, order(SELL, 990, 4))
    small.do(BEN, order(SELL, 990, 3))
    assert [t.lots for t in small.x.triggers] == [7, 7]
    small.do(CAT, order(BUY, 1_090, 50))
    small.mark(1_100)
    # The take-profit closes what is open; the stop goes, and so does what the parent has left.
    assert position(small.x, ANN, 0) == 0
    assert not small.x.triggers and not small.x.orders_of(ANN, 0)


def test_slices_of_a_twap_add_up_and_catch_up() -> None:
    small = Small()
    small.do(BEN, order(SELL, 1_000, 2))
    small.do(ANN, act.Twap(0, BUY, 10, 90_000))
    # The first slice wants a third, rounded up, and finds half of it.
    small.run([])
    assert position(small.x, ANN, 0) == 2
    small.time_ms += 30_000
    small.run([])
    small.do(BEN, order(SELL, 1_000, 50))
    small.time_ms += 30_000
    small.run([])
    assert position(small.x, ANN, 0) == 10
    assert [(e.done_lots, e.reason) for e in small.of(ev.TwapChanged)] == [(10, ev.REASON_DONE)]


def test_the_switch_takes_everything_out_ten_times_a_day() -> None:
    small = Small()
    for _ in range(act.DEAD_MAN_DAILY):
        small.do(ANN, order(BUY, 900, 1), act.ScheduleCancel(small.time_ms + 10 + 5_000))
        small.time_ms += 5_000
        small.run([])
        assert not small.x.orders
    again = act.ScheduleCancel(small.time_ms + 60_000)
    assert small.do(ANN, again).code == Code.DEAD_MAN_USED_UP
