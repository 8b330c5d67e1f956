"""Every method of a trader signs the action that it names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from engine_world import make_chain, market

from client.orders import limit_order, trigger_order
from client.submission import ActionRejected
from client.trader import Trader
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    FOK,
    REDUCE_ONLY,
    SELL,
    STP_CANCEL_TAKER,
    ActionBatch,
    CancelAll,
    CancelClient,
    MarketOrder,
    MassQuote,
    Modify,
    Order,
    ScheduleCancel,
    SetLeverage,
    SetProtection,
    Transfer,
    TransferPosition,
    Twap,
    open_batch,
    sign_batch,
)
from protocol.errors import Code
from protocol.events import Result
from protocol.keys import Key
from protocol.settlement import account_number

CHAIN = make_chain([market(0), market(1, symbol="ETH")])
KEY = Key.generate()


class Desk:
    """Takes what a trader signs."""

    def __init__(self) -> None:
        self.chain = CHAIN
        self.sent: list[Any] = []

    def market(self, name: str | int) -> Any:
        return CHAIN.genesis.market(str(name))

    async def prove(self, key: Key) -> None:
        assert key is KEY

    def sign(self, key: Key, account: int, actions: list[Any], *, expires_ms: int = 0) -> Any:
        raw = sign_batch(key, CHAIN.chain_id, 0, ActionBatch(account, 1, expires_ms, actions))
        return SimpleNamespace(raw=raw)

    async def submit(self, submission: Any) -> Any:
        self.sent += open_batch(submission.raw)[1].actions
        return submission


Call = Callable[[Trader], Coroutine[Any, Any, Any]]
M = CHAIN.genesis.market("ETH")

CALLS: list[tuple[Call, Any]] = [
    (
        lambda t: t.place(
            "ETH", "buy", size="0.002", price="5", tif="fok", client_id=3, reduce_only=True,
            stp="cancel-taker", expires_ms=9,
        ),
        Order(1, BUY, 5, 2, FOK, 3, REDUCE_ONLY | STP_CANCEL_TAKER, 9),
    ),
    (
        lambda t: t.market("ETH", "sell", size="1", slippage_ppm=5, reduce_only=True),
        MarketOrder(1, SELL, 1_000, 5, 0, REDUCE_ONLY),
    ),
    (lambda t: t.modify("ETH", 7, size="1", price="8"), Modify(1, 7, 8, 1_000)),
    (lambda t: t.quote(0, bids=[("4", "1")]), MassQuote(0, [(4, 1_000)], [])),
    (lambda t: t.trigger("ETH", "sell", size="1", kind="stop", at="4", client_id=2),
     trigger_order(M, "sell", "1", "stop", "4", client_id=2)),
    (lambda t: t.twap("ETH", "buy", size="1", duration_ms=60_000, flags=1),
     Twap(1, BUY, 1_000, 60_000, 1, 0)),
    (lambda t: t.schedule_cancel(99), ScheduleCancel(99)),
    (lambda t: t.cancel_client("ETH", 5), CancelClient(1, 5)),
    (lambda t: t.cancel_all(), CancelAll(ALL_MARKETS)),
    (lambda t: t.cancel_all("ETH"), CancelAll(1)),
    (lambda t: t.leverage("ETH", 4), SetLeverage(1, 4)),
    (lambda t: t.protection("ETH", 3, 500), SetProtection(1, 3, 500)),
    (lambda t: t.transfer(account_number(20, 1), "1.5"),
     Transfer(account_number(20, 1), 1_500_000)),
    (lambda t: t.transfer_position(20, "ETH", "-0.5"), TransferPosition(20, 1, -500)),
]  # fmt: skip


@pytest.mark.parametrize(("call", "action"), CALLS)
def test_an_action_of_its_own(call: Call, action: Any) -> None:
    desk = Desk()
    asyncio.run(call(Trader(desk, KEY, 20)))  # type: ignore[arg-type]
    assert desk.sent == [action]


@pytest.mark.parametrize("code", [Code.OK, Code.INSUFFICIENT_MARGIN])
async def test_who_withdraws_hears_of_the_wait_once_the_dollars_are_taken(code: Code) -> None:
    desk: Any = Desk()
    told, paid = list[int](), list[int]()

    async def executed(timeout_ms: int) -> Any:
        return SimpleNamespace(code=0, results=[Result(int(code), 0, 7, 0, 0)])

    async def settled(timeout_ms: int) -> None:
        assert told == [7]

    async def submit(submission: Any) -> Any:
        return SimpleNamespace(executed=executed, settled=settled)

    async def pay_out(key: Key, number: int, timeout_ms: int) -> None:
        paid.append(number)

    desk.submit, desk.ledger = submit, SimpleNamespace(pay_out=pay_out)
    work = Trader(desk, KEY, 20).withdraw_and_pay("5", debited=told.append)
    if code:
        with pytest.raises(ActionRejected):
            await work
        assert told == paid == []
    else:
        assert await work == 7 and told == paid == [7]


def test_orders_with_several_parts() -> None:
    desk = Desk()
    trader = Trader(desk, KEY, 20)  # type: ignore[arg-type]
    asyncio.run(
        trader.bracket("ETH", "buy", size="1", price="5", take_profit="6", stop="4", client_id=2)
    )
    found = desk.sent.pop()
    assert found.parent == Order(1, BUY, 5, 1_000, client_id=2)
    assert (found.take_profit.trigger_ticks, found.stop.trigger_ticks) == (6, 4)
    first = limit_order(M, "sell", "1", "6")
    second = trigger_order(M, "sell", "1", "stop", "4")
    asyncio.run(trader.oco(first, second))
    assert (desk.sent[-1].first, desk.sent.pop().second) == (first, second)
    asyncio.run(
        trader.scale("ETH", "buy", size="0.006", first_price="5", last_price="7", count=3,
                     weights="rising", tif="post-only")
    )  # fmt: skip
    assert [(one.price_ticks, one.size_lots) for one in desk.sent] == [(5, 1), (6, 2), (7, 3)]
