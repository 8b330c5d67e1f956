"""Smallest inputs for the codes of risk and order state."""

from __future__ import annotations

from typing import Any

from bad_input_world import ALICE, BOB, SUB, TO, Corner, buy, case, chain_of, sell, stop
from engine_world import DOLLAR, START_MS

from protocol import actions as act
from protocol.errors import Code
from protocol.genesis import Limits
from protocol.markets import CASH_MOVE_LIMIT
from protocol.settlement import account_number

# -- risk


@case(Code.UNKNOWN_ACCOUNT)
def nobodys_account() -> int:
    corner = Corner()
    for account in (-1, 0, 1, 2, 3, 15, 99, 99 | 1 << 40, 1 << 63, (1 << 64) - 1):
        assert corner.refused(account, act.CancelAll(0), by=b"x" * 32) == Code.UNKNOWN_ACCOUNT
    return corner.refused(SUB, buy())


@case(Code.INSUFFICIENT_MARGIN)
def more_than_the_equity_carries() -> int:
    corner = Corner(dollars=10)
    corner.fine(ALICE, buy(lots=50))
    assert corner.refused(ALICE, act.Withdraw(6 * DOLLAR, TO)) == Code.INSUFFICIENT_MARGIN
    assert corner.refused(ALICE, act.Transfer(SUB, 6 * DOLLAR)) == Code.INSUFFICIENT_MARGIN
    assert corner.refused(ALICE, act.Transfer(2, 6 * DOLLAR)) == Code.INSUFFICIENT_MARGIN
    assert corner.refused(ALICE, act.MassQuote(0, [(990, 60)], [])) == Code.INSUFFICIENT_MARGIN
    assert corner.refused(ALICE, act.Modify(0, 1, 1_000, 101)) == Code.INSUFFICIENT_MARGIN
    return corner.refused(ALICE, buy(lots=51))


@case(Code.INSUFFICIENT_MARGIN)
def a_position_that_the_other_account_cannot_carry() -> int:
    corner = Corner()
    corner.trade(50)
    corner.fine(ALICE, act.Transfer(SUB, DOLLAR))
    return corner.refused(ALICE, act.TransferPosition(SUB, 0, 20))


@case(Code.INSUFFICIENT_CASH)
def more_than_there_is() -> int:
    corner = Corner(dollars=10)
    assert corner.refused(ALICE, act.Transfer(SUB, 10 * DOLLAR + 1)) == Code.INSUFFICIENT_CASH
    return corner.refused(ALICE, act.Withdraw(10 * DOLLAR + 1, TO))


@case(Code.TOO_MANY_POSITIONS)
def one_market_more() -> int:
    corner = Corner(chain_of(Limits(positions_per_account=1)))
    corner.fine(ALICE, buy(900))
    return corner.refused(ALICE, act.Order(1, act.BUY, 900, 1))


@case(Code.TOO_MANY_ORDERS)
def one_order_more() -> int:
    corner = Corner(chain_of(Limits(orders_per_account=2)))
    corner.fine(ALICE, buy(900), buy(901))
    quotes = act.MassQuote(0, [(902, 1)], [])
    assert corner.refused(ALICE, quotes) == Code.TOO_MANY_ORDERS
    corner.fine(ALICE, act.Modify(0, 1, 899, 2))
    return corner.refused(ALICE, buy(902))


@case(Code.POSITION_LIMIT)
def a_position_beyond_the_limit() -> int:
    corner = Corner(chain_of(max_position_lots=10))
    corner.trade(4)
    corner.fine(ALICE, buy(900, 6), act.Transfer(SUB, 100 * DOLLAR))
    corner.fine(SUB, buy(900, 9))
    assert corner.refused(ALICE, act.TransferPosition(SUB, 0, 2)) == Code.POSITION_LIMIT
    corner.fine(BOB, sell(1_000, 1))
    assert corner.refused(ALICE, buy(1_000, 1)) == Code.POSITION_LIMIT
    return corner.refused(ALICE, buy(901, 1))


