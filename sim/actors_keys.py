"""Simulated signatures: a hash in the place of Ed25519, so that a thousand seeds cost minutes.

Everything in the project checks signatures through one object, `protocol.keys.verify`. Inside
`simulated_signatures` that object answers by hashing; its identity stays, so that machines which
took it as a default argument see the change, too. Nobody in a simulation forges: what the hash
gives up is secrecy, not the binding of a signature to its key and its content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256, sha512

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from protocol.keys import Key, Verifier, address_of, verify

_VALID = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
_ED25519_TAIL = bytes.fromhex("300506032b6570034100")
"""DER of the algorithm Ed25519 and the head of a bit string of 64 bytes (RFC 8410)."""


class SimKey(Key):
    """A key with the interface of `protocol.keys.Key`; `name` determines it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        self.public = sha256(b"simulated key " + name.encode()).digest()
        self.address = address_of(self.public)

    def sign(self, digest: bytes) -> bytes:
        """Signature (64 bytes): SHA-512 over public key and digest."""
        return sha512(self.public + digest).digest()


class SimVerifier(Verifier):
    """Accepts what `SimKey.sign` makes, and nothing else."""

    def __call__(self, public_key: bytes, signature: bytes, digest: bytes) -> bool:
        """Whether `signature` over `digest` is by `public_key`."""
        return signature == sha512(public_key + digest).digest()


def certificate_of(key: SimKey, name: str) -> bytes:
    """A certificate (DER) as `net.tls.make_certificate` makes them, under a simulated signature."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, key.public.hex()),
        ]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(Ed25519PublicKey.from_public_bytes(key.public))
        .serial_number(1)
        .not_valid_before(_VALID[0])
        .not_valid_after(_VALID[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(Ed25519PrivateKey.from_private_bytes(bytes(32)), None)
    )
    signed = made.tbs_certificate_bytes
    body = signed + _ED25519_TAIL + key.sign(signed)
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


@contextmanager
def simulated_signatures() -> Iterator[None]:
    """Signatures are simulated in this process until the block is left; may be nested."""
    before = verify.__class__
    verify.__class__ = SimVerifier
    try:
        yield
    finally:
        verify.__class__ = before
