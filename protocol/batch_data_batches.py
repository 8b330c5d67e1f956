"""Signed batches to columns of batch data, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from protocol.actions import MAX_ACTIONS, decode_actions, decode_signed
from protocol.batch_data_actions import ActionPacker, ActionUnpacker
from protocol.batch_data_columns import KEYS, PLAIN_WIDTHS, SIGNATURES, bad, unzigzag, zigzag
from protocol.codec import encode
from protocol.errors import Rejected
from protocol.keys import SCHEME_ED25519


class BatchPacker:
    """Takes encoded signed batches in their order; the columns are the result.

    `counts` holds the number of actions, 0 for bytes that are no batch in its canonical encoding:
    these are kept as they are.
    """

    COLUMNS: ClassVar = 5

    def __init__(self, actions: ActionPacker, raw: list[bytes]) -> None:
        self.counts: list[int] = []
        self.signers: list[int] = []
        self.accounts: list[int] = []
        self.nonces: list[int] = []
        self.expiries: list[int] = []
        self.keys: list[bytes] = []
        self.signatures: list[bytes] = []
        self._actions = actions
        self._raw = raw
        self._numbers: dict[bytes, int] = {}
        self._last_accounts: list[int] = []
        self._last_nonce = 0

    def columns(self) -> list[list[int]]:
        """All columns, in the order in which `BatchUnpacker` takes them."""
        return [self.counts, self.signers, self.accounts, self.nonces, self.expiries]

    def add(self, raw: bytes) -> None:
        """One batch, or whatever bytes stand in its place."""
        try:
            signed = decode_signed(raw)
            batch = decode_actions(signed.payload)
        except Rejected:
            self._add_raw(raw)
            return
        signer, signature, count = signed.signer, signed.signature, len(batch.actions)
        if (
            signed.scheme != SCHEME_ED25519
            or len(signer) != PLAIN_WIDTHS[KEYS]
            or len(signature) != PLAIN_WIDTHS[SIGNATURES]
            or not 1 <= count <= MAX_ACTIONS
        ):
            self._add_raw(raw)
            return
        number = self._numbers.get(signer)
        if number is None:
            number = self._numbers[signer] = len(self.keys)
            self.keys.append(signer)
            self._last_accounts.append(0)
        account, nonce_ms = batch.account, batch.nonce_ms
        self.counts.append(count)
        self.signers.append(number)
        self.signatures.append(signature)
        self.accounts.append(zigzag(account - self._last_accounts[number]))
        self._last_accounts[number] = account
        self.nonces.append(zigzag(nonce_ms - self._last_nonce))
        self._last_nonce = nonce_ms
        expires_ms = batch.expires_ms
        self.expiries.append(1 + zigzag(expires_ms - nonce_ms) if expires_ms else 0)
        self._actions.add(account, batch.actions)

    def _add_raw(self, raw: bytes) -> None:
        self.counts.append(0)
        self._raw.append(raw)


class BatchUnpacker:
    """Gives the encoded batches back in their order.

    Where a column ends too early `take` raises `StopIteration`; `Rejected`, `IndexError` or
    `OverflowError` where values are out of range.
    """

    def __init__(
        self,
        columns: Sequence[Iterator[int]],
        raw: Iterator[bytes],
        keys: list[bytes],
        signatures: Iterator[bytes],
        actions: ActionUnpacker,
    ) -> None:
        takes = [column.__next__ for column in columns]
        self._count, self._signer, self._account, self._nonce, self._expiry = takes
        self._raw = raw.__next__
        self._keys = keys
        self._signature = signatures.__next__
        self._actions = actions
        self._last_accounts = [0] * len(keys)
        self._last_nonce = 0

    def take(self) -> bytes:
        """The next batch."""
        count = self._count()
        if not count:
            return self._raw()
        if count > MAX_ACTIONS:
            raise bad(f"the batch data has a batch of more than {MAX_ACTIONS} actions")
        number = self._signer()
        account = self._last_accounts[number] + unzigzag(self._account())
        self._last_accounts[number] = account
        self._last_nonce = nonce_ms = self._last_nonce + unzigzag(self._nonce())
        expiry = self._expiry()
        expires_ms = nonce_ms + unzigzag(expiry - 1) if expiry else 0
        payload = encode((account, nonce_ms, expires_ms, self._actions.take(account, count)))
        return encode((SCHEME_ED25519, self._keys[number], payload, self._signature()))
