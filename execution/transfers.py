"""Cash and positions between accounts of one master account, and cash to the funds."""

from __future__ import annotations

from collections.abc import Callable

from execution.custody import FUNDS, nobody_waits
from execution.state import State
from execution.trading import OK, REFUSED, Trading
from margin.account import Account, Exposure
from protocol.actions import BUY, HALTED, SELL, Transfer, TransferPosition
from protocol.errors import Code
from protocol.events import Result, Transferred
from protocol.markets import CASH_MOVE_LIMIT, SIZE_LIMIT
from protocol.settlement import (
    FIRST_ACCOUNT,
    account_number,
    isolated_market,
    master_of,
    subaccount_of,
)


class Transfers:
    """Executes transfers. The account they go to begins with its first one."""

    __slots__ = ("_state", "_trading", "on_left")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading
        self.on_left: Callable[[Account], None] = nobody_waits

    def transfer(self, account: Account, action: Transfer) -> Result:
        """Move cash that may leave the account."""
        state, amount = self._state, action.amount_uusd
        if not 0 < amount < CASH_MOVE_LIMIT:
            return REFUSED[Code.BAD_AMOUNT]
        code = Code.OK if action.to_account in FUNDS else self._refusal(account, action.to_account)
        if code:
            return REFUSED[code]
        if state.holds_wild(account):
            return REFUSED[Code.STALE_MARKET]
        free, settled = state.risk.withdrawable_uusd(account)
        if amount > settled:
            return REFUSED[Code.INSUFFICIENT_CASH]
        if amount > free:
            return REFUSED[Code.INSUFFICIENT_MARGIN]
        other = self._account(action.to_account)
        for one, change in ((account, -amount), (other, amount)):
            one.cash_uusd += change
            one.tv_uusd += change
            state.dirty_accounts[one] = None
        state.events.append(Transferred(account.number, other.number, amount, 0, 0))
        self.on_left(account)
        return OK

    def transfer_position(self, account: Account, action: TransferPosition) -> Result:
        """Move a position, or a part, at what it cost: nothing unrealised becomes cash."""
        state, number, lots = self._state, action.market, action.size_lots
        if not 0 <= number < len(state.markets):
            return REFUSED[Code.UNKNOWN_MARKET]
        market = state.markets[number]
        if market.settled_ticks:
            return REFUSED[Code.MARKET_EXPIRED]
        if market.mode == HALTED:
            return REFUSED[Code.MARKET_HALTED]
        if market.stale or self._state.holds_wild(account):
            return REFUSED[Code.STALE_MARKET]
        if not -SIZE_LIMIT < lots < SIZE_LIMIT or not lots:
            return REFUSED[Code.BAD_SIZE]
        code = self._refusal(account, action.to_account)
        if code:
            return REFUSED[code]
        if isolated_market(action.to_account) not in (-1, number):
            return REFUSED[Code.ISOLATED_ACCOUNT]
        mine = account.exposures.get(number)
        size = 0 if mine is None else mine.size_lots
        if mine is None or size * lots <= 0 or abs(lots) > abs(size):
            return REFUSED[Code.NO_POSITION]
        other = state.accounts.get(action.to_account) or Account(action.to_account, b"")
        self._trading.touch(other)
        theirs = other.exposure(number)
        if theirs.size_lots * lots < 0:
            return REFUSED[Code.WRONG_TRANSFER]
        code = market.limit_code(
            theirs.size_lots + lots, theirs.bid_lots, theirs.ask_lots, theirs.reduce_bid_lots,
            theirs.reduce_ask_lots, BUY if lots > 0 else SELL, market.mark_ticks,
        )  # fmt: skip
        if code:
            return REFUSED[code]
        cost_uusd = mine.cost_uusd - mine.cost_uusd * (size - lots) // size
        if abs(cost_uusd) >= CASH_MOVE_LIMIT:
            return REFUSED[Code.BAD_SIZE]
        code = self._move(account, mine, other, theirs, lots, cost_uusd)
        if code:
            return REFUSED[code]
        return OK

    def _move(
        self,
        account: Account,
        mine: Exposure,
        other: Account,
        theirs: Exposure,
        lots: int,
        cost_uusd: int,
    ) -> Code:
        """Do it if both accounts are legal after it."""
        state, risk = self._state, self._state.risk
        market = state.markets[mine.market]
        giving = risk.moved(account, mine, market, -lots, cost_uusd)
        taking = risk.moved(other, theirs, market, lots, -cost_uusd)
        profit_uusd = market.product.value_uusd(lots, market.mark_ticks) - cost_uusd
        if taking.tv_uusd < taking.total_im_uusd:
            return Code.INSUFFICIENT_MARGIN
        if not risk.legal(account, mine, market, giving):
            return Code.INSUFFICIENT_MARGIN
        if profit_uusd > 0 and profit_uusd > risk.withdrawable_uusd(account)[0]:
            return Code.INSUFFICIENT_MARGIN
        state.accounts.setdefault(other.number, other)
        state.events.append(
            Transferred(account.number, other.number, cost_uusd, market.number, lots)
        )
        state.move(account, mine, -lots, cost_uusd)
        state.move(other, theirs, lots, -cost_uusd)
        if mine.reducing:
            self._trading.crossing.fit_reduce_only(account, mine)
        self.on_left(account)
        return Code.OK

    def _refusal(self, account: Account, number: int) -> Code:
        """Whether an account of this number may exist beside the giver's."""
        markets = self._state.markets
        market = isolated_market(number) if number >= FIRST_ACCOUNT else -1
        valid = (
            number >= FIRST_ACCOUNT
            and number != account.number
            and master_of(number) == account.master
            and market < len(markets)
            and number == account_number(master_of(number), subaccount_of(number), market)
        )
        if not valid:
            return Code.WRONG_TRANSFER
        if subaccount_of(number) > self._state.limits.subaccounts:
            return Code.TOO_MANY_SUBACCOUNTS
        return Code.OK

    def _account(self, number: int) -> Account:
        accounts = self._state.accounts
        found = accounts.get(number)
        if found is None:
            found = accounts[number] = Account(number, b"")
        return found
