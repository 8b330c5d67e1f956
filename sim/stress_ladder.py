"""Who pays for liquidations: the loss ladder of a stress run, and whether everybody can be paid.

    trader       what liquidated accounts gave up against the mark, liquidation fees included
                 (negative: they were sold above a mark that was late)
    backstop     what the backstop lost (negative: won) until the end, at the last mark
    fund         what the insurance fund lost, down to nothing (negative: it earned)
    deleveraging haircuts of counterparties
    haircut      open bad debt, which every withdrawal shares

The last four, as far as they are losses, are the venue's: what insolvent accounts lacked, and what
the backstop lost of what it took.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from margin.linear import Product
from protocol.errors import SafetyViolation
from protocol.events import (
    LIQUIDATION_BACKSTOP,
    LIQUIDATION_DELEVERAGED,
    LIQUIDATION_ORDER,
    Receipt,
)
from protocol.settlement import BACKSTOP_ACCOUNT, INSURANCE_ACCOUNT


class Ladder(msgspec.Struct, frozen=True):
    """Losses in micro-dollars."""

    trader_uusd: int
    backstop_uusd: int
    fund_uusd: int
    deleveraging_uusd: int
    haircut_uusd: int

    @property
    def venue_uusd(self) -> int:
        """What was lost beyond the margin of those who were liquidated. What the backstop or the
        fund wins is not set against the other rungs: it is nobody else's."""
        won_or_lost = (self.backstop_uusd, self.fund_uusd)
        lost = sum(max(rung, 0) for rung in won_or_lost)
        return lost + self.deleveraging_uusd + self.haircut_uusd


class Closed(msgspec.Struct, frozen=True):
    """Notional at the mark of what liquidations closed, by how."""

    orders_uusd: int
    backstop_uusd: int
    deleveraged_uusd: int
    fees_uusd: int
    counterparties: int


class Tally:
    """Adds up receipts as they come."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self.trader_uusd = self.deleveraging_uusd = self.fees_uusd = 0
        self.notional = {LIQUIDATION_ORDER: 0, LIQUIDATION_BACKSTOP: 0, LIQUIDATION_DELEVERAGED: 0}
        self.counterparties: dict[int, None] = {}

    def add(self, receipt: Receipt) -> None:
        """Count a receipt."""
        product = self._product
        notional = product.notional_uusd(abs(receipt.size_lots), receipt.mark_ticks)
        if receipt.kind == LIQUIDATION_DELEVERAGED:
            if receipt.account != receipt.of_account:
                self.counterparties[receipt.account] = None
                self.deleveraging_uusd += receipt.share_uusd
                return
        else:
            worth = product.value_uusd(-receipt.size_lots, receipt.mark_ticks)
            fee = max(receipt.insurance_uusd, 0)
            self.trader_uusd += worth - receipt.amount_uusd + fee
            self.fees_uusd += fee
        self.notional[receipt.kind] += notional

    def closed(self) -> Closed:
        """What was closed."""
        return Closed(
            self.notional[LIQUIDATION_ORDER],
            self.notional[LIQUIDATION_BACKSTOP],
            self.notional[LIQUIDATION_DELEVERAGED],
            self.fees_uusd,
            len(self.counterparties),
        )


def ladder(
    tally: Tally,
    product: Product,
    before: Mapping[int, tuple[int, int]],
    after: Mapping[int, tuple[int, int]],
    first_ticks: int,
    last_ticks: int,
) -> Ladder:
    """The ladder between two states of (size_lots, cash_uusd) by account, at their marks."""

    def equity(state: Mapping[int, tuple[int, int]], account: int, ticks: int) -> int:
        size, cash = state[account]
        return cash + product.value_uusd(size, ticks)

    backstop = equity(before, BACKSTOP_ACCOUNT, first_ticks)
    backstop -= equity(after, BACKSTOP_ACCOUNT, last_ticks)
    fund_before = before[INSURANCE_ACCOUNT][1]
    fund_after = after[INSURANCE_ACCOUNT][1]
    return Ladder(
        tally.trader_uusd,
        backstop,
        fund_before - max(fund_after, 0),
        tally.deleveraging_uusd,
        max(-fund_after, 0),
    )


class Claims(msgspec.Struct, frozen=True):
    """What accounts are owed at the last mark, and what is there to pay them."""

    owed_uusd: int
    cash_uusd: int
    haircut_uusd: int
    insolvent: int
    unpaid_uusd: int


def claims(product: Product, holdings: Mapping[int, tuple[int, int]], ticks: int) -> Claims:
    """Whether everybody can be paid once no liquidation is open.

    `owed`: the sum of positive equities. What is not there must be the bad debt that is reported
    (the insurance fund below zero); `unpaid` is what lacks beyond it, `insolvent` how many other
    accounts are below zero.
    """
    owed = cash = insolvent = 0
    for account, (size, held) in holdings.items():
        cash += held
        worth = held + product.value_uusd(size, ticks)
        owed += max(worth, 0)
        insolvent += worth < 0 and account != INSURANCE_ACCOUNT
    haircut = max(-holdings[INSURANCE_ACCOUNT][1], 0)
    return Claims(owed, cash, haircut, insolvent, max(owed - cash - haircut, 0))


def require_paid(found: Claims) -> None:
    """Raise `SafetyViolation` where a winner is not paid."""
    if found.unpaid_uusd or found.insolvent:
        raise SafetyViolation(
            f"{found.insolvent} accounts are below zero and nobody covers them: winners are owed "
            f"{found.owed_uusd} uUSD, there are {found.cash_uusd} and a reported bad debt of "
            f"{found.haircut_uusd}"
        )
