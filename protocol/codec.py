"""Canonical MessagePack: one value has one encoding, and nothing else is accepted.

Everything that crosses a wire or enters a hash is a ``msgspec.Struct`` encoded as an array, and
tagged where it stands in a union. MessagePack allows several encodings of one value (a small
integer may be written in nine bytes), so whatever is hashed or signed goes through a canonical
`Decoder`, which re-encodes and compares.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from protocol.errors import Code, Rejected

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


class Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """Base of every value that crosses a wire or enters a hash: an array, fields in order."""


class Decoder(Generic[T]):
    """Decodes bytes into one type; every failure is a `Rejected` with a stable code."""

    def __init__(self, type_: Any, *, canonical: bool = True) -> None:
        self._decode = msgspec.msgpack.Decoder(type_).decode
        self._canonical = canonical

    def __call__(self, raw: bytes | bytearray | memoryview) -> T:
        """Decode `raw`; raises `Rejected` (malformed, wrong_type, non_canonical)."""
        try:
            value: T = self._decode(raw)
        except msgspec.ValidationError as error:
            raise Rejected(Code.WRONG_TYPE, str(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Rejected(Code.MALFORMED, f"not a MessagePack value: {error}") from None
        if self._canonical and encode(value) != raw:
            raise Rejected(
                Code.NON_CANONICAL,
                "the value is not in its canonical encoding; encode integers in their "
                "shortest form and arrays with exactly the documented fields",
            )
        return value
