"""The product interface, and linear perpetuals and dated futures. Linearity is assumed in this file
alone.

Sizes are signed lots, prices ticks, money micro-dollars (`uusd`), rates parts per million.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

from mypy_extensions import i64

from protocol.actions import BUY
from protocol.markets import PPM, MarginTier

FUNDING_INDEX_UNIT: Final = 1_000
"""A funding index counts thousandths of a micro-dollar."""

DIRECT_UUSD: Final = 1 << 42
"""Below it, an amount times a rate up to `PPM` is a machine word."""
_ROUND_UP: Final = PPM - 1


class MarginRates(NamedTuple):
    """Margin as parts per million of notional at the mark."""

    initial_ppm: int
    maintenance_ppm: int


# Not derived from `ABC`: compiled, instances would get weak references, freed wrongly.
class Product(metaclass=ABCMeta):
    """What the engine asks of a kind of contract."""

    __slots__ = ()

    @abstractmethod
    def value_uusd(self, size_lots: int, price_ticks: int) -> int:
        """Worth of a position at a price; also what changes hands when it is traded there."""

    @abstractmethod
    def stale_uusd(self, size_lots: int, mark_ticks: int, band_ppm: int) -> tuple[int, int]:
        """(least, most) that a position is worth while its mark is only known to +- `band_ppm`,
        both rounded down."""

    @abstractmethod
    def settled_uusd(self, size_lots: int, settled_ticks: int) -> int:
        """What a position pays once its market has expired at this price."""

    @abstractmethod
    def funding_uusd(self, size_lots: int, index_change: int) -> int:
        """What a position receives (negative: pays) for a move of the funding index, rounded
        down."""

    @abstractmethod
    def notional_uusd(self, lots: int, price_ticks: int) -> int:
        """Notional of unsigned `lots` at a price."""

    @abstractmethod
    def highest_ticks(self, lots: int, below_uusd: int) -> int:
        """Highest price at which the notional of `lots` is below this much."""

    @abstractmethod
    def entry_ticks(self, size_lots: int, cost_uusd: int) -> int:
        """Price at which a position of this cost is worth what it cost, rounded against it: up for
        longs; 0 where there is none."""

    @abstractmethod
    def initial_uusd(
        self,
        size_lots: int,
        bid_lots: int,
        ask_lots: int,
        reduce_bid_lots: int,
        reduce_ask_lots: int,
        mark_ticks: int,
        scaled_ppm: int,
        leverage: int,
    ) -> int:
        """Initial margin of the worst position that resting orders can lead to, rounded up.

        Reduce-only orders close what is open and open nothing. `scaled_ppm`: least rate that open
        interest asks for (0: none); `leverage`: most times the margin that the notional may be
        (0: any).
        """

    @abstractmethod
    def maintenance_uusd(self, size_lots: int, mark_ticks: int) -> int:
        """Maintenance margin of a position, rounded up."""

    @abstractmethod
    def excess_uusd(self, side: int, price_ticks: int, lots: int, mark_ticks: int) -> int:
        """What an order loses against the mark the moment it fills at its limit (0 if nothing)."""

    @abstractmethod
    def fee_uusd(self, price_ticks: int, lots: int, rate_ppm: int) -> int:
        """Fee of a fill, rounded against the account: fees up, rebates (negative) towards 0."""

    @abstractmethod
    def last_safe_ticks(
        self, size_lots: int, other_uusd: int, band_ppm: int, limit_ticks: int
    ) -> int | None:
        """The last mark, as it moves against an open position, at which its worth (the most within
        `band_ppm`) with `other_uusd` covers its maintenance margin.

        None where no mark from 1 to `limit_ticks` - 1 is the last such one.
        """


class Tiers:
    """Margin by notional: piecewise linear with marginal rates, so continuous.

    Margin of notional N = sum over the tiers of their rate x the part of N that lies in them, which
    is rate x N - deduction with the rate of N's tier.
    """

    __slots__ = ("_higher", "first_ppm", "flat_uusd")

    def __init__(self, first_ppm: int, above: Sequence[tuple[int, int]]) -> None:
        """`above`: (notional from which it holds, rate), ascending."""
        self.first_ppm = first_ppm
        self.flat_uusd = above[0][0] if above else 1 << 200
        """Up to this notional the first rate holds for all of it."""
        higher: list[tuple[int, int, int]] = []
        rate, deduction = first_ppm, 0
        for notional, higher_ppm in above:
            deduction += notional * (higher_ppm - rate)
            rate = higher_ppm
            higher.append((notional, rate, deduction))
        self._higher = higher[::-1]

    def margin_uusd(self, notional_uusd: int) -> int:
        """Margin of a notional, rounded up once."""
        for above, rate, deduction in self._higher:
            if notional_uusd > above:
                return -((deduction - notional_uusd * rate) // PPM)
        return -(-notional_uusd * self.first_ppm // PPM)


class LinearPerpetual(Product):
    """Pays (price - entry price) x size x value. A dated future is one that settles at a price."""

    __slots__ = (
        "_direct_uusd", "_flat_uusd", "_initial", "_initial_ppm", "_maintenance",
        "_maintenance_ppm", "rates", "value",
    )  # fmt: skip

    def __init__(
        self, value_uusd: int, rates: MarginRates, tiers: Sequence[MarginTier] = ()
    ) -> None:
        self.value = value_uusd
        """Micro-dollars per tick x lot."""
        self.rates = rates
        self._initial_ppm, self._maintenance_ppm = rates
        self._initial = Tiers(rates.initial_ppm, [(t.above_uusd, t.initial_ppm) for t in tiers])
        self._maintenance = Tiers(
            rates.maintenance_ppm, [(t.above_uusd, t.maintenance_ppm) for t in tiers]
        )
        self._flat_uusd = self._initial.flat_uusd
        """Up to this notional the first rates hold for all of it."""
        in_range = min(rates) >= 0 and max(rates) <= PPM
        self._direct_uusd = min(self._flat_uusd, DIRECT_UUSD - 1) if in_range else -1

    def value_uusd(self, size_lots: int, price_ticks: int) -> int:
        """size x price x value, exact."""
        # Compiled, factors below 0 are not multiplied as machine words.
        if size_lots < 0:
            return -(-size_lots * price_ticks * self.value)
        return size_lots * price_ticks * self.value

    def stale_uusd(self, size_lots: int, mark_ticks: int, band_ppm: int) -> tuple[int, int]:
        """size x mark x value -+ band x |size| x mark x value, each rounded down."""
        value = size_lots * mark_ticks * self.value
        band = abs(value) * band_ppm
        return value - -(-band // PPM), value + band // PPM

    def settled_uusd(self, size_lots: int, settled_ticks: int) -> int:
        """size x settlement price x value, exact."""
        return size_lots * settled_ticks * self.value

    def funding_uusd(self, size_lots: int, index_change: int) -> int:
        """-size x change / 1000: longs pay what the index rises by."""
        return -size_lots * index_change // FUNDING_INDEX_UNIT

    def notional_uusd(self, lots: int, price_ticks: int) -> int:
        """lots x price x value, exact."""
        return lots * price_ticks * self.value

    def highest_ticks(self, lots: int, below_uusd: int) -> int:
        """(below - 1) / (lots x value), rounded down."""
        return (below_uusd - 1) // (lots * self.value)

    def entry_ticks(self, size_lots: int, cost_uusd: int) -> int:
        """cost / (size x value): up for longs, down for shorts."""
        if not size_lots:
            return 0
        if size_lots > 0:
            return -(-cost_uusd // (size_lots * self.value))
        return cost_uusd // (size_lots * self.value)

    def initial_uusd(
        self,
        size_lots: int,
        bid_lots: int,
        ask_lots: int,
        reduce_bid_lots: int,
        reduce_ask_lots: int,
        mark_ticks: int,
        scaled_ppm: int,
        leverage: int,
    ) -> int:
        """The larger of the longest and the shortest reachable position, as notional at the mark:
        max(tiered margin, notional x scaled rate, notional / leverage), each rounded up."""
        worst = size_lots + bid_lots
        short = ask_lots - size_lots
        # What reduce-only orders close, the others need not close before they open.
        if reduce_ask_lots and size_lots > 0:
            short += min(reduce_ask_lots, size_lots)
        elif reduce_bid_lots and size_lots < 0:
            worst += min(reduce_bid_lots, -size_lots)
        if short > worst:
            worst = short
        notional = worst * mark_ticks * self.value
        if notional <= self._direct_uusd:
            direct: i64 = notional
            rate: i64 = self._initial_ppm
            margin: int = (direct * rate + _ROUND_UP) // PPM
        elif notional <= self._flat_uusd:
            margin = -(-notional * self._initial_ppm // PPM)
        else:
            margin = self._initial.margin_uusd(notional)
        if scaled_ppm:
            margin = max(margin, -(-notional * scaled_ppm // PPM))
        if leverage:
            margin = max(margin, -(-notional // leverage))
        return margin

    def maintenance_uusd(self, size_lots: int, mark_ticks: int) -> int:
        """|size| x mark x value at the tiers' rates, rounded up."""
        notional = abs(size_lots) * mark_ticks * self.value
        if notional <= self._direct_uusd:
            direct: i64 = notional
            rate: i64 = self._maintenance_ppm
            return (direct * rate + _ROUND_UP) // PPM
        if notional <= self._flat_uusd:
            return -(-notional * self._maintenance_ppm // PPM)
        return self._maintenance.margin_uusd(notional)

    def excess_uusd(self, side: int, price_ticks: int, lots: int, mark_ticks: int) -> int:
        """lots x (limit - mark)+ x value for bids, mirrored for asks."""
        worse = price_ticks - mark_ticks if side == BUY else mark_ticks - price_ticks
        return lots * worse * self.value if worse > 0 else 0

    def fee_uusd(self, price_ticks: int, lots: int, rate_ppm: int) -> int:
        """ceil(notional x rate), also for negative rates."""
        notional = lots * price_ticks * self.value
        if 0 <= notional < DIRECT_UUSD and -PPM <= rate_ppm <= PPM:
            direct: i64 = notional
            rate: i64 = rate_ppm
            return (direct * rate + _ROUND_UP) // PPM
        return -(-notional * rate_ppm // PPM)

    def last_safe_ticks(
        self, size_lots: int, other_uusd: int, band_ppm: int, limit_ticks: int
    ) -> int | None:
        """Bisection: as the mark moves against a long, its worth falls by at least what the rounded
        margin falls by, since rates are at most 100 %; against a short, by what the margin does not
        fall by. So the sign changes once."""

        def covered(mark_ticks: int) -> bool:
            most = self.stale_uusd(size_lots, mark_ticks, band_ppm)[1]
            return most + other_uusd >= self.maintenance_uusd(size_lots, mark_ticks)

        if not size_lots:
            return None
        # From the mark that serves the position least to the one that serves it most.
        bad, good = (1, limit_ticks - 1) if size_lots > 0 else (limit_ticks - 1, 1)
        if covered(bad) or not covered(good):
            return None
        while abs(good - bad) > 1:
            middle = (good + bad) // 2
            if covered(middle):
                good = middle
            else:
                bad = middle
        return good
