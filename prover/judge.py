"""What of a batch can be judged at once: its header against its own state."""

from __future__ import annotations

from collections.abc import Mapping

from execution import leaves as lv
from protocol.errors import Rejected
from protocol.ledger_leaves import SettledBatch
from protocol.tree_proof import decode_tree_proof, verify_proof


def contradiction_keys(settled: SettledBatch) -> list[bytes]:
    """Leaves of the state after a batch by which what was posted with it is told from a lie."""
    markets = range(len(settled.prices))
    return [
        lv.COUNTERS_KEY, *map(lv.market_key, markets), *map(lv.pricing_key, markets),
    ]  # fmt: skip


def contradicts(settled: SettledBatch, proof: bytes) -> bool:
    """Whether what was posted of a batch is other than its own post-state root says: inbox and
    outbox, and where there are native checks the marks and funding indices.

    `proof`: the encoded `TreeProof` of `contradiction_keys` under that root; one without counters
    or a market is of no state. Raises `Rejected` for what is no such proof.
    """
    header, keys = settled.header, contradiction_keys(settled)
    shown = verify_proof(header.post_state_root, decode_tree_proof(proof), keys)
    try:
        if any(_prices(shown, number) != one for number, one in enumerate(settled.prices)):
            return True
    except Rejected:
        return True
    raw = shown[lv.COUNTERS_KEY]
    if raw is None:
        return True
    try:
        counters = lv.decode_counters(raw)
    except Rejected:
        return True
    return (counters.next_outbox, counters.inbox_cursor, counters.outbox_hash) != (
        header.outbox_first + header.outbox_count, header.inbox_cursor, settled.outbox_hash
    )  # fmt: skip


def _prices(shown: Mapping[bytes, bytes | None], number: int) -> tuple[int, int] | None:
    """Mark and funding index of a market; None where it is not there. Raises `Rejected`."""
    market, row = shown[lv.market_key(number)], shown[lv.pricing_key(number)]
    if market is None:
        return None
    index = 0 if row is None else lv.decode_pricing(row).funding_index
    return lv.decode_market(market).mark_ticks, index
