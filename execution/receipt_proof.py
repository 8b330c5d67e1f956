"""Proof that a liquidation receipt stands in the receipts of a state, and its offline check.

Who follows the events of a shard can prove any receipt: the path comes from the receipts, the leaf
that holds the list's subtree roots from a proof against the state root.
"""

from __future__ import annotations

from collections.abc import Sequence

from execution import leaves as lv
from execution.receipts import receipts_root
from protocol.codec import Decoder, Wire, encode
from protocol.errors import Code, Rejected
from protocol.events import Receipt
from protocol.merkle import list_leaf_hash, list_node_hash, verify_list_proof
from protocol.tree_proof import TreeProof, verify_proof


class ReceiptProof(Wire, frozen=True):
    """A receipt, its audit path in the list of all receipts (from the leaf up, 32 bytes each), and
    the proof of the list's leaf under a state root."""

    receipt: Receipt
    path: list[bytes]
    list_proof: TreeProof


decode_receipt_proof: Decoder[ReceiptProof] = Decoder(ReceiptProof)


class ReceiptTree:
    """Hashes of all receipts so far; 64 bytes for each, audit paths in O(log^2 n)."""

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]
        """Hashes of the complete subtrees of 2^level receipts, in order."""

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, receipt: Receipt) -> None:
        """The next receipt; raises ValueError unless its number is the next one."""
        if receipt.number != len(self):
            raise ValueError(f"receipt {receipt.number} where {len(self)} is next")
        node = list_leaf_hash(encode(receipt))
        for level in self._levels:
            level.append(node)
            if len(level) & 1:
                return
            node = list_node_hash(level[-2], level[-1])
        self._levels.append([node])

    def path(self, number: int, size: int) -> list[bytes]:
        """Audit path of a receipt in the list of the first `size` receipts.

        Raises IndexError where there are not so many, or the receipt is not among them.
        """
        if not 0 <= number < size <= len(self):
            raise IndexError(f"no receipt {number} among the first {size} of {len(self)}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            split = low + _split(high - low)
            if number < split:
                path.append(self._root(split, high))
                high = split
            else:
                path.append(self._root(low, split))
                low = split
        return path[::-1]

    def _root(self, low: int, high: int) -> bytes:
        """Root of the receipts low .. high - 1, where low is a multiple of the size rounded up to
        a power of two."""
        size = high - low
        if not size & (size - 1):
            level = size.bit_length() - 1
            return self._levels[level][low >> level]
        split = low + _split(size)
        return list_node_hash(self._root(low, split), self._root(split, high))


def _split(size: int) -> int:
    """The largest power of two below `size` (RFC 6962 section 2.1)."""
    return 1 << (size - 1).bit_length() - 1


def verify_receipt(
    receipt: Receipt, path: Sequence[bytes], count: int, peaks: Sequence[bytes]
) -> bool:
    """Whether the receipt stands at its number in the list of `count` receipts with these subtree
    roots."""
    if count.bit_count() != len(peaks):
        return False
    root = receipts_root(peaks)
    return verify_list_proof(root, encode(receipt), receipt.number, count, path)


def verify_receipt_proof(state_root: bytes, proof: ReceiptProof) -> None:
    """Check a receipt against a state root alone; raises `Rejected` (bad_proof) with the reason."""
    values = verify_proof(state_root, proof.list_proof, [lv.RECEIPTS_KEY])
    value = values[lv.RECEIPTS_KEY]
    if value is None:
        raise Rejected(Code.BAD_PROOF, "the state has no liquidation receipts")
    leaf = lv.decode_receipts(value)
    if proof.receipt.number >= leaf.count:
        raise Rejected(
            Code.BAD_PROOF,
            f"the state has {leaf.count} receipts, and this one is number {proof.receipt.number}",
        )
    if not verify_receipt(proof.receipt, proof.path, leaf.count, leaf.peaks):
        raise Rejected(Code.BAD_PROOF, "the path does not lead from the receipt to the state")
