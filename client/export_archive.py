"""The file of an exported base layer: self-contained, checksummed, appended to until it is whole.

Magic, then records: length (u32), kind (u8), first and last number (u64 each, big-endian), a
running SHA-256 over the hash of the record before, this head and the body, and the body. The
running hash chains the records: none can be changed, left out or moved unnoticed by whoever knows
the last one. The first record is the genesis file, the last one of a whole archive its end mark.
Nothing in it is to be believed: an audit checks it.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import NamedTuple, TypeVar

from client.faults import InvalidProof
from protocol.chain import Block, CommitCertificate, Header
from protocol.codec import Decoder, Wire, encode
from protocol.errors import ConfigError, Rejected
from store.files import sync_directory, write_all

MAGIC = b"TRIARCH1"
GENESIS, BLOCKS, EPOCH, STATE, END = range(1, 6)
MAX_RECORD_BYTES = 1 << 30
COMPRESSION_LEVEL = 1

T = TypeVar("T")

_HEAD = Struct(">IBQQ")
_RECORD_BYTES = _HEAD.size + 32


class ArchivedBlocks(Wire, frozen=True):
    """Consecutive ledger blocks of one epoch, and a certificate of the last or a descendant."""

    blocks: list[Block]
    certificate: CommitCertificate


class ArchivedEpoch(Wire, frozen=True):
    """How an epoch began: the last header of the one before, its certificate, and the encoded
    proof of the new members."""

    number: int
    header: Header
    certificate: CommitCertificate
    proof: bytes


class ArchivedState(Wire, frozen=True):
    """Ledger and shard after ledger block `header`, whose newest batch is `batch`: all leaves."""

    batch: int
    header: Header
    ledger_leaves: list[tuple[bytes, bytes]]
    shard_leaves: list[tuple[bytes, bytes]]


_decode_blocks: Decoder[ArchivedBlocks] = Decoder(ArchivedBlocks)
_decode_epoch: Decoder[ArchivedEpoch] = Decoder(ArchivedEpoch)
_decode_state: Decoder[ArchivedState] = Decoder(ArchivedState)


class Record(NamedTuple):
    """Where a record stands: kind, first and last number (heights of blocks, number of an epoch or
    a state's batch), offset and size of its body, and the hash of the record before it."""

    kind: int
    first: int
    last: int
    offset: int
    size: int
    before: bytes
    digest: bytes


class Archive:
    """An archive that is read. Opening reads the heads of all records; bodies are checked when
    they are read. `complete`: whether the end mark stands; `newest`: its newest ledger block."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` for what is no archive, `InvalidProof` for a damaged one."""
        self.path = path
        try:
            self._file = path.open("rb")
            self.size = path.stat().st_size
        except OSError as error:
            raise ConfigError(f"cannot read the archive {path}: {error.strerror}") from None
        if self._file.read(len(MAGIC)) != MAGIC:
            raise ConfigError(f"{path} is no archive that `trilemma export` wrote")
        self.records: list[Record] = []
        self.end = len(MAGIC)
        """Offset behind the last whole record."""
        self._scan()
        if not self.records or self.records[0].kind != GENESIS:
            raise InvalidProof(f"the archive {path} is cut: it has no genesis")
        self.complete = self.records[-1].kind == END and self.end == self.size
        blocks = self.of_kind(BLOCKS)
        self.first = blocks[0].first if blocks else 1
        self.newest = blocks[-1].last if blocks else 0

    def _scan(self) -> None:
        before = sha256(MAGIC).digest()
        while self.end + _RECORD_BYTES <= self.size:
            self._file.seek(self.end)
            head = self._file.read(_RECORD_BYTES)
            size, kind, first, last = _HEAD.unpack_from(head)
            if not GENESIS <= kind <= END or size > MAX_RECORD_BYTES:
                raise self.damaged(self.end, "there is no record")
            offset = self.end + _RECORD_BYTES
            if offset + size > self.size:
                return
            digest = head[_HEAD.size :]
            self.records.append(Record(kind, first, last, offset, size, before, digest))
            before, self.end = digest, offset + size

    def damaged(self, offset: int, why: str) -> InvalidProof:
        """The error for damage at an offset of the file."""
        return InvalidProof(
            f"the archive {self.path} is damaged at offset {offset}: {why}; take another copy, or "
            "delete it and export anew"
        )

    def require_complete(self) -> None:
        """Raise `InvalidProof` for an archive without its end."""
        if not self.complete:
            raise InvalidProof(
                f"the archive {self.path} is cut behind ledger block {self.newest}: its end mark "
                f"is missing; finish it with: trilemma export {self.path}"
            )

    def of_kind(self, kind: int) -> list[Record]:
        """The records of a kind, in order."""
        return [record for record in self.records if record.kind == kind]

    def body(self, record: Record) -> bytes:
        """A record's checked and expanded body; raises `InvalidProof`."""
        self._file.seek(record.offset)
        raw = self._file.read(record.size)
        head = _HEAD.pack(record.size, record.kind, record.first, record.last)
        if sha256(record.before + head + raw).digest() != record.digest:
            raise self.damaged(record.offset, "the checksum is wrong")
        try:
            inflater = zlib.decompressobj()
            body = inflater.decompress(raw, MAX_RECORD_BYTES)
        except zlib.error as error:
            raise self.damaged(record.offset, str(error)) from None
        if not inflater.eof:
            raise self.damaged(record.offset, "a record is too large")
        return body

    def genesis(self) -> bytes:
        """The genesis file."""
        return self.body(self.records[0])

    def check(self) -> None:
        """Read everything; raises `InvalidProof` at the first damage."""
        for record in self.records:
            self.body(record)

    def blocks(self, above: int = 0) -> Iterator[ArchivedBlocks]:
        """All blocks above a height, chunk by chunk; raises `InvalidProof`."""
        expected = None
        for record in self.of_kind(BLOCKS):
            if expected is not None and record.first != expected:
                raise self.damaged(record.offset, f"ledger block {expected} is missing")
            expected = record.last + 1
            if record.last <= above:
                continue
            chunk = self._decoded(record, _decode_blocks)
            heights = [block.header.height for block in chunk.blocks]
            if heights != list(range(record.first, record.last + 1)):
                raise self.damaged(record.offset, "it holds other blocks than it says")
            if heights[0] <= above:
                kept = [block for block in chunk.blocks if block.header.height > above]
                chunk = ArchivedBlocks(kept, chunk.certificate)
            yield chunk

    def epochs(self) -> list[ArchivedEpoch]:
        """How the epochs began, in order; raises `InvalidProof`."""
        return [self._decoded(record, _decode_epoch) for record in self.of_kind(EPOCH)]

    def state(self, record: Record) -> ArchivedState:
        """A state; raises `InvalidProof`."""
        state = self._decoded(record, _decode_state)
        if (state.batch, state.header.height) != (record.first, record.last):
            raise self.damaged(record.offset, "it holds another state than it says")
        return state

    def _decoded(self, record: Record, decode: Decoder[T]) -> T:
        try:
            return decode(self.body(record))
        except Rejected as error:
            raise self.damaged(record.offset, error.text) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ArchiveWriter:
    """Appends to an archive; what was synced stays when the process dies."""

    def __init__(self, path: Path, genesis: bytes) -> None:
        """Create the archive, or go on behind the last whole record of one that stands.

        Raises `ConfigError` for a file of another chain, `InvalidProof` for a damaged one.
        """
        self.path = path
        self.newest = 0
        self.epochs: set[int] = set()
        self.states: list[int] = []
        self.resumed = path.exists() and path.stat().st_size >= len(MAGIC)
        self._digest = sha256(MAGIC).digest()
        end = 0
        if self.resumed:
            end = self._resume(genesis)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write the archive {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise ConfigError(f"another export writes the archive {path}") from None
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        if not end:
            write_all(self._descriptor, MAGIC)
            self._append(GENESIS, 0, 0, genesis)
            sync_directory(path.parent)

    def _resume(self, genesis: bytes) -> int:
        """Take up what stands; the offset behind which it goes on."""
        archive = Archive(self.path)
        try:
            if archive.genesis() != genesis:
                raise ConfigError(f"the archive {self.path} is of another chain")
            archive.check()
            self.newest = archive.newest
            self.epochs = {record.first for record in archive.of_kind(EPOCH)}
            self.states = [record.first for record in archive.of_kind(STATE)]
            kept = [record for record in archive.records if record.kind != END]
            last = kept[-1]
            if archive.records[-1].kind == END or len(kept) == len(archive.records):
                self._digest = last.digest
                return last.offset + last.size
            raise archive.damaged(last.offset, "an end mark stands before the end")
        finally:
            archive.close()

    def blocks(self, blocks: list[Block], certificate: CommitCertificate) -> None:
        """The next blocks."""
        first, last = blocks[0].header.height, blocks[-1].header.height
        self._append(BLOCKS, first, last, encode(ArchivedBlocks(blocks, certificate)))
        self.newest = last

    def epoch(self, epoch: ArchivedEpoch) -> None:
        """How an epoch began."""
        self._append(EPOCH, epoch.number, epoch.number, encode(epoch))
        self.epochs.add(epoch.number)

    def state(self, state: ArchivedState) -> None:
        """A state from which an audit can begin."""
        self._append(STATE, state.batch, state.header.height, encode(state))
        self.states.append(state.batch)

    def finish(self) -> None:
        """Write the end mark, and make everything durable."""
        self._append(END, self.newest, self.newest, b"")
        os.fsync(self._descriptor)

    def _append(self, kind: int, first: int, last: int, body: bytes) -> None:
        raw = zlib.compress(body, COMPRESSION_LEVEL)
        head = _HEAD.pack(len(raw), kind, first, last)
        self._digest = sha256(self._digest + head + raw).digest()
        write_all(self._descriptor, head + self._digest + raw)

    @property
    def digest(self) -> bytes:
        """Running hash of everything so far (32 bytes)."""
        return self._digest

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Sync and close."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
