"""The ordered log: block payloads, receipts and what streams carry."""

from __future__ import annotations

from protocol.chain import CommitCertificate, Header
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected
from protocol.keys import domain_hash, require_signature
from protocol.merkle import verify_list_proof


class OrderedPayload(Wire, frozen=True):
    """Payload of an ordered block.

    `inbox_height`: base-layer height up to which the inbox is taken in (monotone). `batches`:
    encoded `SignedBatch` values in their order. An empty payload (no bytes at all) changes neither.
    """

    inbox_height: int
    batches: list[bytes]


class OrderedBlock(Wire, frozen=True):
    """A committed block of the ordered log: header and payload bytes."""

    header: Header
    payload: bytes


class OrderedChunk(Wire, frozen=True):
    """Consecutive ordered blocks and the commit certificate of the last one."""

    blocks: list[OrderedBlock]
    certificate: CommitCertificate


class Receipt(Wire, frozen=True):
    """A sequencer's signed promise that a batch is durable and will be ordered.

    Receipts given in one group commit share one signature over the Merkle root of their batch
    ids; `index`, `size` and `path` prove the batch in it.
    """

    sequencer: int
    batch_id: bytes
    time_ms: int
    root: bytes
    index: int
    size: int
    path: list[bytes]
    signature: bytes


decode_payload: Decoder[OrderedPayload] = Decoder(OrderedPayload)
decode_ordered_block: Decoder[OrderedBlock] = Decoder(OrderedBlock)
decode_blocks: Decoder[list[OrderedBlock]] = Decoder(list[OrderedBlock])
decode_chunk: Decoder[OrderedChunk] = Decoder(OrderedChunk)


def receipt_digest(chain_id: bytes, time_ms: int, root: bytes, size: int) -> bytes:
    """What a sequencer signs for a group of receipts."""
    return domain_hash(b"trilemma/receipt", chain_id, encode((time_ms, root, size)))


def verify_receipt(chain_id: bytes, sequencer_key: bytes, receipt: Receipt) -> None:
    """Raise `Rejected` unless the receipt is the sequencer's and covers its batch."""
    if not verify_list_proof(
        receipt.root, receipt.batch_id, receipt.index, receipt.size, receipt.path
    ):
        raise Rejected(Code.BAD_PROOF, "the receipt's path does not lead to its root")
    digest = receipt_digest(chain_id, receipt.time_ms, receipt.root, receipt.size)
    require_signature(sequencer_key, receipt.signature, digest)
