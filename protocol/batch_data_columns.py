"""Columns of integers as bytes, and the container that holds them: compressed, bounded, padded.

A column is a list of integers from 0 to below 2**72. In bytes it is one byte per value, 255 where
the value is larger; then what is above 255 of these in two bytes, 65535 where it is larger; then
what is above that in nine. Wider values lie in planes: all lowest bytes first.

The container: a format byte, two lengths of 4 bytes (big endian), the compressed part (numbers of
values, the columns, the raw bytes), the plain part (hashes, keys and signatures, which do not
compress), and zeros, as many as the bounds of expansion ask.
"""

from __future__ import annotations

import zlib
from struct import Struct, pack, unpack
from typing import Final, NamedTuple

from protocol.errors import Code, Rejected
from protocol.settlement import (
    EXPANSION_ALLOWANCE_BYTES,
    MAX_BATCH_DATA_BYTES,
    MAX_EXPANSION,
)

FORMAT: Final = 1
MAX_UNPACKED_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of the ordered blocks of one batch, however large its data."""

MAX_COLUMN_EXPANSION: Final = 4
"""The compressed part may expand to so many times the size of all data, plus the allowance."""

COMPRESSION_LEVEL: Final = 6
OWN_CODE_BYTES: Final = 512
"""A column of so many bytes is worth a Huffman code of its own."""

BYTE_ESCAPE: Final = 255
WIDE_ESCAPE: Final = 65535
HUGE_BYTES: Final = 9

HASHES: Final = 0
KEYS: Final = 1
SIGNATURES: Final = 2
PLAIN_WIDTHS: Final = (32, 32, 64)
"""Lists of the plain part, and the bytes of an item of each."""

_HEAD: Final = Struct(">BII")


class Parts(NamedTuple):
    """What batch data is made of: columns of integers, byte strings of any size, and lists of byte
    strings of the sizes of `PLAIN_WIDTHS`."""

    columns: list[list[int]]
    raw: list[bytes]
    plain: list[list[bytes]]


def bad(text: str) -> Rejected:
    """The refusal of batch data."""
    return Rejected(Code.BAD_BATCH_DATA, text)


def unpacked_bound(size: int) -> int:
    """Most bytes of ordered blocks that batch data of `size` bytes may decode to."""
    return min(size * MAX_EXPANSION + EXPANSION_ALLOWANCE_BYTES, MAX_UNPACKED_BYTES)


def columns_bound(size: int) -> int:
    """Most bytes that the compressed part of batch data of `size` bytes may expand to."""
    return size * MAX_COLUMN_EXPANSION + EXPANSION_ALLOWANCE_BYTES


def join_parts(parts: Parts, unpacked: int) -> bytes:
    """Batch data of these parts, which decode to `unpacked` bytes of ordered blocks."""
    columns = [*parts.columns, [len(raw) for raw in parts.raw]]
    counts = [len(column) for column in columns] + [len(items) for items in parts.plain]
    inner = [pack(f">{len(counts)}I", *counts)]
    inner += [column_bytes(column) for column in columns]
    inner.append(b"".join(parts.raw))
    expanded = sum(map(len, inner))
    packed = _deflate(inner)
    plain = b"".join([item for items in parts.plain for item in items])
    size = _HEAD.size + len(packed) + len(plain)
    # Clients choose what is in the blocks: what decodes to more than the bounds allow gets longer.
    least = max(
        -(-(unpacked - EXPANSION_ALLOWANCE_BYTES) // MAX_EXPANSION),
        -(-(expanded - EXPANSION_ALLOWANCE_BYTES) // MAX_COLUMN_EXPANSION),
    )
    head = _HEAD.pack(FORMAT, len(packed), len(plain))
    return b"".join([head, packed, plain, bytes(max(0, least - size))])


def _deflate(sections: list[bytes]) -> bytes:
    """Sections as one zlib stream; longer ones get codes of their own."""
    packer = zlib.compressobj(COMPRESSION_LEVEL)
    packed: list[bytes] = []
    for section in sections:
        if len(section) >= OWN_CODE_BYTES:
            packed.append(packer.flush(zlib.Z_BLOCK))
        packed.append(packer.compress(section))
        if len(section) >= OWN_CODE_BYTES:
            packed.append(packer.flush(zlib.Z_BLOCK))
    packed.append(packer.flush())
    return b"".join(packed)


def split_parts(data: bytes, columns: int) -> Parts:
    """The parts of batch data with so many columns; raises `Rejected` (bad_batch_data)."""
    if len(data) > MAX_BATCH_DATA_BYTES:
        raise bad(f"batch data has at most {MAX_BATCH_DATA_BYTES} bytes")
    if len(data) < _HEAD.size or data[0] != FORMAT:
        raise bad("this is no batch data of a known format")
    _, packed_size, plain_size = _HEAD.unpack_from(data)
    packed_end = _HEAD.size + packed_size
    end = packed_end + plain_size
    if end > len(data) or data.count(0, end) != len(data) - end:
        raise bad("the batch data is cut short or has bytes behind its end")
    inner = ColumnReader(_expand(data[_HEAD.size : packed_end], columns_bound(len(data))))
    lists = len(PLAIN_WIDTHS)
    counts = unpack(f">{columns + 1 + lists}I", inner.take(4 * (columns + 1 + lists)))
    values = [inner.column(count) for count in counts[: columns + 1]]
    raw = [inner.take(size) for size in values.pop()]
    inner.end()
    rest = ColumnReader(data[packed_end:end])
    plain = [
        rest.items(count, width) for count, width in zip(counts[-lists:], PLAIN_WIDTHS, strict=True)
    ]
    rest.end()
    return Parts(values, raw, plain)


def _expand(packed: bytes, bound: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(packed, bound + 1)
    except zlib.error as error:
        raise bad(f"the batch data is not zlib: {error}") from None
    if len(raw) > bound:
        raise bad(f"the batch data expands beyond {bound} bytes")
    if not inflater.eof or inflater.unused_data:
        raise bad("the compressed part is cut short or has bytes behind its end")
    return raw


def zigzag(delta: int) -> int:
    """Signed to unsigned: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return delta << 1 if delta >= 0 else ~(delta << 1)


