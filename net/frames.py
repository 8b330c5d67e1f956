"""Frames on a byte stream: a 4-byte big-endian length, then the payload (at least one byte)."""

from __future__ import annotations

from struct import Struct

from protocol.errors import Code, Rejected
from protocol.messages import CLIENT_FRAME_BYTES, NODE_FRAME_BYTES

HEADER_BYTES = 4
"""Length of a frame's header."""

CLIENT_FRAME_LIMIT = CLIENT_FRAME_BYTES
"""Largest payload in bytes that a client may send."""

NODE_FRAME_LIMIT = NODE_FRAME_BYTES
"""Largest payload in bytes between nodes."""

_length = Struct(">I")
pack_length = _length.pack
_unpack_length = _length.unpack_from


def encode_frame(payload: bytes) -> bytes:
    """Header and payload as one byte string."""
    return pack_length(len(payload)) + payload


class FrameSplitter:
    """Cuts a byte stream into frames. Buffers one incomplete frame at most."""

    __slots__ = ("_buffer", "_need", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._need = HEADER_BYTES

    @property
    def pending(self) -> int:
        """Bytes of an incomplete frame that wait for the rest."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the payloads that are complete now, in order.

        Raises `Rejected` (frame_too_large, malformed for an empty frame) as soon as a bad header
        is seen; frames before it in the same read are dropped with it, the stream is unusable.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return []
            data = bytes(buffer)
            buffer.clear()
        frames: list[bytes] = []
        append = frames.append
        limit = self.limit
        start = HEADER_BYTES
        end = len(data)
        while start <= end:
            length = _unpack_length(data, start - HEADER_BYTES)[0]
            if not 0 < length <= limit:
                raise self._fault(length)
            stop = start + length
            if stop > end:
                self._need = HEADER_BYTES + length
                buffer += data[start - HEADER_BYTES :]
                return frames
            append(data[start:stop])
            start = stop + HEADER_BYTES
        rest = start - HEADER_BYTES
        if rest < end:
            self._need = HEADER_BYTES
            buffer += data[rest:]
        return frames

    def _fault(self, length: int) -> Rejected:
        if length == 0:
            return Rejected(Code.MALFORMED, "a frame has at least one byte of payload")
        return Rejected(
            Code.FRAME_TOO_LARGE,
            f"a frame of {length} bytes is over this session's limit of {self.limit}",
        )