@case(Code.BAD_AMOUNT)
def an_amount_out_of_range() -> int:
    corner = Corner()
    for amount in (-1, 0, CASH_MOVE_LIMIT):
        assert corner.refused(ALICE, act.Transfer(SUB, amount)) == Code.BAD_AMOUNT
        assert corner.refused(ALICE, act.Transfer(2, amount)) == Code.BAD_AMOUNT
        assert corner.refused(ALICE, act.Withdraw(amount, TO)) == Code.BAD_AMOUNT
    return corner.refused(ALICE, act.Withdraw(1 << 63, TO))


@case(Code.OPEN_INTEREST_LIMIT)
def open_interest_at_its_cap() -> int:
    corner = Corner(chain_of(max_open_interest_lots=10))
    corner.trade(10)
    corner.fine(BOB, sell(1_000, 1))
    return corner.refused(ALICE, buy(1_000, 1))


@case(Code.NOTIONAL_LIMIT)
def a_position_worth_too_much() -> int:
    rules: dict[str, Any] = {
        "lot_micro": 30_000,
        "max_order_lots": 1 << 30,
        "max_position_lots": 1 << 30,
    }
    corner = Corner(chain_of(**rules))
    assert corner.refused(ALICE, buy(1 << 20, 1 << 28)) == Code.NOTIONAL_LIMIT
    corner.fine(ALICE, buy(1, 1 << 5))
    return corner.refused(ALICE, buy(1, 1 << 26))


@case(Code.LIQUIDATING)
def an_account_below_maintenance() -> int:
    corner = Corner(dollars=10)
    corner.trade(90)
    corner.price(930)
    corner.fine(ALICE, sell(1_100, 1, flags=act.REDUCE_ONLY))
    assert corner.refused(ALICE, sell(1_100, 1)) == Code.LIQUIDATING
    assert corner.refused(ALICE, act.MassQuote(0, [], [(1_100, 1)])) == Code.LIQUIDATING
    assert corner.refused(ALICE, act.Twap(0, 0, 9, 60_000)) == Code.LIQUIDATING
    return corner.refused(ALICE, buy(500, 1))


@case(Code.WRONG_TRANSFER)
def a_transfer_to_somebody_else() -> int:
    corner = Corner()
    corner.trade()
    for account in (BOB, ALICE, 0, 1, 16 + (1 << 62), -1, (1 << 64) - 1):
        assert corner.refused(ALICE, act.Transfer(account, 1)) == Code.WRONG_TRANSFER, account
    for account in (BOB, ALICE, 2, 3):
        found = corner.refused(ALICE, act.TransferPosition(account, 0, 1))
        assert found == Code.WRONG_TRANSFER, account
    assert corner.refused(ALICE, act.Transfer(account_number(ALICE, 0, 2), 1)) == (
        Code.WRONG_TRANSFER
    )
    corner.fine(ALICE, act.Transfer(SUB, 100 * DOLLAR))
    corner.fine(BOB, buy())
    corner.fine(SUB, sell())
    # A position is not netted by a transfer.
    return corner.refused(ALICE, act.TransferPosition(SUB, 0, 1))


@case(Code.TOO_MANY_SUBACCOUNTS)
def one_subaccount_more() -> int:
    corner = Corner(chain_of(Limits(subaccounts=2)))
    corner.fine(ALICE, act.Transfer(account_number(ALICE, 2), 1))
    return corner.refused(ALICE, act.Transfer(account_number(ALICE, 3), 1))


@case(Code.LEVERAGE_TOO_HIGH)
def a_cap_that_the_position_breaks() -> int:
    corner = Corner(dollars=10)
    corner.trade(50)
    corner.fine(ALICE, act.SetLeverage(0, 6))
    return corner.refused(ALICE, act.SetLeverage(0, 5))


