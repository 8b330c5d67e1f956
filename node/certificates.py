"""Which TLS certificates the ledger takes from validators.

All validators have to judge a certificate alike for ever, whatever the version of their libraries.
So one is taken only when its bytes are exactly those that encoding its fields anew gives: a plain
self-signed Ed25519 certificate, as `net.tls.make_certificate` makes them, and nothing beside.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from protocol.errors import Code, Rejected
from protocol.genesis import MAX_CERTIFICATE_BYTES
from protocol.keys import verify

_ANY_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
"""Signs what is encoded anew; only the bytes under the signature are compared."""


def check_certificate(certificate_der: bytes, public_key: bytes) -> None:
    """Raise `Rejected(bad_certificate)` unless this is a certificate of a node with this key.

    Its subject must hold the key as its serial number, since certificates are looked up by subject;
    it is no authority, so that a validator cannot vouch for other keys.
    """
    if len(certificate_der) > MAX_CERTIFICATE_BYTES:
        raise _bad(f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes")
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        signed = certificate.tbs_certificate_bytes
        again = _encode_again(certificate, public_key).tbs_certificate_bytes
        numbers = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
        signature = certificate.signature
    except (ValueError, TypeError) as error:
        raise _bad(f"not an X.509 certificate of a node: {error}") from None
    if signed != again:
        raise _bad("not a plain self-signed Ed25519 certificate over the sender's key")
    body = signed + _TAIL + signature
    if certificate_der != b"\x30\x82" + len(body).to_bytes(2, "big") + body:
        raise _bad("the certificate is not in its canonical encoding")
    if [one.value for one in numbers] != [public_key.hex()]:
        raise _bad("the certificate's subject does not hold the key as its only serial number")
    if not verify(public_key, signature, signed):
        raise _bad("the certificate is not signed by its own key")


_TAIL = bytes.fromhex("300506032b6570034100")
"""DER of the algorithm Ed25519 and the head of a bit string of 64 bytes (RFC 8410)."""


def _encode_again(certificate: x509.Certificate, public_key: bytes) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(Ed25519PublicKey.from_public_bytes(public_key))
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(_ANY_KEY, None)
    )


def _bad(text: str) -> Rejected:
    return Rejected(Code.BAD_CERTIFICATE, text)
