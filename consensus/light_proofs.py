"""Typed reading of what is proven: ledger leaves under a certified header, and what lies below a
settled batch.

Values come out of proofs alone; nothing here asks anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from protocol.chain import Header, payload_hash
from protocol.codec import Decoder, encode
from protocol.errors import Code, Rejected
from protocol.inbox import InboxLeaf, decode_inbox_leaf, inbox_key
from protocol.ledger_leaves import (
    CURRENT_EPOCH_KEY,
    Account,
    CurrentEpoch,
    SettledBatch,
    ShardLeaf,
    account_key,
    batch_key,
    decode_account,
    decode_batch,
    decode_current_epoch,
    decode_number,
    decode_shard,
    number_key,
    paid_key,
    shard_key,
)
from protocol.merkle import verify_list_proof
from protocol.ordering import OrderedBlock, OrderedPayload, decode_payload
from protocol.settlement import BatchHeader, OutboxEntry
from protocol.tree_proof import TreeProof, verify_first, verify_proof

T = TypeVar("T")


def _unproven(text: str) -> Rejected:
    return Rejected(Code.BAD_PROOF, text)


class ProvenLeaves:
    """Ledger leaves after block `header.app_height`, each proven there or proven absent.

    Reading a key that was not proven raises `Rejected(bad_proof)`: silence is no answer.
    """

    __slots__ = ("_values", "header")

    def __init__(self, header: Header, values: Mapping[bytes, bytes | None]) -> None:
        self.header = header
        self._values = dict(values)

    @property
    def height(self) -> int:
        """Ledger height whose state this is."""
        return self.header.app_height

    def raw(self, key: bytes) -> bytes | None:
        """Encoded value of a key, None where it is absent."""
        if key not in self._values:
            raise _unproven(f"ledger leaf {key.hex()} was not proven")
        return self._values[key]

    def _read(self, key: bytes, decode: Decoder[T]) -> T | None:
        value = self.raw(key)
        return None if value is None else decode(value)

    def account(self, address: bytes) -> Account:
        """Balance and nonce of an address; zeros where it is unknown to the ledger."""
        return self._read(account_key(address), decode_account) or Account(0, 0)

    def account_number(self, address: bytes) -> int:
        """Account number of an address in the shards, 0 for none."""
        return self._read(number_key(address), decode_number) or 0

    def batch(self, shard: int, number: int) -> SettledBatch | None:
        """A settled batch; None while it is not settled."""
        settled = self._read(batch_key(shard, number), decode_batch)
        if settled is not None and (settled.header.shard, settled.header.number) != (shard, number):
            raise _unproven(f"the leaf of batch {number} holds another batch")
        return settled

    def shard(self, shard: int) -> ShardLeaf | None:
        """A shard after its newest batch."""
        return self._read(shard_key(shard), decode_shard)

    def inbox(self, shard: int) -> InboxLeaf | None:
        """A shard's inbox: entries and their running hash."""
        return self._read(inbox_key(shard), decode_inbox_leaf)

    def paid_height(self, shard: int, number: int) -> int | None:
        """Ledger height at which an outbox entry was paid; None while it is not."""
        return self._read(paid_key(shard, number), decode_number)

    def current_epoch(self) -> CurrentEpoch:
        """Epoch of the next block; raises `Rejected` where the ledger has none."""
        current = self._read(CURRENT_EPOCH_KEY, decode_current_epoch)
        if current is None:
            raise _unproven("the ledger names no epoch")
        return current


def state_leaves(
    batch: BatchHeader, proof: TreeProof, keys: Collection[bytes]
) -> dict[bytes, bytes | None]:
    """Leaves of the shard's state after a settled batch (accounts, orders, results of nonces, as
    the execution layer encodes them); None for absent ones. Raises `Rejected(bad_proof)`."""
    return verify_proof(batch.post_state_root, proof, keys)


def first_state_leaves(
    batch: BatchHeader, proof: TreeProof, prefix: bytes, count: int
) -> list[tuple[bytes, bytes]]:
    """The first `count` leaves under a prefix after a settled batch, none of them left out."""
    return verify_first(batch.post_state_root, proof, prefix, count)


def require_outbox_entry(batch: BatchHeader, entry: OutboxEntry, path: Sequence[bytes]) -> None:
    """Check that a withdrawal stands in a settled batch's outbox; raises `Rejected(bad_proof)`."""
    index = entry.number - batch.outbox_first
    if not verify_list_proof(batch.outbox_root, encode(entry), index, batch.outbox_count, path):
        raise _unproven(f"outbox entry {entry.number} is not in batch {batch.number}")


def ordered_block(
    batch: BatchHeader, block: OrderedBlock, path: Sequence[bytes]
) -> OrderedPayload | None:
    """The payload of an ordered block that a settled batch holds; None for an empty one.

    `path`: from the encoded block to the batch's data root. Raises `Rejected(bad_proof)`, or what
    decoding raises.
    """
    header = block.header
    index = header.height - batch.first_block
    size = batch.last_block - batch.first_block + 1
    if not verify_list_proof(batch.data_root, encode(block), index, size, path):
        raise _unproven(f"ordered block {header.height} is not in batch {batch.number}")
    if payload_hash(block.payload) != header.payload_hash:
        raise _unproven(f"ordered block {header.height} does not hold the payload it names")
    return decode_payload(block.payload) if block.payload else None


def require_ordered(
    batch: BatchHeader, block: OrderedBlock, path: Sequence[bytes], signed_batch: bytes
) -> int:
    """Position of a client's signed batch in an ordered block of a settled batch.

    Raises `Rejected(bad_proof)` where it does not stand there.
    """
    payload = ordered_block(batch, block, path)
    batches = [] if payload is None else payload.batches
    if signed_batch not in batches:
        raise _unproven(f"the signed batch is not in ordered block {block.header.height}")
    return batches.index(signed_batch)
