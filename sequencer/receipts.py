"""Receipts: what a sequencer signs for the batches that it accepted together."""

from __future__ import annotations

from collections.abc import Sequence

from protocol.keys import Key
from protocol.merkle import list_proofs, list_root
from protocol.ordering import Receipt, receipt_digest


def make_receipts(
    key: Key, sequencer: int, chain_id: bytes, identities: Sequence[bytes], now_ms: int
) -> list[Receipt]:
    """A receipt for each batch id, in their order, all under one signature."""
    root, paths = list_root(identities), list_proofs(identities)
    size = len(identities)
    signature = key.sign(receipt_digest(chain_id, now_ms, root, size))
    return [
        Receipt(sequencer, identity, now_ms, root, place, size, path, signature)
        for place, (identity, path) in enumerate(zip(identities, paths, strict=True))
    ]