@case(Code.NO_POSITION)
def a_position_that_is_not_there() -> int:
    corner = Corner()
    corner.trade(5)
    corner.fine(ALICE, act.Transfer(SUB, 100 * DOLLAR))
    for lots in (6, -1):
        found = corner.refused(ALICE, act.TransferPosition(SUB, 0, lots))
        assert found == Code.NO_POSITION, lots
    return corner.refused(ALICE, act.TransferPosition(SUB, 1, 1))


# -- order state


@case(Code.UNKNOWN_ORDER)
def no_such_order() -> int:
    corner = Corner()
    corner.fine(ALICE, buy(900, client_id=5), stop(client_id=6))
    for account, action in (
        (ALICE, act.Cancel(0, 99)), (ALICE, act.Cancel(1, 1)), (BOB, act.Cancel(0, 1)),
        (BOB, act.Cancel(0, 2)), (ALICE, act.CancelClient(0, 0)), (ALICE, act.Reduce(0, 2, 1)),
        (ALICE, act.CancelClient(1, 5)), (BOB, act.CancelClient(0, 6)), (BOB, act.Reduce(0, 1, 1)),
        (BOB, act.Modify(0, 1, 900, 2)), (ALICE, act.Modify(0, 2, 900, 2)),
    ):  # fmt: skip
        assert corner.refused(account, action) == Code.UNKNOWN_ORDER, action
    return corner.refused(ALICE, act.Cancel(0, 0))


@case(Code.DUPLICATE_CLIENT_ID)
def a_client_id_twice() -> int:
    corner = Corner()
    corner.fine(ALICE, buy(900, client_id=5), stop(client_id=6), act.Twap(1, 0, 90, 60_000, 0, 7))
    profit = act.TriggerOrder(0, act.SELL, 0, act.TAKE_PROFIT, 1_100, 0, 10_000, 9)
    for client in (5, 6, 7):
        for action in (
            buy(901, client_id=client), stop(client_id=client),
            act.MarketOrder(0, 0, 1, 10_000, client), act.Twap(1, 0, 90, 60_000, 0, client),
            act.Oco(sell(1_200, client_id=client), stop()),
            act.Bracket(buy(901), profit, stop(lots=0, client_id=client)),
        ):  # fmt: skip
            assert corner.refused(ALICE, action) == Code.DUPLICATE_CLIENT_ID, action
    twins = act.Oco(stop(client_id=8), stop(800, client_id=8))
    assert corner.refused(ALICE, twins) == Code.DUPLICATE_CLIENT_ID
    triplets = act.Bracket(buy(901), profit, stop(lots=0, client_id=9))
    return corner.refused(ALICE, triplets)


@case(Code.WOULD_TAKE)
def a_post_only_order_that_crosses() -> int:
    corner = Corner()
    corner.fine(BOB, sell(1_000))
    assert corner.refused(ALICE, act.MassQuote(0, [(1_000, 1)], [])) == Code.WOULD_TAKE
    return corner.refused(ALICE, buy(1_000, tif=act.POST_ONLY))


@case(Code.NO_LIQUIDITY)
def an_empty_book() -> int:
    corner = Corner()
    assert corner.refused(ALICE, act.MarketOrder(0, 0, 1, 10_000)) == Code.NO_LIQUIDITY
    return corner.refused(ALICE, buy(tif=act.IOC))


@case(Code.NOT_REDUCING)
def nothing_to_reduce() -> int:
    corner = Corner()
    corner.trade()
    assert corner.refused(BOB, sell(flags=act.REDUCE_ONLY)) == Code.NOT_REDUCING
    assert corner.refused(ALICE, buy(flags=act.REDUCE_ONLY)) == Code.NOT_REDUCING
    market_order = act.MarketOrder(1, act.BUY, 1, 10_000, 0, act.REDUCE_ONLY)
    return corner.refused(ALICE, market_order)


