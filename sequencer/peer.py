"""What sequencers say to each other: consensus, and accepted batches passed on."""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.chain import ConsensusMessage
from protocol.codec import Decoder, Wire

MAX_PASSED_BATCHES = 1_024
"""Most batches in one message."""

PASSED_BYTES = 1 << 20
"""A message is full with so many bytes of batches; its last one may go beyond."""


class PassedBatches(Wire, frozen=True, tag=16):
    """Encoded `SignedBatch` values that the sender has accepted, for whoever leads next."""

    batches: Annotated[list[bytes], msgspec.Meta(max_length=MAX_PASSED_BATCHES)]


PeerMessage = ConsensusMessage | PassedBatches
"""Everything that crosses a link between sequencers."""

decode_peer_message: Decoder[PeerMessage] = Decoder(PeerMessage)
