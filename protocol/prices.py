"""Marks and funding indices as a prover posts them, to be checked without executing."""

from __future__ import annotations

from protocol.codec import Wire


class PriceChange(Wire, frozen=True):
    """Mark and funding index of a market after an ordered block that changed one of them.

    `funding_index`: thousandths of a micro-dollar that a long lot has paid since genesis.
    """

    market: int
    mark_ticks: int
    funding_index: int


BlockPrices = list[PriceChange]
"""The changes of one ordered block, by ascending market."""