@case(Code.NOT_FILLABLE)
def a_book_that_is_too_thin() -> int:
    corner = Corner(chain_of(Limits(fills_per_action=2)))
    corner.fine(BOB, sell(1_000), sell(1_001), sell(1_002))
    assert corner.refused(ALICE, buy(1_002, 4, act.FOK)) == Code.NOT_FILLABLE
    assert corner.refused(ALICE, buy(1_002, 3, act.FOK)) == Code.NOT_FILLABLE
    assert corner.refused(BOB, buy(1_002, 1, act.FOK)) == Code.NOT_FILLABLE
    return corner.refused(ALICE, buy(1_000, 2, act.FOK))


@case(Code.SELF_TRADE)
def an_order_that_meets_its_owners() -> int:
    corner = Corner()
    corner.fine(ALICE, sell(1_000))
    return corner.refused(ALICE, buy(1_000, tif=act.IOC, flags=act.STP_CANCEL_TAKER))


@case(Code.TOO_MANY_TRIGGERS)
def one_trigger_more() -> int:
    corner = Corner(chain_of(Limits(triggers_per_account=2, triggers_per_market=3)))
    corner.fine(ALICE, stop())
    assert corner.refused(ALICE, act.Oco(stop(), stop(800))) == Code.TOO_MANY_TRIGGERS
    corner.fine(ALICE, stop())
    assert corner.refused(ALICE, stop()) == Code.TOO_MANY_TRIGGERS
    corner.fine(BOB, stop())
    return corner.refused(BOB, stop())


@case(Code.TOO_MANY_TWAPS)
def one_twap_more() -> int:
    corner = Corner(chain_of(Limits(twaps_per_account=1)))
    corner.fine(ALICE, act.Twap(0, 0, 90, 60_000))
    return corner.refused(ALICE, act.Twap(0, 0, 90, 60_000))


@case(Code.WOULD_FIRE)
def a_trigger_at_the_mark() -> int:
    corner = Corner()
    corner.fine(ALICE, stop(999))
    for side, kind in ((1, 0), (1, 1), (0, 0), (0, 1)):
        at_mark = act.TriggerOrder(0, side, 1, kind, 1_000, 0, 10_000)
        assert corner.refused(ALICE, at_mark) == Code.WOULD_FIRE
    return corner.refused(ALICE, act.Oco(stop(), stop(1_000)))


@case(Code.DEAD_MAN_TOO_SOON)
def a_switch_that_is_too_soon() -> int:
    corner = Corner()
    corner.fine(ALICE, act.ScheduleCancel(corner.time_ms + 10 + act.DEAD_MAN_LEAST_MS))
    assert corner.refused(ALICE, act.ScheduleCancel(-1)) == Code.DEAD_MAN_TOO_SOON
    soon = corner.time_ms + 9 + act.DEAD_MAN_LEAST_MS
    return corner.refused(ALICE, act.ScheduleCancel(soon))


@case(Code.DEAD_MAN_USED_UP)
def a_switch_that_went_off_often_enough() -> int:
    corner = Corner()
    corner.waited_ms = act.DEAD_MAN_LEAST_MS
    for _ in range(act.DEAD_MAN_DAILY):
        corner.fine(ALICE, act.ScheduleCancel(corner.time_ms + 2 * act.DEAD_MAN_LEAST_MS))
        corner.block([])
        corner.block([])
    corner.fine(BOB, act.ScheduleCancel(START_MS + 10**6))
    return corner.refused(ALICE, act.ScheduleCancel(START_MS + 10**6))


@case(Code.ISOLATED_ACCOUNT)
def another_market_than_the_isolated_one() -> int:
    corner = Corner()
    corner.trade()
    isolated = account_number(ALICE, 0, 1)
    corner.fine(ALICE, act.Transfer(isolated, 100 * DOLLAR))
    for action in (
        buy(), act.MarketOrder(0, act.BUY, 1, 10_000), act.MassQuote(0, [(900, 1)], []), stop(),
        act.Twap(0, act.BUY, 1, 60_000),
    ):  # fmt: skip
        assert corner.refused(isolated, action) == Code.ISOLATED_ACCOUNT, action
    return corner.refused(ALICE, act.TransferPosition(isolated, 0, 1))
