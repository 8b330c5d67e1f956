"""Payloads of ordered blocks, opened: consensus looks at the same ones several times."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from protocol.actions import batch_id
from protocol.ordering import decode_payload

OPENED_MAX = 16
"""Payloads that are kept opened: those of blocks that are not committed yet, as a rule."""


class Contents(NamedTuple):
    """What a payload holds; `identities` are the ids of its `batches`, in their order."""

    inbox_height: int
    batches: list[bytes]
    identities: list[bytes]


class OpenedPayloads:
    """Opens payloads, and remembers the last ones by their bytes."""

    def __init__(self) -> None:
        self._opened: OrderedDict[bytes, Contents] = OrderedDict()

    def __call__(self, payload: bytes) -> Contents:
        """What a payload holds; raises `Rejected` where it is malformed."""
        known = self._opened.get(payload)
        if known is not None:
            return known
        decoded = decode_payload(payload)
        identities = [batch_id(raw) for raw in decoded.batches]
        contents = Contents(decoded.inbox_height, decoded.batches, identities)
        self._opened[payload] = contents
        if len(self._opened) > OPENED_MAX:
            self._opened.popitem(last=False)
        return contents
