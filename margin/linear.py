"""The product interface, and linear perpetuals. Linearity is assumed in this file alone.

Sizes are signed lots, prices ticks, money micro-dollars (`uusd`), rates parts per million.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from protocol.actions import BUY
from protocol.genesis import PPM


class MarginRates(NamedTuple):
    """Margin as parts per million of notional at the mark."""

    initial_ppm: int
    maintenance_ppm: int


class Product(Protocol):
    """What the engine asks of a kind of contract."""

    def value_uusd(self, size_lots: int, price_ticks: int) -> int:
        """Worth of a position at a price; also what changes hands when it is traded there."""

    def notional_uusd(self, lots: int, price_ticks: int) -> int:
        """Notional of unsigned `lots` at a price."""

    def initial_uusd(self, size_lots: int, bid_lots: int, ask_lots: int, mark_ticks: int) -> int:
        """Initial margin of the worst position that resting orders can lead to, rounded up."""

    def maintenance_uusd(self, size_lots: int, mark_ticks: int) -> int:
        """Maintenance margin of a position, rounded up."""

    def excess_uusd(self, side: int, price_ticks: int, lots: int, mark_ticks: int) -> int:
        """What an order loses against the mark the moment it fills at its limit (0 if nothing)."""

    def fee_uusd(self, price_ticks: int, lots: int, rate_ppm: int) -> int:
        """Fee of a fill, rounded against the account: fees up, rebates (negative) towards 0."""


class LinearPerpetual:
    """Pays (price - entry price) x size x value; implements `Product`."""

    __slots__ = ("_initial", "_maintenance", "rates", "value")

    def __init__(self, value_uusd: int, rates: MarginRates) -> None:
        self.value = value_uusd
        """Micro-dollars per tick x lot."""
        self.rates = rates
        self._initial = value_uusd * rates.initial_ppm
        self._maintenance = value_uusd * rates.maintenance_ppm

    def value_uusd(self, size_lots: int, price_ticks: int) -> int:
        """size x price x value, exact."""
        return size_lots * price_ticks * self.value

    def notional_uusd(self, lots: int, price_ticks: int) -> int:
        """lots x price x value, exact."""
        return lots * price_ticks * self.value

    def initial_uusd(self, size_lots: int, bid_lots: int, ask_lots: int, mark_ticks: int) -> int:
        """The larger of the longest and the shortest reachable position at the initial rate."""
        worst = size_lots + bid_lots
        short = ask_lots - size_lots
        if short > worst:
            worst = short
        return -(-worst * mark_ticks * self._initial // PPM)

    def maintenance_uusd(self, size_lots: int, mark_ticks: int) -> int:
        """|size| x mark x value x rate, rounded up."""
        return -(-abs(size_lots) * mark_ticks * self._maintenance // PPM)

    def excess_uusd(self, side: int, price_ticks: int, lots: int, mark_ticks: int) -> int:
        """lots x (limit - mark)+ x value for bids, mirrored for asks."""
        worse = price_ticks - mark_ticks if side == BUY else mark_ticks - price_ticks
        return lots * worse * self.value if worse > 0 else 0

    def fee_uusd(self, price_ticks: int, lots: int, rate_ppm: int) -> int:
        """ceil(notional x rate), also for negative rates."""
        return -(-lots * price_ticks * self.value * rate_ppm // PPM)
