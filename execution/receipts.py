"""Liquidation receipts: numbered events whose hashes form one list under the state root.

The state holds the roots of the list's perfect subtrees alone, so it stays small however long the
list grows; `execution.receipt_proof` proves a receipt from the receipts themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from execution import leaves as lv
from execution.state import State
from protocol.codec import encode
from protocol.events import Receipt
from protocol.merkle import EMPTY_LIST_ROOT, list_leaf_hash, list_node_hash

NO_RECEIPTS = lv.ReceiptsLeaf(0, [])


class Receipts:
    """Gives receipts their numbers and keeps their list."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def add(
        self,
        kind: int,
        account: int,
        of_account: int,
        market: int,
        size_lots: int,
        mark_ticks: int,
        price_ticks: int,
        amount_uusd: int,
        equity_uusd: int,
        maintenance_uusd: int,
        rank: int,
        insurance_uusd: int,
        share_uusd: int,
    ) -> None:
        """Write the next receipt; see `protocol.events.Receipt` for the fields."""
        state = self._state
        row = state.receipts.get(lv.RECEIPTS_KEY) or NO_RECEIPTS
        receipt = Receipt(
            row.count, kind, state.height, account, of_account, market, size_lots, mark_ticks,
            price_ticks, amount_uusd, equity_uusd, maintenance_uusd, rank, insurance_uusd,
            share_uusd,
        )  # fmt: skip
        state.events.append(receipt)
        state.receipts.put(lv.RECEIPTS_KEY, extended(row, receipt))


def extended(row: lv.ReceiptsLeaf, receipt: Receipt) -> lv.ReceiptsLeaf:
    """The list with one more receipt: like a binary counter, full subtrees carry into larger
    ones."""
    count, peaks = row.count, list(row.peaks)
    node = list_leaf_hash(encode(receipt))
    while count & 1:
        node = list_node_hash(peaks.pop(), node)
        count >>= 1
    peaks.append(node)
    return lv.ReceiptsLeaf(row.count + 1, peaks)


def receipts_root(peaks: Sequence[bytes]) -> bytes:
    """Root of the RFC 6962 tree with these perfect subtrees, largest first (32 bytes)."""
    if not peaks:
        return EMPTY_LIST_ROOT
    node = peaks[-1]
    for peak in reversed(peaks[:-1]):
        node = list_node_hash(peak, node)
    return node
