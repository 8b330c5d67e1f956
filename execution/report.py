"""What an account is worth, needs and risks: figures for its owner. Nothing here changes the state.

Figures are those of the account once it is touched by its next action: funding that is due is paid,
positions in expired markets are exchanged for their worth.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from execution.realised import Realised
from execution.state import State
from margin.account import Account, Exposure
from margin.deleveraging import Opposite, rank_key
from margin.market import Market
from margin.valuation import Valuation
from protocol.markets import PPM

RANKS_MS = 1_000
"""How old the ranks of deleveraging may be, in milliseconds of block time."""


class PositionReport(NamedTuple):
    """An account in one market: its position (size 0: resting orders alone).

    `entry_ticks`: average entry, rounded against the account. `unrealised_uusd`: worth at the mark
    less cost. `funding_uusd`: funding due (negative: owed). `initial_uusd` counts the orders too.
    `leverage`: the account's cap (0: none); `leverage_ppm`: notional / equity (0 where equity is
    not above 0). `liquidation_ticks`: the last mark at which the account is not below maintenance
    while all other marks stand still (None: there is none).
    """

    market: int
    size_lots: int
    cost_uusd: int
    entry_ticks: int
    mark_ticks: int
    notional_uusd: int
    unrealised_uusd: int
    funding_uusd: int
    initial_uusd: int
    maintenance_uusd: int
    leverage: int
    leverage_ppm: int
    liquidation_ticks: int | None
    stale: bool


class MarginReport(NamedTuple):
    """An account as margin sees it.

    `equity_uusd` counts positions in stale markets at the unfavourable end of their band,
    `liquidation_equity_uusd` at the favourable one: below `maintenance_uusd` the account is
    liquidated. `free_uusd` is left for new risk, `withdrawable_uusd` may leave (before any cut for
    open bad debt). `leverage_ppm`: notional of all positions / equity, rounded up.
    """

    account: int
    cash_uusd: int
    equity_uusd: int
    initial_uusd: int
    maintenance_uusd: int
    liquidation_equity_uusd: int
    free_uusd: int
    withdrawable_uusd: int
    leverage_ppm: int
    positions: list[PositionReport]


def touched(risk: Valuation, account: Account) -> Account:
    """A copy of the account as its next action will find it."""
    copy = account.copy()
    settle(risk, copy)
    risk.refresh(copy)
    return copy


def settle(risk: Valuation, account: Account) -> None:
    """Pay a copy the funding that is due and what its expired positions are worth. (The other side
    of these payments, the pool account, is not there.)"""
    for number, e in account.exposures.items():
        market = risk.markets[number]
        account.cash_uusd += risk.funding_uusd(e, market)
        e.funding_index = market.funding_index
        if market.settled_ticks and e.size_lots:
            account.cash_uusd += risk.worth_uusd(market, e.size_lots)
            e.size_lots = e.cost_uusd = 0


def margin_report(risk: Valuation, account: Account) -> MarginReport:
    """The account and all its positions, by market."""
    copy = touched(risk, account)
    free, settled = risk.withdrawable_uusd(copy)
    positions = [
        _position(risk, copy, account.exposures[number], e)
        for number, e in sorted(copy.exposures.items())
        if e.size_lots or e.bid_lots or e.ask_lots or e.reduce_bid_lots or e.reduce_ask_lots
    ]
    liquidation_equity, maintenance = risk.liquidation(copy)
    return MarginReport(
        account.number,
        copy.cash_uusd,
        copy.tv_uusd,
        copy.im_uusd,
        maintenance,
        liquidation_equity,
        max(copy.tv_uusd - copy.im_uusd, 0),
        max(min(free, settled), 0),
        _leverage_ppm(sum(position.notional_uusd for position in positions), copy.tv_uusd),
        positions,
    )


def _position(risk: Valuation, copy: Account, due: Exposure, e: Exposure) -> PositionReport:
    """`due`: the exposure before funding was settled."""
    market = risk.markets[e.market]
    product, mark, size = market.product, market.mark_ticks, e.size_lots
    notional = product.notional_uusd(abs(size), mark)
    return PositionReport(
        e.market,
        size,
        e.cost_uusd,
        product.entry_ticks(size, e.cost_uusd),
        mark,
        notional,
        product.value_uusd(size, mark) - e.cost_uusd,
        risk.funding_uusd(due, market),
        e.im_uusd,
        risk.maintenance_of_uusd(market, size),
        e.leverage,
        _leverage_ppm(notional, copy.tv_uusd),
        liquidation_ticks(risk, copy, e.market),
        market.stale,
    )


def _leverage_ppm(notional_uusd: int, equity_uusd: int) -> int:
    return -(-notional_uusd * PPM // equity_uusd) if equity_uusd > 0 else 0


def liquidation_ticks(risk: Valuation, account: Account, market: int) -> int | None:
    """The last mark of a market, as it moves against the account's position, at which the account
    is not below maintenance; one tick further it is. All other marks stand still.

    Where the account is below already, that mark lies in the position's favour. None: there is no
    position, or no mark in range is the last such one (the others decide alone).
    """
    e = account.exposures.get(market)
    where = risk.markets[market]
    if e is None or not e.size_lots or where.settled_ticks:
        return None
    product, size = where.product, e.size_lots
    band_ppm = where.stale_band_ppm if where.stale else 0
    tv, mm = risk.liquidation(account)
    tv -= product.stale_uusd(size, where.mark_ticks, band_ppm)[1]
    mm -= product.maintenance_uusd(size, where.mark_ticks)
    return product.last_safe_ticks(size, tv - mm, band_ppm, where.price_limit)


def deleverage_rank(state: State, market: int, account: int) -> tuple[int, int] | None:
    """(place, how many) of an account among those of its side of a market, by which they would take
    over a position of the other side; 0 is the first. None without a position. Reads all accounts;
    `DeleverageRanks` answers many such questions."""
    return DeleverageRanks(state).place(market, account)


class DeleverageRanks:
    """Places of accounts in the order of deleveraging, for many questions: all accounts are read at
    most once per market and `RANKS_MS`, and others' places are as old as that."""

    __slots__ = ("_ranked", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._ranked: dict[int, tuple[int, Realised, dict[bool, list[tuple[int, int, int]]]]] = {}
        """By market: time of the block, the families of masters then, and the keys of shorts and
        longs in their order."""

    def place(self, market: int, account: int) -> tuple[int, int] | None:
        """(place, how many) as in `deleverage_rank`."""
        where = self._state.markets[market]
        e = self._state.accounts[account].exposures.get(market)
        if e is None or not e.size_lots or where.settled_ticks:
            return None
        found = self._ranked.get(market)
        if found is None or self._state.time_ms - found[0] >= RANKS_MS:
            realised = Realised(self._state)
            found = self._state.time_ms, realised, self._rank(where, realised)
            self._ranked[market] = found
        _, realised, ranked = found
        keys = ranked[e.size_lots > 0]
        place = bisect_left(keys, rank_key(self._opposite(where, e, realised)))
        return place, max(len(keys), place + 1)

    def _rank(self, market: Market, realised: Realised) -> dict[bool, list[tuple[int, int, int]]]:
        ranked: dict[bool, list[tuple[int, int, int]]] = {False: [], True: []}
        for account in self._state.accounts.values():
            e = account.exposures.get(market.number)
            if e is not None and e.size_lots:
                opposite = self._opposite(market, e, realised)
                ranked[e.size_lots > 0].append(rank_key(opposite))
        for keys in ranked.values():
            keys.sort()
        return ranked

    @staticmethod
    def _opposite(market: Market, e: Exposure, realised: Realised) -> Opposite:
        """The exposure with its profit: unrealised at the mark, and its share of what was realised
        within a day."""
        profit = market.product.value_uusd(e.size_lots, market.mark_ticks) - e.cost_uusd
        profit += realised.share_uusd(e.account, market.number)
        return Opposite(e.account, profit, abs(e.size_lots))
