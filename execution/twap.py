"""TWAP orders: a size executed evenly over time, in slices.

Slice k of n is due k x `TWAP_SLICE_MS` after the order; it aims at (k + 1) / n of the size, rounded
up, and takes at most `TWAP_CATCH_UP` plain slices. Of several slices that are due at once (blocks
were late) the last one stands for all. A slice that is refused or finds nothing is made up for by
later ones, as far as that goes. None is refused for being small, so that the last one, and one that
a lower mark made small, complete the size.
"""

from __future__ import annotations

import msgspec
from sortedcontainers import SortedList

from execution.leaves import TwapLeaf, parse_account_key, twap_key
from execution.state import State
from execution.trading import REFUSED, Trading
from margin.account import Account
from margin.market import Market
from protocol.actions import (
    ALL_MARKETS,
    BUY,
    HALTED,
    IOC,
    ORDER_FLAGS,
    REDUCE_ONLY,
    SELL,
    TWAP_CATCH_UP,
    TWAP_LONGEST_MS,
    TWAP_SLICE_MS,
    TWAP_SLIPPAGE_PPM,
    MarketOrder,
    Twap,
)
from protocol.errors import Code, SafetyViolation
from protocol.events import REASON_DONE, REASON_MARKET_CLOSED, WAITING, Result, TwapChanged
from protocol.markets import SIZE_LIMIT
from protocol.settlement import isolated_market


