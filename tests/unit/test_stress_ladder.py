"""The loss ladder, and who cannot be paid."""

from __future__ import annotations

import pytest

from protocol.errors import SafetyViolation
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_DELEVERAGED,
    LIQUIDATION_ORDER,
    Receipt,
)
from sim.stress_exchange import product
from sim.stress_ladder import Claims, Ladder, Tally, claims, ladder, require_paid

RULES = product()
VALUE = RULES.value_uusd(1, 1)


def receipt(
    kind: int, account: int, of: int, lots: int, amount: int, insurance: int = 0, share: int = 0
) -> Receipt:
    return Receipt(0, kind, 1, account, of, 0, lots, 1_000, 0, amount, 0, 0, 0, insurance, share)


def test_a_ladder_adds_up_what_each_one_lost() -> None:
    tally = Tally(RULES)
    # 10 lots sold 5 ticks below the mark, with a fee of 7.
    tally.add(receipt(LIQUIDATION_ORDER, 20, 20, -10, 995 * 10 * VALUE, insurance=7))
    # 4 short lots given to the backstop, which is paid 30 for it.
    tally.add(receipt(LIQUIDATION_BACKSTOP, 21, 21, 4, -1_000 * 4 * VALUE - 30))
    # One account is worth nothing: insurance pays 11, the counterparties' haircut is 9.
    tally.add(receipt(LIQUIDATION_DELEVERAGED, 22, 22, -6, 6_000 * VALUE, insurance=-11))
    tally.add(receipt(LIQUIDATION_DELEVERAGED, 30, 22, 2, -1, share=3))
    tally.add(receipt(LIQUIDATION_DELEVERAGED, 31, 22, 4, -1, share=6))
    before = {2: (0, 100), 3: (0, 500)}
    after = {2: (0, 96), 3: (-4, 530 + 4_000 * VALUE)}
    found = ladder(tally, RULES, before, after, 900, 1_010)
    assert found == Ladder(50 * VALUE + 7 + 30, -30 + 40 * VALUE, 4, 9, 0)
    assert found.venue_uusd == -30 + 40 * VALUE + 4 + 9
    closed = tally.closed()
    assert (closed.orders_uusd, closed.backstop_uusd, closed.deleveraged_uusd) == (
        10_000 * VALUE, 4_000 * VALUE, 6_000 * VALUE,
    )  # fmt: skip
    assert (closed.fees_uusd, closed.counterparties) == (7, 2)


def test_a_fund_below_zero_is_a_haircut_and_winnings_are_not_set_against_losses() -> None:
    found = ladder(Tally(RULES), RULES, {2: (0, 100), 3: (0, 5)}, {2: (0, -40), 3: (0, 65)}, 1, 1)
    assert found == Ladder(0, -60, 100, 0, 40)
    assert found.venue_uusd == 140


def test_everybody_is_paid_where_nobody_is_below_zero() -> None:
    holdings = {2: (0, 10), 20: (5, -4_000 * VALUE), 21: (-5, 6_000 * VALUE)}
    found = claims(RULES, holdings, 1_000)
    assert found == Claims(10 + 2_000 * VALUE, 10 + 2_000 * VALUE, 0, 0, 0)
    require_paid(found)


def test_a_reported_bad_debt_pays_nobody_twice() -> None:
    found = claims(RULES, {2: (0, -30), 20: (0, 100)}, 1_000)
    assert (found.owed_uusd, found.cash_uusd, found.haircut_uusd) == (100, 70, 30)
    require_paid(found)


def test_an_account_below_zero_is_an_unpaid_winner() -> None:
    holdings = {2: (0, 0), 20: (5, -6_000 * VALUE), 21: (-5, 6_000 * VALUE)}
    found = claims(RULES, holdings, 1_000)
    assert (found.insolvent, found.unpaid_uusd) == (1, 1_000 * VALUE)
    with pytest.raises(SafetyViolation, match="1 accounts are below zero"):
        require_paid(found)
