"""Who holds positions in a market, and the first of a side by rank without ranking all of them.

A profit is worth at the mark plus a gain that no mark changes: what was realised, less what the
position cost. So a new mark writes nothing here.
"""

from __future__ import annotations

from array import array

from margin.deleveraging import Opposite, rank_key
from margin.linear import LinearPerpetual
from margin.market import Market

LEAST_IN_ARRAYS = 512
"""From so many holders on, numpy selects: smaller processes never load it."""
GAIN_BOUND = 1 << 61
WORTH_BOUND = 1 << 61
"""Below these a profit is a 64-bit integer. Beyond them, and where a product is not linear, all
holders are sorted: speed differs there, results do not."""


class Holders:
    """Rows (account, signed lots, gain) of one market."""

    __slots__ = ("_accounts", "_gains", "_most_lots", "_rows", "_sizes", "_wide")

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        """Row by account."""
        self._accounts = array("q")
        self._sizes = array("q")
        self._gains = array("q")
        self._most_lots = 0
        """No position is larger, or was."""
        self._wide: dict[int, int] = {}
        """Gains beyond `GAIN_BOUND`, by account."""

    def __contains__(self, account: int) -> bool:
        return account in self._rows

    def accounts(self) -> list[int]:
        """All holders."""
        return list(self._rows)

    def put(self, account: int, size_lots: int, gain_uusd: int) -> None:
        """An account's position; `size_lots` 0: it has none."""
        self._wide.pop(account, None)
        if not size_lots:
            self._drop(account)
            return
        if not -GAIN_BOUND < gain_uusd < GAIN_BOUND:
            self._wide[account] = gain_uusd
            gain_uusd = 0
        self._most_lots = max(self._most_lots, abs(size_lots))
        row = self._rows.get(account)
        if row is None:
            self._rows[account] = len(self._accounts)
            self._accounts.append(account)
            self._sizes.append(size_lots)
            self._gains.append(gain_uusd)
        else:
            self._sizes[row] = size_lots
            self._gains[row] = gain_uusd

    def _drop(self, account: int) -> None:
        """The last row takes the place of the one that goes."""
        row = self._rows.pop(account, None)
        if row is None:
            return
        last = self._accounts.pop()
        size_lots, gain_uusd = self._sizes.pop(), self._gains.pop()
        if last != account:
            self._rows[last] = row
            self._accounts[row], self._sizes[row], self._gains[row] = last, size_lots, gain_uusd

    def first(self, market: Market, longs: bool, count: int) -> list[Opposite]:
        """The first `count` (above 0) of the longs or the shorts at the present mark, in their
        rank."""
        product, mark_ticks = market.product, market.mark_ticks
        unit_uusd = product.value_uusd(1, mark_ticks)
        if (
            len(self._rows) >= LEAST_IN_ARRAYS
            and not self._wide
            and type(product) is LinearPerpetual
            and self._most_lots * unit_uusd < WORTH_BOUND
        ):
            from margin import holder_arrays

            return holder_arrays.first(
                self._accounts, self._sizes, self._gains, unit_uusd, longs, count
            )
        found = []
        for account, size, gain_uusd in zip(self._accounts, self._sizes, self._gains, strict=True):
            if size > 0 if longs else size < 0:
                profit_uusd = product.value_uusd(size, mark_ticks)
                profit_uusd += self._wide.get(account, gain_uusd)
                found.append(Opposite(account, profit_uusd, abs(size)))
        found.sort(key=rank_key)
        return found[:count]
