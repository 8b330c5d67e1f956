"""What the naive exchange remembers: plain records in plain lists."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.actions import BUY, OPEN
from protocol.events import Event
from protocol.genesis import Genesis, MarketConfig
from protocol.settlement import FIRST_ACCOUNT, OutboxEntry


@dataclass
class NaiveOrder:
    """A resting order."""

    id: int
    market: int
    account: int
    client: int
    side: int
    price: int
    lots: int
    flags: int = 0
    expires: int = 0
    link: int = 0


@dataclass
class NaiveTrigger:
    """A waiting trigger; `parent` is the bracket's order while it may still fill."""

    id: int
    market: int
    account: int
    client: int
    side: int
    kind: int
    trigger: int
    limit: int
    slippage: int
    lots: int
    flags: int
    expires: int
    link: int = 0
    parent: int = 0
    best: int = 0
    due: bool = False


@dataclass
class NaiveTwap:
    """A running TWAP."""

    id: int
    account: int
    client: int
    market: int
    side: int
    lots: int
    flags: int
    began: int
    duration: int
    next: int
    done: int = 0


@dataclass
class Holding:
    """An account in one market: its position and what it set there."""

    size: int = 0
    cost: int = 0
    leverage: int = 0
    fills: int = 0
    window: int = 0
    counted: int = 0
    began: int = 0


@dataclass
class NaiveAccount:
    """Cash and holdings by market; the orders stand in the exchange's one list."""

    number: int
    address: bytes
    cash: int = 0
    holdings: dict[int, Holding] = field(default_factory=dict)
    dead_man: int = 0
    dead_man_day: int = 0
    dead_man_fired: int = 0

    def holding(self, market: int) -> Holding:
        return self.holdings.setdefault(market, Holding())


@dataclass
class NaiveMarket:
    """Prices and modes; `prices` are (price, nonce, time of the block) by oracle."""

    number: int
    mark: int
    oracle: int = 0
    last: int = 0
    voted: int = OPEN
    mode: int = OPEN
    stale: bool = False
    scaled: int = 0
    votes: dict[int, int] = field(default_factory=dict)
    prices: dict[int, tuple[int, int, int]] = field(default_factory=dict)


SAVED = (
    "accounts", "markets", "orders", "triggers", "twaps", "volumes", "traded", "next_id",
    "next_outbox", "fills_left",
)  # fmt: skip


class Books:
    """Everything the exchange knows. `traded` is the volume of this block, by master account;
    `looks_left` what fill-or-kill orders may still look at in it."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.configs: Sequence[MarketConfig] = genesis.markets
        self.limits = genesis.limits
        self.oracles = [bytes.fromhex(key) for key in genesis.oracles]
        self.guardians = [bytes.fromhex(key) for key in genesis.guardians]
        self.time = genesis.time_ms
        self.accounts = {number: NaiveAccount(number, b"") for number in range(4)}
        self.markets = [NaiveMarket(c.market, c.initial_price_ticks) for c in self.configs]
        self.orders: list[NaiveOrder] = []
        self.triggers: list[NaiveTrigger] = []
        self.twaps: list[NaiveTwap] = []
        self.volumes: dict[tuple[int, int], int] = {}
        self.traded: dict[int, int] = {}
        self.next_id = 1
        self.next_outbox = 0
        self.fills_left = self.limits.fills_per_block
        self.looks_left = self.limits.fills_per_block
        self.left: set[int] = set()
        """Accounts that something left in this block without a trade."""
        self.events: list[Event] = []
        self.outbox: list[OutboxEntry] = []

    # -- all or nothing

    def save(self) -> tuple[int, dict[str, Any]]:
        """A copy of everything that an action can change."""
        return len(self.events), copy.deepcopy({name: getattr(self, name) for name in SAVED})

    def undo(self, saved: tuple[int, dict[str, Any]]) -> None:
        """Back to where `save` was called."""
        events, values = saved
        del self.events[events:]
        for name, value in values.items():
            setattr(self, name, value)

    # -- questions

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def value(self, market: int) -> int:
        """Micro-dollars per tick and lot."""
        return self.configs[market].value_uusd

    def traders(self) -> list[NaiveAccount]:
        return [a for n, a in sorted(self.accounts.items()) if n >= FIRST_ACCOUNT]

    def orders_of(self, account: int, market: int) -> list[NaiveOrder]:
        found = [o for o in self.orders if o.account == account and o.market == market]
        return sorted(found, key=lambda o: o.id)

    def order(self, account: int, order_id: int) -> NaiveOrder | None:
        for o in self.orders:
            if o.id == order_id and o.account == account:
                return o
        return None

    def side_of(self, market: int, side: int) -> list[NaiveOrder]:
        """One side of a book, best first, oldest first at a price."""
        found = [o for o in self.orders if o.market == market and o.side == side]
        return sorted(found, key=lambda o: (-o.price if side == BUY else o.price, o.id))

    def opposite(self, market: int, side: int, limit: int) -> list[NaiveOrder]:
        """What an order of `side` at this limit would meet, in its order."""
        if side == BUY:
            return [o for o in self.side_of(market, 1 - side) if o.price <= limit]
        return [o for o in self.side_of(market, 1 - side) if o.price >= limit]

    def depth(self, market: int, side: int) -> list[tuple[int, int, int]]:
        """(price, lots, orders) by level, best first."""
        levels: dict[int, tuple[int, int]] = {}
        for o in self.side_of(market, side):
            lots, count = levels.get(o.price, (0, 0))
            levels[o.price] = (lots + o.lots, count + 1)
        return [(price, lots, count) for price, (lots, count) in levels.items()]

    def open_interest(self, market: int) -> int:
        """Sum of all longs."""
        sizes = [a.holdings[market].size for a in self.accounts.values() if market in a.holdings]
        return sum(size for size in sizes if size > 0)

    def clients(self, account: int) -> list[int]:
        """Client ids in use by an account."""
        everything: list[Any] = [*self.orders, *self.triggers, *self.twaps]
        return [item.client for item in everything if item.account == account and item.client]
