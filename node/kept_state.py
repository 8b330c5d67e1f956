"""The shard's state after a final batch as validators keep it: in parts that prove themselves.

Each part is a compressed range proof of consecutive leaves (`protocol.tree_range`), so that the
very bytes that are kept can be served: whoever takes them checks every part against the state root
in its own ledger, and a false one shows at once. Behind the last part there is no leaf.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from node.ledger_state import LedgerState
from node.rebuild import CheckedState, RebuiltState
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected, SafetyViolation
from protocol.tree_proof import decode_tree_proof
from protocol.tree_range import verify_range
from prover.tree import StateTree

PART_LEAVES = 8_192
PART_BYTES = 512 * 1024
"""A part ends with the leaf that brings it to so many leaves, or bytes of keys and values."""

MAX_PART_BYTES = 4 * 1024 * 1024
"""Most bytes of a part, decompressed."""

MAX_PARTS = 1 << 20
"""Most parts of a state."""

MAX_HEAD_BYTES = 16 * 1024 * 1024
COMPRESSION_LEVEL = 6
_LENGTH_BYTES = 4


class KeptHead(Wire, frozen=True):
    """What begins the file of a kept state: which one it is, the height that its last ordered block
    named, and the bytes of each part, which follow."""

    chain_id: bytes
    batch: int
    inbox_height: int
    sizes: list[int]


_decode_head: Decoder[KeptHead] = Decoder(KeptHead)


def parts_of(tree: StateTree) -> Iterator[bytes]:
    """The parts of a state, in key order; one for an empty state."""
    first: bytes | None = b""
    while first is not None:
        proof = tree.prove_range(first, PART_LEAVES, PART_BYTES)
        _, first = verify_range(tree.root, proof, first)
        yield zlib.compress(encode(proof), COMPRESSION_LEVEL)


def kept_file(state: RebuiltState) -> bytes:
    """The file of a state that was executed here."""
    return join_parts(state.checked(), list(parts_of(state.tree)))


def join_parts(state: CheckedState, parts: list[bytes]) -> bytes:
    """A file out of parts; of `state` the leaves are not looked at."""
    sizes = [len(part) for part in parts]
    head = encode(KeptHead(state.chain_id, state.batch, state.inbox_height, sizes))
    return b"".join([len(head).to_bytes(_LENGTH_BYTES, "big"), head, *parts])


def needed_from(ledger: LedgerState, kept_batch: int, height: int) -> int:
    """Lowest block, at most `height`, that exit proofs need beside the state after `kept_batch` (0:
    none is kept): that of the first batch behind it, which may well be final."""
    settled = ledger.batch(kept_batch + 1)
    if settled is not None:
        return min(height, settled.ledger_height)
    # Forgotten by the ledger, it is not known where it was: then everything stays.
    return 0 if kept_batch < ledger.final().batch else height


def head_bytes(raw: bytes) -> int:
    """Length of the head, which follows these first 4 bytes of a file; raises `Rejected`."""
    length = int.from_bytes(raw[:_LENGTH_BYTES], "big")
    if len(raw) < _LENGTH_BYTES or length > MAX_HEAD_BYTES:
        raise Rejected(Code.MALFORMED, "it does not begin like a kept state")
    return length


def decode_head(raw: bytes) -> KeptHead:
    """The head of a file; raises `Rejected`."""
    head = _decode_head(raw)
    if not 1 <= len(head.sizes) <= MAX_PARTS or min(head.sizes) < 1 or head.batch < 1:
        raise Rejected(Code.MALFORMED, "the head of a kept state is out of range")
    return head


def place_of(head: KeptHead, length: int, part: int) -> tuple[int, int]:
    """Where a part stands in the file, and its bytes; `length`: that of the head."""
    return _LENGTH_BYTES + length + sum(head.sizes[:part]), head.sizes[part]


def read_kept(raw: bytes) -> CheckedState:
    """All leaves of a file, whose root its user compares with the ledger's; raises `Rejected`."""
    length = head_bytes(raw)
    head = decode_head(raw[_LENGTH_BYTES : _LENGTH_BYTES + length])
    at, size = place_of(head, length, len(head.sizes) - 1)
    if len(raw) != at + size:
        raise Rejected(Code.MALFORMED, "the kept state is cut short, or bytes follow it")
    leaves: list[tuple[bytes, bytes]] = []
    at = _LENGTH_BYTES + length
    for size in head.sizes:
        shown = decode_tree_proof(inflate(raw[at : at + size])).leaves
        # The last leaf before a part is opened with it.
        behind = leaves[-1][0] if leaves else b""
        leaves += [leaf for leaf in shown if leaf[0] > behind]
        at += size
    return CheckedState(head.chain_id, head.batch, head.inbox_height, leaves)


def inflate(data: bytes) -> bytes:
    """Decompress a part, within its bounds; raises `Rejected`."""
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(data, MAX_PART_BYTES)
    except zlib.error as error:
        raise Rejected(Code.MALFORMED, f"a part of a state is not zlib: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise Rejected(Code.MALFORMED, "a part of a state is too long, or cut short")
    return raw


class PartsTaken:
    """The parts of a state as they come in, each checked under the state root of its batch.

    What is kept is what was proven: nothing has to be trusted, and nothing taken again.
    """

    def __init__(self, batch: int, root: bytes) -> None:
        self.batch = batch
        self.parts: list[bytes] = []
        self._root = root
        self._next: bytes | None = b""

    @property
    def complete(self) -> bool:
        """Whether no leaf lies behind the parts taken."""
        return self._next is None

    def take(self, data: bytes) -> None:
        """The next part; raises `Rejected` where it does not prove what follows."""
        if self._next is None:
            raise SafetyViolation("the state is complete already")
        leaves, following = verify_range(self._root, decode_tree_proof(inflate(data)), self._next)
        size = sum(len(key) + len(value) for key, value in leaves)
        if following is not None and size < PART_BYTES and len(leaves) < PART_LEAVES:
            raise Rejected(Code.BAD_PROOF, "the part of a state ends before it is full")
        self._next = following
        self.parts.append(data)