def unzigzag(value: int) -> int:
    """The inverse of `zigzag`."""
    return ~(value >> 1) if value & 1 else value >> 1


def column_bytes(values: list[int]) -> bytes:
    """A column as bytes."""
    if max(values, default=0) < BYTE_ESCAPE:
        return bytes(values)
    small = bytes([value if value < BYTE_ESCAPE else BYTE_ESCAPE for value in values])
    wide = [value - BYTE_ESCAPE for value in values if value >= BYTE_ESCAPE]
    huge = [value - WIDE_ESCAPE for value in wide if value >= WIDE_ESCAPE]
    pairs = pack(f"<{len(wide)}H", *[min(value, WIDE_ESCAPE) for value in wide])
    rest = b"".join([value.to_bytes(HUGE_BYTES, "little") for value in huge])
    return b"".join([small, _planes(pairs, 2), _planes(rest, HUGE_BYTES)])


def _planes(raw: bytes, width: int) -> bytes:
    return b"".join([raw[plane::width] for plane in range(width)])


class ColumnReader:
    """Takes columns and items off some bytes, in order; raises `Rejected` where these end."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        at = self._at
        if size > len(self._raw) - at:
            raise bad("a part of the batch data is cut short")
        self._at = at + size
        return self._raw[at : at + size]

    def items(self, count: int, width: int) -> list[bytes]:
        """The next `count` items of so many bytes."""
        raw = self.take(count * width)
        return [raw[at : at + width] for at in range(0, len(raw), width)]

    def column(self, count: int) -> list[int]:
        """The next column, of `count` values."""
        small = self.take(count)
        escapes = small.count(BYTE_ESCAPE)
        if not escapes:
            return list(small)
        wide = list(unpack(f"<{escapes}H", self._interleaved(escapes, 2)))
        beyond = wide.count(WIDE_ESCAPE)
        if beyond:
            rest = self._interleaved(beyond, HUGE_BYTES)
            huge = iter(
                [
                    int.from_bytes(rest[at : at + HUGE_BYTES], "little")
                    for at in range(0, len(rest), HUGE_BYTES)
                ]
            )
            wide = [v if v < WIDE_ESCAPE else WIDE_ESCAPE + next(huge) for v in wide]
        larger = iter(wide)
        return [v if v < BYTE_ESCAPE else BYTE_ESCAPE + next(larger) for v in small]

    def _interleaved(self, count: int, width: int) -> bytes:
        planes = self.take(count * width)
        raw = bytearray(len(planes))
        for plane in range(width):
            raw[plane::width] = planes[plane * count : (plane + 1) * count]
        return bytes(raw)

    def end(self) -> None:
        """Raises `Rejected` where bytes are left."""
        if self._at != len(self._raw):
            raise bad("the batch data has bytes that nothing asks for")
