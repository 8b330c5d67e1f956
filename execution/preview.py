"""What an order would do, found out by executing it on copies of what it can meet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from execution import leaves as lv
from execution.checks import slippage_limit
from execution.report import MarginReport, margin_report, settle
from execution.settings import Settings
from execution.state import State
from execution.tables import LeafTable
from execution.trading import REFUSED, Trading
from margin.account import Account
from margin.market import Market
from margin.risk import Risk
from matching.book import Resting
from protocol.actions import BUY, FOK, REDUCE_ONLY, SELL, MarketOrder, Order
from protocol.errors import Code, Rejected
from protocol.events import Event, Fill, Result

FIRST_ORDERS = 8
"""Resting orders that are copied at first; eight times as many follow while these do not do."""


class Preview(NamedTuple):
    """The result that an order would have, the events in its market that it would cause (order ids
    are the next ones free), and its account before and after."""

    result: Result
    events: list[Event]
    before: MarginReport
    after: MarginReport

    @property
    def fees_uusd(self) -> int:
        """Fees of the fills (negative: rebates)."""
        return sum(event.taker_fee_uusd for event in self.events if isinstance(event, Fill))

    @property
    def filled_ticks_lots(self) -> int:
        """Sum of price x size of the fills; divided by the lots filled, their average price."""
        return sum(e.price_ticks * e.size_lots for e in self.events if isinstance(e, Fill))


def preview(
    state: State, number: int, action: Order | MarketOrder, tier: Callable[[Account], int]
) -> Preview:
    """What this order of an account would do if it came next, at the present time and marks.

    The engine's own code executes it, on copies. `tier` sets the fee tier of an account (the copy)
    that is asked about. Raises `Rejected` (unknown_account).
    """
    account = state.accounts.get(number)
    if account is None:
        raise Rejected(Code.UNKNOWN_ACCOUNT, f"there is no account {number}")
    before = margin_report(state.risk, account)
    if not 0 <= action.market < len(state.markets):
        return Preview(REFUSED[Code.UNKNOWN_MARKET], [], before, before)
    count = FIRST_ORDERS
    while True:
        whole, reached = _reached(state, action, count)
        copy = _copy_state(state, account, action.market, reached)
        result = _execute(copy, copy.accounts[number], action, tier)
        if isinstance(action, Order) and action.tif == FOK:
            # It looks without touching: where the copied orders do for it, it looked no further.
            whole = whole or result.code != Code.NOT_FILLABLE
        elif not whole:
            whole = _rests(copy.markets[action.market], reached[-1])
        if whole:
            break
        count *= 8
    after = margin_report(copy.risk, copy.accounts[number])
    return Preview(result, copy.events, before, after)


def _execute(
    copy: State, asked: Account, action: Order | MarketOrder, tier: Callable[[Account], int]
) -> Result:
    """Let the engine's code execute the order on the copy."""
    trading = Trading(copy)
    trading.settle = partial(settle, copy.risk)
    trading.tier = tier
    trading.crossing.on_linked = _ignore
    trading.on_protected = Settings(copy, trading).count_fill
    trading.touch(asked)
    if isinstance(action, Order):
        return trading.order(asked, action)
    return trading.market_order(asked, action)


def _rests(market: Market, last: Resting) -> bool:
    """Whether the last order that was copied still rests as it was: then the order that came saw
    nothing beyond it."""
    found = market.book.orders.get(last.order_id)
    return found is not None and found.remaining_lots == last.remaining_lots


def _copy_state(state: State, account: Account, number: int, reached: list[Resting]) -> State:
    """A state with what the order can meet: copies of its market, of the orders that it reaches and
    of their owners. It has nothing else, so that nothing else can be changed."""
    market = state.markets[number]
    clone = market.clone()
    accounts = {account.number: account.copy()}
    for order in reached:
        if order.account not in accounts:
            accounts[order.account] = state.accounts[order.account].copy()
    _copy_orders(state, clone, accounts, reached)
    copy = State(state.chain)
    copy.limits = state.limits
    copy.time_ms = state.time_ms
    copy.next_order_id = state.next_order_id
    copy.fills_left = copy.looks_left = state.limits.fills_per_block
    copy.markets = [clone if other is market else other for other in state.markets]
    copy.risk = Risk(copy.markets)
    copy.risk.version = state.risk.version
    copy.fees = Account(state.fees.number, b"")
    copy.accounts = accounts
    copy.distressed = state.distressed
    copy.settings = LeafTable(lv.decode_settings)
    for owner in accounts:
        key = lv.settings_key(owner, number)
        row = state.settings.get(key)
        if row is not None:
            copy.settings.put(key, row)
    copy.dirty_accounts, copy.dirty_exposures, copy.dirty_markets = {}, {}, {}
    copy.dirty_orders, copy.volume_uusd, copy.realised_uusd, copy.events = {}, {}, {}, []
    return copy


def _reached(state: State, action: Order | MarketOrder, count: int) -> tuple[bool, list[Resting]]:
    """The first orders that the order may meet, and whether these are all.

    All are those within its limit, up to one more than fills may be: only fills and refused orders
    count against that bound, others may leave without. A fill-or-kill order looks at no more than
    a block allows.
    """
    market, side = state.markets[action.market], action.side
    if isinstance(action, Order):
        limit = action.price_ticks
    else:
        limit = slippage_limit(market, side, action.slippage_ppm)
    found: list[Resting] = []
    left, looks = state.limits.fills_per_action, -1
    if isinstance(action, Order) and action.tif == FOK:
        looks = state.limits.fills_per_block
    for order in market.book.walk(SELL if side == BUY else BUY):
        beyond = order.price_ticks > limit if side == BUY else order.price_ticks < limit
        if left < 0 or beyond or len(found) == looks:
            break
        if len(found) == count:
            return False, found
        found.append(order)
        exposure = state.accounts[order.account].exposures[market.number]
        left -= not (order.flags & REDUCE_ONLY or exposure.protected)
    return True, found


def _copy_orders(
    state: State, clone: Market, accounts: dict[int, Account], reached: list[Resting]
) -> None:
    """Fill the book of the market's copy, and give the copied accounts the copied orders.

    Fills shrink an account's reduce-only orders, and protection takes out all it has in the market:
    where either is possible, the account's other orders come along.
    """
    wanted = {order.order_id: order for order in reached}
    for number, account in accounts.items():
        e = account.exposures.get(clone.number)
        if e is not None and e.protected:
            orders = state.accounts[number].orders
            wanted.update((o.order_id, o) for o in orders.values() if o.market == clone.number)
        elif e is not None:
            wanted.update(e.reducing)
        if e is not None:
            e.reducing = {}
    for order_id, order in sorted(wanted.items()):
        copy = Resting(
            order.market, order_id, order.account, order.client_id, order.side, order.price_ticks,
            order.remaining_lots, order.flags, order.expires_ms, order.link,
        )  # fmt: skip
        clone.book.add(copy)
        owner = accounts[order.account]
        owner.orders[order_id] = copy
        if order.flags & REDUCE_ONLY:
            owner.exposures[clone.number].reducing[order_id] = copy


def _ignore(account: Account, order: Resting, filled_lots: int, gone: bool) -> None:
    """What is linked with an order is a trigger: it has no part in what happens to this one."""
