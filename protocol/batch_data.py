"""Batch data: the ordered blocks of a settlement batch, packed column by column.

What can be recomputed is left out: parent ids, payload hashes, the framing of batches and actions.
The rest stands in columns, as differences where neighbours are alike, and is compressed; keys,
signatures and hashes stand beside it as they are. Whatever a block holds comes back byte for byte:
what is not in its canonical form is kept as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.batch_data_actions import ActionPacker, ActionUnpacker
from protocol.batch_data_batches import BatchPacker, BatchUnpacker
from protocol.batch_data_columns import (
    HASHES,
    KEYS,
    PLAIN_WIDTHS,
    SIGNATURES,
    Parts,
    bad,
    join_parts,
    split_parts,
    unpacked_bound,
    unzigzag,
    zigzag,
)
from protocol.chain import EMPTY_HASH, Header, payload_hash
from protocol.codec import Decoder, encode
from protocol.errors import Rejected
from protocol.ordering import OrderedBlock, decode_payload

FOLLOWS: Final = 1
NAMES_PAYLOAD: Final = 2
SAME_ROOT: Final = 4
SKIPPED: Final = 8
BATCHES: Final = 16
EMPTY: Final = 32
RAW: Final = 64
"""Flags of a block: chain and parent are the last block; the payload hash is the payload's; the
application root is the last block's; a member was skipped; the payload is a list of batches, or no
bytes at all, or otherwise kept as it is. Alone: the whole block is."""

HEADER_COLUMNS: Final = 8
COLUMNS: Final = 3 + HEADER_COLUMNS + BatchPacker.COLUMNS + ActionPacker.COLUMNS
"""Flags, inbox heights, numbers of batches; of headers the differences of epoch, view, height,
parent's view, time, proposer and application height, and skipped members; then those of batches and
those of actions."""

HEADER_BYTES: Final = 256
"""What an encoded header counts for the bound; it has no more."""

_BEFORE: Final = Header(b"", 0, 0, 0, b"", 0, 0, 0, b"", EMPTY_HASH, 0, EMPTY_HASH)
"""Stands for the block before the first one."""

_decode_block: Decoder[OrderedBlock] = Decoder(OrderedBlock)


def pack_blocks(blocks: Sequence[OrderedBlock]) -> bytes:
    """Batch data that decodes to exactly these blocks.

    It is accepted where it has at most `MAX_BATCH_DATA_BYTES` and they `MAX_UNPACKED_BYTES`.
    """
    packer = _BlockPacker()
    for block in blocks:
        packer.add(block)
    return packer.data()


def unpack_blocks(data: bytes) -> list[OrderedBlock]:
    """The blocks of batch data; raises `Rejected` (bad_batch_data).

    Time and memory are bounded by the size of the data (`unpacked_bound`, `columns_bound`).
    """
    parts = split_parts(data, COLUMNS)
    try:
        return _BlockUnpacker(parts, unpacked_bound(len(data))).take()
    except StopIteration:
        raise bad("a column of the batch data ends too early") from None
    except (IndexError, OverflowError):
        raise bad("a value of the batch data is out of range") from None
    except Rejected as error:
        raise bad(error.text) from None


class _BlockPacker:
    def __init__(self) -> None:
        self._raw: list[bytes] = []
        self._actions = ActionPacker(self._raw)
        self._batches = BatchPacker(self._actions, self._raw)
        self._flags: list[int] = []
        self._inbox_heights: list[int] = []
        self._counts: list[int] = []
        self._headers: list[list[int]] = [[] for _ in range(HEADER_COLUMNS)]
        self._hashes: list[bytes] = []
        self._last, self._last_id = _BEFORE, b""
        self._inbox_height = 0
        self._unpacked = 0

    def add(self, block: OrderedBlock) -> None:
        """The next block."""
        header, payload = block.header, block.payload
        hashes = (header.chain_id, header.parent_id, header.payload_hash, header.justify_hash,
                  header.app_root)  # fmt: skip
        if any(len(one) != PLAIN_WIDTHS[HASHES] for one in hashes):
            raw = encode(block)
            self._raw.append(raw)
            self._flags.append(RAW)
            self._unpacked += len(raw)
        else:
            self._flags.append(self._add_header(header, payload) | self._add_payload(payload))
            self._unpacked += HEADER_BYTES + len(payload)
        self._last, self._last_id = header, header.block_id()

    def data(self) -> bytes:
        """Batch data of the blocks so far."""
        columns = [self._flags, self._inbox_heights, self._counts, *self._headers]
        columns += self._batches.columns() + self._actions.columns()
        raw = [encode(self._actions.templates), *self._raw]
        plain = [self._hashes, self._batches.keys, self._batches.signatures]
        return join_parts(Parts(columns, raw, plain), self._unpacked)

    def _add_header(self, header: Header, payload: bytes) -> int:
        """Flags of the header."""
        last, hashes, flags = self._last, self._hashes, 0
        if header.chain_id == last.chain_id and header.parent_id == self._last_id:
            flags |= FOLLOWS
        else:
            hashes += header.chain_id, header.parent_id
        if header.payload_hash == payload_hash(payload):
            flags |= NAMES_PAYLOAD
        else:
            hashes.append(header.payload_hash)
        if header.app_root == last.app_root:
            flags |= SAME_ROOT
        else:
            hashes.append(header.app_root)
        hashes.append(header.justify_hash)
        if header.skipped is not None:
            flags |= SKIPPED
            self._headers[-1].append(zigzag(header.skipped))
        for column, value, base in zip(self._headers, _numbers(header), _bases(last), strict=False):
            column.append(zigzag(value - base))
        return flags

    def _add_payload(self, payload: bytes) -> int:
        """Flags of the payload."""
        if not payload:
            return EMPTY
        try:
            decoded = decode_payload(payload)
        except Rejected:
            self._raw.append(payload)
            return 0
        self._inbox_heights.append(zigzag(decoded.inbox_height - self._inbox_height))
        self._inbox_height = decoded.inbox_height
        self._counts.append(len(decoded.batches))
        for raw in decoded.batches:
            self._batches.add(raw)
        return BATCHES


class _BlockUnpacker:
    def __init__(self, parts: Parts, bound: int) -> None:
        columns = [iter(column) for column in parts.columns]
        batches = 3 + HEADER_COLUMNS
        actions = batches + BatchPacker.COLUMNS
        raw, plain = iter(parts.raw), parts.plain
        templates = next(raw)
        self._bound = bound
        self._flags = parts.columns[0]
        self._inbox_heights = columns[1].__next__
        self._counts = columns[2].__next__
        self._headers = [column.__next__ for column in columns[3:batches]]
        self._raw = raw.__next__
        hashes, signatures = iter(plain[HASHES]), iter(plain[SIGNATURES])
        self._hash = hashes.__next__
        self._batches = BatchUnpacker(
            columns[batches:actions], raw, plain[KEYS], signatures,
            ActionUnpacker(templates, columns[actions:], raw),
        )  # fmt: skip
        self._rest = [*columns[1:], raw, hashes, signatures]
        self._last, self._last_id = _BEFORE, b""
        self._inbox_height = 0

    def take(self) -> list[OrderedBlock]:
        """All blocks."""
        blocks: list[OrderedBlock] = []
        for flags in self._flags:
            if flags == RAW:
                raw = self._raw()
                self._spend(len(raw))
                block = _decode_block(raw)
            elif flags > RAW:
                raise bad("the batch data has a block of no known kind")
            else:
                self._spend(HEADER_BYTES)
                payload = self._payload(flags)
                block = OrderedBlock(self._header(flags, payload), payload)
            # Hashing also finds numbers that are too wide for a header.
            self._last, self._last_id = block.header, block.header.block_id()
            blocks.append(block)
        if any(True for left in self._rest for _ in left):
            raise bad("the batch data has values that belong to no block")
        return blocks

    def _spend(self, size: int) -> None:
        """Count bytes that come out; raises `Rejected` beyond the bound."""
        self._bound -= size
        if self._bound < 0:
            raise bad("the batch data decodes to more than its size allows")

    def _payload(self, flags: int) -> bytes:
        if flags & EMPTY:
            return b""
        if not flags & BATCHES:
            payload = self._raw()
            self._spend(len(payload))
            return payload
        self._inbox_height += unzigzag(self._inbox_heights())
        batches: list[bytes] = []
        take, append = self._batches.take, batches.append
        for _ in range(self._counts()):
            batch = take()
            self._spend(len(batch))
            append(batch)
        return encode((self._inbox_height, batches))

    def _header(self, flags: int, payload: bytes) -> Header:
        last, take_hash = self._last, self._hash
        if flags & FOLLOWS:
            chain_id, parent_id = last.chain_id, self._last_id
        else:
            chain_id, parent_id = take_hash(), take_hash()
        named = payload_hash(payload) if flags & NAMES_PAYLOAD else take_hash()
        app_root = last.app_root if flags & SAME_ROOT else take_hash()
        justify_hash = take_hash()
        skipped = unzigzag(self._headers[-1]()) if flags & SKIPPED else None
        epoch, view, height, parent_view, time_ms, proposer, app_height = [
            base + unzigzag(take()) for take, base in zip(self._headers, _bases(last), strict=False)
        ]
        return Header(
            chain_id, epoch, view, height, parent_id, parent_view, time_ms, proposer, named,
            justify_hash, app_height, app_root, skipped,
        )  # fmt: skip


def _numbers(header: Header) -> tuple[int, ...]:
    return (header.epoch, header.view, header.height, header.parent_view, header.time_ms,
            header.proposer, header.app_height)  # fmt: skip


def _bases(last: Header) -> tuple[int, ...]:
    """What the numbers of the next header are told from."""
    return (last.epoch, last.view + 1, last.height + 1, last.view, last.time_ms, last.proposer,
            last.app_height)  # fmt: skip