class Twaps:
    """Runs the TWAPs of all accounts."""

    __slots__ = ("_due", "_markets", "_state", "_trading")

    def __init__(self, state: State, trading: Trading) -> None:
        self._state = state
        self._trading = trading
        self._due: SortedList[tuple[int, int]] = SortedList()
        """(next_ms, id)."""
        self._markets: dict[int, dict[int, None]] = {}
        """Ids by market, oldest first."""
        for key, row in sorted(state.twaps.rows.items()):
            self._list(state.accounts[row.account], parse_account_key(key), row)

    def _list(self, account: Account, twap_id: int, row: TwapLeaf) -> None:
        account.twaps[twap_id] = twap_key(twap_id)
        if row.client_id:
            account.clients[row.client_id] = twap_id
        self._markets.setdefault(row.market, {})[twap_id] = None
        self._due.add((row.next_ms, twap_id))

    # -- actions

    def twap(self, account: Account, action: Twap) -> Result:
        """A new TWAP; its first slice comes with the next block. The result carries its size."""
        code = self._refusal(account, action)
        if code:
            return REFUSED[code]
        state, twap_id = self._state, self._trading.next_id()
        row = TwapLeaf(
            account.number, action.client_id, action.market, action.side, action.size_lots, 0,
            action.flags, state.time_ms, action.duration_ms, state.time_ms,
        )  # fmt: skip
        state.twaps.put(twap_key(twap_id), row)
        self._list(account, twap_id, row)
        self._note(twap_id, row, 0)
        return Result(0, WAITING, twap_id, 0, action.size_lots)

    def _refusal(self, account: Account, action: Twap) -> Code:
        state = self._state
        if not 0 <= action.market < len(state.markets):
            return Code.UNKNOWN_MARKET
        market = state.markets[action.market]
        if action.side not in (BUY, SELL):
            return Code.WRONG_TYPE
        if action.flags & ~ORDER_FLAGS:
            return Code.BAD_FLAGS
        if not TWAP_SLICE_MS <= action.duration_ms <= TWAP_LONGEST_MS:
            return Code.BAD_DURATION
        if isolated_market(account.number) not in (-1, market.number):
            return Code.ISOLATED_ACCOUNT
        code = _bad_size(market, action)
        if code:
            return code
        if action.client_id and action.client_id in account.clients:
            return Code.DUPLICATE_CLIENT_ID
        code = self._trading.checks.mode(account, market, IOC, action.flags)
        if not code and len(account.twaps) >= state.limits.twaps_per_account:
            return Code.TOO_MANY_TWAPS
        return code

    # -- leaving

    def cancel(self, account: Account, twap_id: int, market: int, reason: int) -> bool:
        """End a TWAP, if the account has it in this market."""
        if twap_id not in account.twaps or self._row(twap_id).market != market:
            return False
        self._take_out(account, twap_id, reason)
        return True

    def cancel_all(self, account: Account, market: int, reason: int) -> None:
        """End an account's TWAPs in a market (`ALL_MARKETS`: in all that are not halted)."""
        markets = self._state.markets
        for twap_id in sorted(account.twaps):
            number = self._row(twap_id).market
            if number == market or (market == ALL_MARKETS and markets[number].mode != HALTED):
                self._take_out(account, twap_id, reason)

    def close(self, market: int, budget: int) -> int:
        """End up to so many TWAPs in an expired market; returns what is left of the budget."""
        for twap_id in list(self._markets.get(market, ())):
            if not budget:
                break
            budget -= 1
            account = self._state.accounts[self._row(twap_id).account]
            self._take_out(account, twap_id, REASON_MARKET_CLOSED)
        return budget

    def waits(self, market: int) -> bool:
        """Whether there are TWAPs in a market."""
        return bool(self._markets.get(market))

    def _row(self, twap_id: int) -> TwapLeaf:
        found = self._state.twaps.get(twap_key(twap_id))
        if found is None:
            raise SafetyViolation(f"there is no TWAP {twap_id}")
        return found

    def _take_out(self, account: Account, twap_id: int, reason: int) -> None:
        row = self._row(twap_id)
        self._due.remove((row.next_ms, twap_id))
        self._state.twaps.drop(twap_key(twap_id))
        del account.twaps[twap_id]
        del self._markets[row.market][twap_id]
        if row.client_id:
            del account.clients[row.client_id]
        self._note(twap_id, row, reason)

    def _note(self, twap_id: int, row: TwapLeaf, reason: int) -> None:
        self._state.events.append(
            TwapChanged(
                row.market, twap_id, row.account, row.side, row.size_lots, row.done_lots, reason
            )
        )

    # -- slices

    def run(self) -> None:
        """Execute the slices that are due, those due longest first: at most `triggers_per_block`,
        and while half of the block's fills are left."""
        budget = self._state.limits.triggers_per_block
        while budget and self.due():
            budget -= 1
            self.run_next()

    def due(self) -> bool:
        """Whether there is a slice that is due and may be executed."""
        state = self._state
        kept_fills = state.limits.fills_per_block // 2
        return (
            bool(self._due) and self._due[0][0] <= state.time_ms and state.fills_left > kept_fills
        )

    def run_next(self) -> None:
        """Execute the slice that has been due for longest."""
        _, twap_id = self._due[0]
        self._slice(twap_id, self._row(twap_id))

    def _slice(self, twap_id: int, row: TwapLeaf) -> None:
        state = self._state
        account = state.accounts[row.account]
        count = slices(row.duration_ms)
        number = min((state.time_ms - row.began_ms) // TWAP_SLICE_MS, count - 1)
        market = state.markets[row.market]
        lots = slice_lots(row.size_lots, row.done_lots, count, number, market.max_order_lots)
        filled = 0
        if lots:
            self._trading.touch(account)
            taker = MarketOrder(row.market, row.side, lots, TWAP_SLIPPAGE_PPM, 0, row.flags)
            filled = self._trading.market_order(account, taker, False).filled_lots
        self._due.remove((row.next_ms, twap_id))
        next_ms = row.began_ms + (number + 1) * TWAP_SLICE_MS
        row = msgspec.structs.replace(row, done_lots=row.done_lots + filled, next_ms=next_ms)
        state.twaps.put(twap_key(twap_id), row)
        self._due.add((next_ms, twap_id))
        if row.done_lots == row.size_lots or number == count - 1:
            self._take_out(account, twap_id, REASON_DONE)
        elif filled:
            self._note(twap_id, row, 0)

    def check(self) -> None:
        """Raise `SafetyViolation` unless rows, accounts and the index agree."""
        rows = {parse_account_key(key): row for key, row in self._state.twaps.rows.items()}
        due = [(row.next_ms, twap_id) for twap_id, row in rows.items()]
        listed = [one for account in self._state.accounts.values() for one in account.twaps]
        if sorted(due) != list(self._due) or sorted(rows) != sorted(listed):
            raise SafetyViolation("the TWAPs are not those of the state")


def slices(duration_ms: int) -> int:
    """The number of slices of a TWAP."""
    return -(-duration_ms // TWAP_SLICE_MS)


def slice_lots(size_lots: int, done_lots: int, count: int, number: int, most_lots: int) -> int:
    """Lots of slice `number` of `count` (from 0), when so many are done."""
    aim = -(-size_lots * (number + 1) // count)
    return min(aim - done_lots, TWAP_CATCH_UP * -(-size_lots // count), most_lots)


def _bad_size(market: Market, action: Twap) -> Code:
    """A plain slice must be an order that the market takes; what only reduces may be small."""
    plain = -(-action.size_lots // slices(action.duration_ms))
    if not 0 < action.size_lots < SIZE_LIMIT or plain > market.max_order_lots:
        return Code.BAD_SIZE
    small = market.product.notional_uusd(plain, market.mark_ticks) < market.min_notional_uusd
    if small and not action.flags & REDUCE_ONLY:
        return Code.BELOW_MIN_NOTIONAL
    return Code.OK
