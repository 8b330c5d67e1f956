"""Accounts and their exposures, with the running totals that make margin checks cheap."""

from __future__ import annotations

from matching.book import Resting


class Exposure:
    """An account in one market: position, and sums over its resting orders there.

    Position (`size_lots`, `cost_uusd`) is state; the sums follow from the orders and the mark.
    """

    __slots__ = (
        "account", "ask_lots", "bid_lots", "committed_lots", "cost_uusd", "excess_uusd", "im_uusd",
        "leaf", "market", "reserve_uusd", "size_lots",
    )  # fmt: skip

    def __init__(self, account: int, market: int) -> None:
        self.account = account
        self.market = market
        self.size_lots = 0
        """Signed: long above 0."""
        self.cost_uusd = 0
        """What the open position cost: side x notional of its fills, pro rata when it shrinks."""
        self.bid_lots = 0
        self.ask_lots = 0
        self.excess_uusd = 0
        """Sum of the orders' immediate loss against the mark."""
        self.reserve_uusd = 0
        """Sum of the fees that the orders would pay as makers."""
        self.im_uusd = 0
        """Initial margin of this market, valid while the account's version is."""
        self.committed_lots = 0
        """`size_lots` when the last block ended, for the conservation check."""
        self.leaf: bytes | None = None
        """The encoded leaf as the state holds it; None: no leaf."""


class Account:
    """Cash, exposures, resting orders and agents of one account."""

    __slots__ = (
        "address", "agents", "cash_uusd", "clients", "committed_uusd", "exposures", "im_uusd",
        "leaf", "number", "orders", "tv_uusd", "version",
    )  # fmt: skip

    def __init__(self, number: int, address: bytes) -> None:
        self.number = number
        self.address = address
        self.cash_uusd = 0
        """Deposits less withdrawals, fees, and -side x notional of every fill; may be negative."""
        self.exposures: dict[int, Exposure] = {}
        self.orders: dict[int, Resting] = {}
        self.clients: dict[int, Resting] = {}
        """Resting orders by their client id, where they have one."""
        self.agents: dict[bytes, int] = {}
        """Agent key to expiry in milliseconds; `REVOKED` once it was revoked."""
        self.tv_uusd = 0
        """Equity at the marks of `version`."""
        self.im_uusd = 0
        """Initial margin at the marks of `version`."""
        self.version = 0
        self.committed_uusd = 0
        """`cash_uusd` when the last block ended, for the conservation check."""
        self.leaf: bytes | None = None

    def exposure(self, market: int) -> Exposure:
        """The exposure in a market, made when missing."""
        found = self.exposures.get(market)
        if found is None:
            found = self.exposures[market] = Exposure(self.number, market)
        return found


REVOKED = 0
"""Expiry of an agent key that was revoked: it never comes back."""
