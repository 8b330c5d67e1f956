"""A market as margin sees it: rules, product, book and prices."""

from __future__ import annotations

from margin.account import Exposure
from margin.linear import LinearPerpetual, MarginRates, Product
from matching.book import Book
from protocol.actions import BUY, OPEN
from protocol.errors import Code
from protocol.markets import CASH_MOVE_LIMIT, PRICE_LIMIT, MarketConfig

POSITION_NOTIONAL_LIMIT = 1 << 50
"""Bound of a reachable position's notional in micro-dollars, when an order is taken in."""

OPEN_INTEREST_LIMIT_LOTS = 1 << 40
"""Bound of open interest where genesis sets none."""


class Market:
    """A market's rules and present prices.

    `mark_ticks` stands for the whole block; `oracle_ticks` is the committee's median (0: none
    yet), `last_ticks` the last trade (0: none yet).
    """

    __slots__ = (
        "book",
        "config",
        "cross_ppm",
        "fees_ppm",
        "funding_index",
        "last_ticks",
        "leaf",
        "mark_ticks",
        "max_open_interest_lots",
        "max_order_lots",
        "max_position_lots",
        "min_notional_uusd",
        "mode",
        "number",
        "open_interest_lots",
        "oracle_ticks",
        "price_limit",
        "product",
        "reserve_ppm",
        "safe_ticks",
        "scaled_ppm",
        "settled_ticks",
        "stale",
        "stale_band_ppm",
        "through",
        "voted_mode",
    )

    def __init__(self, config: MarketConfig) -> None:
        self.number = config.market
        self.config = config
        self.mode = OPEN
        """The mode in force in this block; follows from `voted_mode`, reopening and expiry."""
        self.voted_mode = OPEN
        """The mode that guardians set."""
        self.stale = False
        """Whether prices are stale or wild: new risk is refused."""
        self.stale_band_ppm = config.stale_band_ppm
        self.scaled_ppm = 0
        """Initial rate that open interest asks for in this block (0: none beyond the tiers)."""
        self.funding_index = 0
        """Thousandths of a micro-dollar that a long lot has paid since genesis."""
        self.settled_ticks = 0
        """Settlement price of a dated future that has expired; 0 before."""
        self.product: Product = LinearPerpetual(
            config.value_uusd,
            MarginRates(config.initial_ppm, config.maintenance_ppm),
            config.margin_tiers,
        )
        self.book = Book(config.market)
        self.price_limit = min(PRICE_LIMIT, self.product.highest_ticks(1, CASH_MOVE_LIMIT) + 1)
        """Prices are below this: one lot always fits one cash movement."""
        self.safe_ticks = self.product.highest_ticks(
            config.max_position_lots, POSITION_NOTIONAL_LIMIT
        )
        """Up to this price no allowed position reaches `POSITION_NOTIONAL_LIMIT`."""
        self.mark_ticks = config.initial_price_ticks
        self.oracle_ticks = 0
        self.last_ticks = 0
        self.open_interest_lots = 0
        self.fees_ppm = [(config.taker_fee_ppm, config.maker_fee_ppm)]
        """(taker, maker) rate by fee tier."""
        self.fees_ppm += [(tier.taker_fee_ppm, tier.maker_fee_ppm) for tier in config.fee_tiers]
        self.reserve_ppm = max(0, *(maker for _, maker in self.fees_ppm))
        """Rate at which a resting order sets fees aside."""
        self.cross_ppm = max(self.reserve_ppm, *(taker for taker, _ in self.fees_ppm))
        """Rate at which an order that may take and then rest sets fees aside."""
        self.max_open_interest_lots = config.max_open_interest_lots or OPEN_INTEREST_LIMIT_LOTS
        self.max_order_lots = config.max_order_lots
        self.max_position_lots = config.max_position_lots
        self.min_notional_uusd = config.min_notional_uusd
        self.through: dict[int, Exposure] = {}
        """Exposures, by account, whose orders were placed through the mark since it was set."""
        self.leaf: bytes | None = None

    def clone(self) -> Market:
        """A copy for what-if questions, with an empty book."""
        other = Market(self.config)
        other.mode, other.voted_mode, other.stale = self.mode, self.voted_mode, self.stale
        other.scaled_ppm, other.funding_index = self.scaled_ppm, self.funding_index
        other.settled_ticks, other.mark_ticks = self.settled_ticks, self.mark_ticks
        other.oracle_ticks, other.last_ticks = self.oracle_ticks, self.last_ticks
        other.open_interest_lots, other.fees_ppm = self.open_interest_lots, self.fees_ppm
        other.product = self.product
        return other

    def limit_code(
        self,
        size_lots: int,
        bid_lots: int,
        ask_lots: int,
        reduce_bid_lots: int,
        reduce_ask_lots: int,
        side: int,
        price_ticks: int,
    ) -> Code:
        """Which limit the furthest position that orders of a side lead to would pass, one of them
        at this price: `POSITION_LIMIT`, `NOTIONAL_LIMIT`, or `OK` for none."""
        if side == BUY:
            worst = size_lots + bid_lots
            if size_lots < 0:
                worst += min(reduce_bid_lots, -size_lots)
        else:
            worst = ask_lots - size_lots
            if size_lots > 0:
                worst += min(reduce_ask_lots, size_lots)
        if worst > self.max_position_lots:
            return Code.POSITION_LIMIT
        price = max(price_ticks, self.mark_ticks)
        if (
            price > self.safe_ticks
            and self.product.notional_uusd(worst, price) >= POSITION_NOTIONAL_LIMIT
        ):
            return Code.NOTIONAL_LIMIT
        return Code.OK
