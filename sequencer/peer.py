"""What sequencers say to each other: consensus, and accepted batches passed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from protocol.chain import ConsensusMessage
from protocol.codec import Decoder, Wire

MAX_PASSED_BATCHES = 1_024
"""Most batches in one message."""

PASSED_BYTES = 1 << 20
"""A message is full with so many bytes of batches; its last one may go beyond."""


Passed = tuple[bytes, bytes]
"""An encoded `SignedBatch`, and the id of the batch of the same account and signer that has to have
its place before it; empty where there is none."""

BatchId = Annotated[bytes, msgspec.Meta(max_length=32)]


class PassedBatches(Wire, frozen=True, tag=16):
    """Encoded `SignedBatch` values that the sender has accepted, for whoever leads next; `behind`
    is the second part of `Passed` for each, and empty where none has one."""

    batches: Annotated[list[bytes], msgspec.Meta(max_length=MAX_PASSED_BATCHES)]
    behind: Annotated[list[BatchId], msgspec.Meta(max_length=MAX_PASSED_BATCHES)] = msgspec.field(
        default_factory=list
    )

    @classmethod
    def of(cls, passed: Sequence[Passed]) -> PassedBatches:
        """One message with these, in their order."""
        behind = [before for _, before in passed]
        return cls([raw for raw, _ in passed], behind if any(behind) else [])


PeerMessage = ConsensusMessage | PassedBatches
"""Everything that crosses a link between sequencers."""

decode_peer_message: Decoder[PeerMessage] = Decoder(PeerMessage)
