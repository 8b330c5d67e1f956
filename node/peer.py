"""What validators say to each other: consensus, and transactions passed on."""

from __future__ import annotations

from protocol.chain import (
    BlocksRequest,
    BlocksResponse,
    Certified,
    Proposal,
    Timeout,
    Vote,
)
from protocol.codec import Decoder, Wire

MAX_GOSSIP_TRANSACTIONS = 64
"""Most transactions in one message."""


class TransactionGossip(Wire, frozen=True, tag=16):
    """Encoded transactions that the sender got from clients, for whoever leads next."""

    transactions: list[bytes]


PeerMessage = (
    Proposal | Vote | Timeout | Certified | BlocksRequest | BlocksResponse | TransactionGossip
)
"""Everything that crosses a link between validators."""

decode_peer_message: Decoder[PeerMessage] = Decoder(PeerMessage)
