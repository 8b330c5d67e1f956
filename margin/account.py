"""Accounts and their exposures, with the running totals that make margin checks cheap."""

from __future__ import annotations

from matching.book import Resting
from protocol.settlement import master_of


class Exposure:
    """An account in one market: position, and sums over its resting orders there.

    Position (`size_lots`, `cost_uusd`) is state; the sums follow from the orders and the mark.
    """

    __slots__ = (
        "account", "ask_lots", "bid_lots", "committed_lots", "cost_uusd", "excess_uusd",
        "funding_index", "im_uusd", "leaf", "leverage", "market", "protected", "reduce_ask_lots",
        "reduce_bid_lots", "reducing", "reserve_uusd", "size_lots",
    )  # fmt: skip

    def __init__(self, account: int, market: int) -> None:
        self.account = account
        self.market = market
        self.size_lots = 0
        """Signed: long above 0."""
        self.cost_uusd = 0
        """What the open position cost: side x notional of its fills, pro rata when it shrinks."""
        self.funding_index = 0
        """The market's index up to which funding of the position is settled."""
        self.leverage = 0
        """The account's leverage cap (0: none)."""
        self.protected = False
        """Whether market-maker protection counts the fills."""
        self.bid_lots = 0
        self.ask_lots = 0
        """Resting lots that may grow the position; those of reduce-only orders are the next two."""
        self.reduce_bid_lots = 0
        self.reduce_ask_lots = 0
        self.reducing: dict[int, Resting] = {}
        """Resting reduce-only orders by id."""
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

    def clone(self) -> Exposure:
        """A copy for what-if questions; it shares the resting orders."""
        other = Exposure(self.account, self.market)
        other.size_lots, other.cost_uusd = self.size_lots, self.cost_uusd
        other.funding_index, other.leverage = self.funding_index, self.leverage
        other.bid_lots, other.ask_lots = self.bid_lots, self.ask_lots
        other.reduce_bid_lots = self.reduce_bid_lots
        other.reduce_ask_lots = self.reduce_ask_lots
        other.excess_uusd, other.reserve_uusd = self.excess_uusd, self.reserve_uusd
        other.im_uusd, other.protected = self.im_uusd, self.protected
        other.reducing = self.reducing
        return other


class Account:
    """Cash, exposures, resting orders and agents of one account."""

    __slots__ = (
        "address", "agents", "cash_uusd", "clients", "committed_uusd", "exposures", "im_uusd",
        "leaf", "master", "number", "orders", "tier", "tier_day", "triggers", "tv_uusd", "twaps",
        "version",
    )  # fmt: skip

    def __init__(self, number: int, address: bytes) -> None:
        self.number = number
        self.master = master_of(number)
        """The account that owns it; the number itself for a master account."""
        self.address = address
        self.cash_uusd = 0
        """Deposits less withdrawals, fees, and -side x notional of every fill; may be negative."""
        self.exposures: dict[int, Exposure] = {}
        self.orders: dict[int, Resting] = {}
        self.triggers: dict[int, bytes] = {}
        """Waiting triggers by id: their leaf keys."""
        self.twaps: dict[int, bytes] = {}
        """Running TWAPs by id: their leaf keys."""
        self.clients: dict[int, int] = {}
        """Ids of orders, triggers and TWAPs by their client id, where they have one."""
        self.tier = 0
        """Fee tier, valid for the UTC day `tier_day`."""
        self.tier_day = -1
        self.agents: dict[bytes, int] = {}
        """Agent key to expiry in milliseconds; `REVOKED` once it was revoked."""
        self.tv_uusd = 0
        """Equity, unsettled funding included, at the marks of `version`; stale markets count at
        the unfavourable end of their band."""
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

    def clone(self, market: int) -> Account:
        """A copy for what-if questions, with its own exposure in `market`; it shares the rest."""
        other = Account(self.number, self.address)
        other.cash_uusd, other.tv_uusd = self.cash_uusd, self.tv_uusd
        other.im_uusd, other.version, other.tier = self.im_uusd, self.version, self.tier
        other.orders, other.clients = self.orders, self.clients
        other.exposures = {**self.exposures, market: self.exposure(market).clone()}
        return other

    def copy(self) -> Account:
        """A copy for what-if questions with all exposures of its own; it shares the resting
        orders."""
        other = Account(self.number, self.address)
        other.cash_uusd, other.tv_uusd = self.cash_uusd, self.tv_uusd
        other.im_uusd, other.version = self.im_uusd, self.version
        other.tier, other.tier_day = self.tier, self.tier_day
        other.orders, other.clients = dict(self.orders), dict(self.clients)
        other.triggers, other.twaps = self.triggers, self.twaps
        other.exposures = {number: e.clone() for number, e in self.exposures.items()}
        return other


REVOKED = 0
"""Expiry of an agent key that was revoked: it never comes back."""
