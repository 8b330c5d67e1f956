"""The prices that a prover posts with a batch: what each block changed of marks and indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from execution import leaves as lv
from execution.native import price_changes
from protocol.prices import BlockPrices
from prover.tree import StateTree

CHANGE_BYTES = 24
"""Most bytes of one encoded change of prices."""


def most_price_bytes(keys: Iterable[bytes]) -> int:
    """Most bytes that the prices of a block take that wrote leaves of these keys."""
    marks = (lv.MARKET, lv.PRICING)
    return 1 + CHANGE_BYTES * sum(1 for key in keys if key[:1] in marks)


def prices_in(tree: StateTree) -> list[tuple[int, int]]:
    """Mark and funding index of each market, from the leaves of the shard's state."""
    found = []
    for key, value in tree.iterate(lv.MARKET):
        row = tree.get(lv.pricing_key(lv.parse_market_key(key)))
        index = 0 if row is None else lv.decode_pricing(row).funding_index
        found.append((lv.decode_market(value).mark_ticks, index))
    return found


def posted_prices(
    before: StateTree, blocks: Iterable[Mapping[bytes, bytes | None]]
) -> list[BlockPrices]:
    """The changes of each block, from the state before the first and the leaves that each wrote."""
    prices = prices_in(before)
    found = []
    for changes in blocks:
        changed = price_changes(prices, changes)
        for one in changed:
            prices[one.market] = (one.mark_ticks, one.funding_index)
        found.append(changed)
    return found
