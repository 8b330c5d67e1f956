"""Positions of many accounts in arrays, valued by compiled code with exact 64-bit integers.

Every product stays below 2^63 as long as a position's notional is below `NOTIONAL_BOUND` and its
unsettled funding below a similar bound. The rare account beyond them, and any product that is not
linear, is left to `Valuation`: speed differs there, results do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from margin import sweep_kernel as kernel
from margin.account import Account
from margin.linear import LinearPerpetual
from margin.valuation import Valuation
from protocol.markets import PPM

NOTIONAL_BOUND = 1 << 52
"""Positions below this are valued in arrays; four times what may be opened."""
POSITIONS_BOUND = 256
"""Accounts with at most so many positions are; their sums stay below 2^63."""
CASH_BOUND = 1 << 61
INDEX_BOUND = 1 << 62

Ints = np.ndarray


class Arrays:
    """Rows of accounts, each with a segment of position slots."""

    __slots__ = (
        "_accounts", "_cash", "_counts", "_indices", "_markets", "_numbers", "_risk", "_room",
        "_rows", "_sizes", "_slots", "_starts", "_tiers", "_views", "_wide",
    )  # fmt: skip

    def __init__(self, risk: Valuation, accounts: Mapping[int, Account]) -> None:
        self._risk = risk
        self._accounts = accounts
        self._numbers: list[int] = []
        self._rows: dict[int, int] = {}
        """Row by account number."""
        self._room: list[int] = []
        """Slots of each row's segment."""
        self._slots = 0
        """Slots given out."""
        self._wide: dict[int, None] = {}
        """Accounts that `Valuation` values."""
        self._cash: Ints = np.zeros(1024, np.int64)
        self._starts: Ints = np.zeros(1024, np.int64)
        self._counts: Ints = np.zeros(1024, np.int64)
        self._markets: Ints = np.zeros(4096, np.int32)
        self._sizes: Ints = np.zeros(4096, np.int32)
        self._indices: Ints = np.zeros(4096, np.int64)
        self._tiers = _tier_table(risk)
        self._look()

    def _look(self) -> None:
        # Single numbers are written through views: three times faster than into the arrays.
        self._views = tuple(
            array.data
            for array in (
                self._cash, self._starts, self._counts, self._markets, self._sizes, self._indices,
            )
        )  # fmt: skip

    def update(self, numbers: Iterable[int]) -> None:
        """Take over cash and positions of these accounts."""
        for number in numbers:
            self._take_over(self._accounts[number])

    def _take_over(self, account: Account) -> None:
        number, cash_uusd = account.number, account.cash_uusd
        row = self._rows.get(number)
        if row is None:
            row = self._new_row(number)
        cash, starts, counts, markets, sizes, indices = self._views
        start = slot = starts[row]
        end = start + self._room[row]
        fits = -CASH_BOUND < cash_uusd < CASH_BOUND
        for e in account.exposures.values():
            size = e.size_lots
            if not size:
                continue
            if slot == end:
                self._move(row, 2 * (end - start) or 1)
                self._take_over(account)
                return
            index = e.funding_index
            if not -INDEX_BOUND < index < INDEX_BOUND:
                fits = False
                break
            markets[slot] = e.market
            sizes[slot] = size
            indices[slot] = index
            slot += 1
        if fits and slot - start <= POSITIONS_BOUND:
            self._wide.pop(number, None)
            cash[row] = cash_uusd
            counts[row] = slot - start
        else:
            self._wide[number] = None
            cash[row] = counts[row] = 0

    def _new_row(self, number: int) -> int:
        row = self._rows[number] = len(self._numbers)
        self._numbers.append(number)
        self._room.append(0)
        if row == len(self._cash):
            self._cash = _doubled(self._cash)
            self._starts = _doubled(self._starts)
            self._counts = _doubled(self._counts)
            self._look()
        return row

    def _move(self, row: int, room: int) -> None:
        """Give a row a new segment of `room` slots; the old one stays empty."""
        while self._slots + room > len(self._markets):
            self._markets = _doubled(self._markets)
            self._sizes = _doubled(self._sizes)
            self._indices = _doubled(self._indices)
        self._look()
        self._starts[row] = self._slots
        self._room[row] = room
        self._slots += room

    def scan(self, numbers: Iterable[int] | None) -> tuple[list[tuple[int, int, int]], list[int]]:
        """Among these accounts, or all: (account, TV, MM) of those below maintenance, and the
        accounts that are left to `Valuation`."""
        if numbers is None:
            rows = np.arange(len(self._numbers), dtype=np.int64)
            left = list(self._wide)
        else:
            known = [number for number in numbers if number in self._rows]
            rows = np.array([self._rows[number] for number in known], dtype=np.int64)
            left = [number for number in known if number in self._wide]
        out = np.empty((len(rows), 3), np.int64)
        count = kernel.scan_rows(
            rows, self._cash, self._starts, self._counts, self._markets, self._sizes,
            self._indices, self._market_table(), self._tiers, out,
        )  # fmt: skip
        found = []
        for row, tv_uusd, mm_uusd in out[:count].tolist():
            if mm_uusd < 0:
                left.append(self._numbers[row])
            else:
                found.append((self._numbers[row], tv_uusd, mm_uusd))
        return found, left

    def _market_table(self) -> Ints:
        """What the markets are worth now, a column each (see `sweep_kernel`)."""
        table = np.zeros((kernel.MARKET_FIELDS, len(self._risk.markets)), np.int64)
        for number, market in enumerate(self._risk.markets):
            product, index = market.product, market.funding_index
            if type(product) is not LinearPerpetual or not -INDEX_BOUND < index < INDEX_BOUND:
                table[kernel.MOST_LOTS, number] = -1
                continue
            settled = market.settled_ticks
            unit_uusd = product.notional_uusd(1, settled or market.mark_ticks)
            band_ppm, rate_ppm = 0, market.config.maintenance_ppm
            direct_uusd = kernel.DIRECT_BOUND - 1
            if settled:
                direct_uusd, rate_ppm = NOTIONAL_BOUND, 0
            elif market.stale:
                direct_uusd, band_ppm = -1, market.stale_band_ppm
            elif market.config.margin_tiers:
                direct_uusd = min(direct_uusd, market.config.margin_tiers[0].above_uusd)
            table[:, number] = (
                (NOTIONAL_BOUND - 1) // unit_uusd, min(unit_uusd, NOTIONAL_BOUND), index, band_ppm,
                direct_uusd, rate_ppm,
            )  # fmt: skip
        return table


def _doubled(values: Ints) -> Ints:
    return np.concatenate((values, np.zeros_like(values)))


def _tier_table(risk: Valuation) -> Ints:
    """Maintenance tiers of each market (see `sweep_kernel`)."""
    width = 1 + max((len(market.config.margin_tiers) for market in risk.markets), default=0)
    table = np.zeros((len(risk.markets), width, kernel.TIER_FIELDS), np.int64)
    for number, market in enumerate(risk.markets):
        rate_ppm, whole, rest = market.config.maintenance_ppm, 0, 0
        table[number, :] = (kernel.FLAT, rate_ppm, 0, 0)
        place = len(market.config.margin_tiers)
        for tier in market.config.margin_tiers:
            place -= 1
            # No position here is so large that a tier beyond the bound could hold.
            above_uusd = min(tier.above_uusd, NOTIONAL_BOUND)
            whole += above_uusd // PPM * (tier.maintenance_ppm - rate_ppm)
            rest += above_uusd % PPM * (tier.maintenance_ppm - rate_ppm)
            rate_ppm = tier.maintenance_ppm
            table[number, place] = (above_uusd, rate_ppm, whole, rest)
    return table
