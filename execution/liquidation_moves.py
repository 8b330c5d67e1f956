"""What all ways of closing a position for the system share: positions, moves and the budget."""

from __future__ import annotations

from execution.state import State
from execution.trading import Trading
from margin.account import Account, Exposure
from margin.market import Market
from protocol.actions import CANCEL_ONLY, HALTED, OPEN, REDUCE_ONLY_MODE
from protocol.markets import CASH_MOVE_LIMIT


class Items:
    """What is left of a block's budget, and how much of it is kept back for later. A step may begin
    while what is free is not below 0, so that even the smallest budget lets an account do something
    once it has had its turn."""

    __slots__ = ("kept_back", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.kept_back = 0

    @property
    def free(self) -> int:
        """What may be spent now."""
        return self.left - self.kept_back

    def spend(self, count: int = 1) -> None:
        """Count accounts, cancels, fills and moves."""
        self.left -= count

    @property
    def over(self) -> bool:
        """Whether no further step may begin."""
        return self.left < self.kept_back


class Moves:
    """Moves positions between accounts at a price in cash, outside the book."""

    __slots__ = ("_state", "_trading", "changed")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading
        self.changed: dict[tuple[int, int], None] = {}
        """(account, market) of moves that rankings have not taken over yet."""

    def exchange(
        self, account: Account, other: Account, market: Market, lots: int, cash_uusd: int
    ) -> None:
        """Change the position of `account` by signed lots for cash received (negative: paid); the
        other account takes the opposite. The totals of both are fresh.

        Large ones go in pieces of one cash movement each.
        """
        pieces = min(-(-abs(cash_uusd) // (CASH_MOVE_LIMIT - 1)), abs(lots)) or 1
        done_lots = done_uusd = 0
        for piece in range(1, pieces + 1):
            next_lots, next_uusd = lots * piece // pieces, cash_uusd * piece // pieces
            lots_now, uusd_now = next_lots - done_lots, next_uusd - done_uusd
            self._state.move(account, account.exposure(market.number), lots_now, uusd_now)
            self._state.move(other, other.exposure(market.number), -lots_now, -uusd_now)
            done_lots, done_uusd = next_lots, next_uusd
        for one in (account, other):
            self.changed[one.number, market.number] = None
            e = one.exposures[market.number]
            if e.reducing:
                self._trading.crossing.fit_reduce_only(one, e)

    def pay(self, account: Account, amount_uusd: int) -> None:
        """Give an account cash out of the insurance fund."""
        self.transfer(self._state.insurance, account, amount_uusd)

    def transfer(self, giver: Account, taker: Account, amount_uusd: int) -> None:
        """Move cash."""
        for one, change_uusd in ((giver, -amount_uusd), (taker, amount_uusd)):
            one.cash_uusd += change_uusd
            one.tv_uusd += change_uusd
            self._state.dirty_accounts[one] = None

    def positions(self, account: Account) -> list[Exposure]:
        """Open positions, the largest maintenance margin first, then by market."""
        risk, markets = self._state.risk, self._state.markets
        keyed = sorted(
            (-risk.maintenance_of_uusd(markets[number], e.size_lots), number)
            for number, e in account.exposures.items()
            if e.size_lots
        )
        return [account.exposures[number] for _, number in keyed]


def in_book(market: Market) -> bool:
    """Whether positions are sold in the market's book: prices are fresh and orders may take."""
    return _priced(market) and market.mode in (OPEN, REDUCE_ONLY_MODE)


def off_book(market: Market) -> bool:
    """Whether positions are moved at the mark: prices are fresh and the market is not frozen."""
    return _priced(market) and market.mode not in (CANCEL_ONLY, HALTED)


def _priced(market: Market) -> bool:
    return not market.stale and not market.settled_ticks
