"""A market as margin sees it: rules, product, book and prices."""

from __future__ import annotations

from margin.account import Exposure
from margin.linear import LinearPerpetual, MarginRates, Product
from matching.book import Book
from protocol.genesis import CASH_MOVE_LIMIT, PRICE_LIMIT, MarketConfig

POSITION_NOTIONAL_LIMIT = 1 << 50
"""Bound of a reachable position's notional in micro-dollars, when an order is taken in."""


class Market:
    """A market's rules and present prices.

    `mark_ticks` stands for the whole block; `oracle_ticks` is the committee's median (0: none
    yet), `last_ticks` the last trade (0: none yet).
    """

    __slots__ = (
        "book",
        "cross_ppm",
        "last_ticks",
        "leaf",
        "maker_ppm",
        "mark_ticks",
        "max_order_lots",
        "max_position_lots",
        "min_notional_uusd",
        "number",
        "open_interest_lots",
        "oracle_ticks",
        "price_limit",
        "product",
        "reserve_ppm",
        "safe_ticks",
        "taker_ppm",
        "through",
    )

    def __init__(self, config: MarketConfig) -> None:
        self.number = config.market
        self.product: Product = LinearPerpetual(
            config.value_uusd, MarginRates(config.initial_ppm, config.maintenance_ppm)
        )
        self.book = Book(config.market)
        one_lot = self.product.notional_uusd(1, 1)
        self.price_limit = min(PRICE_LIMIT, -(-CASH_MOVE_LIMIT // one_lot))
        """Prices are below this: one lot always fits one cash movement."""
        largest = self.product.notional_uusd(config.max_position_lots, 1)
        self.safe_ticks = (POSITION_NOTIONAL_LIMIT - 1) // largest
        """Up to this price no allowed position reaches `POSITION_NOTIONAL_LIMIT`."""
        self.mark_ticks = config.initial_price_ticks
        self.oracle_ticks = 0
        self.last_ticks = 0
        self.open_interest_lots = 0
        self.taker_ppm = config.taker_fee_ppm
        self.maker_ppm = config.maker_fee_ppm
        self.reserve_ppm = max(config.maker_fee_ppm, 0)
        """Rate at which a resting order sets fees aside."""
        self.cross_ppm = max(config.taker_fee_ppm, config.maker_fee_ppm, 0)
        """Rate at which an order that may take and then rest sets fees aside."""
        self.max_order_lots = config.max_order_lots
        self.max_position_lots = config.max_position_lots
        self.min_notional_uusd = config.min_notional_uusd
        self.through: dict[int, Exposure] = {}
        """Exposures, by account, that may have orders priced through the mark."""
        self.leaf: bytes | None = None
