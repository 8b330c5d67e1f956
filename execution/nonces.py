"""Replay guard: the 100 highest nonces of each signer, with the results of their batches."""

from __future__ import annotations

from bisect import insort
from typing import Final

from protocol.actions import NONCE_FUTURE_MS, NONCE_PAST_MS, NONCES_KEPT
from protocol.errors import Code, SafetyViolation

_OK: Final = Code.OK


class Kept:
    """A kept batch: its slot, identity and encoded leaf (`leaves.NonceLeaf`)."""

    __slots__ = ("batch_id", "leaf", "slot")

    def __init__(self, slot: int, batch_id: bytes, leaf: bytes) -> None:
        self.slot = slot
        self.batch_id = batch_id
        self.leaf = leaf


class SignerNonces:
    """Kept batches of one signer by nonce, and the nonces in ascending order."""

    __slots__ = ("ascending", "kept")

    def __init__(self) -> None:
        self.kept: dict[int, Kept] = {}
        self.ascending: list[int] = []


class Nonces:
    """Kept batches of all signers."""

    __slots__ = ("signers",)

    def __init__(self) -> None:
        self.signers: dict[bytes, SignerNonces] = {}

    def find(self, signer: bytes, nonce_ms: int) -> Kept | None:
        """The kept batch of this nonce, if any."""
        found = self.signers.get(signer)
        return None if found is None else found.kept.get(nonce_ms)

    def check(self, signer: bytes, nonce_ms: int, time_ms: int) -> Code:
        """Whether a nonce may be used at block time `time_ms`; `OK` or why not."""
        if nonce_ms <= time_ms - NONCE_PAST_MS:
            return Code.NONCE_EXPIRED
        if nonce_ms >= time_ms + NONCE_FUTURE_MS:
            return Code.NONCE_TOO_NEW
        found = self.signers.get(signer)
        if found is None:
            return _OK
        if nonce_ms in found.kept:
            return Code.NONCE_USED
        if len(found.ascending) >= NONCES_KEPT and nonce_ms < found.ascending[0]:
            return Code.NONCE_EXPIRED
        return _OK

    def keep(self, signer: bytes, nonce_ms: int, batch_id: bytes, leaf: bytes) -> int:
        """Keep an executed batch; the lowest nonce gives way. Returns the slot it went to."""
        found = self.signers.get(signer)
        if found is None:
            found = self.signers[signer] = SignerNonces()
        slot = len(found.ascending)
        if slot >= NONCES_KEPT:
            slot = found.kept.pop(found.ascending.pop(0)).slot
        insort(found.ascending, nonce_ms)
        found.kept[nonce_ms] = Kept(slot, batch_id, leaf)
        return slot

    def restore(
        self, signer: bytes, slot: int, nonce_ms: int, batch_id: bytes, leaf: bytes
    ) -> None:
        """Put back a kept batch from the state; slots come in ascending order."""
        found = self.signers.get(signer)
        if found is None:
            found = self.signers[signer] = SignerNonces()
        if slot != len(found.ascending) or nonce_ms in found.kept or slot >= NONCES_KEPT:
            raise SafetyViolation("the nonce slots of a signer are not consistent")
        insort(found.ascending, nonce_ms)
        found.kept[nonce_ms] = Kept(slot, batch_id, leaf)
