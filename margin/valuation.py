"""What accounts are worth and what margin they need, at the marks of the block.

Equity TV = cash + worth of the positions + unsettled funding. A position counts at the mark; while
its market is stale at one end of the band; once its market has expired at the settlement price, and
then needs no margin. Running totals (`tv_uusd`, `im_uusd` of an account, `im_uusd` and
`excess_uusd` of an exposure) hold for one `version` and are rebuilt on first use after it was
raised.

A new mark costs the same however many orders it passes: what orders lose against it is summed up
when their account is next looked at, once for each mark, over its own orders alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from margin.account import Account, Exposure
from margin.market import Market
from protocol.actions import BUY, SELL

NEVER = 1 << 62
"""A version beyond all others."""

WITHDRAW_NOTIONAL_DIVISOR = 10
"""A tenth of the notional stays in the account whatever its margin rate."""


class Valuation:
    """Values accounts over all markets of the shard.

    What raises `version`, since it changes totals that nobody touches: a new mark (`set_mark` does
    it itself), and, by whoever changes it, a market's `stale`, `scaled_ppm`, `funding_index` or
    `settled_ticks`. What concerns a single account (its leverage, cash that moved without its
    totals) only sets `account.version` to 0.
    """

    __slots__ = ("_marked", "_passed", "markets", "version")

    def __init__(self, markets: Sequence[Market]) -> None:
        self.markets = markets
        self.version = 1
        self._marked = NEVER
        """Accounts that were looked at since this version know what their orders lose."""
        self._passed = [True] * len(markets)
        """Whether a market had orders through its mark when that was set; True: unknown."""

    def set_mark(self, market: Market, mark_ticks: int) -> None:
        """Move a mark: totals of all accounts become stale."""
        market.mark_ticks = mark_ticks
        market.through = {}
        self.version += 1
        self._marked = self.version
        self._passed[market.number] = False
        for side in (BUY, SELL):
            best_ticks = market.book.best_ticks(side)
            if best_ticks and market.product.excess_uusd(side, best_ticks, 1, mark_ticks) > 0:
                self._passed[market.number] = True

    def refresh(self, account: Account) -> None:
        """Rebuild an account's totals for the present marks."""
        if account.version != self.version and account.version < self._marked:
            self._price_orders(account)
        tv = account.cash_uusd
        im = 0
        for number, e in account.exposures.items():
            market = self.markets[number]
            size = e.size_lots
            if market.settled_ticks:
                e.im_uusd = 0
                tv += self.worth_uusd(market, size)
                continue
            product, mark = market.product, market.mark_ticks
            e.im_uusd = (
                product.initial_uusd(
                    size, e.bid_lots, e.ask_lots, e.reduce_bid_lots, e.reduce_ask_lots, mark,
                    market.scaled_ppm, e.leverage,
                )
                + e.excess_uusd
                + e.reserve_uusd
            )  # fmt: skip
            im += e.im_uusd
            if size:
                if market.stale:
                    tv += self.worth_uusd(market, size)
                else:
                    tv += product.value_uusd(size, mark)
                if e.funding_index != market.funding_index:
                    tv += self.funding_uusd(e, market)
        account.tv_uusd = tv
        account.im_uusd = im
        account.version = self.version

    def _price_orders(self, account: Account) -> None:
        """Sum up anew what an account's orders lose against the marks."""
        passed = False
        for number, e in account.exposures.items():
            e.excess_uusd = 0
            if (self._passed[number] or self.markets[number].through) and (
                e.bid_lots or e.ask_lots or e.reduce_bid_lots or e.reduce_ask_lots
            ):
                passed = True
        if not passed:
            return
        for order in account.orders.values():
            market = self.markets[order.market]
            if self._passed[order.market] or market.through:
                excess = market.product.excess_uusd(
                    order.side, order.price_ticks, order.remaining_lots, market.mark_ticks
                )
                if excess:
                    account.exposures[order.market].excess_uusd += excess

    @staticmethod
    def worth_uusd(market: Market, size_lots: int) -> int:
        """Worth of a position in equity: at the unfavourable end where the market is stale."""
        if market.settled_ticks:
            return market.product.settled_uusd(size_lots, market.settled_ticks)
        if market.stale:
            return market.product.stale_uusd(size_lots, market.mark_ticks, market.stale_band_ppm)[0]
        return market.product.value_uusd(size_lots, market.mark_ticks)

    @staticmethod
    def funding_uusd(e: Exposure, market: Market) -> int:
        """Unsettled funding of a position: received (+) or paid (-), rounded down."""
        if e.funding_index == market.funding_index or not e.size_lots:
            return 0
        return market.product.funding_uusd(e.size_lots, market.funding_index - e.funding_index)

    @staticmethod
    def initial_uusd(market: Market, e: Exposure, size_lots: int) -> int:
        """Initial margin of an account in one market with this position: the orders' losses against
        the mark and fees are part of it. None once the market has expired."""
        if market.settled_ticks:
            return 0
        return (
            market.product.initial_uusd(
                size_lots, e.bid_lots, e.ask_lots, e.reduce_bid_lots, e.reduce_ask_lots,
                market.mark_ticks, market.scaled_ppm, e.leverage,
            )
            + e.excess_uusd
            + e.reserve_uusd
        )  # fmt: skip

    @staticmethod
    def maintenance_of_uusd(market: Market, size_lots: int) -> int:
        """Maintenance margin of a position; none once its market has expired."""
        if market.settled_ticks:
            return 0
        return market.product.maintenance_uusd(size_lots, market.mark_ticks)

    def maintenance_uusd(self, account: Account) -> int:
        """MM: from positions alone, rounded up per market."""
        mm = 0
        for number, e in account.exposures.items():
            if e.size_lots:
                mm += self.maintenance_of_uusd(self.markets[number], e.size_lots)
        return mm

    def liquidation(self, account: Account) -> tuple[int, int]:
        """(TV, MM) that decide liquidation: positions in stale markets count at the favourable end
        of their band. The account is liquidated while TV < MM."""
        tv = account.cash_uusd
        mm = 0
        for number, e in account.exposures.items():
            size = e.size_lots
            if not size:
                continue
            market = self.markets[number]
            if market.stale and not market.settled_ticks:
                product, mark = market.product, market.mark_ticks
                tv += product.stale_uusd(size, mark, market.stale_band_ppm)[1]
            else:
                tv += self.worth_uusd(market, size)
            tv += self.funding_uusd(e, market)
            mm += self.maintenance_of_uusd(market, size)
        return tv, mm

    def withdrawable_uusd(self, account: Account) -> tuple[int, int]:
        """(most that may leave, settled cash) of an account with fresh totals.

        The first is TV - max(IM, a tenth of the notional, sum of unrealised profits), never below
        0. Settled cash is cash without what open positions cost: nothing unrealised is in it. What
        expired positions pay and funding that is due count as settled.
        """
        notional = 0
        profit = 0
        settled = account.cash_uusd
        for number, e in account.exposures.items():
            size = e.size_lots
            if not size:
                continue
            market = self.markets[number]
            settled += self.funding_uusd(e, market)
            if market.settled_ticks:
                settled += market.product.settled_uusd(size, market.settled_ticks)
                continue
            notional += market.product.notional_uusd(abs(size), market.mark_ticks)
            profit += max(self.worth_uusd(market, size) - e.cost_uusd, 0)
            settled += e.cost_uusd
        tenth = -(-notional // WITHDRAW_NOTIONAL_DIVISOR)
        free = account.tv_uusd - max(account.im_uusd, tenth, profit)
        return max(free, 0), settled
