"""Opening signed ledger transactions: shape, signature and size, each checked once.

A transaction is opened when it is submitted, when a block that holds it is voted for, and when that
block is executed. The result is a function of the bytes and the chain alone, so it is kept till
then; what was executed or refused is forgotten, and opened anew should it come again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from protocol.errors import Code, Rejected
from protocol.genesis import CASH_MOVE_LIMIT
from protocol.keys import SCHEME_ED25519, address_of, require_signature
from protocol.settlement import (
    LedgerAction,
    decode_signed_transaction,
    decode_transaction,
    transaction_digest,
    transaction_id,
)

CACHE_BYTES = 32 * 1024 * 1024
"""Most memory of transactions that are kept opened. Those that wait in the pool are among them."""

ENTRY_BYTES = 512
OBJECT_FACTOR = 8
"""What an opened transaction is counted as: so much, the byte strings in its action, and so many
times what else is encoded of it. Certificates and lists take 3 to 10 times that as objects."""


@dataclass(frozen=True, slots=True)
class OpenedTransaction:
    """A transaction whose signature holds. `address` is the signer's."""

    id: bytes
    signer: bytes
    address: bytes
    nonce: int
    action: LedgerAction
    size_bytes: int
    fee_uusd: int


class Envelopes:
    """Opens transactions of one chain; keeps the newest, within `cache_bytes` of memory."""

    def __init__(self, chain_id: bytes, cache_bytes: int = CACHE_BYTES) -> None:
        self._chain_id = chain_id
        self._cache_bytes = cache_bytes
        # Not a dict: in one from whose front much was taken, the first is slow to find.
        self._kept: OrderedDict[bytes, OpenedTransaction] = OrderedDict()
        self.kept_bytes = 0
        """What is kept takes about so much memory."""

    def open(self, raw: bytes) -> OpenedTransaction:
        """The transaction in an encoded `SignedTransaction`.

        Raises `Rejected` (malformed, wrong_type, non_canonical, scheme_unknown, bad_signature,
        bad_amount).
        """
        identity = self.identity(raw)
        known = self._kept.get(identity)
        if known is not None:
            return known
        signed = decode_signed_transaction(raw)
        if signed.scheme != SCHEME_ED25519:
            raise Rejected(Code.SCHEME_UNKNOWN, f"signature scheme {signed.scheme}; 1 is Ed25519")
        if len(signed.signer) != 32 or len(signed.signature) != 64:
            raise Rejected(Code.WRONG_TYPE, "a signer has 32 bytes and a signature 64")
        digest = transaction_digest(self._chain_id, signed.payload)
        require_signature(signed.signer, signed.signature, digest)
        transaction = decode_transaction(signed.payload)
        if transaction.nonce < 0:
            raise Rejected(Code.WRONG_TYPE, "a nonce is not negative")
        if not 0 <= transaction.fee_uusd < CASH_MOVE_LIMIT:
            raise Rejected(Code.BAD_AMOUNT, f"a fee is 0 to {CASH_MOVE_LIMIT - 1} uusd")
        opened = OpenedTransaction(
            identity,
            signed.signer,
            address_of(signed.signer),
            transaction.nonce,
            transaction.action,
            len(raw),
            transaction.fee_uusd,
        )
        self._keep(opened)
        return opened

    def take(self, raw: bytes) -> OpenedTransaction:
        """As `open`, for the last time: what a block executed is not kept any longer."""
        opened = self.open(raw)
        self.forget(opened)
        return opened

    def forget(self, opened: OpenedTransaction) -> None:
        """Keep a transaction no longer."""
        if self._kept.pop(opened.id, None) is not None:
            self.kept_bytes -= kept_bytes(opened)

    def identity(self, raw: bytes) -> bytes:
        """Id of an encoded transaction (32 bytes), whether it opens or not."""
        return transaction_id(raw)

    def _keep(self, opened: OpenedTransaction) -> None:
        self._kept[opened.id] = opened
        self.kept_bytes += kept_bytes(opened)
        while self.kept_bytes > self._cache_bytes:
            self.forget(next(iter(self._kept.values())))


def kept_bytes(opened: OpenedTransaction) -> int:
    """About what an opened transaction takes in memory."""
    action = opened.action
    values = (getattr(action, name) for name in action.__struct_fields__)
    flat = sum(len(value) for value in values if isinstance(value, bytes))
    return ENTRY_BYTES + flat + OBJECT_FACTOR * (opened.size_bytes - flat)
