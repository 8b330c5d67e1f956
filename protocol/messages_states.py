"""Messages about the shard's state that validators keep: how one that has none gets it."""

from __future__ import annotations

from protocol.codec import Wire


class StatePartRequest(Wire, frozen=True, tag=42):
    """To a validator: a part (counted from 0) of the state that it keeps after final batch `batch`,
    or after whichever it has where that is 0."""

    request_id: int
    batch: int
    part: int


class StatePartView(Wire, frozen=True, tag=98):
    """One of `parts` parts of the state after `batch`: a compressed range proof of consecutive
    leaves, to be checked under the batch's post-state root (`node.kept_state`)."""

    request_id: int
    batch: int
    part: int
    parts: int
    data: bytes
