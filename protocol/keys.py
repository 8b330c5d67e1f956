"""Keys, addresses, signatures and domain-separated hashes.

Signatures are Ed25519 (RFC 8032). What is signed is always ``SHA-256(domain || context || bytes)``,
where the domain names the kind of statement, so a signature given for one purpose means nothing for
another.
"""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from protocol.errors import Code, ConfigError, Rejected

ADDRESS_BYTES = 20
"""Length of an address: the first 20 bytes of SHA-256(public key)."""

SCHEME_ED25519 = 1
"""Signature scheme number in envelopes; other wallets' schemes get other numbers."""


def domain_hash(domain: bytes, *parts: bytes) -> bytes:
    """SHA-256 over the length-prefixed domain, then the parts in order (32 bytes).

    Parts before the last must have a fixed length for the domain, so the encoding stays injective.
    """
    h = sha256(bytes((len(domain),)) + domain)
    for part in parts:
        h.update(part)
    return h.digest()


def address_of(public_key: bytes) -> bytes:
    """Address of a public key (20 bytes)."""
    return sha256(public_key).digest()[:ADDRESS_BYTES]


class Key:
    """An Ed25519 private key."""

    __slots__ = ("_private", "address", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ConfigError(f"a key seed has 32 bytes, this one has {len(seed)}")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.address = address_of(self.public)

    @classmethod
    def generate(cls) -> Key:
        """A new random key."""
        private = Ed25519PrivateKey.generate()
        return cls(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    @property
    def private(self) -> Ed25519PrivateKey:
        """The library's key object, for TLS certificates."""
        return self._private

    def sign(self, digest: bytes) -> bytes:
        """Signature (64 bytes) over a domain hash."""
        return self._private.sign(digest)

    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return self._private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


class Verifier:
    """Verifies signatures, keeping parsed public keys in a bounded cache."""

    def __init__(self, capacity: int = 65536) -> None:
        self._keys: dict[bytes, Ed25519PublicKey] = {}
        self._capacity = capacity

    def __call__(self, public_key: bytes, signature: bytes, digest: bytes) -> bool:
        """Whether `signature` over `digest` is by `public_key`."""
        key = self._keys.get(public_key)
        try:
            if key is None:
                key = Ed25519PublicKey.from_public_bytes(public_key)
                if len(self._keys) >= self._capacity:
                    self._keys.clear()
                self._keys[public_key] = key
            key.verify(signature, digest)
        except (InvalidSignature, ValueError):
            return False
        return True


verify = Verifier()
"""The process-wide verifier."""


def require_signature(public_key: bytes, signature: bytes, digest: bytes) -> None:
    """Raise `Rejected(bad_signature)` unless the signature is valid."""
    if not verify(public_key, signature, digest):
        raise Rejected(Code.BAD_SIGNATURE, "the signature does not match signer and content")
