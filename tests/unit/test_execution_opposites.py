"""Ranks of deleveraging: those of all holders, at the cost of those that changed."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import ORACLES, market, signer
from liquidation_world import FREE, Crash, usd

from execution.realised import Realised
from margin import holders
from protocol.actions import BUY, GTC, POST_ONLY, SELL, OraclePrice, Order
from protocol.events import LIQUIDATION_DELEVERAGED, Fill, Receipt
from protocol.settlement import account_number

RICH = usd(1_000_000)


def crowd(many: int = 300, **options: Any) -> Crash:
    """Many shorts of a lot each; longs of ten lots that fail one after another as the mark falls,
    by a dollar each; 17 holds the rest."""
    found: dict[int, Any] = {1_000 + n: (usd(1_000), {0: -1}) for n in range(many)}
    found |= {100 + n: (usd(0.605 + 0.01 * n), {0: 10}) for n in range(8)}
    found[17] = (RICH, {0: many - 80})
    return Crash(found, [market(0, **FREE), market(1, **FREE)], **options)


@pytest.mark.parametrize("least", [0, 10**9])
def test_a_block_costs_what_changed_not_who_holds(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "LEAST_IN_ARRAYS", least)
    asked: list[tuple[int, int]] = []
    ask = Realised.within_day_uusd

    def counted(self: Realised, account: int, market_number: int) -> int:
        asked.append((account, market_number))
        return ask(self, account, market_number)

    monkeypatch.setattr(Realised, "within_day_uusd", counted)
    w = crowd()
    costs = []
    for block in range(8):
        asked.clear()
        w.mark(939 - block)
        failed = {r.of_account for r in w.of(Receipt) if r.kind == LIQUIDATION_DELEVERAGED}
        assert failed == {100 + block}
        costs.append(len(asked))
    # The first looks at everybody; then those who took over, and the account itself, count.
    assert costs[0] > 300
    assert max(costs[1:]) < 150


def test_what_a_subaccount_realised_counts_for_its_master() -> None:
    sub = account_number(20, 1)
    # 20 and 21 are short alike; the sub-account of 20 makes 20 dollars and is flat again.
    w = Crash(
        {16: (usd(70), {0: 1_000}), 18: (usd(52), {0: 290}), 19: (usd(0.005), {0: 10}),
         20: (RICH, {0: -990}), 21: (RICH, {0: -990}), 23: (usd(0.005), {0: -20}),
         22: (RICH, {0: 700}), sub: (RICH, {})},
        [market(0, **FREE)],
    )  # fmt: skip
    for mark, failed in ((999, 19), (1_001, 23)):
        w.mark(mark)
        assert w.of(Receipt)[0].account == failed, "everybody is ranked before it is realised"
    assert not {20, 21} & {r.account for r in w.of(Receipt)}
    for side, price in ((BUY, 1_001), (SELL, 1_201)):
        quote = w.batch(22, Order(0, 1 - side, price, 100, GTC))
        w.block([quote, w.batch(sub, Order(0, side, price, 100, GTC), by=signer(20))])
        assert [e.size_lots for e in w.of(Fill)] == [100]
    w.mark(929)
    lots = {r.account: r.size_lots for r in w.of(Receipt) if r.of_account == 16 != r.account}
    # Profits of 70 and 20 dollars, against 70.
    assert sum(lots.values()) > 900 and lots.keys() == {20, 21}
    assert 1.28 < lots[20] / lots[21] < 1.29


def test_a_position_closed_and_forgotten_is_no_longer_opposite() -> None:
    w = crowd(cancels_first=True)
    w.mark(939)
    w.ask(17, 939, 1)
    assert w.one(1_012, Order(0, BUY, 939, 1, GTC)).filled_lots == 1
    # Under the new mark its post-only order comes before liquidations: the empty row is forgotten.
    prices = [w.batch(0, OraclePrice(0, 938), by=oracle) for oracle in ORACLES]
    w.block([*prices, w.batch(1_012, Order(1, BUY, 900, 1, POST_ONLY))])
    assert 0 not in w.engine._state.accounts[1_012].exposures
    taken = {r.account for r in w.of(Receipt) if r.kind == LIQUIDATION_DELEVERAGED}
    assert 101 in taken and 1_012 not in taken
    assert w.size(1_012) == 0
