"""Every invariant of the state, checked the slow way."""

from __future__ import annotations

from execution.state import State
from margin.account import Account
from margin.naive import totals
from matching.book import Resting
from protocol.actions import REDUCE_ONLY, SELL
from protocol.errors import SafetyViolation


def check(state: State) -> None:
    """Raise `SafetyViolation` unless money, positions, books, totals and indices agree."""
    cash = sum(account.cash_uusd for account in state.accounts.values())
    _require(cash == state.deposits_uusd - state.withdrawals_uusd, "cash is not conserved")
    _require(state.fees.cash_uusd >= 0, "fees are negative")
    resting: dict[int, Resting] = {}
    for market in state.markets:
        market.book.check()
        resting.update(market.book.orders)
        sizes = [
            account.exposures[market.number].size_lots
            for account in state.accounts.values()
            if market.number in account.exposures
        ]
        _require(sum(sizes) == 0, "positions of a market do not sum to zero")
        longs = sum(size for size in sizes if size > 0)
        _require(longs == market.open_interest_lots, "open interest is not the sum of longs")
    _check_accounts(state, resting)
    _check_nonces(state)


def _check_accounts(state: State, resting: dict[int, Resting]) -> None:
    owned = 0
    for number, account in state.accounts.items():
        _require(number == account.number, "an account under a foreign number")
        _require(
            not account.address or state.by_address.get(account.address) == number,
            "an account's address leads elsewhere",
        )
        for order_id, order in account.orders.items():
            _require(resting.get(order_id) is order, "an account's order is not in its book")
            _require(order.account == number, "an account holds another's order")
            _require(order_id < state.next_order_id, "an order id from the future")
        owned += len(account.orders)
        _check_client_ids(state, account)
        _require(len(account.orders) <= state.limits.orders_per_account, "too many orders")
        for e in account.exposures.values():
            _require(bool(e.size_lots) or not e.cost_uusd, "a cost without a position")
        if account.version == state.risk.version:
            running = (account.tv_uusd, account.im_uusd)
            _require(running == totals(account, state.markets), "running totals are off")
    _require(owned == len(resting), "a resting order without an owner")
    masters = sum(1 for a in state.accounts.values() if a.address)
    _require(len(state.by_address) == masters, "addresses and accounts differ")


def _check_client_ids(state: State, account: Account) -> None:
    clients = {o.client_id: key for key, o in account.orders.items() if o.client_id}
    for table, ids in ((state.triggers, account.triggers), (state.twaps, account.twaps)):
        for waiting_id, key in ids.items():
            row = table.get(key)
            _require(row is not None, "an account's trigger or TWAP has no leaf")
            if row is not None and row.client_id:
                clients[row.client_id] = waiting_id
    _require(clients == account.clients, "client ids do not match what rests and waits")
    for e in account.exposures.values():
        own = {
            key: o
            for key, o in account.orders.items()
            if o.market == e.market and o.flags & REDUCE_ONLY
        }
        _require(own == e.reducing, "reduce-only orders do not match the resting orders")
        if state.markets[e.market].settled_ticks:  # the position went first, the orders follow
            continue
        for order in own.values():
            open_lots = e.size_lots if order.side == SELL else -e.size_lots
            _require(order.remaining_lots <= open_lots, "a reduce-only order exceeds the position")


def _check_nonces(state: State) -> None:
    for nonces in state.nonces.signers.values():
        _require(sorted(nonces.kept) == nonces.ascending, "nonces are not in order")
        slots = sorted(kept.slot for kept in nonces.kept.values())
        _require(slots == list(range(len(slots))), "nonce slots have gaps")


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise SafetyViolation(f"state: {text}")
