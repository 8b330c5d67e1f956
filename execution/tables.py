"""Tables of leaves: parts of the state that are kept as they stand under the state root."""

from __future__ import annotations

from typing import Generic, TypeVar

from protocol.codec import Decoder, Wire, encode

Row = TypeVar("Row", bound=Wire)


class LeafTable(Generic[Row]):
    """Rows of one kind of leaf by key; what a block changed of them is encoded once, at its end.

    `rows` is for reading; writing goes through `put` and `drop`.
    """

    __slots__ = ("_before", "_decode", "rows")

    def __init__(self, decode: Decoder[Row]) -> None:
        self._decode = decode
        self.rows: dict[bytes, Row] = {}
        self._before: dict[bytes, Row | None] = {}

    def get(self, key: bytes) -> Row | None:
        """The row of a key, if there is one."""
        return self.rows.get(key)

    def put(self, key: bytes, row: Row) -> None:
        """Write a row."""
        before = self.rows.get(key)
        if key not in self._before:
            self._before[key] = before
        self.rows[key] = row

    def drop(self, key: bytes) -> None:
        """Remove a row; none there is fine."""
        before = self.rows.pop(key, None)
        if before is not None and key not in self._before:
            self._before[key] = before

    def commit(self, changes: dict[bytes, bytes | None]) -> None:
        """Add the leaves that the block changed, in the order of first touch."""
        for key, before in self._before.items():
            after = self.rows.get(key)
            if after != before:
                changes[key] = None if after is None else encode(after)
        self._before = {}

    def collect(self, leaves: dict[bytes, bytes]) -> None:
        """Add all leaves."""
        leaves.update((key, encode(row)) for key, row in self.rows.items())

    def restore(self, key: bytes, value: bytes) -> None:
        """Put back a row from the state."""
        self.rows[key] = self._decode(value)
