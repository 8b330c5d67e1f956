"""The inbox of a shard: which entries an ordered block takes in, and the ledger's leaf for it.

The cursor counts the entries that were taken in so far. It is a function of the ordered log and
the base layer alone, so that execution, provers and the ledger compute the same one.
"""

from __future__ import annotations

from protocol.codec import Decoder, Wire
from protocol.ordering import decode_payload

INBOX_KIND = b"\x03"
"""First byte of the ledger's inbox leaf; see the table in `protocol.ledger_leaves`."""


class InboxLeaf(Wire, frozen=True):
    """The ledger's leaf of a shard's inbox: entries so far and their running hash."""

    count: int
    running_hash: bytes


decode_inbox_leaf: Decoder[InboxLeaf] = Decoder(InboxLeaf)


def inbox_key(shard: int) -> bytes:
    """Key of a shard's inbox leaf in the ledger tree (3 bytes)."""
    return INBOX_KIND + shard.to_bytes(2, "big")


def next_cursor(cursor: int, count_at_height: int, limit: int) -> int:
    """Cursor after an ordered block.

    `count_at_height`: entries whose ledger height is at most the block's inbox height. Every
    ordered block, empty ones included, takes in at most `limit` further entries; the cursor never
    falls.
    """
    return max(cursor, min(count_at_height, cursor + limit))


def block_inbox_height(payload: bytes, previous_height: int) -> int:
    """Inbox height in force in an ordered block; an empty payload keeps the previous one.

    Raises `Rejected` where the payload does not decode.
    """
    return decode_payload(payload).inbox_height if payload else previous_height
